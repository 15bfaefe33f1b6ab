"""What a lab is made of and where everything of it lies. Pure: names and paths, no I/O.

Every name that the kernel sees is derived here, from the lab's directory, so that any process finds the
same ones and `down` needs no record of what was made.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from veg_sandbox.net.errors import LabError

OUTSIDE = "outside"
FABRIC = "fabric"
UNDERLAY_NETWORK = ipaddress.ip_network("172.18.0.0/16")

# sockaddr_un.sun_path holds 108 bytes with the final NUL: unix(7).
_SOCKET_PATH_BYTES = 107


def lab_dir(name: str = "default", base: Path | None = None) -> Path:
    """The directory of the lab called `name`: under `base`, `$VEG_SANDBOX_DIR` or /run/veg-sandbox.

    Raises LabError for a name that is not letters, digits, `-`, `_` and `.` (at most 40).
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", name):
        raise LabError(f"bad lab name {name!r}: at most 40 letters, digits, '-', '_' and '.'")
    return (base or Path(os.environ.get("VEG_SANDBOX_DIR") or "/run/veg-sandbox")) / name


@dataclass(frozen=True)
class LabSpec:
    """What to build. JSON-able."""

    nodes: int = 3
    """1 to 16."""
    outside_addresses: list[str] = field(default_factory=lambda: ["172.17.0.1/16", "fd17::1/64"])
    """Of the outside host on the outside network, with prefix lengths."""
    beyond_addresses: list[str] = field(default_factory=lambda: ["198.51.100.1/32", "2001:db8:51::1/128"])
    """Further addresses of the outside host: destinations that lie behind the outside network."""

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= 16:
            raise LabError(f"nodes: {self.nodes} is not in 1..16")


@dataclass(frozen=True)
class Node:
    """One chassis."""

    name: str
    """Also its OVN chassis name and hostname."""
    netns: str
    underlay_ip: str
    """Its InternalIP: the encap address, in 172.18.0.0/16."""
    underlay_mac: str
    directory: Path

    @property
    def db_socket(self) -> Path:
        """Socket of the node's Open_vSwitch database."""
        return self.directory / "db.sock"


@dataclass(frozen=True)
class Layout:
    """Paths and names of the lab in `directory`."""

    directory: Path

    def __post_init__(self) -> None:
        if not self.directory.is_absolute():
            raise LabError(f"the lab's directory must be an absolute path, not {self.directory}")
        longest = self.directory / "nodes" / "16" / "ovn-controller.ctl"
        if len(os.fsencode(longest)) > _SOCKET_PATH_BYTES:
            raise LabError(f"{self.directory} is too long a path: sockets below it would exceed 107 bytes")

    @property
    def hash(self) -> str:
        """Six hexadecimal digits that stand for the lab in kernel names."""
        return hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:6]

    @property
    def state_file(self) -> Path:
        """Written last by `up`: its presence says that the lab is whole."""
        return self.directory / "lab.json"

    @property
    def processes(self) -> Path:
        """Records of all processes of the lab."""
        return self.directory / "proc"

    @property
    def logs(self) -> Path:
        """Logs of daemons and services."""
        return self.directory / "log"

    @property
    def bin(self) -> Path:
        """First in the PATH of pods: `iptables` in the variant the kernel's legacy tables want."""
        return self.directory / "bin"

    @property
    def central(self) -> Path:
        """Files of the central databases and northd."""
        return self.directory / "central"

    @property
    def nb_socket(self) -> Path:
        """Socket of the Northbound database."""
        return self.central / "ovnnb_db.sock"

    @property
    def sb_socket(self) -> Path:
        """Socket of the Southbound database."""
        return self.central / "ovnsb_db.sock"

    @property
    def pods(self) -> Path:
        """Folder of the pods' folders."""
        return self.directory / "pods"

    @property
    def netns_prefix(self) -> str:
        """What the name of every namespace of this lab begins with."""
        return f"veg-{self.hash}-"

    def netns(self, name: str) -> str:
        """The namespace of `outside`, `fabric` or a node."""
        return self.netns_prefix + name

    def pod_netns(self, pod_id: str) -> str:
        """The namespace of a pod."""
        return f"{self.netns_prefix}p-{pod_key(pod_id)}"

    def pod_dir(self, pod_id: str) -> Path:
        """The folder of a pod's files."""
        return self.pods / pod_key(pod_id)

    def container_name(self, pod_id: str, container: str) -> str:
        """The process name of a pod's container."""
        return f"{self.container_prefix(pod_id)}{container}"

    def container_prefix(self, pod_id: str) -> str:
        """What the process names of all containers of a pod begin with."""
        return f"pod.{pod_key(pod_id)}."

    def nodes(self, spec: LabSpec) -> list[Node]:
        """The nodes of a lab of this spec, in order."""
        return [self._node(index) for index in range(1, spec.nodes + 1)]

    def node(self, spec: LabSpec, name: str) -> Node:
        """The node called `name`. Raises LabError."""
        for node in self.nodes(spec):
            if node.name == name:
                return node
        raise LabError(f"no node {name!r} in this lab")

    def _node(self, index: int) -> Node:
        name = "kube-ovn-worker" + (str(index) if index > 1 else "")
        return Node(
            name=name,
            netns=self.netns(name),
            underlay_ip=str(UNDERLAY_NETWORK[index + 1]),
            underlay_mac=f"02:18:00:00:00:{index + 1:02x}",
            directory=self.directory / "nodes" / str(index),
        )


def pod_key(pod_id: str) -> str:
    """Twelve hexadecimal digits that stand for a pod in names of namespaces and interfaces."""
    return hashlib.sha256(pod_id.encode()).hexdigest()[:12]


def port_name(pod_id: str) -> str:
    """The node's end of the pod's eth0: 13 characters, IFNAMSIZ allows 15."""
    return "p" + pod_key(pod_id)
