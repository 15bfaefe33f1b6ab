"""Turns the fields of an AgentConfig into a valid `Config`, or says which field is wrong and why.

Called by `rpc` with plain values. Accepts any spelling of an address and makes it canonical; refuses host bits, mixed
families and contradictions, because each of them would silently let out, or shut out, somebody else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from veg_node_agent.core.model import Config, Family, FamilyConfig, Source
from veg_node_agent.errors import ConfigError


@dataclass(frozen=True)
class RawFamily:
    """An AgentFamily as it was read; `family` is 0 when unknown, `sources` are (cidr, snat)."""

    family: int
    internal_gateway: str
    external_gateway: str
    vpc_cidrs: Sequence[str]
    sources: Sequence[tuple[str, bool]]


def checked(gateway: str, internal: str, external: str, families: Sequence[RawFamily]) -> Config:
    """A valid configuration. Raises ConfigError that names the field (in the file's spelling)."""
    _interface("internalInterface", internal)
    _interface("externalInterface", external)
    if internal == external:
        raise ConfigError(f"externalInterface: {external} is the internal interface already")
    if not families:
        raise ConfigError("families: at least one is needed")
    for index, raw in enumerate(families):
        if raw.family in {earlier.family for earlier in families[:index]}:
            raise ConfigError(f"families[{index}].family: a second entry for the same family")
    entries = [_family(f"families[{index}]", raw) for index, raw in enumerate(families)]
    return Config(gateway, internal, external, tuple(sorted(entries, key=lambda entry: entry.family)))


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
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise ConfigError(f"{field}: {error}" if text else f"{field}: is missing") from None
    if address.version != family:
        raise ConfigError(f"{field}: {text} is not {family.label}")
    if "%" in text or address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ConfigError(f"{field}: {text} can not be a gateway")
    return str(address)
