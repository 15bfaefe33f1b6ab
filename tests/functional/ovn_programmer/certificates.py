"""A small authority for tests, by openssl(1)."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """PEM files of one end."""

    key: Path
    certificate: Path
    authority: Path


@dataclass(frozen=True)
class Authority:
    """Signs certificates; its files lie in a folder of its own."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """A new authority in a new folder."""
        folder.mkdir()
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN=authority of {folder.name}", "-keyout", str(folder / "ca.key"),
            "-out", str(folder / "ca.crt"),
        )  # fmt: skip
        return cls(folder)

    def issue(self, name: str, host: str = "localhost") -> Files:
        """A certificate for both ends of a connection; `<name>.key` and `<name>.crt`, made anew at every call."""
        key, request, certificate = (self.folder / f"{name}.{end}" for end in ("key", "csr", "crt"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(
            f"subjectAltName=DNS:{host},IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        _openssl(
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.folder / "ca.crt"), "-days", "2",
            "-CAkey", str(self.folder / "ca.key"), "-CAcreateserial", "-extfile", str(extensions),
            "-out", str(certificate),
        )  # fmt: skip
        return Files(key, certificate, self.folder / "ca.crt")


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=20)
