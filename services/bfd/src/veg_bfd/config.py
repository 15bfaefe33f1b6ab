"""The settings of the process, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from veg_bfd.errors import ConfigError

DEFAULT_RUN_DIR = Path("/run/veg")


@dataclass(frozen=True)
class Settings:
    """Where the speaker listens and how it runs.

    `listen` ("" is `unix:<run_dir>/bfd.sock`), `metrics` and `inspect` (`host:port`, "" is none; a second address
    of the service, where it changes nothing) are served by the control process. `linger` (s): how long sessions are kept AdminDown after SIGTERM, at most. `priority`: of SCHED_FIFO,
    1..99; 0 asks for normal scheduling.
    """

    run_dir: Path = DEFAULT_RUN_DIR
    listen: str = ""
    metrics: str = ""
    inspect: str = ""
    linger: float = 20.0
    priority: int = 20
    log_level: str = "info"
    log_format: str = "auto"

    @property
    def target(self) -> str:
        """GRPC address of the service."""
        return self.listen or f"unix:{self.run_dir.absolute() / 'bfd.sock'}"


def checked_address(text: str) -> str:
    """`host:port`, or "". Raises ConfigError."""
    if text:
        host, colon, port = text.rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError(f"{text!r} is not HOST:PORT")
    return text
