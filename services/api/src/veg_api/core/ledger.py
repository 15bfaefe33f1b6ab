"""A gateway's ledger of addresses: which entries it has, and which pod uses which. Pure.

An entry is one internal and one external address (of every family) with an index. It belongs to the gateway, not to a
pod: it is chosen once, recorded in IP objects, and given to one pod after the other, so that an allow-list outside
keeps working through restarts, scaling and rollouts. What a scale-down leaves over stays reserved until the gateway
goes or the pool would otherwise be exhausted. No entry is given to a pod while any other pod has one of its addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from veg_api.core import addresses
from veg_api.core.gateway import GatewayKey
from veg_api.core.names import (
    EXTERNAL_INTERFACE,
    INTERNAL_INTERFACE,
    OVN_PREFIX,
    OVN_PROVIDER,
    annotation_prefix,
    entry_name,
)
from veg_api.core.objects import Ip, Pod
from veg_api.core.pools import PoolExhaustedError, Pools, Spot
from veg_api.core.resolved import Resolved, Side
from veg_api.core.snapshot import Snapshot


@dataclass(frozen=True)
class Entry:
    """One place for a pod: addresses of the gateway's families, IPv4 first."""

    index: int
    internal: tuple[str, ...]
    external: tuple[str, ...]


@dataclass(frozen=True)
class Ledger:
    """The entries after this pass, sorted by index, and who has them.

    `given` maps pod names to entries; `fresh` are the pods that get theirs now. `misplaced` pods hold addresses that
    are no entry's any more and must be replaced. `surplus` are IP objects to delete: own ones that fit no longer, and
    reservations of others that were reclaimed. `shortage` tells, with numbers, why there are fewer entries than
    replicas; "" if there are enough.
    """

    entries: tuple[Entry, ...]
    given: Mapping[str, Entry]
    fresh: tuple[Pod, ...]
    misplaced: tuple[Pod, ...]
    surplus: tuple[Ip, ...]
    shortage: str = ""


def gateway_pods(snapshot: Snapshot, key: GatewayKey, deployment: str) -> tuple[Pod, ...]:
    """The pods of a gateway's Deployment that have not finished, oldest first."""
    found = snapshot.pods.derived(pods_by_gateway).get(key, ())
    return tuple(pod for pod in found if _owned_by(pod, deployment) and not pod.finished)


def is_gateway_pod(pod: Pod) -> bool:
    """Whether some gateway numbers this pod: it bears the label and belongs to a Deployment named after it."""
    kind, name, _ = pod.owner
    if not pod.gateway or kind not in ("Deployment", "ReplicaSet"):
        return False
    deployment = name if kind == "Deployment" else name.rpartition("-")[0]
    return deployment.endswith(pod.gateway)


def own_ips(snapshot: Snapshot, key: GatewayKey) -> tuple[Ip, ...]:
    """The IP objects of a gateway, by index and interface."""
    return snapshot.ips.derived(ips_by_gateway).get(key, ())


def plan(
    snapshot: Snapshot, key: GatewayKey, resolved: Resolved, pods: Sequence[Pod], pools: Pools
) -> Ledger:
    """The ledger as it should be now; addresses that it takes are marked in `pools`."""
    own = [ip for ip in own_ips(snapshot, key) if ip.name not in pools.released]
    work = _Work(snapshot, key, resolved, pods, pools, {(ip.index, ip.interface): ip for ip in own})
    work.keep()
    work.adopt()
    work.fill()
    entries = tuple(work.entries[index] for index in sorted(work.entries))
    wanted = {name for entry in entries for name, _, _ in interfaces(key, resolved, entry)}
    wanted |= work.pending()
    surplus = (*work.reclaimed, *(ip for ip in own if ip.name not in wanted))
    given, fresh, misplaced = _assign(resolved, entries, pods, pools)
    return Ledger(entries, given, fresh, misplaced, surplus, work.shortage)


def interfaces(
    key: GatewayKey, resolved: Resolved, entry: Entry
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(IP object's name, interface, addresses) of an entry's two interfaces."""
    internal = entry_name(resolved.deployment, key[0], entry.index, OVN_PROVIDER)
    external = entry_name(resolved.deployment, key[0], entry.index, resolved.external.provider)
    yield internal, INTERNAL_INTERFACE, entry.internal
    yield external, EXTERNAL_INTERFACE, entry.external


@dataclass
class _Work:
    """One gateway's ledger under construction."""

    snapshot: Snapshot
    key: GatewayKey
    resolved: Resolved
    pods: Sequence[Pod]
    pools: Pools
    own: Mapping[tuple[int, str], Ip]

    def __post_init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.reclaimed: list[Ip] = []
        self.shortage = ""
        self._half: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._held: set[Spot] = {
            (name, text)
            for pod in self.pods
            for holding in pod.holdings
            for name in self.pools.same_network(holding.subnet)
            for text in holding.addresses
        }
        self._user = f"gateway {self.key[0]}/{self.key[1]}"

    def keep(self) -> None:
        """Entries that still fit stay; of those that fit in part, the part that fits is remembered."""
        for index in sorted({index for index, _ in self.own}):
            internal = self._fitting(self.own.get((index, INTERNAL_INTERFACE)), self.resolved.internal)
            external = self._fitting(self.own.get((index, EXTERNAL_INTERFACE)), self.resolved.external)
            if internal and external:
                self._add(Entry(index, internal, external))
            else:
                self._half[index] = (internal, external)

    def adopt(self) -> None:
        """Pods that run on addresses whose record was lost keep them."""
        for pod in self.pods:
            internal, external = held(pod, self.resolved)
            if not internal or not external or not self._free_to_adopt(internal, external):
                continue
            index = next(
                (i for i, half in sorted(self._half.items()) if half in _halves(internal, external)), None
            )
            if index is None:
                index = self._new_index()
            self._half.pop(index, None)
            self._add(Entry(index, internal, external))

    def fill(self) -> None:
        """New entries until there is one for every replica, and for every pod that is lost with its node."""
        lost = sum(
            pod.deleting and bool(pod.node) and not self.snapshot.node_ready(pod.node) for pod in self.pods
        )
        needed = self.resolved.replicas + lost
        while len(self.entries) < needed:
            index = min(self._half) if self._half else self._new_index()
            internal, external = self._half.get(index, ((), ()))
            try:
                internal = internal or self._choose(self.resolved.internal, INTERNAL_INTERFACE)
                external = external or self._choose(self.resolved.external, EXTERNAL_INTERFACE)
            except PoolExhaustedError as error:
                # A spare entry for a lost pod is a kindness, not a duty.
                self.shortage = str(error) if len(self.entries) < self.resolved.replicas else ""
                return
            self._half.pop(index, None)
            self._add(Entry(index, internal, external))

    def pending(self) -> set[str]:
        """Names of IP objects of unfinished entries that stay until the other interface gets an address too."""
        if not self.shortage:
            return set()
        return {
            ip.name
            for (index, interface), ip in self.own.items()
            if index in self._half and self._half[index][interface == EXTERNAL_INTERFACE]
        }

    def _add(self, entry: Entry) -> None:
        self.entries[entry.index] = entry
        self.pools.take(self.resolved.internal.subnet, entry.internal, self._user)
        self.pools.take(self.resolved.external.subnet, entry.external, self._user)

    def _fitting(self, ip: Ip | None, side: Side) -> tuple[str, ...]:
        """The addresses of an IP object if the side can still use them."""
        if ip is None or ip.subnet != side.subnet or not fits(ip.addresses, side):
            return ()
        if any((side.subnet, text) not in self._held and self._is_lost(side, text) for text in ip.addresses):
            return ()
        return ip.addresses

    def _is_lost(self, side: Side, text: str) -> bool:
        """Whether a stranger's pod has an address of ours that none of our pods has."""
        return self.pools.foreign_owner(side.subnet, text, self.key) is not None

    def _free_to_adopt(self, internal: tuple[str, ...], external: tuple[str, ...]) -> bool:
        sides = ((self.resolved.internal, internal), (self.resolved.external, external))
        taken = {text for entry in self.entries.values() for text in (*entry.internal, *entry.external)}
        return all(fits(texts, side) and not taken & set(texts) for side, texts in sides) and not any(
            self.pools.foreign_owner(side.subnet, text, self.key) for side, texts in sides for text in texts
        )

    def _new_index(self) -> int:
        """The lowest index whose objects' names nobody has."""
        index = 0
        while True:
            names = (name for name, _, _ in interfaces(self.key, self.resolved, Entry(index, (), ())))
            if (
                index not in self.entries
                and index not in self._half
                and all(self._is_name_free(n) for n in names)
            ):
                return index
            index += 1

    def _is_name_free(self, name: str) -> bool:
        found = self.snapshot.ips.get(name)
        return found is None or (found.namespace, found.gateway) == self.key

    def _choose(self, side: Side, interface: str) -> tuple[str, ...]:
        """Addresses for a new entry: from the side's list, or the lowest free ones."""
        if side.ips:
            return self._from_list(side, interface)
        subnet = self.snapshot.subnet(side.subnet)
        if subnet is None:
            raise PoolExhaustedError(f"subnet {side.subnet} does not exist any more")
        while True:
            try:
                return tuple(self.pools.next_free(subnet, addresses.family(cidr)) for cidr in side.cidrs)
            except PoolExhaustedError:
                if not self._reclaim(side.subnet):
                    raise

    def _from_list(self, side: Side, interface: str) -> tuple[str, ...]:
        used = {
            text
            for entry in self.entries.values()
            for text in (entry.internal if interface == INTERNAL_INTERFACE else entry.external)
        }
        used |= {text for internal, external in self._half.values() for text in (*internal, *external)}
        used |= {text for pod in self.pods for holding in pod.holdings for text in holding.addresses}
        for item in side.ips:
            texts = tuple(addresses.parts(item))
            owners = (self.pools.foreign_owner(side.subnet, text, self.key) for text in texts)
            if not used & set(texts) and not any(owners):
                return texts
        raise PoolExhaustedError(f"subnet {side.subnet}: {len(side.ips)} addresses given, all in use")

    def _reclaim(self, subnet: str) -> bool:
        """Take back one reservation that a scale-down of another gateway left over in a Subnet's network."""
        network = self.pools.same_network(subnet)
        for other, ips in sorted(self.snapshot.ips.derived(ips_by_gateway).items()):
            if other == self.key or not any(ip.subnet in network for ip in ips):
                continue
            spare = _spare_entry(self.snapshot, other, ips, self.pools)
            if any(ip.subnet in network for ip in spare):
                for ip in spare:
                    self.pools.release(ip)
                self.reclaimed.extend(spare)
                return True
        return False


def held(pod: Pod, resolved: Resolved) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(internal, external) addresses that a pod has on the gateway's present subnets; () where it has none."""
    found = []
    for prefix, side in (
        (OVN_PREFIX, resolved.internal),
        (annotation_prefix(resolved.external.provider), resolved.external),
    ):
        holding = pod.holding(prefix)
        found.append(holding.addresses if holding is not None and holding.subnet == side.subnet else ())
    return found[0], found[1]


def _assign(
    resolved: Resolved, entries: Sequence[Entry], pods: Sequence[Pod], pools: Pools
) -> tuple[dict[str, Entry], tuple[Pod, ...], tuple[Pod, ...]]:
    """Who has which entry: (by pod name, pods that get theirs now, pods on addresses of no entry)."""
    by_addresses = {(entry.internal, entry.external): entry for entry in entries}
    used: set[Spot] = {
        (name, text)
        for pod in pods
        for holding in pod.holdings
        for name in pools.same_network(holding.subnet)
        for text in holding.addresses
    }
    given: dict[str, Entry] = {}
    misplaced, waiting = [], []
    for pod in pods:
        have = held(pod, resolved)
        if have in by_addresses:
            given[pod.name] = by_addresses[have]
        elif all(have):
            misplaced.append(pod)
        elif not pod.holdings and not pod.deleting and pod.wish.subnet == resolved.internal.subnet:
            waiting.append(pod)
    free = [entry for entry in entries if not used & _spots(entry, resolved)]
    fresh = tuple(pod for pod, _ in zip(waiting, free, strict=False))
    given.update((pod.name, entry) for pod, entry in zip(fresh, free, strict=False))
    return given, fresh, tuple(misplaced)


def _spots(entry: Entry, resolved: Resolved) -> set[Spot]:
    internal = {(resolved.internal.subnet, text) for text in entry.internal}
    return internal | {(resolved.external.subnet, text) for text in entry.external}


def fits(texts: tuple[str, ...], side: Side) -> bool:
    """Whether addresses are one of each of the side's families, in its prefixes, and in its list if there is one."""
    if len(texts) != len(side.cidrs):
        return False
    if not all(addresses.contains(cidr, text) for cidr, text in zip(side.cidrs, texts, strict=True)):
        return False
    return not side.ips or addresses.joined(texts) in side.ips


def _halves(internal: tuple[str, ...], external: tuple[str, ...]) -> tuple[Iterable[tuple[str, ...]], ...]:
    return (internal, ()), ((), external)


def _spare_entry(snapshot: Snapshot, key: GatewayKey, ips: Sequence[Ip], pools: Pools) -> tuple[Ip, ...]:
    """The IP objects of a gateway's last entry that no pod uses, if it has more entries than replicas."""
    gateway = snapshot.gateways.get(key[1], key[0])
    if gateway is None or gateway.problems or gateway.deleting:
        return ()
    by_index: dict[int, list[Ip]] = {}
    for ip in ips:
        if ip.name not in pools.released:
            by_index.setdefault(ip.index, []).append(ip)
    deployment = snapshot.deployments.get(f"{gateway.spec.prefix}{gateway.name}", gateway.namespace) or {}
    present = (deployment.get("spec") or {}).get("replicas")
    replicas = max(gateway.spec.replicas, present if isinstance(present, int) else 0)
    if len(by_index) <= replicas:
        return ()
    in_use = {
        (holding.subnet, text)
        for pod in snapshot.pods.derived(pods_by_gateway).get(key, ())
        for holding in pod.holdings
        for text in holding.addresses
    }
    for index in sorted(by_index, reverse=True):
        if not any((ip.subnet, text) in in_use for ip in by_index[index] for text in ip.addresses):
            return tuple(by_index[index])
    return ()


def _owned_by(pod: Pod, deployment: str) -> bool:
    kind, name, _ = pod.owner
    return (kind == "Deployment" and name == deployment) or (
        kind == "ReplicaSet" and name.rpartition("-")[0] == deployment
    )


def pods_by_gateway(items: Mapping[tuple[str, str], Pod]) -> dict[GatewayKey, tuple[Pod, ...]]:
    """Index of pods by the gateway that their label names, oldest first."""
    found: dict[GatewayKey, list[Pod]] = {}
    for pod in sorted(
        (p for p in items.values() if p.gateway), key=lambda p: (p.created, p.namespace, p.name)
    ):
        found.setdefault((pod.namespace, pod.gateway), []).append(pod)
    return {key: tuple(pods) for key, pods in found.items()}


def ips_by_gateway(items: Mapping[tuple[str, str], Ip]) -> dict[GatewayKey, tuple[Ip, ...]]:
    """Index of the ledgers' IP objects by gateway, by index and interface."""
    found: dict[GatewayKey, list[Ip]] = {}
    for ip in items.values():
        if ip.gateway:
            found.setdefault((ip.namespace, ip.gateway), []).append(ip)
    return {
        key: tuple(sorted(ips, key=lambda ip: (ip.index, ip.interface, ip.name)))
        for key, ips in found.items()
    }
