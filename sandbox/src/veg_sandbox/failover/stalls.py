"""When a core of this machine stood still: what no program on it can be blamed for.

A virtual machine may lose a core for 200 ms when its host is busy. Packets then wait or are dropped, and BFD sessions with
a shorter detection time end although nothing failed. One small process per core, at real-time priority and bound to it,
wakes every few milliseconds and tells when it woke late.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

_BEAT_SECONDS = 0.005
# Below it is the ordinary jitter of a timer.
_NOTABLE_SECONDS = 0.02
_KEPT_SECONDS = 60.0
_RECORD = struct.Struct("!dd")


class Stalls:
    """What the watchers have told: (began, ended), s of CLOCK_REALTIME."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._known: list[tuple[float, float]] = []

    def longest(self, begin: float, end: float) -> float:
        """Seconds of the longest stall of any core that overlaps the time between two moments."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._pipe, 256 * _RECORD.size):
                self._known += _RECORD.iter_unpack(data)
        self._known = [stall for stall in self._known if stall[1] > time.time() - _KEPT_SECONDS]
        return max((b - a for a, b in self._known if b >= begin and a <= end), default=0.0)


@contextmanager
def watch_cores() -> Iterator[Stalls]:
    """Watch every core that this process may use while the block runs."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    children = []
    try:
        for core in os.sched_getaffinity(0):
            child = os.fork()
            if child == 0:
                _watch(core, writing)
            children.append(child)
        os.close(writing)
        yield Stalls(reading)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(reading)


def _watch(core: int, pipe: int) -> None:
    """The child: never returns. A parent that is gone ends it."""
    try:
        os.sched_setaffinity(0, {core})
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
        parent = os.getppid()
        while os.getppid() == parent:
            due = time.time() + _BEAT_SECONDS
            time.sleep(_BEAT_SECONDS)
            woke = time.time()
            if woke - due > _NOTABLE_SECONDS:
                os.write(pipe, _RECORD.pack(due, woke))
    finally:
        os._exit(0)
