"""The settings of the process, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from veg_node_agent.io.nat import BackendName

DEFAULT_CONFIG = Path("/etc/veg/agent.json")
DEFAULT_RUN_DIR = Path("/run/veg")


@dataclass(frozen=True)
class Settings:
    """Where the agent reads and writes, and its rhythm.

    `read_interval` (s): at least this often everything is read back, which finds what sends no notification (NAT
    rules, sysctls). `inspect` (`host:port`, "" is none): where the debugging service listens as well.
    """

    config: Path = DEFAULT_CONFIG
    run_dir: Path = DEFAULT_RUN_DIR
    nat_backend: BackendName = "auto"
    read_interval: float = 3.0
    drain_seconds: float = 20.0
    metrics: str = ""
    inspect: str = ""

    @property
    def socket(self) -> str:
        """GRPC address of the debugging service."""
        return f"unix:{self.run_dir.absolute() / 'agent.sock'}"
