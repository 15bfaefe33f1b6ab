"""Keeps whoever does not lead from writing: every write asks the election first, and is given up when its time is over.

The controller stops by itself when it hears that it leads no more. The fence is for what is under way then, and for a
process that was paused: it wakes up with its term over and does not know it yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Protocol

from veg_common.objects import Object, Ref
from veg_common.store import ObjectStore, UnavailableError, WatchEvent

from veg_api.core.intents import Intent, IntentKey
from veg_api.core.operations import Operation
from veg_api.errors import ProgrammerUnreachableError
from veg_api.link import Client, Event, Report

# A request that began while we led may end this much later: others wait longer before they begin.
_SPARE_S = 1.0


class NotLeadingError(UnavailableError):
    """We do not lead, or not for certain: nothing is wrong with the request."""

    def __init__(self) -> None:
        super().__init__("this process does not lead")


class Leadership(Protocol):
    """Who tells whether we lead: `io.election.Election`."""

    @property
    def deadline(self) -> float:
        """The loop's time until which we lead for certain."""
        ...


class FencedStore:
    """An ObjectStore that reads always and writes only while we lead. Raises NotLeadingError otherwise."""

    def __init__(self, store: ObjectStore, leadership: Leadership) -> None:
        self._store = store
        self._leadership = leadership

    async def aclose(self) -> None:
        """Close the store."""
        await self._store.aclose()

    async def list(self, kind: str, namespace: str | None = None) -> list[Object]:
        """As the store."""
        return await self._store.list(kind, namespace)

    async def get(self, ref: Ref) -> Object:
        """As the store."""
        return await self._store.get(ref)

    def watch(self, kinds: Iterable[str]) -> AsyncIterator[WatchEvent]:
        """As the store."""
        return self._store.watch(kinds)

    async def create(self, obj: Object) -> Object:
        """As the store, while we lead."""
        async with _while_leading(self._leadership):
            return await self._store.create(obj)

    async def update(self, ref: Ref, patch: Object) -> Object:
        """As the store, while we lead."""
        async with _while_leading(self._leadership):
            return await self._store.update(ref, patch)

    async def update_status(self, ref: Ref, patch: Object) -> Object:
        """As the store, while we lead."""
        async with _while_leading(self._leadership):
            return await self._store.update_status(ref, patch)

    async def delete(self, ref: Ref, *, grace_seconds: int | None = None) -> None:
        """As the store, while we lead."""
        async with _while_leading(self._leadership):
            await self._store.delete(ref, grace_seconds=grace_seconds)


class FencedClient:
    """A client of ovn-programmer that listens and plans always and changes OVN only while we lead.

    Raises ProgrammerUnreachableError otherwise.
    """

    def __init__(self, client: Client, leadership: Leadership) -> None:
        self._client = client
        self._leadership = leadership

    def watch(self) -> AsyncGenerator[Event, None]:
        """As the client."""
        return self._client.watch()

    async def plan(self, intents: Sequence[Intent], deletes: Sequence[IntentKey]) -> list[Operation]:
        """As the client."""
        return await self._client.plan(intents, deletes)

    async def apply(self, session: str, intents: Sequence[tuple[int, Intent]]) -> list[Report]:
        """As the client, while we lead."""
        async with self._while_leading():
            return await self._client.apply(session, intents)

    async def delete(self, session: str, keys: Sequence[IntentKey]) -> list[Report]:
        """As the client, while we lead."""
        async with self._while_leading():
            return await self._client.delete(session, keys)

    async def resync(self, session: str) -> list[IntentKey]:
        """As the client, while we lead."""
        async with self._while_leading():
            return await self._client.resync(session)

    async def reset_sessions(self, gateway: str, peers: Sequence[str]) -> list[str]:
        """As the client, while we lead."""
        async with self._while_leading():
            return await self._client.reset_sessions(gateway, peers)

    @contextlib.asynccontextmanager
    async def _while_leading(self) -> AsyncIterator[None]:
        try:
            async with _while_leading(self._leadership):
                yield
        except (UnavailableError, TimeoutError) as error:
            raise ProgrammerUnreachableError(str(error) or "our term as a leader is over") from error


def _while_leading(leadership: Leadership) -> asyncio.Timeout:
    """Bounds a write by our term. Raises NotLeadingError when it is over."""
    loop = asyncio.get_running_loop()
    if loop.time() >= leadership.deadline:
        raise NotLeadingError
    return asyncio.timeout_at(leadership.deadline + _SPARE_S)
