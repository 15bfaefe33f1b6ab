"""Waiting for processes that need not be children, and probes, without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_MAX_OUTPUT = 400


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


@dataclass(frozen=True)
class ProbeResult:
    """How a probe ended, and what it printed: one line, cut to a length that fits a condition."""

    passed: bool
    output: str = ""


async def run_probe(argv: Sequence[str], seconds: float) -> ProbeResult:
    """Run a command; it passes when it exits with 0 within `seconds` s, and is killed when it takes longer."""
    null, pipe, stdout = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdin=null, stdout=pipe, stderr=stdout)
    except OSError as error:
        return ProbeResult(passed=False, output=str(error))
    try:
        # Not wait_for: Python 3.11's forgets a cancellation that comes at the moment when the process ends.
        async with asyncio.timeout(seconds):
            output = await _head(process.stdout)
            code = await process.wait()
        return ProbeResult(code == 0, "" if code == 0 else _line(output) or f"exit code {code}")
    except TimeoutError:
        return ProbeResult(passed=False, output=f"timed out after {seconds:g} s")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def get_page(host: str, port: int, path: str, seconds: float) -> ProbeResult:
    """GET over plain HTTP; it passes with a status of 200 to 399 within `seconds` s."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
            answer = await reader.read(_MAX_OUTPUT)
    except TimeoutError:
        return ProbeResult(passed=False, output=f"timed out after {seconds:g} s")
    except OSError as error:
        return ProbeResult(passed=False, output=f"GET {host}:{port}{path}: {error}")
    finally:
        if writer is not None:
            writer.close()
    words = answer.split(None, 2)
    code = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return ProbeResult(200 <= code < 400, "" if 200 <= code < 400 else f"HTTP status {code}")


async def _head(stream: asyncio.StreamReader | None) -> bytes:
    """The beginning of what comes until the end; the rest is read so that the program does not wait for it."""
    head = b""
    while stream is not None and (data := await stream.read(65536)):
        head += data[: _MAX_OUTPUT - len(head)]
    return head


def _line(output: bytes) -> str:
    return " ".join(output.decode(errors="replace").split())


async def wait_any(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Return when one of the events is set, or after `seconds` s."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
