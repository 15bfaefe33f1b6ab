"""The lab's daemons by name: how each is started, how it is known to answer, what follows a restart.

Starting and restarting go through the same code, so that a daemon that was killed comes back exactly as
`up` made it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from veg_sandbox.net import fabric
from veg_sandbox.net.errors import LabError
from veg_sandbox.net.model import OUTSIDE, LabSpec, Layout, Node
from veg_sandbox.net.shell import ip_json, run
from veg_sandbox.ovn import unixctl
from veg_sandbox.ovn.root import OvnRoot
from veg_sandbox.proc import ProcessTable, poll, tail

START_SECONDS = 20.0

# All nodes share this machine with tests and tools, while each would have cores of its own and forward packets in the
# kernel: what forwards packets and speaks BFD goes first, below the BFD speakers of the pods.
_FIRST = ("ovs-vswitchd", "ovn-controller", "echo")
_FIRST_PRIORITY = 1
_LOGGING = ["-vsyslog:off", "-vfile:off", "-vconsole:info"]


@dataclass(frozen=True)
class _Daemon:
    argv: list[str]
    netns: str | None
    folder: Path
    answers: Callable[[], bool]
    afterwards: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Daemons:
    """The daemons of one lab."""

    layout: Layout
    spec: LabSpec
    ovn: OvnRoot
    processes: ProcessTable

    # ---- names

    def names(self) -> list[str]:
        """Every daemon, in the order in which they can be started."""
        return [*self.central_names(), *(name for node in self.nodes() for name in self.node_names(node))]

    @staticmethod
    def central_names() -> list[str]:
        """Daemons that exist once."""
        return ["ovsdb-nb", "ovsdb-sb", "ovn-northd", "echo"]

    @staticmethod
    def node_names(node: Node) -> list[str]:
        """Daemons of a node."""
        return [f"{kind}@{node.name}" for kind in ("ovsdb-server", "ovs-vswitchd", "ovn-controller")]

    def nodes(self) -> list[Node]:
        """The lab's nodes."""
        return self.layout.nodes(self.spec)

    def check(self, name: str) -> None:
        """Raise LabError, naming the daemons there are, when `name` is none of them."""
        if name not in self.names():
            raise LabError(f"no daemon {name!r}; there are: {', '.join(self.names())}")

    def control_socket(self, name: str) -> Path:
        """The socket that `ovs-appctl -t` talks to. Raises LabError."""
        self.check(name)
        kind, _, node = name.partition("@")
        folder = self.layout.node(self.spec, node).directory if node else self.layout.central
        return folder / f"{kind}.ctl"

    # ---- starting

    def start(self, name: str) -> int:
        """Start the daemon unless it runs, wait until it answers and return its pid. Raises LabError."""
        self.check(name)
        daemon = self._describe(name)
        log = self.layout.logs / f"{name}.log"
        pid = self.processes.spawn_detached(
            name, daemon.argv, netns=daemon.netns, env=_environment(daemon.folder), log=log
        )
        if name.partition("@")[0] in _FIRST:
            # Inherited by the threads that it will start. Where it is not permitted the lab is as good as its machine.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(_FIRST_PRIORITY))

        def settled() -> bool:
            return daemon.answers() or self.processes.pid(name) is None

        if not poll(settled, START_SECONDS) or self.processes.pid(name) is None:
            raise LabError(f"{name} does not answer: {tail(log)}")
        daemon.afterwards()
        return pid

    def _describe(self, name: str) -> _Daemon:
        kind, _, node_name = name.partition("@")
        control = self.control_socket(name)
        if kind == "echo":
            return self._echo(control)
        program = "ovsdb-server" if kind.startswith("ovsdb-") else kind
        argv = [*self.ovn.command(program), *_LOGGING, f"--unixctl={control}"]
        if node_name:
            return self._of_node(kind, argv, self.layout.node(self.spec, node_name))
        return self._of_central(kind, argv, control)

    def _of_central(self, kind: str, argv: list[str], control: Path) -> _Daemon:
        if kind == "ovn-northd":
            argv += [f"--ovnnb-db=unix:{self.layout.nb_socket}", f"--ovnsb-db=unix:{self.layout.sb_socket}"]
            return _Daemon(argv, None, control.parent, lambda: unixctl.answers(control))
        socket = self.layout.nb_socket if kind == "ovsdb-nb" else self.layout.sb_socket
        argv += [f"--remote=punix:{socket}"]
        if kind == "ovsdb-nb":
            # Where `ovn-nbctl set-connection` says, as in a cluster.
            argv += ["--remote=db:OVN_Northbound,NB_Global,connections"]
        argv += [str(database(self.layout, kind))]
        return _Daemon(argv, None, control.parent, lambda: unixctl.answers(socket))

    def _of_node(self, kind: str, argv: list[str], node: Node) -> _Daemon:
        control = node.directory / f"{kind}.ctl"
        if kind == "ovsdb-server":
            argv += [f"--remote=punix:{node.db_socket}", str(node.directory / "conf.db")]
            return _Daemon(argv, node.netns, node.directory, lambda: unixctl.answers(node.db_socket))
        if kind == "ovs-vswitchd":
            # The kernel's own datapath stays untouched, whether the machine has the module or not.
            argv += ["--disable-system", f"unix:{node.db_socket}"]
            return _Daemon(
                argv,
                node.netns,
                node.directory,
                # It answers before its bridges, and with them its tunnel commands, are there.
                lambda: (
                    unixctl.answers(control)
                    and "tnl/neigh/aging" in unixctl.call(control, "list-commands")
                    and bool(ip_json(node.netns, "link", "show", "br-phys"))
                ),
                lambda: self._underlay(node, control),
            )
        argv += [f"unix:{node.db_socket}"]
        return _Daemon(argv, node.netns, node.directory, lambda: unixctl.answers(control))

    def _underlay(self, node: Node, control: Path) -> None:
        fabric.underlay_up(node)
        # Tunnel neighbours are told, not learnt: the first packet over a tunnel would be lost to ARP.
        unixctl.call(control, "tnl/neigh/aging", "3600")
        for other in self.nodes():
            if other.name != node.name:
                unixctl.call(control, "tnl/neigh/set", "br-phys", other.underlay_ip, other.underlay_mac)

    def _echo(self, control: Path) -> _Daemon:
        ready = control.with_name("echo.ready")
        ready.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "veg_sandbox.net.echo", "--ready-file", str(ready)]
        return _Daemon(argv, self.layout.netns(OUTSIDE), control.parent, ready.exists)

    # ---- databases

    def create_central(self) -> None:
        """Make the central databases. Raises LabError."""
        self.layout.central.mkdir(parents=True)
        for kind, schema in (("ovsdb-nb", "ovn-nb"), ("ovsdb-sb", "ovn-sb")):
            self._create(database(self.layout, kind), schema)

    def create_node(self, node: Node) -> None:
        """Make a node's database. Raises LabError."""
        node.directory.mkdir(parents=True)
        self._create(node.directory / "conf.db", "vswitch")

    def configure_node(self, node: Node) -> None:
        """Tell a node's database who the node is and which bridges it has; its ovsdb-server runs."""
        settings = {
            "system-id": node.name,
            "hostname": node.name,
            "ovn-remote": f"unix:{self.layout.sb_socket}",
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": node.underlay_ip,
            "ovn-monitor-all": "true",
        }
        argv = [*self.ovn.command("ovs-vsctl"), f"--db=unix:{node.db_socket}", "--no-wait", "--timeout=20"]
        argv += ["init", "--", "set", "Open_vSwitch", "."]
        argv += [f'external_ids:{key}="{value}"' for key, value in settings.items()]
        argv += ["--", "add-br", "br-int"]
        argv += ["--", "set", "Bridge", "br-int", "datapath_type=netdev", "fail-mode=secure"]
        argv += ["--", "add-br", "br-phys", "--", "set", "Bridge", "br-phys", "datapath_type=netdev"]
        # Fixed, so that the other nodes' neighbour entries outlive a restart of ovs-vswitchd.
        argv += [f'other-config:hwaddr="{node.underlay_mac}"', "--", "add-port", "br-phys", "eth0"]
        run(argv)

    def _create(self, file: Path, schema: str) -> None:
        run([*self.ovn.command("ovsdb-tool"), "create", str(file), str(self.ovn.schema(schema))])


def database(layout: Layout, kind: str) -> Path:
    """The file of a central database: `ovsdb-nb` or `ovsdb-sb`."""
    return layout.central / ("ovnnb_db.db" if kind == "ovsdb-nb" else "ovnsb_db.db")


def _environment(folder: Path) -> dict[str, str]:
    keys = ("OVS_RUNDIR", "OVN_RUNDIR", "OVS_LOGDIR", "OVN_LOGDIR", "OVS_DBDIR", "OVN_DBDIR")
    return {"PATH": os.environ.get("PATH", os.defpath), **dict.fromkeys(keys, str(folder))}
