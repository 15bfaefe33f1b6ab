"""What can go wrong with a node or a pod, done to the lab from outside: crashes, cut links, lost power.

Marks in a pod's folder tell whoever keeps the pod running what happened to it: `held` (nothing of it may be
started) and `broken` (its interfaces are gone and have to be plugged again before anything is started). A mark
in a node's folder, `lost`, says that nobody on the node can do or report anything. All are written before the
harm is done, and all calls can be repeated.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from veg_sandbox.net.errors import LabError
from veg_sandbox.net.model import FABRIC, LabSpec, Layout, Node, port_name
from veg_sandbox.net.pods import pod_ids, record_of
from veg_sandbox.net.shell import NETNS_DIR, complete, ip, netns_enter, netns_exists, run
from veg_sandbox.proc import Record, end, of_pid, pids_in_netns, signal_all

PATH, CARRIER = "path", "carrier"
_HELD, _BROKEN, _LOST = "held", "broken", "lost"
_TABLE = "veg-fault"


@dataclass(frozen=True)
class Outage:
    """The pods and nodes of one lab as victims."""

    layout: Layout
    spec: LabSpec

    # ---- pods

    def crash_pod(self, pod_id: str) -> None:
        """Kill all that runs in the pod and take its interfaces away, as when its sandbox dies. It stays so until
        `release_pod`. Raises LabError, ProcessError.
        """
        self._need(pod_id)
        self._mark(pod_id, _BROKEN)
        self._mark(pod_id, _HELD)
        killed = self._processes(pod_id)
        signal_all(killed, signal.SIGKILL)
        self._unlink(pod_id)
        end(killed, signal.SIGKILL, wait=5)

    def release_pod(self, pod_id: str) -> None:
        """Let the pod be plugged and started again."""
        (self.layout.pod_dir(pod_id) / _HELD).unlink(missing_ok=True)

    def is_held(self, pod_id: str) -> bool:
        """Whether nothing of the pod may be started."""
        return (self.layout.pod_dir(pod_id) / _HELD).exists()

    def released(self) -> list[str]:
        """Pods that were let go and are not plugged again yet."""
        folders = [mark.parent for mark in self.layout.pods.glob(f"*/{_BROKEN}")]
        ids = {self.layout.pod_dir(pod): pod for pod in (pod_ids(self.layout) if folders else [])}
        return [ids[folder] for folder in folders if folder in ids and not (folder / _HELD).exists()]

    def is_broken(self, pod_id: str) -> bool:
        """Whether the pod has lost its interfaces."""
        return (self.layout.pod_dir(pod_id) / _BROKEN).exists()

    def repaired(self, pod_id: str) -> None:
        """Say that the interfaces are there again."""
        (self.layout.pod_dir(pod_id) / _BROKEN).unlink(missing_ok=True)

    def cut(self, pod_id: str, ifname: str, how: str) -> None:
        """Cut an interface of the pod and of no other: its path (`path`: every frame is dropped, the link looks
        fine) or its link (`carrier`). Raises LabError.
        """
        self._need(pod_id)
        node = self._node_of(pod_id, ifname)
        if how == PATH:
            self._drop_all(pod_id, ifname)
        elif ifname == "eth0":
            ip(node.netns, [f"link set dev {port_name(pod_id)} down"])
        else:
            # A macvlan shares its lower device's carrier; protodown takes it from this one alone.
            ip(self.layout.pod_netns(pod_id), [f"link set dev {ifname} protodown on"])

    def mend(self, pod_id: str, ifname: str) -> None:
        """Undo `cut`, however it was cut; nothing to do for an interface that is gone."""
        netns = self.layout.pod_netns(pod_id)
        if not netns_exists(netns):
            return
        complete(netns_enter(netns, ["nft", "delete", "table", "netdev", f"{_TABLE}-{ifname}"]))
        if ifname == "eth0":
            with contextlib.suppress(LabError):
                node = self._node_of(pod_id, ifname)
                ip(node.netns, [f"link set dev {port_name(pod_id)} up"], force=True)
        else:
            ip(netns, [f"link set dev {ifname} protodown off"], force=True)

    # ---- nodes

    def power_off(self, node: Node, daemons: Iterable[Record]) -> list[str]:
        """Take a node away as a power loss does: its cables dead, its daemons and pods killed. Returns its pods."""
        marker = node.directory / _LOST
        if not marker.exists():
            new = marker.with_suffix(".new")
            new.write_text(str(time.time()))
            new.replace(marker)
        pods = self.pods_on(node)
        for pod in pods:
            self._mark(pod, _BROKEN)
            self._mark(pod, _HELD)
        ip(self.layout.netns(FABRIC), [f"link set dev {port} down" for port in self._ports(node)])
        killed = [*daemons, *(record for pod in pods for record in self._processes(pod))]
        signal_all(killed, signal.SIGKILL)
        for pod in pods:
            self._unlink(pod)
        end(killed, signal.SIGKILL, wait=5)
        return pods

    def cables_up(self, node: Node) -> None:
        """Connect the node again."""
        ip(self.layout.netns(FABRIC), [f"link set dev {port} up" for port in self._ports(node)])

    def power_on(self, node: Node) -> None:
        """Let its pods be started again; its daemons run."""
        for pod in self.pods_on(node):
            self.release_pod(pod)
        (node.directory / _LOST).unlink(missing_ok=True)

    def lost_since(self, node: Node) -> float | None:
        """Unix time of `power_off`, None for a node that has power."""
        with contextlib.suppress(OSError, ValueError):
            return float((node.directory / _LOST).read_text())
        return None

    def pods_on(self, node: Node) -> list[str]:
        """Pods with an interface on the node."""
        return [
            pod
            for pod in pod_ids(self.layout)
            if any(
                port["node"] == node.name for port in record_of(self.layout, pod).get("ports", {}).values()
            )
        ]

    # ---- helpers

    def _ports(self, node: Node) -> tuple[str, str]:
        index = self.layout.nodes(self.spec).index(node) + 1
        return f"u{index}", f"x{index}"

    def _mark(self, pod_id: str, mark: str) -> None:
        (self.layout.pod_dir(pod_id) / mark).touch()

    def _processes(self, pod_id: str) -> list[Record]:
        return pids_in_netns([NETNS_DIR / self.layout.pod_netns(pod_id)])

    def _unlink(self, pod_id: str) -> None:
        for ifname, port in record_of(self.layout, pod_id).get("ports", {}).items():
            if "lsp" in port["far"]:
                node = self.layout.node(self.spec, port["node"])
                ip(node.netns, [f"link del dev {port_name(pod_id)}"], force=True)
            else:
                ip(self.layout.pod_netns(pod_id), [f"link del dev {ifname}"], force=True)

    def _drop_all(self, pod_id: str, ifname: str) -> None:
        chains = "".join(
            f'chain {hook} {{ type filter hook {hook} device "{ifname}" priority -500; policy drop; }}; '
            for hook in ("ingress", "egress")
        )
        netns = self.layout.pod_netns(pod_id)
        run(netns_enter(netns, ["nft", f"table netdev {_TABLE}-{ifname} {{ {chains} }}"]))

    def _node_of(self, pod_id: str, ifname: str) -> Node:
        port = record_of(self.layout, pod_id).get("ports", {}).get(ifname)
        if port is None:
            raise LabError(f"pod {pod_id!r} has no interface {ifname}")
        return self.layout.node(self.spec, port["node"])

    def _need(self, pod_id: str) -> None:
        if not netns_exists(self.layout.pod_netns(pod_id)):
            raise LabError(f"pod {pod_id!r} has no network namespace")


def tree(pid: int) -> list[Record]:
    """A process and all its descendants, parents first."""
    found = [record] if (record := of_pid(pid, f"pid {pid}")) is not None else []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP holds the process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def freeze(pid: int) -> None:
    """SIGSTOP for a process and its descendants."""
    signal_all(tree(pid), signal.SIGSTOP)


def thaw(pid: int) -> None:
    """SIGCONT for a process and its descendants."""
    signal_all(tree(pid), signal.SIGCONT)
