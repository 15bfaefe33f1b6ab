"""Small pieces that rows are made of: names, addresses, matches, and the columns of policies and routes."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping

from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.intents import Key
from veg_ovn_programmer.core.rows import Link, Row, Value

ALLOW_PRIORITY = 31000
ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


def router_port_name(vpc: str, subnet: str) -> str:
    """The router's port of a subnet, as Kube-OVN names it."""
    return f"{vpc}-{subnet}"


def switch_port_name(vpc: str, subnet: str) -> str:
    """The switch's end of it, as Kube-OVN names it; another where both would be one: OVN joins ports by name."""
    return f"{subnet}-{vpc}" if subnet != vpc else f"{subnet}-{vpc}-switch"


def stable_mac(name: str) -> str:
    """A locally administered unicast MAC address that depends on nothing but the name."""
    octets = bytearray(hashlib.sha256(name.encode()).digest()[:6])
    octets[0] = octets[0] & 0xFC | 0x02
    return ":".join(f"{octet:02x}" for octet in octets)


def link_local(mac: str) -> str:
    """The IPv6 link-local address that OVN gives a port with that MAC address (RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def version(address: str) -> int:
    """4 or 6, of an address or prefix."""
    return 6 if ":" in address else 4


def host(address: str) -> str:
    """An address as a prefix."""
    return f"{address}/{32 if version(address) == 4 else 128}"


def length(prefix: str) -> int:
    """A prefix's length."""
    return int(prefix.rpartition("/")[2])


def operand(prefix: str) -> str:
    """A prefix as an OVN match spells it: a single address without its length."""
    address, _, bits = prefix.partition("/")
    return address if bits == ("128" if ":" in address else "32") else prefix


def operands(prefixes: Iterable[str]) -> str:
    """Prefixes as an OVN match spells them, in a stable order."""
    texts = [operand(prefix) for prefix in sorted(set(prefixes))]
    return texts[0] if len(texts) == 1 else "{" + ", ".join(texts) + "}"


def policy(  # noqa: PLR0913  # one argument a column
    owner: Key,
    router: str,
    priority: int,
    match: str,
    action: str,
    *,
    family: int | None = None,
    nexthops: Iterable[str] = (),
    sessions: Iterable[Link] | None = None,
    word: str | None = None,
) -> Row:
    """A policy; `sessions` is None where the schema knows of none."""
    columns: dict[str, Value] = {
        "priority": priority,
        "match": match,
        "action": action,
        "nexthops": frozenset(nexthops),
        "nexthop": frozenset[str](),
        "options": {},
    }
    if sessions is not None:
        columns["bfd_sessions"] = frozenset(sessions)
    return row(rows.POLICY, owner, router, columns, family=family, word=word)


def route(  # noqa: PLR0913  # one argument a column
    owner: Key,
    router: str,
    prefix: str,
    nexthop: str,
    *,
    by: str = "dst-ip",
    port: str | None = None,
    table: str = "",
    session: Link | None = None,
    more: Mapping[str, Value] | None = None,
    word: str | None = None,
) -> Row:
    """A static route; a gateway's bears the family in its marks, as all of its rows do."""
    columns: dict[str, Value] = {
        "ip_prefix": prefix,
        "nexthop": nexthop,
        "policy": frozenset({by}),
        "options": {},
        "route_table": table,
        "output_port": frozenset({port} if port else set[str]()),
        "bfd": frozenset({session} if session else set[Link]()),
        **(more or {}),
    }
    return row(rows.ROUTE, owner, router, columns, family=version(prefix), word=word)


def row(  # noqa: PLR0913  # one argument a part
    table: str,
    owner: Key,
    holder: str | None,
    columns: Mapping[str, Value],
    *,
    family: int | None = None,
    word: str | None = None,
) -> Row:
    """A row with its marks."""
    return Row(table, owner, {**columns, rows.MARKS: rows.marks(owner, holder, family, word)}, holder)
