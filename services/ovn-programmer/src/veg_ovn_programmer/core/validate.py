"""Checks an intent and makes its addresses canonical (RFC 5952 for IPv6, where OVN compares text).

Every refusal names the field as the contract spells it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sized
from dataclasses import replace

from veg_ovn_programmer.core.intents import Bfd, BfdPort, Gateway, GatewayFamily, Intent, Port, Subnet, Vpc
from veg_ovn_programmer.errors import RefusedError

_NAME = re.compile(r"[^\s/\"\\]+")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")

# One intent is one transaction: these bound its rows, far above what a gateway has.
MAX_PREFIXES = 4096
MAX_NEXTHOPS = 64

# Of the contract (veg.bfd.v1.Timers).
MAX_INTERVAL_MS = 3_600_000
MAX_MULTIPLIER = 255

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check(intent: Intent, *, managed: bool) -> Intent:
    """The intent in canonical form. Raises RefusedError.

    `managed` is false in the kube-ovn topology, where routers, switches and ports belong to Kube-OVN. A Vpc speaks only
    of its BFD port there: Kube-OVN sees to default routes.
    """
    if isinstance(intent, Gateway):
        return _gateway(intent)
    if not managed and isinstance(intent, Vpc):
        return replace(_vpc(intent), default_vpc=False)
    if not managed:
        raise RefusedError(
            "TopologyNotManaged", f"{intent.key} is Kube-OVN's to make: this programmer only reads it"
        )
    if isinstance(intent, Vpc):
        return _vpc(intent)
    if isinstance(intent, Subnet):
        return _subnet(intent)
    if isinstance(intent, Port):
        return _port(intent)
    raise RefusedError("InvalidIntent", f"{intent.key} can not be asked for")


def _gateway(gateway: Gateway) -> Gateway:
    _name("key.namespace", gateway.namespace)
    _name("key.name", gateway.name)
    _name("vpc", gateway.vpc)
    bfd = _bfd(gateway.bfd) if gateway.bfd is not None else None
    _once("families", [family.family for family in gateway.families])
    families = sorted((_family(family) for family in gateway.families), key=lambda one: one.family)
    return replace(gateway, families=tuple(families), bfd=bfd)


def _family(family: GatewayFamily) -> GatewayFamily:
    if family.family not in (4, 6):
        raise RefusedError("InvalidFamily", f"families: {family.family} is not an IP family")
    where = f"families[IPv{family.family}]"
    _at_most(f"{where}.sources", family.sources, MAX_PREFIXES)
    _at_most(f"{where}.local_cidrs", family.local_cidrs, MAX_PREFIXES)
    _at_most(f"{where}.nexthops", family.nexthops, MAX_NEXTHOPS)
    return GatewayFamily(
        family=family.family,
        sources=_prefixes(f"{where}.sources", family.sources, family.family),
        nexthops=tuple(
            dict.fromkeys(str(_address(f"{where}.nexthops", text, family.family)) for text in family.nexthops)
        ),
        local_cidrs=_prefixes(f"{where}.local_cidrs", family.local_cidrs, family.family),
    )


def _vpc(vpc: Vpc) -> Vpc:
    _name("name", vpc.name)
    return vpc if vpc.bfd_port is None else replace(vpc, bfd_port=_bfd_port(vpc.bfd_port))


def _bfd(bfd: Bfd) -> Bfd:
    _name("bfd.logical_port", bfd.logical_port)
    for field, value in (("min_rx_ms", bfd.min_rx_ms), ("min_tx_ms", bfd.min_tx_ms)):
        if not 1 <= value <= MAX_INTERVAL_MS:
            raise RefusedError("InvalidTimers", f"bfd.timers.{field}: {value} is not 1..{MAX_INTERVAL_MS}")
    if not 1 <= bfd.multiplier <= MAX_MULTIPLIER:
        raise RefusedError(
            "InvalidTimers", f"bfd.timers.multiplier: {bfd.multiplier} is not 1..{MAX_MULTIPLIER}"
        )
    silent = dict.fromkeys(str(_address("bfd.silent", text, None)) for text in bfd.silent)
    chassis = {str(_address("bfd.chassis", text, None)): on for text, on in bfd.chassis}
    return replace(bfd, silent=tuple(silent), chassis=tuple(sorted(chassis.items())))


def _bfd_port(port: BfdPort) -> BfdPort:
    if not port.addresses:
        raise RefusedError("InvalidAddress", "bfd_port.addresses: at least one is needed")
    addresses = [_address("bfd_port.addresses", text, None) for text in port.addresses]
    _once("bfd_port.addresses", [address.version for address in addresses])
    addresses.sort(key=lambda address: address.version)
    if not port.nodes:
        # An emptied group would leave sessions "up" that nobody speaks for: the last good nodes stay.
        raise RefusedError("NoNodes", "bfd_port.nodes: at least one chassis is needed")
    for node in port.nodes:
        _name("bfd_port.nodes", node)
    return BfdPort(tuple(map(str, addresses)), tuple(dict.fromkeys(port.nodes)))


def _subnet(subnet: Subnet) -> Subnet:
    _name("name", subnet.name)
    _name("vpc", subnet.vpc)
    if not subnet.cidrs:
        raise RefusedError("InvalidCIDR", "cidrs: at least one prefix is needed")
    if len(subnet.gateways) != len(subnet.cidrs):
        raise RefusedError(
            "InvalidAddress",
            f"gateways: {len(subnet.gateways)} for {len(subnet.cidrs)} cidrs: one each is needed",
        )
    networks = [_network("cidrs", text) for text in subnet.cidrs]
    _once("cidrs", [network.version for network in networks])
    gateways = []
    for network, text in zip(networks, subnet.gateways, strict=True):
        gateway = _address("gateways", text, network.version)
        if gateway not in network:
            raise RefusedError("InvalidAddress", f"gateways: {gateway} is not in {network}")
        gateways.append(str(gateway))
    return replace(subnet, cidrs=tuple(map(str, networks)), gateways=tuple(gateways))


def _port(port: Port) -> Port:
    _name("name", port.name)
    _name("subnet", port.subnet)
    mac = port.mac.lower()
    if not _MAC.fullmatch(mac):
        raise RefusedError("InvalidMAC", f"mac: {port.mac!r} is not a MAC address (aa:bb:cc:dd:ee:ff)")
    if not port.addresses:
        raise RefusedError("InvalidAddress", "addresses: at least one is needed")
    addresses = [_address("addresses", text, None) for text in port.addresses]
    _once("addresses", [address.version for address in addresses])
    addresses.sort(key=lambda address: address.version)
    return replace(port, mac=mac, addresses=tuple(map(str, addresses)))


def _name(field: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise RefusedError("InvalidName", f"{field}: {name!r} is not a name")


def _at_most(field: str, entries: Sized, most: int) -> None:
    if len(entries) > most:
        raise RefusedError("TooLarge", f"{field}: {len(entries)} entries, {most} at most")


def _once(field: str, families: Iterable[int]) -> None:
    seen = list(families)
    if len(seen) != len(set(seen)):
        raise RefusedError("InvalidFamily", f"{field}: more than one entry of a family")


def _prefixes(field: str, texts: Iterable[str], family: int) -> tuple[str, ...]:
    networks = [_network(field, text) for text in texts]
    for network in networks:
        if network.version != family:
            raise RefusedError("InvalidFamily", f"{field}: {network} is not IPv{family}")
    return tuple(dict.fromkeys(map(str, networks)))


def _network(field: str, text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise RefusedError("InvalidCIDR", f"{field}: {error}") from None


def _address(field: str, text: str, family: int | None) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise RefusedError("InvalidAddress", f"{field}: {error}") from None
    if "%" in text:
        raise RefusedError("InvalidAddress", f"{field}: {text!r} has a zone, which OVN does not know")
    if family is not None and address.version != family:
        raise RefusedError("InvalidFamily", f"{field}: {address} is not IPv{family}")
    return address
