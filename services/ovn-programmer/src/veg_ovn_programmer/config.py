"""Settings of the process, parsed and checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veg_ovn_programmer.core.view import Variant

Topology = Literal["managed", "kube-ovn"]
TOPOLOGIES: tuple[Topology, ...] = ("managed", "kube-ovn")

BfdVariantChoice = Literal["auto", "k", "s3"]
BFD_VARIANTS: tuple[BfdVariantChoice, ...] = ("auto", "k", "s3")


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    nb: str
    """OVSDB remotes of the Northbound database, with commas: `unix:<path>`, `tcp:<ip>:<port>`, `ssl:<ip>:<port>`."""
    listen: str
    """gRPC address."""
    topology: Topology
    """Whether routers, switches and ports are ours to make, or Kube-OVN's."""
    bfd_variant: BfdVariantChoice = "auto"
    """How BFD ports are built; "auto": by the topology and by what OVN does."""
    metrics_listen: str = ""
    """`host:port` for Prometheus; "" for none."""
    nb_key: Path | None = None
    nb_certificate: Path | None = None
    nb_authority: Path | None = None

    @property
    def variant(self) -> Variant:
        """How BFD ports are built.

        Where ports are Kube-OVN's, its OVN is too (a stock one has no use for the port that Kube-OVN makes); where
        they are ours, the way that every OVN understands is safe.
        """
        if self.bfd_variant == "auto":
            return Variant.S3 if self.topology == "managed" else Variant.K
        return Variant[self.bfd_variant.upper()]

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
