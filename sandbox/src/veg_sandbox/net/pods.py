"""Pods' plumbing: what kubelet and the CNI plugins would do to a pod's network namespace.

What was asked for is written to the pod's folder before it is done, so that a call that was cut short can
be repeated, and `unplug` finds everything.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from veg_sandbox.net import teardown
from veg_sandbox.net.errors import LabError, UnknownPodError
from veg_sandbox.net.model import LabSpec, Layout, Node, port_name
from veg_sandbox.net.shell import NETNS_DIR, ip, ip_json, netns_enter, netns_exists, run, sysctl
from veg_sandbox.ovn.root import OvnRoot

_SYSCTLS = {
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    # A sticky address comes back with another MAC: announce it, as CNI plugins do.
    "net/ipv4/conf/default/arp_notify": "1",
    "net/ipv6/conf/default/ndisc_notify": "1",
    # IPv4 settings of a new namespace are copied from the host, which may be a router.
    "net/ipv4/ip_forward": "0",
}


@dataclass(frozen=True)
class Port:
    """An interface of a pod as it is to be."""

    node: str
    ifname: str
    mac: str | None
    addresses: Sequence[str]
    """With prefix lengths."""
    gateways: Sequence[str]
    mtu: int
    far: dict[str, str] = field(default_factory=dict)
    """What it is joined to: `lsp` (the logical switch port) or `master` (the node's interface)."""


@dataclass(frozen=True)
class Plumbing:
    """The pods of one lab. Calls about one pod must not run at the same time."""

    layout: Layout
    spec: LabSpec
    ovn: OvnRoot

    def create(self, pod_id: str) -> str:
        """Make the pod's namespace. Returns its name; raises LabError."""
        name = self.layout.pod_netns(pod_id)
        if record_of(self.layout, pod_id).get("netns") == name and netns_exists(name):
            return name
        teardown.remove_netns([name])  # half-made, or of a pod whose record is lost
        self.layout.pod_dir(pod_id).mkdir(parents=True, exist_ok=True)
        _write(self.layout, pod_id, {"id": pod_id, "ports": {}})
        ip(None, [f"netns add {name}"])
        sysctl(name, _SYSCTLS)
        ip(name, ["link set lo up"])
        _write(self.layout, pod_id, {"id": pod_id, "ports": {}, "netns": name})
        return name

    def create_on_host(self, pod_id: str) -> None:
        """Note a pod that shares the host's network: it has files, and no namespace."""
        self.layout.pod_dir(pod_id).mkdir(parents=True, exist_ok=True)
        _write(self.layout, pod_id, {"id": pod_id, "ports": {}, "host": True})

    def plug_internal(self, pod_id: str, port: Port, lsp_name: str) -> None:
        """Give the pod a veth whose other end is a port of the node's br-int. Raises UnknownPodError,
        LabError.
        """
        node = self.layout.node(self.spec, port.node)
        far = port_name(pod_id)
        wanted = replace(port, far={"lsp": lsp_name})
        netns = self._need(pod_id)
        if not self._is_made(pod_id, wanted):
            self._unplug_port(pod_id, port.ifname)
            self._record(pod_id, wanted, made=False)
            ip(
                netns,
                [
                    # No queue length: as a CNI plugin's veth, so that `ip address` prints none.
                    (
                        f"link add {port.ifname} {_mac(port)} mtu {port.mtu} txqueuelen 0 type veth "
                        f"peer name {far} mtu {port.mtu} netns {node.netns}"
                    ),
                    *_configure(port),
                ],
            )
            ip(node.netns, [f"link set {far} up"])
            # The userspace datapath does not finish checksums that the pod leaves to the hardware.
            run(netns_enter(netns, ["ethtool", "-K", port.ifname, "tx", "off"]))
        add = ["--may-exist", "add-port", "br-int", far]
        self._vsctl(node, *add, "--", "set", "Interface", far, f'external_ids:iface-id="{lsp_name}"')
        self._record(pod_id, wanted, made=True)

    def plug_external(self, pod_id: str, port: Port, master: str) -> None:
        """Give the pod a macvlan interface on the node's `master`. Raises UnknownPodError, LabError."""
        node = self.layout.node(self.spec, port.node)
        wanted = replace(port, far={"master": master})
        netns = self._need(pod_id)
        if self._is_made(pod_id, wanted):
            return
        self._unplug_port(pod_id, port.ifname)
        self._record(pod_id, wanted, made=False)
        made_in = f"netns {netns} type macvlan mode bridge"
        link = f"link add link {master} name {port.ifname} {_mac(port)} mtu {port.mtu} {made_in}"
        ip(node.netns, [link])
        ip(netns, _configure(port))
        self._record(pod_id, wanted, made=True)

    def unplug(self, pod_id: str) -> None:
        """End all that runs in the pod's namespace and remove its OVS port, links, namespace and files.

        Idempotent. Raises LabError.
        """
        netns = self.layout.pod_netns(pod_id)
        if (NETNS_DIR / netns).exists():
            teardown.remove_netns([netns])
        for ifname in record_of(self.layout, pod_id).get("ports", {}):
            self._unplug_port(pod_id, ifname)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.layout.pod_dir(pod_id))

    def _unplug_port(self, pod_id: str, ifname: str) -> None:
        """Remove what an earlier, perhaps different or half-made plug left, on whichever node."""
        before = record_of(self.layout, pod_id).get("ports", {}).get(ifname)
        if before is None:
            return
        node = self.layout.node(self.spec, before["node"])
        netns = self.layout.pod_netns(pod_id)
        if netns_exists(netns):
            ip(netns, [f"link del {ifname}"], force=True)
        if "lsp" in before["far"]:
            self._vsctl(node, "--if-exists", "del-port", port_name(pod_id))
            ip(node.netns, [f"link del {port_name(pod_id)}"], force=True)

    def _vsctl(self, node: Node, *args: str) -> None:
        # Without waiting for ovs-vswitchd: it may be down just now, and takes the change when it returns.
        argv = [*self.ovn.command("ovs-vsctl"), f"--db=unix:{node.db_socket}", "--no-wait", "--timeout=10"]
        run([*argv, *args])

    def _need(self, pod_id: str) -> str:
        name = self.layout.pod_netns(pod_id)
        if not netns_exists(name) or not record_of(self.layout, pod_id):
            raise UnknownPodError(f"pod {pod_id!r} has no network namespace")
        return name

    def _is_made(self, pod_id: str, port: Port) -> bool:
        have = record_of(self.layout, pod_id).get("ports", {}).get(port.ifname)
        if have != {**_json(port), "made": True}:
            return False
        return bool(ip_json(self.layout.pod_netns(pod_id), "link", "show", port.ifname))

    def _record(self, pod_id: str, port: Port, *, made: bool) -> None:
        record = record_of(self.layout, pod_id)
        record["ports"][port.ifname] = {**_json(port), "made": made}
        _write(self.layout, pod_id, record)


def pod_ids(layout: Layout) -> list[str]:
    """Ids of the pods that have a folder."""
    ids = []
    for file in sorted(layout.pods.glob("*/pod.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            ids.append(str(json.loads(file.read_text())["id"]))
    return ids


def _mac(port: Port) -> str:
    return f"address {port.mac}" if port.mac else ""


def _configure(port: Port) -> list[str]:
    commands = []
    for address in port.addresses:
        how = "nodad" if ":" in address else ("" if address.endswith("/32") else "broadcast +")
        commands.append(f"address add {address} {how} dev {port.ifname}")
    # Up after the addresses: what is there then is announced (arp_notify), so that neighbours who knew
    # the address by another pod's MAC learn the new one at once.
    commands.append(f"link set {port.ifname} up")
    commands += [f"route replace default via {gateway} dev {port.ifname}" for gateway in port.gateways]
    return commands


# ---- the pod's record: {"id", "netns" once it is made, "ports": {ifname: Port, and "made" once it is}}


def _json(port: Port) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(asdict(port)))
    return found


def record_of(layout: Layout, pod_id: str) -> dict[str, Any]:
    """What the pod was asked to be; {} for one that is not there. Raises LabError for a damaged record."""
    try:
        record: dict[str, Any] = json.loads((layout.pod_dir(pod_id) / "pod.json").read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise LabError(f"pod {pod_id!r}: its record is damaged: {error}") from error
    return record


def _write(layout: Layout, pod_id: str, record: dict[str, Any]) -> None:
    file = layout.pod_dir(pod_id) / "pod.json"
    new = file.with_suffix(".new")
    new.write_text(json.dumps(record, indent=1) + "\n")
    new.replace(file)
