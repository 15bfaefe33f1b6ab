"""When a core of this machine stood still: what no program on it can be blamed for.

A virtual machine may lose its cores for 200 ms when it or its host is busy. Packets then wait or are dropped, and BFD
sessions with a shorter detection time end although nothing failed. One small process per core, at real-time priority and
bound to it, only sleeps and tells when it woke late.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import time
from typing import NamedTuple, Self

# Waking later than this is a pause; below it is the ordinary jitter of a timer.
SHORTEST_PAUSE_NS = 3_000_000
_SLEEP_NS = 2_000_000
# Pauses that are remembered, of each core.
_SLOTS = 4096
_COUNT = struct.Struct("q")
_SPAN = struct.Struct("qq")


class Pause(NamedTuple):
    """From when to when nothing ran, CLOCK_REALTIME ns."""

    begin: int
    end: int


class Watch:
    """Watches every core that this process may use while the block runs."""

    def __init__(self, priority: int = 50) -> None:
        """`priority`: SCHED_FIFO, above whatever is measured."""
        self._priority = priority
        self._cores = sorted(os.sched_getaffinity(0))
        self._shared = [mmap.mmap(-1, _SPAN.size * (_SLOTS + 1)) for _ in self._cores]
        self._pids: list[int] = []

    def __enter__(self) -> Self:
        """Start watching."""
        for shared, core in zip(self._shared, self._cores, strict=True):
            pid = os.fork()
            if pid == 0:
                try:
                    self._watch(os.getppid(), shared, core)
                finally:
                    os._exit(0)
            self._pids.append(pid)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def pauses(self, since: int) -> list[Pause]:
        """Pauses of any core that ended after `since` (CLOCK_REALTIME, ns), sorted."""
        found: list[Pause] = []
        for shared in self._shared:
            (count,) = _COUNT.unpack_from(shared)
            slots = range(min(count, _SLOTS))
            found += [Pause(*_SPAN.unpack_from(shared, _SPAN.size * (slot + 1))) for slot in slots]
        return sorted(pause for pause in found if pause.end > since)

    def longest_ms(self, begin: float, end: float) -> float:
        """The longest pause that overlaps the time between two moments (s of CLOCK_REALTIME), ms."""
        spans = [pause for pause in self.pauses(int(begin * 1e9)) if pause.begin <= end * 1e9]
        return max(((pause.end - pause.begin) / 1e6 for pause in spans), default=0.0)

    def _watch(self, parent: int, shared: mmap.mmap, core: int) -> None:
        os.sched_setaffinity(0, {core})
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self._priority))
        count = 0
        while os.getppid() == parent:
            begun = time.time_ns()
            time.sleep(_SLEEP_NS / 1e9)
            end = time.time_ns()
            if end - begun > _SLEEP_NS + SHORTEST_PAUSE_NS:
                _SPAN.pack_into(shared, _SPAN.size * (count % _SLOTS + 1), begun, end)
                count += 1
                _COUNT.pack_into(shared, 0, count)
