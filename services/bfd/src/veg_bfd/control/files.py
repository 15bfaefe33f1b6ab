"""Files of the run folder that probes read and drains write."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from veg_common import logs

from veg_bfd.control.loop import Loop
from veg_bfd.control.mirror import Mirror

_BEAT = 1.0
_LOOK = 0.1
# `drained` of an earlier life of the gateway container must not end this one's stay.
_RECENT = 60.0


class SessionsUp:
    """`sessions-up`: its modification time tells probes when every session was last Up."""

    def __init__(self, run_dir: Path, mirror: Mirror) -> None:
        self._path = run_dir / "sessions-up"
        self._mirror = mirror
        self._was_up = False
        self._failed = False

    def look(self) -> None:
        """Called on every change: all Up needs no second to be told."""
        up = self._mirror.all_up
        if up and not self._was_up:
            self._touch()
        self._was_up = up

    def refresh(self) -> None:
        """The packet loop has just shown that it lives."""
        if self._mirror.all_up:
            self._touch()

    def _touch(self) -> None:
        try:
            self._path.touch()
        except OSError as error:
            if not self._failed:
                logs.get("files").error("can not write", path=str(self._path), error=error.strerror)
            self._failed = True
        else:
            self._failed = False


async def ask_for_life(loop: Loop) -> None:
    """Every second, forever. A loop that hangs leaves `sessions-up` to age; one that hears nothing replaces us."""
    while True:
        loop.tell("beat")
        await asyncio.sleep(_BEAT)


async def tell_drained(run_dir: Path, loop: Loop) -> None:
    """Tell the loop, which looks at no file, when a fresh `drained` is there; forever."""
    path = run_dir / "drained"
    while True:
        try:
            if time.time() - path.stat().st_mtime < _RECENT:
                loop.tell("drained")
        except OSError:
            pass
        await asyncio.sleep(_LOOK)
