"""Keeps `sessions.json` (veg_bfd.io.memory) in step with the mirror."""

from __future__ import annotations

import asyncio
from pathlib import Path

from veg_common import logs

from veg_bfd.control.mirror import Mirror
from veg_bfd.core.model import Role, SessionConfig, Timers, View
from veg_bfd.io import memory

_QUIET = 0.1


class Notes:
    """Writes after changes; several in a moment are one. `hold` is what holds for sessions to come too."""

    def __init__(self, run_dir: Path, mirror: Mirror) -> None:
        self._run_dir = run_dir
        self._mirror = mirror
        self._changed = asyncio.Event()
        written = memory.read(run_dir)
        self._written: memory.Memory | None = written
        self.hold = written.hold
        self._stopping = False

    def look(self) -> None:
        """Something may have changed."""
        self._changed.set()

    async def keep(self) -> None:
        """Write, forever."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_QUIET)
            self._changed.clear()
            if not self._stopping:
                self._write()

    def stop(self) -> None:
        """Write a last time: what the end of the process does to sessions is not to be remembered."""
        if not self._stopping:
            self._write()
        self._stopping = True

    def _write(self) -> None:
        now = memory.Memory(tuple(_remembered(view) for view in self._mirror.sessions.values()), self.hold)
        if now == self._written:
            return
        try:
            memory.write(self._run_dir, now)
            self._written = now
        except OSError as error:
            logs.get("notes").warning("sessions not written down", error=error.strerror)


def _remembered(view: View) -> memory.Remembered:
    config = SessionConfig(
        view.local,
        view.peer,
        Timers(view.min_rx_us, view.min_tx_us, view.multiplier),
        view.interface,
        view.min_ttl,
        Role(view.role),
    )
    hold = (view.diagnostic, view.admin_reason) if view.admin_down else None
    return memory.Remembered(view.owner, config, view.local_discriminator, hold)
