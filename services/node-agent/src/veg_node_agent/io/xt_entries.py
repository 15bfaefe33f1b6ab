"""Our rules as the kernel's own structures, to the bit: linux/netfilter_ipv4/ip_tables.h and its IPv6 twin.

Used by `io.nat_legacy`. Pure: bytes in, values out.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from veg_node_agent.core.model import (
    EXEMPTION_COMMENT,
    TRACKING_COMMENT,
    Exemption,
    Family,
    NatRule,
    Tracking,
    network,
)

# NF_NAT_RANGE_PROTO_RANDOM_FULLY of linux/netfilter/nf_nat.h
_RANDOM_FULLY = 1 << 4
_RETURN_VERDICT = -5  # XT_RETURN: -NF_REPEAT - 1
_INTERFACE = 16  # IFNAMSIZ


@dataclass(frozen=True)
class _Layout:
    """Where things stand in struct ipt_entry or ip6t_entry; sizes in bytes."""

    address: int  # of an address and of a mask; order: src, dst, smsk, dmsk; then iniface, outiface and their masks
    header: int  # struct ipt_ip or ip6t_ip
    protocol: int  # offset of its field proto
    entry: int  # up to the target, which starts here when there are no matches
    masquerade: bytes  # the target's data: nf_nat_ipv4_multi_range_compat, or nf_nat_range


_LAYOUTS = {
    Family.V4: _Layout(4, 84, 80, 112, struct.pack("=II4s4sHHxxxx", 1, _RANDOM_FULLY, b"", b"", 0, 0)),
    Family.V6: _Layout(16, 136, 128, 168, struct.pack("=I16s16sHH", _RANDOM_FULLY, b"", b"", 0, 0)),
}
_TARGET = struct.Struct("=H29sB")  # struct xt_entry_target: size, name, revision
_OFFSETS = struct.Struct("=IHHI")  # nfcache, target_offset, next_offset, comefrom


def encode(rule: NatRule) -> bytes:
    """The rule as the kernel's entry with its target."""
    layout = _LAYOUTS[rule.family]
    net = network(rule.cidr)
    addresses = net.network_address.packed + bytes(layout.address)
    masks = net.netmask.packed + bytes(layout.address)
    # A target without a name is a verdict (xt_standard_target); libiptc resolves the name RETURN itself.
    name, data = (
        (b"MASQUERADE", layout.masquerade) if rule.masquerade else (b"RETURN", struct.pack("=ixxxx", 0))
    )
    target = _TARGET.pack(_TARGET.size + len(data), name, 0) + data
    offsets = _OFFSETS.pack(0, layout.entry, layout.entry + len(target), 0)
    header = (addresses + masks).ljust(layout.header, b"\0")
    return (header + offsets).ljust(layout.entry, b"\0") + target


def encode_tracking(rule: Tracking) -> bytes:
    """The rule with its matches `conntrack` (--ctstate INVALID) and `comment`. Its target is DROP, whose name libiptc
    resolves, or none, which means go on.
    """
    # struct xt_conntrack_mtinfo3: addresses and ports that are not looked at, then match_flags (XT_CONNTRACK_STATE),
    # invert_flags, state_mask (XT_CONNTRACK_STATE_INVALID), status_mask.
    conntrack = bytes(146) + struct.pack("=HHHH", 1, 0, 1, 0)
    layout = _LAYOUTS[rule.family]
    matches = [(b"conntrack", 3, conntrack.ljust(168, b"\0")), _comment(TRACKING_COMMENT)]
    verdict = b"DROP" if rule.link else b""
    return _entry(layout, _tracking_header(rule), matches, (verdict, 0, struct.pack("=ixxxx", 0)))


def encode_exemption(rule: Exemption) -> bytes:
    """The rule with its matches `udp`, `addrtype` and `comment` and its target CT --notrack."""
    layout = _LAYOUTS[rule.family]
    header = bytearray(layout.header)
    struct.pack_into("=H", header, layout.protocol, 17)
    if rule.family is Family.V6:
        header[layout.protocol + 3] = 1  # IP6T_F_PROTO: the protocol is looked at
    _set_link(layout, header, 0, rule.link)
    # struct xt_udp: ranges of source and destination ports, invflags.
    udp = struct.pack("=HHHHB", 0, 0xFFFF, rule.port, rule.port, 0).ljust(16, b"\0")
    # struct xt_addrtype_info_v1: source, destination (bits by RTN_ type: LOCAL is 2), flags.
    local = struct.pack("=HHI", 0, 1 << 2, 0)
    # struct xt_ct_target_info_v1: flags (XT_CT_NOTRACK), zone, events, helper, timeout, the kernel's pointer.
    notrack = struct.pack("=H", 1).ljust(72, b"\0")
    matches = [(b"udp", 0, udp)]
    matches += [(b"addrtype", 1, local)] if rule.link else []
    return _entry(layout, bytes(header), [*matches, _comment(EXEMPTION_COMMENT)], (b"CT", 2, notrack))


def _tracking_header(rule: Tracking) -> bytes:
    layout = _LAYOUTS[rule.family]
    header = bytearray(layout.header)
    _set_link(layout, header, 1, rule.link)
    return bytes(header)


def _set_link(layout: _Layout, header: bytearray, place: int, link: str) -> None:
    """Have the interface (place 0: in, 1: out) be looked at, unless it is ""; the masks come after both names."""
    if link:
        name = link.encode() + b"\0"
        for at, value in ((place, name), (place + 2, b"\xff" * len(name))):
            struct.pack_into("16s", header, 4 * layout.address + at * _INTERFACE, value)


_Part = tuple[bytes, int, bytes]  # name, revision, data of a match or a target


def _comment(text: str) -> _Part:
    return b"comment", 0, text.encode().ljust(256, b"\0")


def _entry(layout: _Layout, header: bytes, matches: Sequence[_Part], target: _Part) -> bytes:
    def part(name: bytes, revision: int, data: bytes) -> bytes:
        return _TARGET.pack(_TARGET.size + len(data), name, revision) + data

    body = b"".join(part(*match) for match in matches)
    end = part(*target)
    start = layout.entry + len(body)
    offsets = _OFFSETS.pack(0, start, start + len(end), 0)
    return (header + offsets).ljust(layout.entry, b"\0") + body + end


def same_tracking(rule: Tracking, raw: bytes) -> bool:
    """Whether an entry of the kernel bears the tracking rule's comment and is for the same link."""
    header = _tracking_header(rule)
    return TRACKING_COMMENT.encode() + b"\0" in raw and raw[: len(header)] == header


def same_exemption(rule: Exemption, raw: bytes) -> bool:
    """Whether an entry of the kernel is this rule, apart from counters and what the kernel keeps for itself."""
    ours = encode_exemption(rule)
    return _bare(rule.family, ours) == _bare(rule.family, raw)


def _bare(family: Family, raw: bytes) -> tuple[bytes, list[_Part]]:
    """An entry's header and its matches and target, names cut at their NUL and data at what was asked for."""
    layout = _LAYOUTS[family]
    parts: list[_Part] = []
    at = layout.entry
    while at + _TARGET.size <= len(raw):
        size, name, revision = _TARGET.unpack_from(raw, at)
        if size < _TARGET.size or at + size > len(raw):
            break
        name = name.split(b"\0")[0]
        data = raw[at + _TARGET.size : at + size]
        meaningful = {b"udp": 9, b"addrtype": 8, b"CT": 4}.get(name, len(data))
        parts.append((name, revision, data.split(b"\0")[0] if name == b"comment" else data[:meaningful]))
        at += size
    return raw[: layout.header], parts


def decode(family: Family, raw: bytes) -> NatRule | None:
    """The rule that an entry of the kernel is, or None when it is not of our shape in every bit."""
    layout = _LAYOUTS[family]
    size = layout.address
    _, target_offset, _, _ = _OFFSETS.unpack_from(raw, layout.header)
    source, destination = raw[:size], raw[size : 2 * size]
    mask, rest = raw[2 * size : 3 * size], raw[3 * size : layout.header]
    if target_offset != layout.entry or any(destination) or any(rest):
        return None
    bits = int.from_bytes(mask, "big")
    length = bits.bit_count()
    if bits != ((1 << length) - 1) << (8 * size - length):
        return None
    _, name, revision = _TARGET.unpack_from(raw, target_offset)
    data = raw[target_offset + _TARGET.size :]
    name = name.split(b"\0")[0]
    if name == b"MASQUERADE" and revision == 0 and data[: len(layout.masquerade)] == layout.masquerade:
        masquerade = True
    elif name == b"" and struct.unpack_from("=i", data)[0] == _RETURN_VERDICT:
        masquerade = False
    else:
        return None
    try:
        return NatRule(family, str(ipaddress.ip_network((source, length))), masquerade)
    except ValueError:  # host bits: not written by us
        return None
