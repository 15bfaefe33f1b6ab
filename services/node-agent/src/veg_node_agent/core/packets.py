"""The packets of the uplink probe, bytes <-> values: ARP, neighbour discovery, and the question between replicas.

Called by `io.probe`, `io.siblings` and `io.nudge`. Whatever arrives, a parser answers or says None; it never raises.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum

from veg_node_agent.core.model import Family

# RFC 826: hardware Ethernet (1), protocol IPv4, lengths 6 and 4, opcode; sender MAC, IP; target MAC, IP.
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST, _ARP_REPLY = 1, 2
# RFC 4861 sections 4.3 and 4.4: type, code, checksum (filled in by the kernel), flags, target.
_NEIGHBOUR = struct.Struct("!BBHI16s")
SOLICITATION, ADVERTISEMENT = 135, 136
_SOLICITED = 1 << 30
_LINK_ADDRESS_OPTION = struct.Struct("!BB6s")
HOPS = 255  # RFC 4861 section 7.1.2: no router forwarded it
# A BFD control packet (RFC 5880 section 4.1) that belongs to no session: version 1, length 24, all else zero. Section 6.8.6
# has every speaker discard it, for its Detect Mult and its My Discriminator, before it looks for a session.
NUDGE = bytes((1 << 5, 0, 0, 24)) + bytes(20)


def arp_request(mac: bytes, own: str, gateway: str) -> bytes:
    """Who has `gateway`? Tell `own`, at `mac`."""
    return _ARP.pack(
        *(1, 0x0800, 6, 4, _ARP_REQUEST),
        *(mac, ipaddress.IPv4Address(own).packed),
        *(bytes(6), ipaddress.IPv4Address(gateway).packed),
    )


def arp_answer(data: bytes, own: str, gateway: str) -> bytes | None:
    """The gateway's MAC when the packet is its answer to us; None when it is anything else."""
    if len(data) < _ARP.size:
        return None
    hardware, protocol, hlen, plen, opcode, mac, sender, _, target = _ARP.unpack_from(data)
    if (hardware, protocol, hlen, plen, opcode) != (1, 0x0800, 6, 4, _ARP_REPLY):
        return None
    wanted = ipaddress.IPv4Address(gateway).packed, ipaddress.IPv4Address(own).packed
    good = (sender, target) == wanted and not mac[0] & 1 and any(mac)
    return bytes(mac) if good else None


def solicitation(mac: bytes, gateway: str) -> bytes:
    """An ICMPv6 neighbour solicitation for `gateway` with our link-layer address; the kernel adds the checksum."""
    return _NEIGHBOUR.pack(
        SOLICITATION, 0, 0, 0, ipaddress.IPv6Address(gateway).packed
    ) + _LINK_ADDRESS_OPTION.pack(1, 1, mac)


def is_advertisement(data: bytes, hops: int, gateway: str) -> bool:
    """Whether an ICMPv6 packet is the gateway's solicited advertisement and comes from this link (RFC 4861 7.1.2)."""
    if len(data) < _NEIGHBOUR.size or hops != HOPS:
        return False
    kind, code, _, flags, target = _NEIGHBOUR.unpack_from(data)
    return (
        (kind, code) == (ADVERTISEMENT, 0)
        and bool(flags & _SOLICITED)
        and target == ipaddress.IPv6Address(gateway).packed
    )


def solicited_node(gateway: str) -> str:
    """The multicast address at which `gateway` listens for solicitations (RFC 4291 section 2.7.1)."""
    low = int(ipaddress.IPv6Address(gateway)) & 0xFFFFFF
    return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("ff02::1:ff00:0")) | low))


class Sight(IntEnum):
    """What a replica sees of its uplink in one family. The numbers are sent."""

    ABSENT = 0  # the family is not configured
    DEAD = 1  # or the replica can not take traffic for another reason
    UNKNOWN = 2  # the gateway has never answered
    ALIVE = 3


# Magic, version, kind, sight of IPv4, sight of IPv6, number of the question.
_SIBLING = struct.Struct("!4sBBBBQ")
_MAGIC, _VERSION = b"VEGU", 1


@dataclass(frozen=True)
class Note:
    """A replica asks the others how their uplinks are, telling its own; or answers, repeating the number asked."""

    question: bool
    sights: tuple[Sight, Sight]  # IPv4, IPv6
    number: int

    def sight(self, family: Family) -> Sight:
        """What it says about a family."""
        return self.sights[0 if family is Family.V4 else 1]


def encode_note(note: Note) -> bytes:
    """A note as it is sent, 16 bytes."""
    return _SIBLING.pack(_MAGIC, _VERSION, 0 if note.question else 1, *note.sights, note.number)


def decode_note(data: bytes) -> Note | None:
    """A note; None for anything else, another version among it. What follows the known fields is ignored."""
    if len(data) < _SIBLING.size:
        return None
    magic, version, kind, v4, v6, number = _SIBLING.unpack_from(data)
    if (magic, version) != (_MAGIC, _VERSION) or kind > 1 or max(v4, v6) > max(Sight):
        return None
    return Note(kind == 0, (Sight(v4), Sight(v6)), number)
