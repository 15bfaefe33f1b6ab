"""Where the objects of a sandbox are: a folder of its own, or a Kubernetes API server that somebody else runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veg_common.objects import Object, Ref
from veg_common.store import ObjectStore, WatchEvent
from veg_common.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@dataclass(frozen=True)
class Backing:
    """What `up` was told. `store` is empty for the sandbox's own folder."""

    store: str = ""
    without: list[str] = field(default_factory=list)
    """Services that somebody else brings."""

    @property
    def on_cluster(self) -> bool:
        """Whether an API server keeps the objects, so that its own controllers and scheduler act."""
        return bool(self.store)


def read(file: Path) -> Backing:
    """What was written; the default without a file."""
    try:
        return Backing(**json.loads(file.read_text()))
    except FileNotFoundError:
        return Backing()


def write(file: Path, backing: Backing) -> None:
    """Keep it for the commands that follow."""
    file.write_text(json.dumps(asdict(backing)))


class PerCallStore:
    """An ObjectStore on an API server whose connections live as long as one call: commands run loop after loop."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def list(self, kind: str, namespace: str | None = None) -> list[Object]:
        """See ObjectStore."""
        found: list[Object] = await self._with(lambda store: store.list(kind, namespace))
        return found

    async def get(self, ref: Ref) -> Object:
        """See ObjectStore."""
        return await self._object(lambda store: store.get(ref))

    async def create(self, obj: Object) -> Object:
        """See ObjectStore."""
        return await self._object(lambda store: store.create(obj))

    async def update(self, ref: Ref, patch: Object) -> Object:
        """See ObjectStore."""
        return await self._object(lambda store: store.update(ref, patch))

    async def update_status(self, ref: Ref, patch: Object) -> Object:
        """See ObjectStore."""
        return await self._object(lambda store: store.update_status(ref, patch))

    async def delete(self, ref: Ref, *, grace_seconds: int | None = None) -> None:
        """See ObjectStore."""
        await self._with(lambda store: store.delete(ref, grace_seconds=grace_seconds))

    async def watch(self, kinds: Iterable[str]) -> AsyncIterator[WatchEvent]:
        """See ObjectStore."""
        store = open_store(self._text)
        try:
            async for event in store.watch(kinds):
                yield event
        finally:
            await store.aclose()

    async def aclose(self) -> None:
        """Nothing stays open."""

    async def _object(self, work: Callable[[ObjectStore], Coroutine[Any, Any, Object]]) -> Object:
        found: Object = await self._with(work)
        return found

    async def _with(self, work: Callable[[ObjectStore], Coroutine[Any, Any, Any]]) -> Any:
        store = open_store(self._text)
        try:
            return await work(store)
        finally:
            await store.aclose()
