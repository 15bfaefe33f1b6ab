"""Where a command finds its sandbox: the lab's directory, the object store in it, and what `up` was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from veg_sandbox.cli.errors import CliError, not_up

if TYPE_CHECKING:
    from veg_common.store import ObjectStore

    from veg_sandbox.cli.backing import Backing
    from veg_sandbox.net.lab import Lab

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What `up` was asked for; kept so that a later `up` can repair."""

    nodes: int = 3
    ip_family: str = "ipv4"
    namespaces: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Paths:
    """Files of a sandbox beside the lab's own."""

    directory: Path

    @property
    def objects(self) -> Path:
        """The object store."""
        return self.directory / "objects"

    @property
    def backing_file(self) -> Path:
        """Where the objects are if not in the folder, and who brings which service."""
        return self.directory / "backing.json"

    @property
    def backing(self) -> Backing:
        """What `backing_file` says."""
        from veg_sandbox.cli import backing  # noqa: PLC0415

        return backing.read(self.backing_file)

    @property
    def store(self) -> str:
        """The object store as services are told of it: `folder:DIR`, or what `up` was told."""
        return self.backing.store or f"folder:{self.objects}"

    @property
    def settings(self) -> Path:
        """Settings as JSON, written when everything has been started."""
        return self.directory / "sandbox.json"

    @property
    def api_socket(self) -> Path:
        """Where veg-api listens."""
        return self.directory / "api.sock"

    @property
    def programmer_socket(self) -> Path:
        """Where veg-ovn-programmer listens."""
        return self.directory / "programmer.sock"

    @property
    def runtime(self) -> Path:
        """Folder of the runtime's own files."""
        return self.directory / "runtime"

    @property
    def heartbeat(self) -> Path:
        """Written by the runtime every second while it works."""
        return self.runtime / "heartbeat"


def paths(name: str) -> Paths:
    """Paths of the sandbox called `name`. Raises CliError for a bad name."""
    from veg_sandbox.net.errors import LabError  # noqa: PLC0415
    from veg_sandbox.net.model import lab_dir  # noqa: PLC0415

    try:
        return Paths(lab_dir(name))
    except LabError as error:
        raise CliError(f"error: {error}") from error


def running(name: str) -> Paths:
    """Paths of a sandbox that is up. Raises CliError."""
    found = paths(name)
    if not found.settings.is_file():
        raise not_up()
    return found


def store(name: str) -> ObjectStore:
    """The object store of a sandbox that is up. Raises CliError."""
    return store_of(running(name))


def store_of(where: Paths) -> ObjectStore:
    """The object store of a sandbox, whether all of it is up or not."""
    if where.backing.on_cluster:
        from veg_sandbox.cli.backing import PerCallStore  # noqa: PLC0415

        return PerCallStore(where.store)
    from veg_common.folder import FolderStore  # noqa: PLC0415

    return FolderStore(where.objects)


def lab(name: str) -> Lab:
    """The lab of a sandbox that is up. Raises CliError."""
    from veg_sandbox.net.lab import Lab  # noqa: PLC0415

    return Lab.attach(running(name).directory)


def read_settings(where: Paths) -> Settings:
    """What `up` was asked for. Raises CliError when the sandbox is not up."""
    try:
        return Settings(**json.loads(where.settings.read_text()))
    except FileNotFoundError:
        raise not_up() from None


def write_settings(where: Paths, settings: Settings) -> None:
    """Say that the sandbox is whole."""
    new = where.settings.with_suffix(".new")
    new.write_text(json.dumps(asdict(settings)))
    new.replace(where.settings)


@contextlib.contextmanager
def exclusive(where: Paths) -> Iterator[None]:
    """Keep a second `up` or `down` of the same sandbox waiting; the lock goes with its process.

    Its file goes with the sandbox: one that was removed while this waited for it holds nobody back.
    """
    where.directory.parent.mkdir(parents=True, exist_ok=True)
    path = where.directory.parent / f".{where.directory.name}.lock"
    while True:
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists() or path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
                continue
            try:
                yield
            finally:
                if not where.directory.exists():
                    path.unlink()
            return


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(work())
