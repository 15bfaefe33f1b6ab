"""Carries changes out through the ObjectStore, and records events. Called by the controller only."""

from __future__ import annotations

import hashlib

from veg_common.objects import Object, Ref, kind_of
from veg_common.store import (
    AlreadyExistsError,
    ConflictError,
    InvalidObjectError,
    NotFoundError,
    ObjectStore,
)

from veg_api.core.change import Change, Create, Delete, EventRecord, Patch
from veg_api.errors import RetryableError
from veg_api.metrics import WRITES


class StaleError(RetryableError):
    """The change was planned on an object that is not what it was; `object` is what is there (None: nothing)."""

    def __init__(self, ref: Ref, current: Object | None) -> None:
        super().__init__(f"{ref} has changed since it was read")
        self.ref = ref
        self.object = current


async def carry_out(store: ObjectStore, change: Change) -> Object | None:
    """Do one change; the object as it is then, None when it is gone.

    Raises StaleError when the plan must be made again, InvalidObjectError when the store refuses the object.
    """
    ref = change.ref
    WRITES.labels(ref.kind, type(change).__name__).inc()
    try:
        if isinstance(change, Create):
            return await store.create(change.object)
        if isinstance(change, Patch):
            return await store.update(ref, change.patch)
        if isinstance(change, Delete):
            await store.delete(ref)
            return await read(store, ref)
        return await store.update_status(ref, change.patch)
    except NotFoundError:
        if isinstance(change, Delete):
            return None
        raise StaleError(ref, None) from None
    except (AlreadyExistsError, ConflictError):
        raise StaleError(ref, await read(store, ref)) from None


async def read(store: ObjectStore, ref: Ref) -> Object | None:
    """An object, None when there is none."""
    try:
        return await store.get(ref)
    except NotFoundError:
        return None


async def exists(store: ObjectStore, ref: Ref) -> bool:
    """Whether something is there under a name, readable or not."""
    try:
        return await read(store, ref) is not None
    except InvalidObjectError:
        return True


async def record(store: ObjectStore, event: EventRecord, now: str) -> None:
    """Record an event; the same one again raises its count, as Kubernetes does."""
    namespace = event.about.namespace or "default"
    digest = hashlib.sha256(f"{event.about}{event.uid}{event.reason}{event.message}".encode()).hexdigest()[
        :16
    ]
    ref = Ref("Event", namespace, f"{event.about.name[:200]}.{digest}")
    existing = await read(store, ref)
    if existing is not None:
        count = existing.get("count")
        count = count + 1 if isinstance(count, int) else 2
        await store.update(ref, {"count": count, "lastTimestamp": now})
        return
    about = {
        "apiVersion": kind_of(event.about.kind).api_version,
        "kind": event.about.kind,
        "name": event.about.name,
        "uid": event.uid,
        **({"namespace": event.about.namespace} if event.about.namespace else {}),
    }
    await store.create(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": ref.name, "namespace": namespace},
            "involvedObject": about,
            "type": event.type,
            "reason": event.reason,
            # The API server refuses longer ones.
            "message": event.message[:1024],
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "veg-api"},
            "reportingComponent": "veg-api",
        }
    )
