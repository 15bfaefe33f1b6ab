"""Codec of the BFD control packet (RFC 5880 section 4.1): 24 bytes, no authentication section.

`decode` applies every discard rule of section 6.8.6 that needs no session; `Discard` names all of them, so that each
can be counted. Values that the RFC reserves but does not tell to discard are passed on.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import NamedTuple

from veg_bfd.core.model import State

LENGTH = 24
VERSION = 1
MAX_U32 = 0xFFFFFFFF
_LAYOUT = struct.Struct("!BBBBIIIII")

POLL = 0x20
FINAL = 0x10
CONTROL_PLANE_INDEPENDENT = 0x08
AUTHENTICATION = 0x04
DEMAND = 0x02
MULTIPOINT = 0x01


class Discard(Enum):
    """Why a packet was discarded; the value is the name in metrics. In the order in which the rules are applied."""

    TOO_SHORT = "too_short"  # fewer than 24 bytes arrived
    VERSION = "version"  # not 1
    LENGTH = "length"  # field below 24, or below 26 with A set, or beyond the payload
    MULTIPLIER = "multiplier"  # Detect Mult is zero
    MULTIPOINT = "multipoint"  # M is set
    MY_DISCRIMINATOR = "my_discriminator"  # zero
    YOUR_DISCRIMINATOR = "your_discriminator"  # not zero, and no session has it
    NO_SESSION = "no_session"  # Your Discriminator is zero, and no session has these addresses
    YOUR_DISCRIMINATOR_ZERO = "your_discriminator_zero"  # zero, in a state other than Down and AdminDown
    AUTHENTICATION = "authentication"  # A is set, and no session here uses authentication
    ADDRESS = "address"  # not between the session's two addresses
    INTERFACE = "interface"  # not from the session's interface
    TTL = "ttl"  # below the session's minimum (RFC 5881 section 5)


class Packet(NamedTuple):
    """The fields of a control packet. Intervals are in microseconds, 0..2**32-1; `diagnostic` is 0..31."""

    state: State
    my_discriminator: int
    your_discriminator: int = 0
    min_tx_us: int = 0
    min_rx_us: int = 0
    min_echo_rx_us: int = 0
    multiplier: int = 3
    diagnostic: int = 0
    poll: bool = False
    final: bool = False
    control_plane_independent: bool = False
    authentication: bool = False
    demand: bool = False
    multipoint: bool = False


def encode(packet: Packet) -> bytes:
    """The 24 bytes of a packet. Raises struct.error for a number that does not fit its field."""
    flags = (
        (POLL if packet.poll else 0)
        | (FINAL if packet.final else 0)
        | (CONTROL_PLANE_INDEPENDENT if packet.control_plane_independent else 0)
        | (AUTHENTICATION if packet.authentication else 0)
        | (DEMAND if packet.demand else 0)
        | (MULTIPOINT if packet.multipoint else 0)
    )
    return _LAYOUT.pack(
        VERSION << 5 | packet.diagnostic,
        packet.state << 6 | flags,
        packet.multiplier,
        LENGTH,
        packet.my_discriminator,
        packet.your_discriminator,
        packet.min_tx_us,
        packet.min_rx_us,
        packet.min_echo_rx_us,
    )


def decode(data: bytes) -> Packet | Discard:
    """A valid packet, or why it has to be discarded whatever session it names. Never raises.

    Bytes after the 24th (more payload than Length, or a longer Length without A) are ignored, as the RFC has no rule
    against them. A set A bit is passed on: the RFC looks the session up first, see `Engine.receive`.
    """
    if len(data) < LENGTH:
        return Discard.TOO_SHORT
    first, second, multiplier, length, mine, yours, min_tx, min_rx, min_echo_rx = _LAYOUT.unpack_from(data)
    problem = _malformed(first >> 5, second, length, len(data))
    if problem is not None:
        return problem
    if multiplier == 0:
        return Discard.MULTIPLIER
    if second & MULTIPOINT:
        return Discard.MULTIPOINT
    if mine == 0:
        return Discard.MY_DISCRIMINATOR
    return Packet(
        state=State(second >> 6),
        my_discriminator=mine,
        your_discriminator=yours,
        min_tx_us=min_tx,
        min_rx_us=min_rx,
        min_echo_rx_us=min_echo_rx,
        multiplier=multiplier,
        diagnostic=first & 0x1F,
        poll=bool(second & POLL),
        final=bool(second & FINAL),
        control_plane_independent=bool(second & CONTROL_PLANE_INDEPENDENT),
        authentication=bool(second & AUTHENTICATION),
        demand=bool(second & DEMAND),
    )


def _malformed(version: int, flags: int, length: int, payload: int) -> Discard | None:
    if version != VERSION:
        return Discard.VERSION
    # "If the Length field is less than the minimum correct value (24 if the A bit is clear, or 26 if the A bit is
    # set) … if the Length field is greater than the payload of the encapsulating protocol".
    minimum = LENGTH + 2 if flags & AUTHENTICATION else LENGTH
    return None if minimum <= length <= payload else Discard.LENGTH
