"""Writes events about pods to the store, one after the other, so that nobody who tells of one waits for it."""

from __future__ import annotations

import asyncio
import datetime as dt

from veg_common.logs import get
from veg_common.objects import Object
from veg_common.store import AlreadyExistsError, NotFoundError, ObjectStore, StoreError

from veg_sandbox.runtime.core import events
from veg_sandbox.runtime.core.events import PodEvent

SCHEDULER, KUBELET = "default-scheduler", "kubelet"
# What waits when the store is slow; beyond it the newest are dropped.
_WAITING = 1000
_CLEAN_EVERY = 100
log = get("events")


class Recorder:
    """Counts what repeats, forgets what is old."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._queue: asyncio.Queue[tuple[Object, PodEvent]] = asyncio.Queue(_WAITING)

    def tell(self, pod: Object, event: PodEvent) -> None:
        """Record an event about a pod soon."""
        try:
            self._queue.put_nowait((pod, event))
        except asyncio.QueueFull:
            log.warning("event dropped", pod=pod["metadata"]["name"], reason=event.reason)

    async def run(self) -> None:
        """Write until cancelled."""
        written = 0
        while True:
            pod, event = await self._queue.get()
            try:
                await self._write(pod, event)
                if written % _CLEAN_EVERY == 0:
                    await self._clean()
                written += 1
            except (StoreError, OSError) as error:
                log.warning("event not recorded", pod=pod["metadata"]["name"], error=str(error))

    async def _write(self, pod: Object, event: PodEvent) -> None:
        now, ref = dt.datetime.now(dt.UTC), events.ref_for(pod, event)
        try:
            await self._store.create(events.first(pod, event, now))
        except AlreadyExistsError:
            await self._store.update(ref, events.again(await self._store.get(ref), now))

    async def _clean(self) -> None:
        now = dt.datetime.now(dt.UTC)
        for ref in events.outdated(await self._store.list("Event"), (SCHEDULER, KUBELET), now):
            try:
                await self._store.delete(ref)
            except NotFoundError:
                continue
