"""Turns the fields of an AgentConfig into a valid `Config`, or says which field is wrong and why.

Called by `rpc` with plain values. Accepts any spelling of an address and makes it canonical; refuses host bits, mixed
families and contradictions, because each of them would silently let out, or shut out, somebody else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from veg_node_agent.core.model import (
    BfdConfig,
    Config,
    Family,
    FamilyConfig,
    Source,
    Timers,
    UplinkConfig,
)
from veg_node_agent.errors import ConfigError


@dataclass(frozen=True)
class RawFamily:
    """An AgentFamily as it was read; `family` is 0 when unknown, `sources` are (cidr, snat)."""

    family: int
    internal_gateway: str
    external_gateway: str
    vpc_cidrs: Sequence[str]
    sources: Sequence[tuple[str, bool]]


@dataclass(frozen=True)
class RawBfd:
    """An AgentBfd as it was read; `timers` are minRxMs, minTxMs, multiplier."""

    peers: Sequence[str]
    timers: tuple[int, int, int]
    min_ttl: int
    nudge_ms: int = 0


@dataclass(frozen=True)
class RawUplink:
    """An UplinkProbe as it was read."""

    interval_ms: int
    multiplier: int
    replicas: Sequence[str]


@dataclass(frozen=True)
class RawConfig:
    """An AgentConfig as it was read."""

    gateway: str
    internal: str
    external: str
    families: Sequence[RawFamily]
    bfd: RawBfd | None = None
    uplink: RawUplink | None = None


def checked(raw: RawConfig) -> Config:
    """A valid configuration. Raises ConfigError that names the field (in the file's spelling)."""
    families = raw.families
    _interface("internalInterface", raw.internal)
    _interface("externalInterface", raw.external)
    if raw.internal == raw.external:
        raise ConfigError(f"externalInterface: {raw.external} is the internal interface already")
    if not families:
        raise ConfigError("families: at least one is needed")
    for index, entry in enumerate(families):
        if entry.family in {earlier.family for earlier in families[:index]}:
            raise ConfigError(f"families[{index}].family: a second entry for the same family")
    entries = [_family(f"families[{index}]", entry) for index, entry in enumerate(families)]
    return Config(
        raw.gateway,
        raw.internal,
        raw.external,
        tuple(sorted(entries, key=lambda entry: entry.family)),
        None if raw.bfd is None else _bfd(raw.bfd, {entry.family for entry in entries}),
        None if raw.uplink is None else _uplink(raw.uplink),
    )


def _bfd(raw: RawBfd, families: Collection[Family]) -> BfdConfig:
    if not raw.peers:
        raise ConfigError("bfd.peers: at least one is needed")
    peers: dict[Family, str] = {}
    for index, text in enumerate(raw.peers):
        field = f"bfd.peers[{index}]"
        peer, family = _any_address(field, text)
        if family not in families:
            raise ConfigError(f"{field}: {text} is {family.label}, which the gateway has not")
        if peers.setdefault(family, peer) != peer:
            raise ConfigError(f"{field}: a second {family.label} peer")
    names = ("minRxMs", "minTxMs", "multiplier")
    for name, value in zip(names, raw.timers, strict=True):
        _number(f"bfd.timers.{name}", value, 1, 255 if name == "multiplier" else 3_600_000)
    _number("bfd.minTtl", raw.min_ttl, 1, 255)
    if raw.nudge_ms:
        _number("bfd.nudgeMs", raw.nudge_ms, 10, 3_600_000)
    wanted = tuple(peers[family] for family in sorted(peers))
    return BfdConfig(wanted, Timers(*raw.timers), raw.min_ttl, raw.nudge_ms)


def _uplink(raw: RawUplink) -> UplinkConfig:
    _number("uplink.intervalMs", raw.interval_ms, 50, 60_000)
    _number("uplink.multiplier", raw.multiplier, 1, 255)
    replicas = [_any_address(f"uplink.replicas[{n}]", text) for n, text in enumerate(raw.replicas)]
    for index, (address, family) in enumerate(replicas):
        if family is not replicas[0][1]:
            raise ConfigError(f"uplink.replicas[{index}]: {address} is not {replicas[0][1].label}")
    return UplinkConfig(
        raw.interval_ms, raw.multiplier, tuple(dict.fromkeys(address for address, _ in replicas))
    )


def _number(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{field}: {value} is not within {least}..{most}")


def _interface(field: str, name: str) -> None:
    if not name:
        raise ConfigError(f"{field}: is missing")
    # IFNAMSIZ is 16 with the final NUL; dev_valid_name() of the kernel.
    if len(name.encode()) > 15 or name in {".", ".."} or any(c in "/:" or c.isspace() for c in name):
        raise ConfigError(f"{field}: {name!r} is not a possible name of an interface")


def _family(where: str, raw: RawFamily) -> FamilyConfig:
    try:
        family = Family(raw.family)
    except ValueError:
        raise ConfigError(f"{where}.family: is missing or unknown") from None
    sources: dict[str, bool] = {}
    for index, (text, snat) in enumerate(raw.sources):
        cidr = _prefix(f"{where}.sources[{index}].cidr", family, text)
        if sources.setdefault(cidr, snat) != snat:
            raise ConfigError(f"{where}.sources[{index}]: {cidr} is given both with and without snat")
    return FamilyConfig(
        family=family,
        internal_gateway=_address(f"{where}.internalGateway", family, raw.internal_gateway),
        external_gateway=_address(f"{where}.externalGateway", family, raw.external_gateway),
        vpc_cidrs=tuple(
            dict.fromkeys(
                _prefix(f"{where}.vpcCidrs[{index}]", family, text)
                for index, text in enumerate(raw.vpc_cidrs)
            )
        ),
        sources=tuple(Source(cidr, snat) for cidr, snat in sources.items()),
    )


def _prefix(field: str, family: Family, text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"{field}: {error}" if text else f"{field}: is missing") from None
    if network.version != family:
        raise ConfigError(f"{field}: {text} is not {family.label}")
    return str(network)


def _address(field: str, family: Family, text: str) -> str:
    address, found = _any_address(field, text)
    if found is not family:
        raise ConfigError(f"{field}: {text} is not {family.label}")
    return address


def _any_address(field: str, text: str) -> tuple[str, Family]:
    """The canonical address of one host, and its family."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise ConfigError(f"{field}: {error}" if text else f"{field}: is missing") from None
    if "%" in text or address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ConfigError(f"{field}: {text} can not be a neighbour's address")
    return str(address), Family(address.version)
