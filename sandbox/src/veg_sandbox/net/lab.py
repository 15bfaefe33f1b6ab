r"""A lab: real OVN on N nodes in network namespaces, pods' plumbing, an outside network. The API guide.

    lab = Lab(lab_dir("default"))            # a directory names a lab; nothing is touched yet
    lab.up(LabSpec(nodes=3))                 # returns when every node's chassis is registered
    lab = Lab.attach(lab_dir("default"))     # any later process; LabNotFoundError when there is none
    lab.down()                               # all of it, also what a crash left; idempotent

All state is in the directory (default `/run/veg-sandbox/<name>`), so nothing here needs to keep running.
Names of namespaces are derived from a hash of the directory: labs with different names or in different
places coexist. Nothing is added to the host's own network namespace.

    nodes     kube-ovn-worker, kube-ovn-worker2, …: a namespace each, with ovsdb-server, ovs-vswitchd
              (userspace datapath), ovn-controller; chassis name = node name; underlay 172.18.0.2, .3, …
              (MTU 1500, geneve); `eth1` on the outside network, without addresses
    fabric    a namespace that holds nothing but the underlay's and the outside network's bridges
    outside   the outside host: 172.17.0.1/16, fd17::1/64, and 198.51.100.1, 2001:db8:51::1 beyond them;
              an echo server on port 7, TCP and UDP, both families: it answers `ADDRESS PORT\\n`, the source
              it saw, then (TCP) echoes what it is sent; a UDP answer is that line and the datagram

Threads and asyncio. Every call blocks (5-100 ms; `up` some seconds) and is bounded; calls about different
pods may run at the same time, calls about one pod must not. From asyncio use `asyncio.to_thread`.

Pods. `pod_id` is any string (`<namespace>/<name>` or a uid). Calls are idempotent, so a runtime that lost
its memory may repeat them:

    lab.create_pod_netns(pod)
    lab.plug_internal(pod, "kube-ovn-worker", lsp_name="web.default", mac="00:00:00:11:22:33",
                      addresses=["10.16.0.12/16", "fd00:10:16::c/112"],
                      gateways=["10.16.0.1", "fd00:10:16::1"])                              # eth0
    lab.plug_external(pod, "kube-ovn-worker", "net1", master="eth1", addresses=["172.17.0.11/16"])
    lab.wait_port_up("web.default", timeout=10)     # False when it did not come up in time
    lab.pod_spawn(pod, "gateway", [venv/"veg-node-agent", "run", …],
                  mounts={config_dir: "/etc/veg", run_dir: "/run/veg"}, env={…}, hostname="gateway1-…")
    lab.pod_exec(pod, ["iptables", "-t", "nat", "-S"], container="gateway").stdout
    argv = lab.pod_argv(pod, ["bash"], container="gateway"); os.execvp(argv[0], argv)       # interactive
    lab.pod_pid(pod, "gateway"); lab.pod_kill(pod, "gateway", signal.SIGTERM, wait=30)
    lab.unplug_pod(pod)                             # its processes, ports, links, namespace, files
    lab.outage.crash_pod(pod)                       # and what else may happen to pods and nodes

`lab.create_host_pod(pod)` instead of `create_pod_netns` makes one that shares the host's network.

A container has the host's file system with its mounts over it, its own /etc and /run (changes there stay
in the pod), its own /sys, and `iptables`/`ip6tables` in the legacy variant where the kernel has it.

Other processes. `lab.processes` (a ProcessTable) is where the runtime starts api, programmer and itself,
so that `down` ends them as well: `lab.processes.spawn_detached("api", [...], log=lab.log("api"))`.

Daemons of the lab by name: `ovsdb-nb ovsdb-sb ovn-northd echo`, and for each node
`ovsdb-server@NODE ovs-vswitchd@NODE ovn-controller@NODE`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from veg_sandbox.net import containers, outside, pods, shell, teardown
from veg_sandbox.net.bringup import bring_up
from veg_sandbox.net.echo import ECHO_PORT
from veg_sandbox.net.errors import LabError, LabExistsError, LabNotFoundError, UnknownPodError
from veg_sandbox.net.model import LabSpec, Layout, Node, lab_dir
from veg_sandbox.net.outage import Outage
from veg_sandbox.ovn.daemons import Daemons
from veg_sandbox.ovn.root import OvnRoot, Progress, ovn_root, to_stderr
from veg_sandbox.proc import ProcessTable

__all__ = [
    "ECHO_PORT",
    "Lab",
    "LabError",
    "LabExistsError",
    "LabNotFoundError",
    "LabSpec",
    "Node",
    "UnknownPodError",
    "lab_dir",
]


class Lab:
    """The lab of one directory. Constructing it does nothing; see the module's docstring."""

    def __init__(self, directory: Path) -> None:
        self.layout = Layout(directory)
        self.processes = ProcessTable(self.layout.processes)
        self._ovn: OvnRoot | None = None

    # ---- life

    def up(self, spec: LabSpec | None = None, progress: Progress = to_stderr) -> None:
        """Build the lab and return when every chassis is in the Southbound database.

        Raises LabExistsError when the directory holds anything, LabError or OvnRootError when a step fails
        (what was built by then is taken down again).
        """
        bring_up(self.layout, spec or LabSpec(), ovn_root(progress), progress)

    @classmethod
    def attach(cls, directory: Path) -> Lab:
        """The lab that some process brought up in `directory`. Raises LabNotFoundError."""
        lab = cls(directory)
        if not lab.layout.state_file.is_file():
            raise LabNotFoundError(f"no lab in {directory}")
        return lab

    def down(self) -> None:
        """Take everything down: processes, namespaces, links, files. Idempotent; never needs a whole lab."""
        teardown.down(self.layout)

    # ---- facts

    @property
    def directory(self) -> Path:
        """Where the lab's state lies."""
        return self.layout.directory

    @property
    def spec(self) -> LabSpec:
        """What the lab was built with. Raises LabNotFoundError."""
        try:
            state = json.loads(self.layout.state_file.read_text())
        except FileNotFoundError:
            raise LabNotFoundError(f"no lab in {self.directory}") from None
        return LabSpec(**state["spec"])

    @property
    def nodes(self) -> list[Node]:
        """The nodes, in order."""
        return self.layout.nodes(self.spec)

    def node(self, name: str) -> Node:
        """One node. Raises LabError for an unknown name."""
        return self.layout.node(self.spec, name)

    @property
    def ovn(self) -> OvnRoot:
        """The OVN programs that this lab runs."""
        if self._ovn is None:
            self._ovn = ovn_root()
        return self._ovn

    @property
    def nb_remote(self) -> str:
        """OVSDB remote of the Northbound database, `unix:/…`."""
        return f"unix:{self.layout.nb_socket}"

    @property
    def nb_address(self) -> str:
        """Address of this lab's own on loopback: of the Northbound database when `listen_northbound` was called."""
        digest = bytes.fromhex(self.layout.hash)
        return f"127.{200 + digest[0] % 50}.{digest[1]}.{1 + digest[2] % 250}"

    def listen_northbound(self) -> str:
        """Have the Northbound database listen on TCP as well; returns the remote, `tcp:ADDRESS:6641`."""
        self.nbctl("set-connection", f"ptcp:6641:{self.nb_address}")
        return f"tcp:{self.nb_address}:6641"

    @property
    def sb_remote(self) -> str:
        """OVSDB remote of the Southbound database, `unix:/…`."""
        return f"unix:{self.layout.sb_socket}"

    def log(self, name: str) -> Path:
        """The log file of a daemon or service (`ovn-northd`, `ovs-vswitchd@kube-ovn-worker`, `api`, …)."""
        return self.layout.logs / f"{name}.log"

    def netns(self, name: str) -> str:
        """The ip-netns(8) name of `outside`, `fabric` or a node."""
        return self.layout.netns(name)

    def pod_netns(self, pod_id: str) -> str:
        """The ip-netns(8) name of a pod, whether it exists or not."""
        return self.layout.pod_netns(pod_id)

    # ---- commands on the lab

    def nbctl_argv(self, *args: str) -> list[str]:
        """Argv of `ovn-nbctl` on the lab's Northbound database."""
        return [*self.ovn.command("ovn-nbctl"), f"--db={self.nb_remote}", *args]

    def nbctl(self, *args: str, timeout: float = 30) -> str:
        """Run ovn-nbctl and return its output. Raises LabError with its message."""
        return shell.run(
            [*self.nbctl_argv("--timeout", str(max(1, int(timeout)))), *args], timeout=timeout + 5
        )

    def sbctl(self, *args: str, timeout: float = 30) -> str:
        """Run ovn-sbctl on the lab's Southbound database and return its output. Raises LabError."""
        argv = [*self.ovn.command("ovn-sbctl"), f"--db={self.sb_remote}", f"--timeout={max(1, int(timeout))}"]
        return shell.run([*argv, *args], timeout=timeout + 5)

    def vsctl(self, node: str, *args: str, timeout: float = 30) -> str:
        """Run ovs-vsctl on a node's database and return its output. Raises LabError."""
        argv = [*self.ovn.command("ovs-vsctl"), f"--db=unix:{self.node(node).db_socket}"]
        return shell.run([*argv, f"--timeout={max(1, int(timeout))}", *args], timeout=timeout + 5)

    def appctl(self, daemon: str, *args: str, timeout: float = 10) -> str:
        """Run ovs-appctl on a daemon named as in `daemons()`, e.g. `ovs-vswitchd@NODE`. Raises LabError."""
        target = self._daemons.control_socket(daemon)
        return shell.run([*self.ovn.command("ovs-appctl"), "-t", str(target), *args], timeout=timeout)

    def netns_argv(self, name: str, argv: Sequence[str]) -> list[str]:
        """Argv that runs `argv` in the namespace of `outside`, `fabric` or a node."""
        return shell.netns_enter(self.netns(name), argv)

    def netns_exec(
        self, name: str, argv: Sequence[str], *, timeout: float = 30, input_text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the namespace of `outside`, `fabric` or a node; the caller looks at the exit code.

        Raises LabError when it takes longer than `timeout` s (it is ended then).
        """
        return shell.complete(self.netns_argv(name, argv), timeout=timeout, input_text=input_text)

    def outside_routes(self, routes: Mapping[str, Sequence[str]]) -> None:
        """Make `{cidr: [nexthop, …]}` the whole set of the outside host's return routes.

        Several nexthops share the traffic by a hash of addresses and ports. A route that stays the same is
        not touched. Only routes that this call made before are ever removed. Raises LabError.
        """
        outside.set_routes(self.layout, routes)

    @property
    def outage(self) -> Outage:
        """Crashes, cut links and power losses of pods and nodes."""
        return Outage(self.layout, self.spec)

    # ---- daemons

    @property
    def _daemons(self) -> Daemons:
        return Daemons(self.layout, self.spec, self.ovn, self.processes)

    def daemons(self) -> dict[str, int | None]:
        """Every daemon of the lab and its pid, None when it does not run."""
        return {name: self.processes.pid(name) for name in self._daemons.names()}

    def start_daemon(self, name: str) -> int:
        """Start a daemon that does not run (no-op when it does) and return its pid when it answers."""
        return self._daemons.start(name)

    def kill_daemon(self, name: str, sig: int = signal.SIGKILL) -> None:
        """Signal a daemon (default `kill -9`) and wait for its end. It stays down until started."""
        self._daemons.check(name)
        self.processes.kill(name, sig)

    def restart_daemon(self, name: str) -> int:
        """End a daemon gracefully and start it again; returns the new pid when it answers."""
        self.kill_daemon(name, signal.SIGTERM)
        return self.start_daemon(name)

    # ---- pods

    @property
    def _plumbing(self) -> pods.Plumbing:
        return pods.Plumbing(self.layout, self.spec, self.ovn)

    def pod_ids(self) -> list[str]:
        """Pods that have a namespace or anything left of one."""
        return pods.pod_ids(self.layout)

    def create_pod_netns(self, pod_id: str) -> str:
        """Make the pod's network namespace (lo up) and return its ip-netns(8) name."""
        return self._plumbing.create(pod_id)

    def create_host_pod(self, pod_id: str) -> None:
        """Make a pod that shares the host's network, as `hostNetwork: true` asks for."""
        self._plumbing.create_on_host(pod_id)

    def plug_internal(  # noqa: PLR0913 - keywords, named at every call
        self,
        pod_id: str,
        node: str,
        *,
        lsp_name: str,
        mac: str,
        addresses: Sequence[str],
        gateways: Sequence[str] = (),
        mtu: int = 1400,
        default_route: bool = True,
    ) -> None:
        """Give the pod `eth0`: a veth to the node's br-int whose OVS interface has `iface-id=<lsp_name>`.

        `addresses` carry their prefix (`10.16.0.12/16`); `gateways` hold at most one of each family and
        become default routes unless `default_route` is false. Repeating it with the same arguments changes
        nothing; with others the interface is made anew. Raises UnknownPodError, LabError.
        """
        port = pods.Port(node, "eth0", mac, list(addresses), list(gateways) if default_route else [], mtu)
        self._plumbing.plug_internal(pod_id, port, lsp_name)

    def plug_external(  # noqa: PLR0913 - keywords, named at every call
        self,
        pod_id: str,
        node: str,
        ifname: str = "net1",
        *,
        master: str = "eth1",
        addresses: Sequence[str],
        gateways: Sequence[str] = (),
        mac: str | None = None,
        mtu: int = 1500,
    ) -> None:
        """Give the pod a macvlan interface (bridge mode) on the node's `master`. See `plug_internal`.

        `gateways` become default routes; a gateway pod's are node-agent's business, so leave them out.
        """
        port = pods.Port(node, ifname, mac, list(addresses), list(gateways), mtu)
        self._plumbing.plug_external(pod_id, port, master)

    def unplug_pod(self, pod_id: str) -> None:
        """Remove the pod's processes, OVS port, links, namespace and files. Idempotent."""
        containers.end_all(self.layout, self.processes, pod_id)
        self._plumbing.unplug(pod_id)

    def wait_port_up(self, lsp_name: str, timeout: float = 10) -> bool:
        """Wait until OVN says that the logical switch port is up (flows installed on its node)."""
        with suppress(LabError):
            self.nbctl("wait-until", "Logical_Switch_Port", lsp_name, "up=true", timeout=timeout)
            return True
        return False

    def pod_spawn(  # noqa: PLR0913 - keywords, named at every call
        self,
        pod_id: str,
        container: str,
        argv: Sequence[str],
        *,
        mounts: Mapping[Path, str] | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        hostname: str | None = None,
    ) -> int:
        """Run `argv` detached as `container` of the pod and return its pid once it has its mounts.

        `mounts` binds host directories to absolute paths in the pod. `env` is the whole environment; PATH
        and HOME get defaults. A live container of that name is left alone and its pid returned. Raises
        UnknownPodError, LabError (with the log's end when the program fails at once).
        """
        process = containers.Container(container, list(argv), dict(mounts or {}), dict(env or {}), hostname)
        log = log or self.pod_log(pod_id, container)
        return containers.spawn(self.layout, self.processes, pod_id, process, log)

    def pod_log(self, pod_id: str, container: str) -> Path:
        """Where `pod_spawn` sends a container's output unless told otherwise; gone with the pod."""
        return self.layout.pod_dir(pod_id) / f"{container}.log"

    def pod_pid(self, pod_id: str, container: str) -> int | None:
        """The pid of a live container, else None."""
        return self.processes.pid(self.layout.container_name(pod_id, container))

    def pod_exit_code(self, pod_id: str, container: str) -> int | None:
        """The exit code of a container that this process started and that has ended, else None."""
        return self.processes.exit_code(self.layout.container_name(pod_id, container))

    def pod_kill(self, pod_id: str, container: str, sig: int = signal.SIGTERM, *, wait: float = 5.0) -> bool:
        """Signal a container, wait for its end, SIGKILL after `wait` s. Returns whether it was alive."""
        return self.processes.kill(self.layout.container_name(pod_id, container), sig, wait=wait)

    def pod_argv(self, pod_id: str, argv: Sequence[str], *, container: str | None = None) -> list[str]:
        """Argv that runs `argv` in the pod: in the container's mounts while it lives, else only in the
        pod's namespace. Without `container` the pod's first live one. Raises UnknownPodError.
        """
        return containers.exec_argv(self.layout, self.processes, pod_id, argv, container)

    def pod_exec(
        self,
        pod_id: str,
        argv: Sequence[str],
        *,
        container: str | None = None,
        timeout: float = 30,
        input_text: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the pod (see `pod_argv`); the caller looks at the exit code. Raises LabError when
        it takes longer than `timeout` s.
        """
        argv = self.pod_argv(pod_id, argv, container=container)
        return shell.complete(argv, timeout=timeout, input_text=input_text)


def default_directory() -> Path:
    """The directory of the lab that `$VEG_SANDBOX` names, `default` without it."""
    return lab_dir(os.environ.get("VEG_SANDBOX") or "default")
