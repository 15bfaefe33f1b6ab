"""Sends jobs to the database, counts them, and lets one bad job hold up nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from veg_common import logs

from veg_ovn_programmer import metrics
from veg_ovn_programmer.core.book import Job
from veg_ovn_programmer.core.intents import Key
from veg_ovn_programmer.core.view import Scene
from veg_ovn_programmer.errors import NorthboundError, NorthboundUnavailableError, WaitingError
from veg_ovn_programmer.io.commands import Result

Commit = Callable[[Sequence[Job], Scene], dict[Key, Result]]


class Committer:
    """One transaction at a time, in an executor: `commit` of the database blocks."""

    def __init__(self, commit: Commit, scene: Callable[[], Scene], executor: Executor) -> None:
        self._commit = commit
        self._scene = scene
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self.since: float | None = None
        """When the transaction under way began; None when there is none."""
        self._log = logs.get("committer")

    async def commit(self, jobs: Sequence[Job]) -> dict[Key, Result]:
        """Commit jobs together, or one by one when that fails: one bad intent must not hold up the others.

        Raises NorthboundUnavailableError when nobody answers.
        """
        if not jobs:
            return {}
        started = time.perf_counter()
        self.since = self._loop.time()
        try:
            results = await self._loop.run_in_executor(self._executor, self._commit, jobs, self._scene())
        except NorthboundUnavailableError:
            metrics.COMMITS.labels("unanswered").inc()
            raise
        except Exception as error:  # noqa: BLE001  # the loop's edge: logged, counted, tried again
            metrics.COMMITS.labels("failed").inc()
            if len(jobs) > 1:
                self._log.warning("commit failed, trying one by one", error=str(error), intents=len(jobs))
                results = {}
                for job in jobs:
                    results |= await self.commit([job])
                return results
            if isinstance(error, NorthboundError):
                self._log.error("commit failed", owner=str(jobs[0].key), error=str(error))
            else:
                self._log.exception("commit failed", owner=str(jobs[0].key))
            return {jobs[0].key: Result(error=WaitingError("CommitFailed", str(error)))}
        finally:
            self.since = None
        metrics.COMMITS.labels("done").inc()
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
        return results
