"""Certificates of both ends of a gRPC connection, taken up anew when their files change.

A Secret that is mounted in a pod is replaced as a whole, by renaming a link. Whoever reads in between, or meets a
certificate and a key that do not belong together, goes on with what it had: the next connection looks again.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc

from veg_common import logs

F = TypeVar("F", bound=Callable[..., Any])
_Version = tuple[tuple[int, int, int], ...]


class TlsError(ValueError):
    """Certificate files that can not be used; one line that names them."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one end of a TLS connection.

    With an `authority` the other end must have a certificate of it: a server then serves no client without one, and a
    client trusts no other server. Without it a server takes any client, and a client trusts the system's authorities.
    """

    certificate: Path
    key: Path
    authority: Path | None = None


@dataclass(frozen=True)
class Pems:
    """What is in the files."""

    certificate: bytes
    key: bytes
    authority: bytes | None


class Certificates:
    """The files' content as it is now. The first reading raises TlsError; later ones keep what is good."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._log = logs.get("tls")
        self._version, self._pems = self._read()
        self._refused: _Version | None = None

    def current(self) -> Pems:
        """The content, read again if a file has changed since."""
        try:
            version = self._stat()
            if version not in (self._version, self._refused):
                try:
                    self._version, self._pems = self._read()
                    self._log.info("certificates taken up", certificate=str(self.files.certificate))
                except TlsError:
                    self._refused = version
                    raise
        except TlsError as error:
            self._log.warning("certificates not taken up", error=str(error))
        return self._pems

    def _stat(self) -> _Version:
        try:
            stats = [path.stat() for path in self._paths()]
        except OSError as error:
            raise TlsError(str(error)) from error
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _read(self) -> tuple[_Version, Pems]:
        version = self._stat()
        try:
            contents = [path.read_bytes() for path in self._paths()]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.files.certificate, self.files.key)
            if self.files.authority is not None:
                context.load_verify_locations(self.files.authority)
        except OSError as error:  # ssl.SSLError is one
            names = ", ".join(str(path) for path in self._paths())
            raise TlsError(f"{names}: {error}") from error
        if self._stat() != version:
            raise TlsError("the files change just now")
        return version, Pems(contents[0], contents[1], contents[2] if len(contents) > 2 else None)

    def _paths(self) -> tuple[Path, ...]:
        files = self.files
        return tuple(path for path in (files.certificate, files.key, files.authority) if path is not None)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that every new connection takes from the files as they are then. Raises TlsError."""
    certificates = Certificates(files)
    told = certificates.current()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal told
        current = certificates.current()
        if current is told:
            return None
        told = current
        return _server_configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _server_configuration(told),
        changed,  # type: ignore[arg-type] # None means no change, which the library's types do not know
        require_client_authentication=files.authority is not None,
    )


def channel_credentials(pems: Pems) -> grpc.ChannelCredentials:
    """A client's credentials."""
    return grpc.ssl_channel_credentials(pems.authority, pems.key, pems.certificate)


def _server_configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], pems.authority)


def tls_options(command: F) -> F:
    """The flags --tls-cert, --tls-key and --tls-ca of a click command: `tls_cert`, `tls_key`, `tls_ca`."""
    path = click.Path(dir_okay=False, path_type=Path)
    for option in (
        click.option(
            "--tls-ca", type=path, help="PEM: the other end must have a certificate of this authority."
        ),
        click.option("--tls-key", type=path, help="PEM: the key of --tls-cert."),
        click.option("--tls-cert", type=path, help="PEM: our certificate; taken up anew when it changes."),
    ):
        command = option(command)
    return command


def tls_files(tls_cert: Path | None, tls_key: Path | None, tls_ca: Path | None) -> TlsFiles | None:
    """What the flags say; None without any. Raises TlsError for flags that make no sense, and for unusable files."""
    if tls_cert is None and tls_key is None and tls_ca is None:
        return None
    if tls_cert is None or tls_key is None:
        raise TlsError("--tls-cert and --tls-key must be given together")
    files = TlsFiles(tls_cert, tls_key, tls_ca)
    Certificates(files)
    return files
