"""Who has which address of a Subnet, and which is the next free one. Pure.

`Pools` lives for one planning pass: what one plan of the pass takes, the next one sees as taken. Reading never
enumerates a pool: a /16 or a /64 costs what is used of it, and every further address of the pass costs next to nothing.

Subnets outside OVN that name one provider are one network: where their ranges overlap, an address of one is taken in
the others too. Subnets of OVN are networks of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from veg_api.core import addresses, pool_record
from veg_api.core.addresses import AddressError
from veg_api.core.gateway import Gateway, GatewayKey
from veg_api.core.names import deployment_name
from veg_api.core.network import Subnet, SubnetObject
from veg_api.core.objects import Ip, Pod
from veg_api.core.snapshot import Snapshot

# (subnet, canonical address)
Spot = tuple[str, str]


@dataclass(frozen=True)
class Usage:
    """Counts of one family of a Subnet: addresses that may be handed out, and how many of them are in use."""

    size: int
    used: int

    @property
    def free(self) -> int:
        """Addresses left."""
        return self.size - self.used


class PoolExhaustedError(Exception):
    """No address of a family is left; the text has the numbers."""


class Pools:
    """The addresses of one pass over a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._taken: dict[Spot, str] = {}
        self._released: set[str] = set()
        self._cursors: dict[tuple[str, int], int] = {}

    @property
    def released(self) -> Collection[str]:
        """Names of IP objects whose addresses were given up in this pass."""
        return self._released

    def owner(self, subnet: str, text: str) -> str | None:
        """Who has an address, for people; None when it is free."""
        return next((o for name in self.same_network(subnet) if (o := self._owner((name, text)))), None)

    def _owner(self, spot: Spot) -> str | None:
        if spot in self._taken:
            return self._taken[spot]
        ip = self._snapshot.ips.derived(_ips_by_spot).get(spot)
        if ip is not None and ip.name not in self._released:
            return ip.user
        pod = self._snapshot.pods.derived(pods_by_spot).get(spot)
        if pod is not None:
            return f"pod {pod.namespace}/{pod.name}"
        return self._snapshot.config_maps.derived(pool_record.reserved).get(spot)

    def foreign_owner(self, subnet: str, text: str, key: GatewayKey) -> str | None:
        """As `owner`, but what the gateway itself or its pods have counts as free."""
        names = self.same_network(subnet)
        return next((o for name in names if (o := self._foreign_owner((name, text), key))), None)

    def _foreign_owner(self, spot: Spot, key: GatewayKey) -> str | None:
        mine = f"gateway {key[0]}/{key[1]}"
        if self._taken.get(spot, mine) != mine:
            return self._taken[spot]
        ip = self._snapshot.ips.derived(_ips_by_spot).get(spot)
        if (
            ip is not None
            and ip.name not in self._released
            and not (ip.user == mine or self._is_pods(ip, key))
        ):
            return ip.user
        pod = self._snapshot.pods.derived(pods_by_spot).get(spot)
        if pod is not None and (pod.namespace, pod.gateway) != key:
            return f"pod {pod.namespace}/{pod.name}"
        reserved = self._snapshot.config_maps.derived(pool_record.reserved).get(spot, mine)
        return None if reserved == mine else reserved

    def _is_pods(self, ip: Ip, key: GatewayKey) -> bool:
        """Whether an IP object is that of a pod of a gateway, as Kube-OVN makes them; the pod may be gone already."""
        gateway = self._snapshot.gateways.get(key[1], key[0])
        prefix = gateway.spec.prefix if gateway is not None else ""
        return ip.namespace == key[0] and ip.pod.startswith(f"{deployment_name(prefix, key[1])}-")

    def same_network(self, subnet: str) -> tuple[str, ...]:
        """A Subnet and those whose addresses are the same network's, by name: overlapping ones of its provider."""
        return self._snapshot.subnets.derived(_same_network).get(subnet, (subnet,))

    def take(self, subnet: str, texts: Iterable[str], user: str) -> None:
        """Mark addresses as `user`'s for the rest of the pass."""
        for text in texts:
            self._taken[subnet, text] = user

    def takers(self) -> dict[str, list[str]]:
        """By Subnet, who has taken an address in this pass, sorted."""
        found: dict[str, set[str]] = {}
        for (subnet, _), user in self._taken.items():
            found.setdefault(subnet, set()).add(user)
        return {subnet: sorted(users) for subnet, users in found.items()}

    def release(self, ip: Ip) -> None:
        """Give up an IP object: its addresses are free for the rest of the pass, unless a pod has them."""
        self._released.add(ip.name)
        for text in ip.addresses:
            for name in self.same_network(ip.subnet):
                self._taken.pop((name, text), None)
                self._cursors.pop((name, addresses.family(text)), None)

    def next_free(self, subnet: Subnet, family: int) -> str:
        """The lowest free address of a family, not taken yet. Raises PoolExhaustedError."""
        prefix = addresses.network(subnet.cidr(family))
        last = int(prefix.broadcast_address)
        excluded = dict(subnet.excluded).get(family, ())
        value = self._cursors.get((subnet.name, family), int(prefix.network_address))
        position = 0
        while value <= last:
            while position < len(excluded) and excluded[position][1] < value:
                position += 1
            if position < len(excluded) and excluded[position][0] <= value:
                value = excluded[position][1] + 1
                continue
            text = addresses.text_of(family, value)
            if self.owner(subnet.name, text) is None and not self._reserved(subnet.name, text):
                self._cursors[subnet.name, family] = value
                return text
            value += 1
        self._cursors[subnet.name, family] = value
        usage = self.usage(subnet, family)
        raise PoolExhaustedError(
            f"subnet {subnet.name}: {usage.size} IPv{family} addresses, {usage.used} in use"
        )

    def _reserved(self, subnet: str, text: str) -> bool:
        """Whether some gateway asks for an address in its spec."""
        asked_for = self._snapshot.gateways.derived(_asked_for)
        return any(text in asked_for.get(name, ()) for name in (*self.same_network(subnet), ""))

    def usage(self, subnet: Subnet, family: int) -> Usage:
        """Counts of the present state and of what the pass has taken."""
        prefix = addresses.network(subnet.cidr(family))
        first, last = int(prefix.network_address), int(prefix.broadcast_address)
        excluded = dict(subnet.excluded).get(family, ())
        outside = sum(max(0, min(b, last) - max(a, first) + 1) for a, b in excluded)
        used: set[str] = set()
        names = self.same_network(subnet.name)
        for name in names:
            spots = self._snapshot.ips.derived(_ips_by_subnet).get(name, {})
            used |= {text for text, ip in spots.items() if ip.name not in self._released}
            used |= self._snapshot.pods.derived(_pods_by_subnet).get(name, set())
        used |= {text for name, text in self._taken if name in names}
        counted = sum(
            1
            for text in used
            if addresses.family(text) == family and not is_excluded(subnet, text, check_cidr=True)
        )
        return Usage(prefix.num_addresses - outside, counted)


def is_excluded(subnet: Subnet, text: str, *, check_cidr: bool = False) -> bool:
    """Whether excludeIps, or being the gateway, network or broadcast address, forbids to hand an address out."""
    found = addresses.address(text)
    if check_cidr and not any(addresses.contains(cidr, text) for cidr in subnet.cidrs):
        return True
    value = int(found)
    return any(a <= value <= b for a, b in dict(subnet.excluded).get(found.version, ()))


def pods_by_spot(items: Mapping[tuple[str, str], Pod]) -> dict[Spot, Pod]:
    """Which pod has an address now: finished pods have none."""
    return {
        (holding.subnet, text): pod
        for pod in items.values()
        if not pod.finished
        for holding in pod.holdings
        for text in holding.addresses
    }


def _ips_by_spot(items: Mapping[tuple[str, str], Ip]) -> dict[Spot, Ip]:
    return {(ip.subnet, text): ip for ip in items.values() for text in ip.addresses}


def _ips_by_subnet(items: Mapping[tuple[str, str], Ip]) -> dict[str, dict[str, Ip]]:
    found: dict[str, dict[str, Ip]] = {}
    for ip in items.values():
        found.setdefault(ip.subnet, {}).update(dict.fromkeys(ip.addresses, ip))
    return found


def _pods_by_subnet(items: Mapping[tuple[str, str], Pod]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for subnet, text in pods_by_spot(items):
        found.setdefault(subnet, set()).add(text)
    return found


def _asked_for(items: Mapping[tuple[str, str], Gateway]) -> dict[str, set[str]]:
    """Addresses that gateways name in internalIPs and externalIPs, by Subnet ("" where the default applies).

    Nobody is given one of these by chance: their gateway may need it for its next replica.
    """
    found: dict[str, set[str]] = {}
    for gateway in items.values():
        spec = gateway.spec
        for subnet, entries in (
            (spec.internal_subnet, spec.internal_ips),
            (spec.external_subnet, spec.external_ips),
        ):
            for entry in entries:
                try:
                    found.setdefault(subnet, set()).update(addresses.by_family(addresses.parts(entry)))
                except AddressError:
                    continue  # reported by validation
    return found


def _same_network(items: Mapping[tuple[str, str], SubnetObject]) -> dict[str, tuple[str, ...]]:
    """Names of the Subnets outside OVN that overlap with others of their provider, each with itself and those."""
    ranges: dict[tuple[str, int], list[tuple[int, int, str]]] = {}
    for subnet in (item.value for item in items.values()):
        if subnet is None or subnet.in_vpc:
            continue
        for cidr in subnet.cidrs:
            prefix = addresses.network(cidr)
            span = (int(prefix.network_address), int(prefix.broadcast_address), subnet.name)
            ranges.setdefault((subnet.provider, prefix.version), []).append(span)
    found: dict[str, set[str]] = {}
    for spans in ranges.values():
        open_spans: list[tuple[int, str]] = []
        for first, last, name in sorted(spans):
            open_spans = [(end, other) for end, other in open_spans if end >= first]
            for _, other in open_spans:
                found.setdefault(name, {name}).add(other)
                found.setdefault(other, {other}).add(name)
            open_spans.append((last, name))
    return {name: tuple(sorted(names)) for name, names in found.items()}
