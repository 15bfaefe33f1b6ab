"""Waiting for processes that need not be children, and probes, without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence


async def ended(pid_of: Callable[[], int | None]) -> None:
    """Return when the process that `pid_of` finds has ended (at once when it finds none).

    Works for processes that another program started: a pidfd becomes readable at the end, pidfd_open(2).
    """
    pid = pid_of()
    if pid is None:
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        # Asked again after opening: from then on the handle can not mean a successor of the same pid.
        if pid_of() == pid:
            loop.add_reader(handle, ready.set)
            await ready.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def succeeds(argv: Sequence[str], seconds: float) -> bool:
    """Whether a command exits with 0 within `seconds` s; it is killed when it takes longer."""
    null = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdin=null, stdout=null, stderr=null)
    except OSError:
        return False
    try:
        # Not wait_for: Python 3.11's forgets a cancellation that comes at the moment when the process ends.
        async with asyncio.timeout(seconds):
            return await process.wait() == 0
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def wait_any(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Return when one of the events is set, or after `seconds` s."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
