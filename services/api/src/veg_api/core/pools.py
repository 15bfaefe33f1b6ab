"""Who has which address of a Subnet, and which is the next free one. Pure.

`Pools` lives for one planning pass: what one plan of the pass takes, the next one sees as taken. Reading never
enumerates a pool: a /16 or a /64 costs what is used of it, and every further address of the pass costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from veg_api.core import addresses
from veg_api.core.addresses import AddressError
from veg_api.core.gateway import Gateway, GatewayKey
from veg_api.core.network import Subnet
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
        if (subnet, text) in self._taken:
            return self._taken[subnet, text]
        ip = self._snapshot.ips.derived(_ips_by_spot).get((subnet, text))
        if ip is not None and ip.name not in self._released:
            return ip.user
        pod = self._snapshot.pods.derived(pods_by_spot).get((subnet, text))
        return f"pod {pod.namespace}/{pod.name}" if pod is not None else None

    def foreign_owner(self, subnet: str, text: str, key: GatewayKey) -> str | None:
        """As `owner`, but what the gateway itself or its pods have counts as free."""
        spot = (subnet, text)
        mine = f"gateway {key[0]}/{key[1]}"
        if self._taken.get(spot, mine) != mine:
            return self._taken[spot]
        ip = self._snapshot.ips.derived(_ips_by_spot).get(spot)
        if ip is not None and ip.name not in self._released and ip.user != mine:
            return ip.user
        pod = self._snapshot.pods.derived(pods_by_spot).get(spot)
        if pod is not None and (pod.namespace, pod.gateway) != key:
            return f"pod {pod.namespace}/{pod.name}"
        return None

    def take(self, subnet: str, texts: Iterable[str], user: str) -> None:
        """Mark addresses as `user`'s for the rest of the pass."""
        for text in texts:
            self._taken[subnet, text] = user

    def release(self, ip: Ip) -> None:
        """Give up an IP object: its addresses are free for the rest of the pass, unless a pod has them."""
        self._released.add(ip.name)
        for text in ip.addresses:
            self._taken.pop((ip.subnet, text), None)
            self._cursors.pop((ip.subnet, addresses.family(text)), None)

    def next_free(self, subnet: Subnet, family: int) -> str:
        """The lowest free address of a family, not taken yet. Raises PoolExhaustedError."""
        prefix = addresses.network(subnet.cidr(family))
        last = int(prefix.broadcast_address)
        excluded = dict(subnet.excluded).get(family, ())
        asked_for = self._snapshot.gateways.derived(_asked_for)
        value = self._cursors.get((subnet.name, family), int(prefix.network_address))
        position = 0
        while value <= last:
            while position < len(excluded) and excluded[position][1] < value:
                position += 1
            if position < len(excluded) and excluded[position][0] <= value:
                value = excluded[position][1] + 1
                continue
            text = addresses.text_of(family, value)
            if self.owner(subnet.name, text) is None and not _reserved(subnet.name, text, asked_for):
                self._cursors[subnet.name, family] = value
                return text
            value += 1
        self._cursors[subnet.name, family] = value
        usage = self.usage(subnet, family)
        raise PoolExhaustedError(
            f"subnet {subnet.name}: {usage.size} IPv{family} addresses, {usage.used} in use"
        )

    def usage(self, subnet: Subnet, family: int) -> Usage:
        """Counts of the present state and of what the pass has taken."""
        prefix = addresses.network(subnet.cidr(family))
        first, last = int(prefix.network_address), int(prefix.broadcast_address)
        excluded = dict(subnet.excluded).get(family, ())
        outside = sum(max(0, min(b, last) - max(a, first) + 1) for a, b in excluded)
        spots = self._snapshot.ips.derived(_ips_by_subnet).get(subnet.name, {})
        used = {text for text, ip in spots.items() if ip.name not in self._released}
        used |= self._snapshot.pods.derived(_pods_by_subnet).get(subnet.name, set())
        used |= {text for name, text in self._taken if name == subnet.name}
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


def _reserved(subnet: str, text: str, asked_for: Mapping[str, set[str]]) -> bool:
    return text in asked_for.get(subnet, ()) or text in asked_for.get("", ())
