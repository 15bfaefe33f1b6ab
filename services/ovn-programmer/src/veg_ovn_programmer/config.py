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
    sb: str = ""
    """OVSDB remotes of the Southbound database, for one question at the start; "" when it is not to be asked."""
    bfd_variant: BfdVariantChoice = "auto"
    """How BFD ports are built; "auto": by the topology and by what OVN does."""
    metrics_listen: str = ""
    """`host:port` for Prometheus; "" for none."""
    nb_key: Path | None = None
    nb_certificate: Path | None = None
    nb_authority: Path | None = None

    @property
    def variant(self) -> Variant | None:
        """How BFD ports are built; None: to be found out.

        Where ports are Kube-OVN's, its OVN is too (a stock one has no use for the port that Kube-OVN makes). Where
        they are ours, the way that every OVN understands is safe.
        """
        if self.bfd_variant != "auto":
            return Variant[self.bfd_variant.upper()]
        if self.topology == "managed":
            return None if self.sb else Variant.S3
        return Variant.K

    def problem(self) -> str | None:
        """What is wrong with the settings, in one line; None when nothing is."""
        files = (self.nb_key, self.nb_certificate, self.nb_authority)
        for flag, remotes in (("--nb", self.nb), ("--sb", self.sb)):
            for remote in remotes.split(",") if remotes or flag == "--nb" else ():
                if not remote.strip().startswith(("unix:", "tcp:", "ssl:")):
                    return f"{flag}: {remote!r} is not unix:<path>, tcp:<ip>:<port> or ssl:<ip>:<port>"
            if "ssl:" in remotes and None in files:
                return f"{flag}: ssl: needs --nb-key, --nb-cert and --nb-ca"
        if self.metrics_listen and not self.metrics_listen.rpartition(":")[2].isdigit():
            return f"--metrics-listen: {self.metrics_listen!r} is not host:port"
        return None
