"""The control process. Started by the packet loop only: `python -m veg_bfd.control FD SETTINGS`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
from veg_common import logs
from veg_common.server import start_server

from veg_bfd import rpc
from veg_bfd.config import Settings
from veg_bfd.control.files import SessionsUp, ask_for_life, tell_drained
from veg_bfd.control.light import Light
from veg_bfd.control.loop import Loop
from veg_bfd.control.mirror import Mirror
from veg_bfd.control.notes import Notes
from veg_bfd.control.sessions import Sessions

LIGHT_SOCKET = "bfd-control.sock"


async def serve(sock: socket.socket, settings: Settings) -> None:
    """Serve until the packet loop is gone."""
    log = logs.get("control")
    mirror = Mirror()
    up = SessionsUp(settings.run_dir, mirror)
    notes = Notes(settings.run_dir, mirror)

    def look() -> None:
        up.look()
        notes.look()

    def hold(value: tuple[int, str] | None) -> None:
        notes.hold = value
        notes.look()

    loop = Loop(mirror, look)
    loop.stopping = notes.stop
    loop.alive = up.refresh
    await loop.connect(sock)
    sessions = Sessions(mirror, loop)
    sessions.on_hold = hold
    tasks = [asyncio.create_task(loop.run())]
    try:
        await _first(loop.synced, loop.lost)
        if mirror.problem and not loop.restored:
            log.warning("not under SCHED_FIFO: a busy node may cause false alarms", reason=mirror.problem)
        tasks += [
            asyncio.create_task(ask_for_life(loop)),
            asyncio.create_task(notes.keep()),
            asyncio.create_task(tell_drained(settings.run_dir, loop)),
        ]
        await Light(sessions).start(settings.run_dir / LIGHT_SOCKET)
        servers = [await start_server(settings.target, rpc.adder(sessions), [rpc.SERVICE])]
        servers += await _inspection(settings.inspect, sessions)
        with _metrics(settings.metrics, mirror, loop):
            log.info("ready", listen=settings.target, scheduling=mirror.policy, restarted=loop.restored)
            await loop.lost.wait()
        await asyncio.gather(*(server.stop(0.2) for server in servers))
    finally:
        for task in tasks:
            task.cancel()


async def _inspection(listen: str, sessions: Sessions) -> list[grpc.aio.Server]:
    """The address that only reads, which is worth a complaint, not the service."""
    try:
        return (
            [await start_server(listen, rpc.adder(sessions), [rpc.SERVICE], read_only=True)] if listen else []
        )
    except (OSError, RuntimeError) as error:
        logs.get("control").error("inspection not available", listen=listen, error=str(error))
        return []


@contextlib.contextmanager
def _metrics(listen: str, mirror: Mirror, loop: Loop) -> Iterator[None]:
    """Metrics are worth a complaint, not the service."""
    with contextlib.ExitStack() as stack:
        if listen:
            # Not worth its start-up time where nobody asks for it.
            from veg_common import metrics  # noqa: PLC0415

            from veg_bfd.control.metrics import Sessions as SessionMetrics  # noqa: PLC0415

            SessionMetrics(mirror, loop).register()
            try:
                stack.enter_context(metrics.serving(listen))
            except (OSError, ValueError) as error:
                logs.get("control").error("metrics not available", listen=listen, error=str(error))
        yield


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()


def main() -> None:
    """Entry point."""
    # A terminal's Ctrl-C reaches both processes; this one stays until the loop has taken its leave.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    fields = json.loads(sys.argv[2])
    settings = Settings(**{**fields, "run_dir": Path(fields["run_dir"])})
    logs.configure("bfd", settings.log_level, settings.log_format)  # type: ignore[arg-type]
    sock = socket.socket(fileno=int(sys.argv[1]))
    try:
        asyncio.run(serve(sock, settings))
    except (OSError, RuntimeError) as error:
        logs.get("control").error("can not serve", error=str(error))
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
