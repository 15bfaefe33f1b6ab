"""What all pods of a sandbox share, and how one of them says that it has to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from veg_common.store import ObjectStore

from veg_sandbox.net.lab import Lab
from veg_sandbox.runtime.cache import Cache
from veg_sandbox.runtime.clusterapi import ClusterApi
from veg_sandbox.runtime.names import ServiceNames
from veg_sandbox.runtime.recorder import Recorder

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Host:
    """What all pods share. `threads` runs the lab's blocking calls."""

    lab: Lab
    store: ObjectStore
    cache: Cache
    threads: ThreadPoolExecutor
    volumes: Path
    recorder: Recorder
    api: ClusterApi | None = None
    """The API server behind the store, if there is one."""
    names: ServiceNames | None = None
    """What pods on the host's network know of Services."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Of pods on the host's network, by uid."""

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A blocking call in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, lambda: work(*args, **kwargs))


class WaitingError(Exception):
    """The pod has to wait for something outside; the text says for what."""
