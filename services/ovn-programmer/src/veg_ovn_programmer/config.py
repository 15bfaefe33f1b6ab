"""Settings of the process, parsed and checked once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from veg_common.tls import TlsFiles

from veg_ovn_programmer.core.view import Variant
from veg_ovn_programmer.io.streams import Tls, client_context
from veg_ovn_programmer.io.wire import split

Topology = Literal["managed", "kube-ovn"]
TOPOLOGIES: tuple[Topology, ...] = ("managed", "kube-ovn")

# A path; or a host, an IPv6 address in brackets, and a port.
_REMOTE = re.compile(r"unix:/.+|(?:tcp|ssl):(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})")
_LAST_PORT = 65535

BfdVariantChoice = Literal["auto", "k", "s3"]
BFD_VARIANTS: tuple[BfdVariantChoice, ...] = ("auto", "k", "s3")


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    nb: str
    """OVSDB remotes of the Northbound database, with commas: `unix:<path>`, `tcp:<host>:<port>`, `ssl:<host>:<port>`."""
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
    ovsdb_tls: Tls | None = None
    """Our certificate for `ssl:` remotes of both databases."""
    tls: TlsFiles | None = None
    """Of the gRPC server; None for none."""

    @property
    def is_open(self) -> bool:
        """Whether the gRPC server takes calls from anybody on the network."""
        return self.tls is None and not self.listen.startswith(("unix:", "127.", "localhost:", "[::1]:"))

    @property
    def variant(self) -> Variant | None:
        """How BFD ports are built; None: to be found out.

        The Southbound database tells what OVN understands. Unasked: where the topology is Kube-OVN's, its OVN is too;
        where it is ours, the way that every OVN understands is safe.
        """
        if self.bfd_variant != "auto":
            return Variant[self.bfd_variant.upper()]
        if self.sb:
            return None
        return Variant.S3 if self.topology == "managed" else Variant.K

    def problem(self) -> str | None:
        """What is wrong with the settings, in one line; None when nothing is."""
        for flag, remotes in (("--nb", self.nb), ("--sb", self.sb)):
            if problem := _remotes_problem(remotes) if remotes or flag == "--nb" else None:
                return f"{flag}: {problem}"
            if "ssl:" in remotes and self.ovsdb_tls is None:
                return f"{flag}: ssl: needs --ovsdb-key, --ovsdb-cert and --ovsdb-ca"
        if self.tls is not None and self.tls.authority is None:
            return "--tls-cert: needs --tls-ca, for without it every client may change routes"
        if self.ovsdb_tls is not None:
            try:
                client_context(self.ovsdb_tls)
            except OSError as error:
                return f"--ovsdb-key, --ovsdb-cert, --ovsdb-ca: {getattr(error, 'reason', None) or error}"
        if self.metrics_listen and not self.metrics_listen.rpartition(":")[2].isdigit():
            return f"--metrics-listen: {self.metrics_listen!r} is not host:port"
        return None


def _remotes_problem(remotes: str) -> str | None:
    for remote in split(remotes) or [""]:
        match = _REMOTE.fullmatch(remote)
        if match is None or (match[1] and not 0 < int(match[1]) <= _LAST_PORT):
            return f"{remote!r} is not unix:/<path>, tcp:<host>:<port> or ssl:<host>:<port>"
    return None
