"""The plan of the managed topology: routers, switches, ports, addresses of client pods, status of Subnets. Pure.

Client pods are all pods but those of gateways and of the host network. Each gets one address a family of its Subnet,
recorded in an IP object and written on the pod as Kube-OVN does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from veg_common.objects import Object, Ref

from veg_api.core import addresses, workload
from veg_api.core.addresses import AddressError
from veg_api.core.change import Change, Delete, EventRecord, Patch, put
from veg_api.core.intents import Intent, IntentKey, PortIntent, SubnetIntent
from veg_api.core.ledger import is_gateway_pod
from veg_api.core.names import (
    ALLOCATION_ERROR_ANNOTATION,
    DEFAULT_SUBNET,
    OVN_PREFIX,
    OVN_PROVIDER,
    SUBNET_LABEL,
    port_name,
)
from veg_api.core.network import Subnet
from veg_api.core.objects import Holding, Ip, Pod
from veg_api.core.pools import PoolExhaustedError, Pools, is_excluded
from veg_api.core.resolved import Side
from veg_api.core.snapshot import Snapshot
from veg_api.core.subnet_status import NetworkChanges, plan_subnets, plan_vpcs


@dataclass(frozen=True)
class TopologyPlan:
    """What is to be done for the network as a whole; `intents` is the complete picture."""

    changes: tuple[Change, ...] = ()
    intents: Mapping[IntentKey, Intent] = field(default_factory=dict)
    events: tuple[EventRecord, ...] = ()


class _RefusedError(Exception):
    """A pod that can not get an address; the text is for its author."""


def plan_topology(snapshot: Snapshot, pools: Pools | None = None) -> TopologyPlan:
    """The plan of everything but gateways. Plans of gateways of the same pass come before it and share `pools`.

    It is not for networks that are Kube-OVN's: there all of this is done by Kube-OVN.
    """
    pools = pools or Pools(snapshot)
    work = _Work(snapshot, pools)
    work.ports()
    work.clients()
    work.collect()
    networks = NetworkChanges(snapshot)
    good = plan_subnets(pools, networks)
    intents: dict[IntentKey, Intent] = {intent.key: intent for intent in plan_vpcs(networks)}
    for subnet in good:
        intent = SubnetIntent(subnet.name, subnet.vpc, subnet.cidrs, subnet.gateways)
        intents[intent.key] = intent
    intents |= work.intents
    changes, events = (*work.changes, *networks.changes), (*work.events, *networks.events)
    return TopologyPlan(changes, intents, events)


class _Work:
    """The pods' share of the plan under construction."""

    def __init__(self, snapshot: Snapshot, pools: Pools) -> None:
        self.snapshot = snapshot
        self.pools = pools
        self.changes: list[Change] = []
        self.events: list[EventRecord] = []
        self.intents: dict[IntentKey, Intent] = {}
        self._records = snapshot.ips.derived(_records)

    def ports(self) -> None:
        """A port for every pod that has an address of OVN."""
        for pod in self.snapshot.pods.items.values():
            holding = pod.holding(OVN_PREFIX)
            if holding is None or not holding.addresses or pod.finished:
                continue
            self._port(pod, holding.subnet, holding.addresses, holding.mac)

    def clients(self) -> None:
        """Addresses for client pods, oldest first."""
        waiting = [pod for pod in self.snapshot.pods.items.values() if _is_client(pod)]
        for pod in sorted(waiting, key=lambda p: (p.created, p.namespace, p.name)):
            holding = pod.holding(OVN_PREFIX)
            if holding is not None:
                self._record(pod, holding)
            elif not pod.deleting:
                self._allocate(pod)

    def collect(self) -> None:
        """IP objects of pods that are gone are freed."""
        for (namespace, name), record in self._records.items():
            pod = self.snapshot.pods.get(name, namespace)
            hidden = Ref("Pod", namespace, name) in self.snapshot.hidden
            if not hidden and (pod is None or pod.finished):
                self.changes.append(Delete(Ref("IP", "", record.name)))

    def _port(self, pod: Pod, subnet: str, texts: Sequence[str], mac: str) -> None:
        name = port_name(pod.namespace, pod.name)
        port = PortIntent(name, subnet, mac or workload.mac_of(texts), tuple(texts))
        self.intents[port.key] = port

    def _record(self, pod: Pod, holding: Holding) -> None:
        """The IP object of a pod that has an address: made again should it be lost."""
        if holding.addresses:
            self._put(pod, holding.subnet, holding.addresses, holding.mac)
        if pod.allocation_error:
            self._annotate(pod, {ALLOCATION_ERROR_ANNOTATION: None})

    def _allocate(self, pod: Pod) -> None:
        try:
            subnet = self._subnet(pod)
            texts = self._addresses(pod, subnet)
            mac = _mac(pod, texts)
        except (_RefusedError, PoolExhaustedError) as refusal:
            self._refuse(pod, str(refusal))
            return
        self.pools.take(subnet.name, texts, f"pod {pod.namespace}/{pod.name}")
        self._put(pod, subnet.name, texts, mac)
        families = [addresses.family(text) for text in texts]
        side = Side(
            subnet.name,
            OVN_PROVIDER,
            tuple(subnet.cidr(family) for family in families),
            tuple(subnet.gateway(family) for family in families),
        )
        annotations = workload.address_annotations(OVN_PREFIX, side, texts)
        annotations[f"{OVN_PREFIX}/mac_address"] = mac
        if pod.allocation_error:
            annotations[ALLOCATION_ERROR_ANNOTATION] = None
        self._annotate(pod, annotations)
        self._port(pod, subnet.name, texts, mac)

    def _subnet(self, pod: Pod) -> Subnet:
        namespace = self.snapshot.namespaces.get(pod.namespace)
        name = pod.wish.subnet or (namespace.subnet if namespace else "") or DEFAULT_SUBNET
        found = self.snapshot.subnet(name)
        if found is None:
            state = "is not valid" if self.snapshot.subnets.get(name) else "does not exist"
            raise _RefusedError(f"Subnet {name!r} {state}")
        if self.snapshot.subnets.items["", name].deleting:
            raise _RefusedError(f"Subnet {name!r} is being deleted")
        if not found.in_vpc:
            raise _RefusedError(f"Subnet {name!r} (provider {found.provider}) is not one of OVN")
        return found

    def _addresses(self, pod: Pod, subnet: Subnet) -> tuple[str, ...]:
        """What is recorded for the pod already, what its author asks for, or the lowest free ones."""
        record = self._records.get((pod.namespace, pod.name))
        if record is not None and record.subnet == subnet.name and record.addresses:
            return record.addresses
        asked = self._asked(pod, subnet)
        return tuple(asked.get(family) or self.pools.next_free(subnet, family) for family in subnet.families)

    def _asked(self, pod: Pod, subnet: Subnet) -> dict[int, str]:
        try:
            texts = addresses.by_family(addresses.parts(pod.wish.ip_address))
        except AddressError as error:
            raise _RefusedError(f"annotation {OVN_PREFIX}/ip_address: {error}") from error
        for text in texts:
            if not any(addresses.contains(cidr, text) for cidr in subnet.cidrs):
                raise _RefusedError(f"{text} is outside Subnet {subnet.name!r} ({', '.join(subnet.cidrs)})")
            if is_excluded(subnet, text):
                raise _RefusedError(f"{text} is excluded in Subnet {subnet.name!r}")
            owner = self.pools.owner(subnet.name, text)
            if owner is not None:
                raise _RefusedError(f"{text} of Subnet {subnet.name!r} is taken by {owner}")
        return {addresses.family(text): text for text in texts}

    def _put(self, pod: Pod, subnet: str, texts: Sequence[str], mac: str) -> None:
        record = self._records.get((pod.namespace, pod.name))
        name = record.name if record else port_name(pod.namespace, pod.name)
        if record is None and self.snapshot.ips.get(name) is not None:
            # The name is another's (a gateway's entry may be called so): the record is what counts, not its name.
            name = f"{name}.{pod.uid[:8]}"
        change = put(_ip_object(name, pod, subnet, texts, mac), record.raw if record else None)
        if change is not None:
            self.changes.append(change)

    def _refuse(self, pod: Pod, message: str) -> None:
        if pod.allocation_error == message:
            return
        self._annotate(pod, {ALLOCATION_ERROR_ANNOTATION: message})
        about = Ref("Pod", pod.namespace, pod.name)
        self.events.append(EventRecord(about, pod.uid, "Warning", "AddressNotAllocated", message))

    def _annotate(self, pod: Pod, annotations: Object) -> None:
        ref = Ref("Pod", pod.namespace, pod.name)
        self.changes.append(Patch(ref, {"metadata": {"annotations": annotations}}))


def _is_client(pod: Pod) -> bool:
    return not (pod.finished or pod.host_network or is_gateway_pod(pod))


def _mac(pod: Pod, texts: Sequence[str]) -> str:
    asked = pod.wish.mac.lower()
    if not asked:
        return workload.mac_of(texts)
    octets = asked.split(":")
    try:
        values = [int(octet, 16) for octet in octets if len(octet) == 2]
    except ValueError:
        values = []
    if len(values) != 6 or len(octets) != 6 or values[0] & 1:
        raise _RefusedError(
            f"annotation {OVN_PREFIX}/mac_address: {pod.wish.mac!r} is not a unicast MAC address"
        )
    return asked


def _ip_object(name: str, pod: Pod, subnet: str, texts: Sequence[str], mac: str) -> Object:
    return {
        "apiVersion": "kubeovn.io/v1",
        "kind": "IP",
        "metadata": {"name": name, "labels": {SUBNET_LABEL: subnet}},
        "spec": {
            "podName": pod.name,
            "namespace": pod.namespace,
            "subnet": subnet,
            **workload.ip_spec(texts, mac or workload.mac_of(texts)),
            "nodeName": pod.node,
            "podType": "",
        },
    }


def _records(items: Mapping[tuple[str, str], Ip]) -> dict[tuple[str, str], Ip]:
    """IP objects of client pods, by (namespace, pod)."""
    return {
        (ip.namespace, ip.pod): ip
        for _, ip in sorted(items.items(), reverse=True)
        if ip.pod and not ip.gateway
    }
