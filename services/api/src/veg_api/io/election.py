"""Takes part in the election of a leader: renews, takes over, gives back. Started by the process, asked by the fence."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import random
from collections.abc import Callable

from veg_common import logs
from veg_common.objects import Object, Ref
from veg_common.store import AlreadyExistsError, ConflictError, NotFoundError, ObjectStore, StoreError

from veg_api.core import election
from veg_api.core.election import Sight, Timing

LEASE_NAME = "vpc-egress-gateway-api"
_RELEASE_S = 3.0


class Election:
    """See the module. `on_change` hears whenever `leading` has become true or false."""

    def __init__(
        self,
        store: ObjectStore,
        namespace: str,
        identity: str,
        on_change: Callable[[bool], None],
        timing: Timing = Timing(),  # noqa: B008 - a frozen value
    ) -> None:
        self._store = store
        self._ref = Ref("Lease", namespace, LEASE_NAME)
        self._identity = identity
        self._on_change = on_change
        self._timing = timing
        self._log = logs.get("election", identity=identity)
        self._until = 0.0
        self._told = False
        self._sight: Sight | None = None
        self._held_by = ""
        self._missed: float | None = None
        # The Lease as we last wrote it.
        self._mine: Object | None = None

    @property
    def deadline(self) -> float:
        """The loop's time until which we lead for certain; past if we do not."""
        return self._until

    @property
    def leading(self) -> bool:
        """Whether we may write now."""
        return _clock() < self._until

    async def run(self) -> None:
        """Take part until cancelled; then the Lease is given back, so that another takes over at once."""
        try:
            while True:
                await self._attempt()
                await self._pause()
        finally:
            await self._give_back()

    async def _attempt(self) -> None:
        asked = _clock()
        try:
            # A slow answer is better than none: what counts is when it was asked for.
            async with asyncio.timeout(self._timing.renew_s):
                if await self._take():
                    self._until = asked + self._timing.renew_s
        except (StoreError, OSError, TimeoutError) as error:
            self._log.warning(
                "lease not renewed", error=str(error) or type(error).__name__, leading=self.leading
            )
        self._tell()

    async def _pause(self) -> None:
        """Until the next attempt; that we lead no more is told the moment it is so."""
        pause = self._timing.retry_s * random.uniform(0.8, 1.2)  # noqa: S311 - a spread, not a secret
        due = _clock() + pause
        if self._told and self._until < due:
            await asyncio.sleep(max(0.0, self._until - _clock()))
            self._tell()
        await asyncio.sleep(max(0.0, due - _clock()))

    async def _take(self) -> bool:
        """Make the Lease ours (again) if that is allowed; whether it is."""
        if self.leading and self._mine is not None:
            # Nobody may have written it since: one request, where reading it first would take two.
            with contextlib.suppress(ConflictError, NotFoundError):
                await self._write(election.taken(self._mine, self._identity, self._timing, _stamp()))
                return True
        self._mine = None
        try:
            lease = await self._store.get(self._ref)
        except NotFoundError:
            return await self._make()
        now = _clock()
        self._missed = None
        self._sight = election.seen(lease, self._sight, now)
        self._hear_of(election.holder(lease))
        if not election.may_take(lease, self._identity, self._sight, now):
            self._until = 0.0
            return False
        try:
            await self._write(election.taken(lease, self._identity, self._timing, _stamp()))
        except (ConflictError, NotFoundError):
            return False  # somebody was faster: the next look tells who
        return True

    async def _make(self) -> bool:
        """A Lease of ours where there is none.

        Unless one was deleted under a leader, who may believe to lead for the rest of its term. Where we have just
        started and never saw one there hardly was one: a leader would make it anew at its next renewal, and two of
        those are waited for.
        """
        now = _clock()
        self._missed = now if self._missed is None else self._missed
        patience = self._timing.renew_s if self._sight is not None else 2 * self._timing.retry_s
        if not self.leading and now - self._missed < patience:
            return False
        wanted = election.new(self._ref.namespace, self._ref.name, self._identity, self._timing, _stamp())
        try:
            self._mine = await self._store.create(wanted)
        except AlreadyExistsError:
            return False
        return True

    async def _write(self, patch: Object) -> None:
        self._mine = await self._store.update(self._ref, patch)
        self._hear_of(self._identity)

    def _hear_of(self, holder: str) -> None:
        if holder != self._held_by:
            self._held_by = holder
            self._log.info("leader", leader=holder or "nobody")

    def _tell(self) -> None:
        if self.leading != self._told:
            self._told = self.leading
            (self._log.info if self._told else self._log.warning)("leading" if self._told else "not leading")
            self._on_change(self._told)

    async def _give_back(self) -> None:
        held, self._until = self.leading, 0.0
        self._tell()
        if held:
            with contextlib.suppress(StoreError, OSError, TimeoutError):
                async with asyncio.timeout(_RELEASE_S):
                    lease = await self._store.get(self._ref)
                    if election.holder(lease) == self._identity:
                        await self._store.update(self._ref, election.released(lease, _stamp()))
                        self._log.info("lease given back")


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
