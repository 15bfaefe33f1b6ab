"""The life of a service process: logging, event loop, signals, exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

from veg_common import logs


def run_service(
    main: Callable[[asyncio.Event], Awaitable[None]],
    *,
    service: str,
    log_level: str = "info",
    log_format: logs.Format = "auto",
) -> None:
    """Run `main(stop)` until it returns; TERM and INT set `stop`, a second one ends the process at once.

    Exits 1 with a logged traceback when `main` raises: whoever supervises the process restarts it.
    """
    logs.configure(service, log_level, log_format)
    log = logs.get("process")

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal(number: signal.Signals) -> None:
            if stop.is_set():
                sys.exit(128 + number)
            log.info("stopping", signal=number.name)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        await main(stop)

    try:
        asyncio.run(supervised())
    except Exception:
        log.exception("crashed")
        sys.exit(1)
