"""Settings of the process, parsed and checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Topology = Literal["managed", "kube-ovn"]
TOPOLOGIES: tuple[Topology, ...] = ("managed", "kube-ovn")


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    nb: str
    """OVSDB remotes of the Northbound database, with commas: `unix:<path>`, `tcp:<ip>:<port>`, `ssl:<ip>:<port>`."""
    listen: str
    """gRPC address."""
    topology: Topology
    """Whether routers, switches and ports are ours to make, or Kube-OVN's."""
    metrics_listen: str = ""
    """`host:port` for Prometheus; "" for none."""
    nb_key: Path | None = None
    nb_certificate: Path | None = None
    nb_authority: Path | None = None

    def problem(self) -> str | None:
        """What is wrong with the settings, in one line; None when nothing is."""
        for remote in self.nb.split(","):
            if not remote.strip().startswith(("unix:", "tcp:", "ssl:")):
                return f"--nb: {remote!r} is not unix:<path>, tcp:<ip>:<port> or ssl:<ip>:<port>"
        files = (self.nb_key, self.nb_certificate, self.nb_authority)
        if "ssl:" in self.nb and None in files:
            return "--nb: ssl: needs --nb-key, --nb-cert and --nb-ca"
        if self.metrics_listen and not self.metrics_listen.rpartition(":")[2].isdigit():
            return f"--metrics-listen: {self.metrics_listen!r} is not host:port"
        return None
