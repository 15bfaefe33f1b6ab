"""Structured logging for every process: structlog, to stderr, JSON lines or readable text.

Called once by `veg_common.process.run_service`; everyone else only calls `get`.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog

Format = Literal["json", "console", "auto"]
LEVELS = ("debug", "info", "warning", "error")


def configure(service: str, level: str = "info", fmt: Format = "auto") -> None:
    """Send log lines of this process to stderr, each with the service's name.

    `auto` writes readable text to a terminal and JSON to everything else, because a pod's log is read by machines.
    Raises KeyError for a level that is not one of LEVELS.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    if fmt == "auto":
        fmt = "console" if sys.stderr.isatty() else "json"
    renderer: Any = (
        structlog.processors.JSONRenderer() if fmt == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            lambda _logger, _method, event: {"service": service, **event},
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module; their warnings belong in the same place.
    logging.basicConfig(
        level=max(number, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s", force=True
    )


def get(name: str, **initial: Any) -> structlog.stdlib.BoundLogger:
    """A logger that carries `component=<name>` and the given values on every line."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(component=name, **initial)
    return logger
