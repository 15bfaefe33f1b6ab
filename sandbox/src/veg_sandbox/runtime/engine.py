"""Containers of a pod as processes of the lab: what a container runner and the init containers need of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veg_sandbox.runtime.core.containers import Container
from veg_sandbox.runtime.core.network import NetworkError
from veg_sandbox.runtime.host import Host, WaitingError
from veg_sandbox.runtime.process import ended

_INIT_SECONDS = 60.0


@dataclass(frozen=True)
class PodPlace:
    """Where the containers of a pod run: what they see of the host."""

    uid: str
    name: str
    volumes: Mapping[str, Path]
    files: Mapping[Path, str]
    env: Mapping[str, str]
    address: str


class LabEngine:
    """Containers of one pod as processes of the lab."""

    def __init__(self, host: Host, place: PodPlace, whole: Callable[[], Coroutine[None, None, None]]) -> None:
        self._host = host
        self._place = place
        self._uid = place.uid
        self._whole = whole

    def held(self) -> bool:
        """Whether a fault keeps the pod down."""
        return self._host.lab.outage.is_held(self._uid)

    async def spawn(self, container: Container) -> None:
        """Start it with its volumes mounted. Raises LabError, ProcessError, or RuntimeError for annotations that
        make no interface any more.
        """
        try:
            if not self._place.address:
                await self._whole()
        except (NetworkError, WaitingError) as error:
            raise RuntimeError(str(error)) from error
        volumes = self._place.volumes
        await self._host.call(
            self._host.lab.pod_spawn,
            self._uid,
            container.name,
            container.command,
            mounts={
                **{volumes[v]: path for v, path in container.mounts.items() if v in volumes},
                **self._place.files,
            },
            env={**self._place.env, **container.env},
            hostname=self._place.name,
        )

    async def kill(self, container: str) -> None:
        """TERM, then KILL. Raises ProcessError."""
        await self._host.call(self._host.lab.pod_kill, self._uid, container)

    def pid(self, container: str) -> int | None:
        """Its pid while it lives."""
        return self._host.lab.pod_pid(self._uid, container)

    async def exit_code(self, container: str) -> int | None:
        """How it ended; None when another process started it."""
        return await self._host.call(self._host.lab.pod_exit_code, self._uid, container)

    def address(self) -> str:
        """The pod's address on the host's network, "" in a network of its own."""
        return self._place.address

    def exec_argv(self, container: str, command: tuple[str, ...]) -> list[str]:
        """What runs a command in it. Raises LabError."""
        return self._host.lab.pod_argv(self._uid, command, container=container)


async def initialize(listed: Sequence[Container], engine: LabEngine) -> None:
    """Run the init containers one after the other. Raises WaitingError for one that fails: it is tried again."""
    for container in listed:
        if not container.command:
            continue
        await engine.spawn(container)
        try:
            async with asyncio.timeout(_INIT_SECONDS):
                await ended(lambda name=container.name: engine.pid(name))  # type: ignore[misc]
        except TimeoutError:
            await engine.kill(container.name)
            raise WaitingError(
                f"init container {container.name} took longer than {_INIT_SECONDS:g} s"
            ) from None
        code = await engine.exit_code(container.name)
        if code not in (0, None):
            raise WaitingError(f"init container {container.name} ended with {code}")


def find_program(name: str) -> str | None:
    """A program of this environment or of the host, as an absolute path."""
    return shutil.which(name, path=f"{Path(sys.prefix) / 'bin'}:{os.environ.get('PATH', os.defpath)}")
