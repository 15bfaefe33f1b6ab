"""What this machine's apt knows: its Debian archive and how it is reached. Reads only; runs no update."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ETC_APT = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")

# Suites whose archive also carries the other releases; a -security archive does not.
_RELEASES = {"bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"}

# Settings that decide how an archive is reached. Everything else of apt's stays the machine's own affair.
_ACQUIRE = re.compile(
    r"Acquire::(https?::(Proxy|CaInfo|Verify|Timeout)|Retries\b|Check-Valid-Until\b|ForceIPv[46]\b)",
    re.IGNORECASE,
)


def debian_mirror() -> str | None:
    """The URI of the machine's Debian archive (component main of a release), or None when it has none."""
    codename = _codename()
    known = _RELEASES | ({codename} if codename else set())
    for uri, suite in [*_index_targets(), *_source_files(ETC_APT)]:
        if suite in known and uri.startswith(("http://", "https://", "file:", "copy:")):
            return uri
    return None


def acquire_options() -> list[str]:
    """apt.conf lines of this machine for reaching archives: proxies, certificates, retries."""
    dump = _run(["apt-config", "dump", "--format", '%F "%v"%n'])
    return [line for line in dump.splitlines() if _ACQUIRE.match(line) and not line.endswith('""')]


def parse_one_line(text: str) -> Iterator[tuple[str, str]]:
    """(URI, suite) of each `deb` line with component main; format: sources.list(5), one-line style."""
    for line in text.splitlines():
        words = re.sub(r"\[[^\]]*\]", " ", line.split("#", 1)[0]).split()
        if len(words) >= 4 and words[0] == "deb" and "main" in words[3:]:
            yield words[1], words[2]


def parse_deb822(text: str) -> Iterator[tuple[str, str]]:
    """(URI, suite) of each enabled `deb` stanza with component main; format: sources.list(5), deb822."""
    bare = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", bare):
        fields = _fields(stanza)
        wanted = "deb" in fields.get("types", []) and "main" in fields.get("components", [])
        if not wanted or fields.get("enabled", ["yes"])[:1] in (["no"], ["false"], ["0"]):
            continue
        for uri in fields.get("uris", []):
            for suite in fields.get("suites", []):
                yield uri, suite


def _fields(stanza: str) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1] in (" ", "\t"):
            fields.setdefault(name, []).extend(line.split())
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.split()
    return fields


def _index_targets() -> Iterator[tuple[str, str]]:
    text = _run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    )
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "main":
            yield _archive_root(words[0]), words[1]


def _archive_root(uri: str) -> str:
    return uri if uri.endswith("/") else uri + "/"


def _source_files(etc: Path) -> Iterator[tuple[str, str]]:
    """The sources as files, for a machine whose apt-get cannot list them."""
    for path in _existing([etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]):
        yield from parse_one_line(path.read_text(errors="replace"))
    for path in _existing(sorted(etc.glob("sources.list.d/*.sources"))):
        yield from parse_deb822(path.read_text(errors="replace"))


def _existing(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_file()]


def _codename() -> str:
    text = OS_RELEASE.read_text() if OS_RELEASE.is_file() else ""
    match = re.search(r"^VERSION_CODENAME=(.*)$", text, re.MULTILINE)
    return "".join(shlex.split(match[1])) if match else ""


def _run(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
