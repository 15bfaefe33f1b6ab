"""The store's watch stream as batches of differences, robust against breaks, stale events and unreadable files.

Owned by the controller. What was last known of an object stays until the store says that it is gone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable

from veg_common import logs
from veg_common.objects import Object, Ref
from veg_common.store import ObjectStore, StoreError, WatchEvent

from veg_api.core.change import EventRecord
from veg_api.io.changes import exists

_RESTART_S = 1.0
_HIDDEN_CHECK_S = 2.0
# Objects that are gone: a late answer about one of them must not bring it back. Answers are late by seconds at most.
_REMEMBERED = 1000


class Feed:
    """Collects changes until they are taken. `on_change` is called whenever there is something to take.

    `overheard` kinds are told of as far as they can be seen; the picture is complete without them.
    """

    def __init__(
        self,
        store: ObjectStore,
        kinds: Iterable[str],
        on_change: Callable[[], None],
        overheard: Iterable[str] = (),
    ) -> None:
        self._store = store
        self._kinds = tuple(kinds)
        self._overheard = tuple(overheard)
        self._on_change = on_change
        self._log = logs.get("feed")
        self._pending: dict[Ref, Object | None] = {}
        self._known: dict[Ref, tuple[str, int]] = {}
        # (object, uid) to the version that it went with.
        self._gone: OrderedDict[tuple[Ref, str], int] = OrderedDict()
        self._seen: set[Ref] | None = set()
        self._broken: dict[Ref, str] = {}
        self._events: list[EventRecord] = []
        self.synced = False
        # Objects that exist in a form that can not be read, and of which no good version is known.
        self.hidden: frozenset[Ref] = frozenset()

    def take(self) -> dict[Ref, Object | None]:
        """What changed since the last call: objects by reference, None for those that are gone."""
        pending, self._pending = self._pending, {}
        return pending

    def take_events(self) -> list[EventRecord]:
        """What is to be told of unreadable objects."""
        events, self._events = self._events, []
        return events

    def put(self, ref: Ref, obj: Object | None, *, read: bool = False) -> None:
        """What a write of our own came to, or what was read: known at once, without waiting for the watch.

        News that an object is gone may overtake the answer to the write that let it go, which is then of the same
        version. What is *read* in that version is there, and merely lost the label that the watch selects by.
        """
        if obj is not None:
            gone = self._gone.get((ref, obj["metadata"].get("uid", "")), -1)
            if _version(obj) < gone or (_version(obj) == gone and not read):
                return
        self._store_change(ref, obj)

    async def run(self) -> None:
        """Follow the store until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._look_for_hidden())
            if self._overheard:
                tasks.create_task(self._overhear())

    async def _watch(self) -> None:
        while True:
            try:
                self._seen = set()
                async for event in self._store.watch(self._kinds):
                    self._handle(event)
                self._log.warning("watch ended")
            except (StoreError, OSError) as error:
                self._log.warning("watch broke", error=str(error))
            except Exception:  # noqa: BLE001
                # Whatever is in the store, what is known of it goes on.
                self._log.exception("watch broke")
            await asyncio.sleep(_RESTART_S)

    async def _overhear(self) -> None:
        while True:
            try:
                async for event in self._store.watch(self._overheard):
                    if event.ref is not None and event.type != "BROKEN":
                        self._store_change(event.ref, None if event.type == "DELETED" else event.object)
            except Exception as error:  # noqa: BLE001
                self._log.warning("can not overhear", error=str(error))
            await asyncio.sleep(_RESTART_S)

    def _handle(self, event: WatchEvent) -> None:
        if event.type == "SYNCED":
            self._forget_unseen()
            self.synced = True
            self._on_change()
        elif event.ref is None:
            return
        elif event.type == "BROKEN":
            self._hear_broken(event.ref, event.message)
        else:
            if self._seen is not None:
                self._seen.add(event.ref)
            self._reveal(event.ref)
            if event.type == "DELETED":
                self._bury(event.ref, event.object)
            self._store_change(event.ref, None if event.type == "DELETED" else event.object)

    def _bury(self, ref: Ref, obj: Object | None) -> None:
        """Remember what an object was when it went, by deletion or by losing the label that the watch selects by."""
        if obj is not None:
            uid, version = self._known.get(ref, ("", -1))
            last = _version(obj) if obj["metadata"].get("uid", "") != uid else max(version, _version(obj))
            self._gone[ref, obj["metadata"].get("uid", "")] = last
            while len(self._gone) > _REMEMBERED:
                self._gone.popitem(last=False)

    def _store_change(self, ref: Ref, obj: Object | None) -> None:
        if obj is None:
            self._known.pop(ref, None)
        else:
            uid, version = obj["metadata"].get("uid", ""), _version(obj)
            if self._known.get(ref, ("", -1)) > (uid, version) and self._known[ref][0] == uid:
                return  # a write of our own is ahead of the watch
            self._known[ref] = (uid, version)
        self._pending[ref] = obj
        self._on_change()

    def _forget_unseen(self) -> None:
        """After a break: what the fresh list does not hold is gone, unless it merely can not be read."""
        seen, self._seen = self._seen or set(), None
        known = [ref for ref in self._known if ref.kind not in self._overheard]
        for ref in [ref for ref in known if ref not in seen and ref not in self._broken]:
            self._store_change(ref, None)

    def _hear_broken(self, ref: Ref, message: str) -> None:
        if self._broken.get(ref) == message:
            return
        self._broken[ref] = message
        good = ref in self._known
        self._log.warning("unreadable object", object=str(ref), error=message, last_good_kept=good)
        self._events.append(EventRecord(ref, "", "Warning", "Unreadable", message))
        if not good:
            self.hidden |= {ref}
        self._on_change()

    def _reveal(self, ref: Ref) -> None:
        self._broken.pop(ref, None)
        if ref in self.hidden:
            self.hidden -= {ref}
            self._on_change()

    async def _look_for_hidden(self) -> None:
        """The store does not tell when an object goes that never could be read: ask for it."""
        while True:
            await asyncio.sleep(_HIDDEN_CHECK_S)
            for ref in self.hidden:
                try:
                    gone = not await exists(self._store, ref)
                except Exception as error:  # noqa: BLE001
                    self._log.debug("can not look", object=str(ref), error=str(error))
                    continue
                if gone:
                    self._reveal(ref)


def _version(obj: Object) -> int:
    text = str(obj["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0
