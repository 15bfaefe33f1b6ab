"""An ObjectStore on a Kubernetes API server: plain objects over list, watch and merge patches.

A write carries what was given and nothing else (a JSON merge patch, RFC 7386, never a whole object), under one field
manager. A watch of a kind is a list and the stream of changes after it; bookmarks keep its version fresh, an expired
version (410) leads to a new list, of which the differences are told: a listener never sees a gap, and never hears
twice of the same.
"""

from __future__ import annotations

import asyncio
import builtins
import functools
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from veg_common import logs
from veg_common.kube_client import GoneError, KubeClient, Request, refusal
from veg_common.objects import Kind, Object, Ref, check_object, encode, kind_of, ref_of
from veg_common.store import InvalidObjectError, WatchEvent

Selectors = Mapping[str, Mapping[str, str]]
FIELD_MANAGER = "vpc-egress-gateway"
_MERGE = "application/merge-patch+json"
_PAGE = 500
# The server ends a watch after this time; a spread keeps those of all kinds from coming back at once.
_WATCH_S = (240, 420)
_BACKOFF_S = (0.2, 20.0)
_TRIES = 2
# What only the server fills in: as in a folder, a patch leaves it alone.
_SERVERS = ("name", "namespace", "uid", "creationTimestamp", "generation", "managedFields", "selfLink")


class KubernetesStore:
    """See the module.

    `selectors` restricts what `watch` sees of a kind: query parameters (`labelSelector`, `fieldSelector`) by kind.
    """

    def __init__(
        self,
        kubeconfig: Path | None = None,
        context: str | None = None,
        selectors: Selectors | None = None,
    ) -> None:
        self._client = KubeClient(kubeconfig, context)
        self._selectors = dict(selectors or {})
        self._log = logs.get("kube")

    async def aclose(self) -> None:
        """End all connections."""
        await self._client.aclose()

    async def list(self, kind: str, namespace: str | None = None) -> list[Object]:
        """Objects of a kind, sorted by namespace and name."""
        items, _ = await self._list(kind_of(kind), namespace)
        return sorted(items, key=ref_of)

    async def get(self, ref: Ref) -> Object:
        """One object. Raises NotFoundError."""
        return _cleaned(await self._client.call(Request("GET", _path(ref))), kind_of(ref.kind))

    async def create(self, obj: Object) -> Object:
        """Store a new object; a status in it follows as the second request that the API asks for."""
        if problem := check_object(obj):
            raise InvalidObjectError(problem)
        kind, ref = kind_of(obj["kind"]), ref_of(obj)
        given = {k: v for k, v in obj["metadata"].items() if k not in _SERVERS and k != "resourceVersion"}
        metadata = {**given, "name": ref.name, **({"namespace": ref.namespace} if ref.namespace else {})}
        made = await self._client.call(
            Request("POST", _collection(kind, ref.namespace), _WRITER, {**obj, "metadata": metadata})
        )
        if obj.get("status") and made.get("status") != obj["status"]:
            return await self.update_status(ref, obj)
        return _cleaned(made, kind)

    async def update(self, ref: Ref, patch: Object) -> Object:
        """Merge everything but status; see ObjectStore.update."""
        body = {k: v for k, v in patch.items() if k not in ("status", "kind", "apiVersion")}
        if "metadata" in body:
            metadata = body["metadata"]
            body["metadata"] = {k: v for k, v in metadata.items() if k not in _SERVERS}
        return await self._patch(ref, "", body)

    async def update_status(self, ref: Ref, patch: Object) -> Object:
        """Merge status and nothing else; see ObjectStore.update_status."""
        return await self._patch(ref, "/status", {"status": patch.get("status")})

    async def delete(self, ref: Ref, *, grace_seconds: int | None = None) -> None:
        """Delete, or mark as deleted; see ObjectStore.delete."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        await self._client.call(Request("DELETE", _path(ref), body=options))

    async def watch(self, kinds: Iterable[str]) -> AsyncIterator[WatchEvent]:
        """Present objects as ADDED, one SYNCED when every kind has been listed, then changes, for ever."""
        wanted = [kind_of(kind) for kind in kinds]
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        missing = {kind.kind for kind in wanted}

        def listed(kind: str) -> None:
            if kind in missing:
                missing.remove(kind)
                if not missing:
                    queue.put_nowait(WatchEvent("SYNCED"))

        tasks = [
            asyncio.create_task(self._follow(_Place(kind), queue, functools.partial(listed, kind.kind)))
            for kind in wanted
        ]
        try:
            while True:
                yield await queue.get()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- requests ----------------------------------------------------------------------------------------------

    async def _patch(self, ref: Ref, subresource: str, body: Object) -> Object:
        path = f"{_path(ref)}{subresource}"
        return _cleaned(
            await self._client.call(Request("PATCH", path, _WRITER, body, _MERGE)), kind_of(ref.kind)
        )

    async def _list(
        self, kind: Kind, namespace: str | None, selector: Mapping[str, str] | None = None
    ) -> tuple[builtins.list[Object], str]:
        """All objects of a kind in pages, and the version that they are of."""
        path = _collection(kind, namespace or "")
        base = list((selector or {}).items())
        items: list[Object] = []
        query = [*base, ("limit", str(_PAGE))]
        while True:
            try:
                answer = await self._client.call(Request("GET", path, query))
            except GoneError:
                items, query = [], base  # the list took longer than its version lived: all at once
                continue
            items += [_cleaned(item, kind) for item in answer.get("items") or ()]
            metadata = answer.get("metadata") or {}
            version = str(metadata.get("resourceVersion", ""))
            if not (token := metadata.get("continue")):
                return items, version
            query = [*base, ("limit", str(_PAGE)), ("continue", token)]

    # -- watching ----------------------------------------------------------------------------------------------

    async def _follow(
        self, place: _Place, queue: asyncio.Queue[WatchEvent], listed: Callable[[], None]
    ) -> None:
        """One kind: list, then changes; what breaks is taken up again after a pause."""
        kind = place.kind
        while True:
            try:
                if not place.version:
                    items, place.version = await self._list(kind, None, self._selectors.get(kind.kind))
                    for event in _relisted(place.known, items):
                        queue.put_nowait(event)
                    listed()
                async for event in self._changes(place):
                    queue.put_nowait(event)
            except GoneError as error:
                place.version = ""
                self._log.info("watch expired", kind=kind.kind, error=str(error))
            except Exception as error:  # noqa: BLE001
                # Whatever it is (no server, no permission, no such kind yet), the next attempt may do without it.
                place.failures += 1
                loud = place.failures in (1, 5) or place.failures % 50 == 0
                told = self._log.warning if loud else self._log.debug
                told("watch broke", kind=kind.kind, error=str(error) or type(error).__name__)
                if place.failures > _TRIES:
                    place.version = ""  # a server that was restored may not know our version at all
            pause = min(_BACKOFF_S[0] * 2 ** min(place.failures, 10), _BACKOFF_S[1])
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - a spread, not a secret

    async def _changes(self, place: _Place) -> AsyncIterator[WatchEvent]:
        """The changes after the place's version, which moves along, until the server ends the stream.

        Raises StoreError, GoneError.
        """
        query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", place.version),
            ("timeoutSeconds", str(random.randint(*_WATCH_S))),  # noqa: S311
            *self._selectors.get(place.kind.kind, {}).items(),
        ]
        async for line in self._client.stream(Request("GET", _collection(place.kind, ""), query)):
            obj = line.get("object") or {}
            if line.get("type") == "ERROR":
                raise refusal(int(obj.get("code") or 500), encode(obj), f"watch {place.kind.plural}")
            place.version, place.failures = str(obj["metadata"]["resourceVersion"]), 0
            if line.get("type") != "BOOKMARK":
                gone = line.get("type") == "DELETED"
                for event in _changed(place.known, _cleaned(obj, place.kind), gone=gone):
                    yield event


@dataclass
class _Place:
    """How far the watch of a kind has come: its version ("": to be listed), what was told, failures in a row."""

    kind: Kind
    version: str = ""
    known: dict[Ref, Object] = field(default_factory=dict)
    failures: int = 0


_WRITER = (("fieldManager", FIELD_MANAGER),)


def _relisted(known: dict[Ref, Object], items: Iterable[Object]) -> Iterator[WatchEvent]:
    """What a fresh list tells beyond `known`, which is brought up to date."""
    present = {ref_of(item): item for item in items}
    for ref in [ref for ref in known if ref not in present]:
        yield WatchEvent("DELETED", ref, known.pop(ref))
    for item in present.values():
        yield from _changed(known, item, gone=False)


def _changed(known: dict[Ref, Object], obj: Object, *, gone: bool) -> Iterator[WatchEvent]:
    """The events of one object's new state."""
    ref = ref_of(obj)
    before = known.get(ref)
    if gone:
        if known.pop(ref, None) is not None:
            yield WatchEvent("DELETED", ref, obj)
        return
    if before is not None and before["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]:
        return
    known[ref] = obj
    if before is None:
        yield WatchEvent("ADDED", ref, obj)
    elif before["metadata"]["uid"] != obj["metadata"]["uid"]:
        yield WatchEvent("DELETED", ref, before)
        yield WatchEvent("ADDED", ref, obj)
    else:
        yield WatchEvent("MODIFIED", ref, obj)


def _cleaned(obj: Object, kind: Kind) -> Object:
    """With the type that items of a list lack, without what is only for writers' disputes."""
    obj["apiVersion"], obj["kind"] = kind.api_version, kind.kind
    obj.get("metadata", {}).pop("managedFields", None)
    return obj


def _collection(kind: Kind, namespace: str) -> str:
    root = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.api_version}"
    return (
        f"{root}/namespaces/{quote(namespace, safe='')}/{kind.plural}"
        if namespace
        else f"{root}/{kind.plural}"
    )


def _path(ref: Ref) -> str:
    return f"{_collection(kind_of(ref.kind), ref.namespace)}/{quote(ref.name, safe='')}"
