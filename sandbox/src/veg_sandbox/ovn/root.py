"""The OVN programs that the sandbox and the functional tests run.

The system's own OVN serves when it is new enough (25.03: the first whose logical router policies know
`bfd_sessions`). Otherwise Debian trixie's packages are unpacked, not installed, into a private root in
a cache and run through that root's own dynamic loader, so the machine's libraries do not matter.

Called by the lab and by every test that needs a real OVSDB. It starts no daemon.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from veg_sandbox.ovn import apt

SUITE = "trixie"
PACKAGES = ("ovn-central", "ovn-host", "openvswitch-switch")
MINIMUM = (25, 3)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
BUILD_SECONDS = 600
LOCK_SECONDS = 900

_BINARY_DIRS = ("usr/bin", "usr/sbin", "usr/lib/openvswitch-switch")
_SCHEMAS = {
    "ovn-nb": "usr/share/ovn/ovn-nb.ovsschema",
    "ovn-sb": "usr/share/ovn/ovn-sb.ovsschema",
    "vswitch": "usr/share/openvswitch/vswitch.ovsschema",
}
_NEEDED = (
    "ovsdb-server",
    "ovsdb-tool",
    "ovs-vswitchd",
    "ovs-vsctl",
    "ovn-northd",
    "ovn-controller",
    "ovn-nbctl",
)

Progress = Callable[[str], None]


class OvnRootError(RuntimeError):
    """OVN could not be found or fetched; the message is one line for a user."""


def to_stderr(line: str) -> None:
    """Print a progress line where it does not mix with a command's output."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


@dataclass(frozen=True)
class OvnRoot:
    """A place with OVN's programs: the system itself (`/`) or an unpacked private root."""

    directory: Path
    version: str
    """As `ovn-northd --version` says it, such as `25.03.0`."""
    _loader: tuple[str, ...] = field(default=(), repr=False)

    def command(self, name: str) -> list[str]:
        """The argv prefix that runs program `name` (`ovn-nbctl`, `ovs-vswitchd`, …).

        Raises OvnRootError when this OVN has no such program.
        """
        for folder in _BINARY_DIRS:
            path = self.directory / folder / name
            if path.is_file():
                return [*self._loader, str(path)]
        raise OvnRootError(f"OVN {self.version} in {self.directory} has no program {name}")

    def schema(self, name: str) -> Path:
        """The schema file of a database: `ovn-nb`, `ovn-sb` or `vswitch`. KeyError for another name."""
        return self.directory / _SCHEMAS[name]


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/vpc-egress-gateway`, or under /var/cache without that variable."""
    base = os.environ.get("XDG_CACHE_HOME") or "/var/cache"
    return Path(base) / "vpc-egress-gateway"


def ovn_root(progress: Progress = to_stderr) -> OvnRoot:
    """The OVN to use: the system's own if it is new enough, else the cached private root.

    The first call on a machine fetches the packages (10-20 s) and says so through `progress`, a line at
    a time. Two processes that call at once build once. Raises OvnRootError.
    """
    system = system_root()
    if system is not None:
        return system
    home = cache_dir() / f"ovn-{SUITE}-{os.uname().machine}"
    if not (home / "version").is_file():
        _build_once(home, progress)
    return _private_root(home)


def system_root(directory: Path = Path("/")) -> OvnRoot | None:
    """The OVN installed on this machine, or None when it is missing, incomplete or too old."""
    root = OvnRoot(directory, "")
    try:
        for name in _NEEDED:
            root.command(name)
        version = _ask_version(root)
    except OvnRootError:
        return None
    if _numbers(version) < MINIMUM or not all(root.schema(name).is_file() for name in _SCHEMAS):
        return None
    return OvnRoot(directory, version)


def _private_root(home: Path) -> OvnRoot:
    root = home / "root"
    loaders = sorted(root.glob("usr/lib*/ld-linux-*.so.*"))
    libraries = sorted(path for path in root.glob("usr/lib/*-linux-gnu*") if path.is_dir())
    if not loaders or not libraries:
        raise OvnRootError(f"{home} is damaged (no dynamic loader): remove it and try again")
    prefix = (str(loaders[0]), "--library-path", ":".join(map(str, libraries)))
    version_file = home / "version"
    version = version_file.read_text().strip() if version_file.is_file() else ""
    return OvnRoot(root, version, prefix)


def _build_once(home: Path, progress: Progress) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(home.with_name(home.name + ".lock"), progress):
        if (home / "version").is_file():
            return  # another process has built it while this one waited
        # Nobody else can be building: what lies here was left by a build that was killed.
        for left in [home, *home.parent.glob(f".{home.name}.build-*")]:
            shutil.rmtree(left, ignore_errors=True)
        building = home.with_name(f".{home.name}.build-{os.getpid()}")
        try:
            building.mkdir()
            _extract(building / "root", progress)
            version = _ask_version(_private_root(building))
            if _numbers(version) < MINIMUM:
                raise OvnRootError(f"suite {SUITE} of the mirror has OVN {version}, older than 25.03")
            (building / "version").write_text(version + "\n")
            building.rename(home)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        progress(f"OVN {version} is ready in {home}")


def _extract(target: Path, progress: Progress) -> None:
    if shutil.which("mmdebstrap") is None:
        raise OvnRootError("mmdebstrap is missing: install the Debian package mmdebstrap")
    if not KEYRING.is_file():
        raise OvnRootError(f"{KEYRING} is missing: install the Debian package debian-archive-keyring")
    mirror = apt.debian_mirror()
    if mirror is None:
        raise OvnRootError("apt's sources name no Debian archive: add one to /etc/apt/sources.list")
    options = apt.acquire_options()
    progress(f"fetching OVN from Debian {SUITE} (about 60 MB, once; kept in {target.parents[1]})")
    failure = _mmdebstrap(target, mirror, options, progress)
    if failure is not None and re.search(r"Release file .* expired|is expired", failure):
        # A mirror frozen in time: signatures are still checked, only their age is not.
        progress("the mirror's index has expired: taking it as it is")
        shutil.rmtree(target, ignore_errors=True)
        failure = _mmdebstrap(target, mirror, [*options, 'Acquire::Check-Valid-Until "false"'], progress)
    if failure is not None:
        reason = [line for line in failure.splitlines() if line.startswith("E:")] or failure.splitlines()
        raise OvnRootError("mmdebstrap could not fetch OVN: " + (reason or ["no message"])[0])


def _mmdebstrap(target: Path, mirror: str, options: list[str], progress: Progress) -> str | None:
    """Run mmdebstrap; None when it succeeded, else what it wrote."""
    argv = ["mmdebstrap", "--mode=root", "--variant=extract", "--format=directory"]
    argv += ["--include=" + ",".join(PACKAGES)]
    argv += [f"--aptopt={option}" for option in options]
    argv += [SUITE, str(target), f"deb [signed-by={KEYRING}] {mirror} {SUITE} main"]
    said: list[str] = []
    started = time.monotonic()
    with subprocess.Popen(
        ["timeout", "--kill-after=5", str(BUILD_SECONDS), *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in _lines(process.stderr):
                said.append(line)
                step = re.match(r"I: (running|downloading|extracting|cleaning) (.*?)\.*$", line)
                if step:
                    progress(f"  {step[1]} {step[2]} ({time.monotonic() - started:.0f} s)")
        except BaseException:
            process.terminate()  # `timeout` passes it on to mmdebstrap
            raise
    return None if process.returncode == 0 else "\n".join(said)


def _lines(stream: IO[str] | None) -> Iterator[str]:
    for line in stream or ():
        yield line.rstrip()


@contextlib.contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel frees it when this process ends in any way."""
    deadline = time.monotonic() + LOCK_SECONDS
    told = False
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OvnRootError(f"another process holds {path} for too long") from None
                if not told:
                    progress("waiting for another process that is fetching OVN")
                    told = True
                time.sleep(0.1)
        yield


def _ask_version(root: OvnRoot) -> str:
    argv = [*root.command("ovn-northd"), "--version"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise OvnRootError(f"{argv[-2]} does not run: {error}") from error
    match = re.search(r"ovn-northd (\d+\.\d+\S*)", done.stdout)
    if match is None:
        raise OvnRootError(f"{argv[-2]} --version says {done.stdout.strip()!r}")
    return match[1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
