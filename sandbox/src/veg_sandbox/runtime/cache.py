"""The runtime's copy of the store, kept by one watch. Everybody decides from it; nobody else lists.

Own writes are put in at once (`put`), so that a decision made before the watch tells of them does not repeat
them; an older version that the watch brings later does not overwrite a newer one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from veg_common.logs import get
from veg_common.objects import Object, Ref, ref_of
from veg_common.store import NotFoundError, ObjectStore, StoreError, WatchEvent

Listener = Callable[[Ref], None]
_RETRY_SECONDS = 1.0
_REMEMBERED = 1000
log = get("cache")


class Cache:
    """Objects by reference. `listeners` are called in the event loop after every change and must not block."""

    def __init__(self, kinds: Iterable[str]) -> None:
        self._kinds = tuple(kinds)
        self._objects: dict[Ref, Object] = {}
        self._listeners: list[Listener] = []
        # uids: an answer that comes late must not bring them back.
        self._gone: deque[str] = deque(maxlen=_REMEMBERED)
        self.synced = asyncio.Event()

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the reference of every object that changes from now on."""
        self._listeners.append(listener)

    def get(self, ref: Ref) -> Object | None:
        """One object; shared with others: do not change it."""
        return self._objects.get(ref)

    def all(self, kind: str) -> list[Object]:
        """Objects of a kind, sorted by namespace and name; shared with others: do not change them."""
        return [obj for ref, obj in sorted(self._objects.items()) if ref.kind == kind]

    def put(self, obj: Object) -> None:
        """Take over what a write of our own came to, unless the object is known to be gone by now."""
        if obj["metadata"].get("uid") not in self._gone:
            self._keep(obj)

    def _keep(self, obj: Object) -> None:
        """Take an object over unless a newer version of it is here."""
        ref = ref_of(obj)
        before = self._objects.get(ref)
        if before is not None and _same_object(before, obj) and _version(before) >= _version(obj):
            return
        self._objects[ref] = obj
        self._tell(ref)

    def drop(self, ref: Ref, uid: str | None = None) -> None:
        """Forget an object, or only the one of that uid."""
        before = self._objects.get(ref)
        if before is not None and uid in (None, before["metadata"].get("uid")):
            del self._objects[ref]
            if uid := before["metadata"].get("uid"):
                self._gone.append(uid)
            self._tell(ref)

    async def follow(self, store: ObjectStore, *, separately: bool = False) -> None:
        """Keep up with the store until cancelled; a broken watch is started again.

        `separately`: a watch a kind, for a store that may not know some of them yet (an API server without their
        definitions). Such a kind counts as seen, and is asked for again until it is known.
        """
        groups = [(kind,) for kind in self._kinds] if separately else [self._kinds]
        missing = set(groups)

        def seen(group: tuple[str, ...]) -> None:
            missing.discard(group)
            if not missing:
                self.synced.set()

        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                tasks.create_task(self._follow(store, group, partial(seen, group), probing=separately))

    async def _follow(
        self, store: ObjectStore, kinds: tuple[str, ...], seen: Callable[[], None], *, probing: bool
    ) -> None:
        while True:
            try:
                if probing:
                    await store.list(kinds[0])
                await self._watch(store, kinds, seen)
            except NotFoundError:
                seen()
            except StoreError as error:
                log.warning("watch failed", kinds=kinds, error=str(error))
            except Exception:
                log.exception("watch failed")
            await asyncio.sleep(_RETRY_SECONDS)

    async def _watch(self, store: ObjectStore, kinds: tuple[str, ...], told: Callable[[], None]) -> None:
        seen: set[Ref] | None = set()
        async for event in store.watch(kinds):
            self._take(event)
            if seen is not None and event.ref is not None:
                seen.add(event.ref)
            if event.type == "SYNCED" and seen is not None:
                for gone in {ref for ref in self._objects if ref.kind in kinds} - seen:
                    self.drop(gone)
                seen = None
                told()

    def _take(self, event: WatchEvent) -> None:
        match event.type:
            case "ADDED" | "MODIFIED" if event.object is not None:
                self._keep(event.object)
            case "DELETED" if event.ref is not None:
                uid = event.object["metadata"].get("uid") if event.object else None
                self.drop(event.ref, uid)
            case "BROKEN":
                log.warning("object can not be read", object=str(event.ref), error=event.message)

    def _tell(self, ref: Ref) -> None:
        for listener in self._listeners:
            listener(ref)


def _same_object(one: Object, other: Object) -> bool:
    return bool(one["metadata"].get("uid") == other["metadata"].get("uid"))


def _version(obj: Object) -> int:
    """ResourceVersion as a number: opaque by contract, but a counter in every store that this runs on."""
    text = str(obj["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdigit() else 0
