"""Addresses, prefixes and ranges as the custom resources write them, and their canonical text. Pure.

OVN compares some addresses as text, so whatever leaves this module is in one spelling: RFC 5952 for IPv6, prefixes
without host bits.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PREFIX_LENGTH = re.compile(r"\d{1,3}\Z")


class AddressError(ValueError):
    """Text that is no address, prefix or range; the message is one line and quotes it."""


@lru_cache(maxsize=65536)
def address(text: str) -> Address:
    """An IPv4 or IPv6 address without zone. Raises AddressError."""
    try:
        found = ipaddress.ip_address(text.strip())
    except ValueError as error:
        raise AddressError(f"{text!r} is not an IP address") from error
    if "%" in text:
        raise AddressError(f"{text!r}: an address with a zone is not allowed here")
    return found


@lru_cache(maxsize=65536)
def network(text: str) -> Network:
    """A prefix `a/len`; an address alone is the prefix that holds only it. Raises AddressError, also for host bits."""
    base, slash, length = text.strip().partition("/")
    if slash and not _PREFIX_LENGTH.match(length):
        raise AddressError(f"{text!r} is not an IP prefix")
    if not slash:
        return ipaddress.ip_network(address(base))
    first = address(base)
    if int(length) > first.max_prefixlen:
        raise AddressError(f"{text!r}: the prefix length must be 0 to {first.max_prefixlen}")
    loose = ipaddress.ip_network(f"{first}/{int(length)}", strict=False)
    if loose.network_address != first:
        raise AddressError(f"{text!r} has host bits set; the network is {loose}")
    return loose


def parts(text: str) -> list[str]:
    """`"a,b"` as a list, blanks removed."""
    return [part.strip() for part in text.split(",") if part.strip()]


def by_family(values: Sequence[str]) -> tuple[str, ...]:
    """Canonical addresses, IPv4 first, then IPv6, each numerically."""
    return tuple(str(a) for a in sorted((address(v) for v in values), key=lambda a: (a.version, int(a))))


def joined(values: Iterable[str]) -> str:
    """Addresses of one thing in the specification's form: "v4", "v6" or "v4,v6"."""
    return ",".join(sorted(values, key=family))


def family(text: str) -> int:
    """4 or 6 of a canonical address or prefix."""
    return 6 if ":" in text else 4


def numeric_key(text: str) -> tuple[int, int]:
    """Sort key: family, then value, of a canonical address (or of an entry's first address)."""
    found = address(text.partition(",")[0])
    return found.version, int(found)


def network_key(text: str) -> tuple[int, int, int]:
    """Sort key: family, value, length of a canonical prefix."""
    found = network(text)
    return found.version, int(found.network_address), found.prefixlen


def address_range(text: str) -> tuple[int, int, int]:
    """`a` or `a..b` of excludeIps as (family, first, last). Raises AddressError."""
    first_text, dots, last_text = text.partition("..")
    first = address(first_text)
    last = address(last_text) if dots else first
    if first.version != last.version:
        raise AddressError(f"{text!r} mixes IPv4 and IPv6")
    if int(last) < int(first):
        raise AddressError(f"{text!r} ends before it begins")
    return first.version, int(first), int(last)


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Inclusive integer ranges, sorted, disjoint and not adjacent."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return tuple(result)


def text_of(version: int, value: int) -> str:
    """Canonical text of an address given as a number."""
    return str(ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value))


@lru_cache(maxsize=65536)
def contains(outer: str, inner: str) -> bool:
    """Whether prefix `outer` holds the address or prefix `inner`."""
    a, b = network(outer), network(inner)
    return a.version == b.version and b.subnet_of(a)  # type: ignore[arg-type]


@lru_cache(maxsize=65536)
def overlap(one: str, other: str) -> bool:
    """Whether two prefixes share an address."""
    return contains(one, other) or contains(other, one)


_EMBEDDED = "is IPv4 in IPv6 notation: write it as IPv4"
_MULTICAST = "is a multicast network"
_LINK_LOCAL = "is link-local: routers do not forward it"
_LOOPBACK = "is the loopback network"
# Prefixes that no routed packet comes from; the first that fits tells why (RFC 1122 section 3.2.1.3, RFC 4291
# sections 2.4 to 2.7).
_NO_SOURCES = {
    "127.0.0.0/8": _LOOPBACK,
    "::1/128": _LOOPBACK,
    "224.0.0.0/4": _MULTICAST,
    "ff00::/8": _MULTICAST,
    "169.254.0.0/16": _LINK_LOCAL,
    "fe80::/10": _LINK_LOCAL,
    "0.0.0.0/8": "is 'this network', no source",
    "::/96": _EMBEDDED,
    "::ffff:0:0/96": _EMBEDDED,
}


def unicast_problem(prefix: str) -> str | None:
    """Why no pod can send from an address of this prefix; None if one can."""
    return next((reason for block, reason in _NO_SOURCES.items() if contains(block, prefix)), None)
