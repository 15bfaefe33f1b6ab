"""A level-triggered loop: woken by changes, it does its work once for all of them, and again after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from veg_common.logs import get

_SETTLE_SECONDS = 0.01
_RETRY_SECONDS = 1.0
log = get("loop")


class Loop:
    """Runs `work` after every `wake`, never twice at once. A failure is logged and tried again after a second."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._work = work
        self._awake = asyncio.Event()
        self._awake.set()

    def wake(self) -> None:
        """Have the work done (again) soon."""
        self._awake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._awake.wait()
            # Changes come in bursts: one pass for all of them.
            await asyncio.sleep(_SETTLE_SECONDS)
            self._awake.clear()
            try:
                await self._work()
            except Exception:
                log.exception("failed, trying again", loop=self._name)
                await asyncio.sleep(_RETRY_SECONDS)
                self._awake.set()
