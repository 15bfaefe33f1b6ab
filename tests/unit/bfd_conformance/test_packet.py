"""RFC 5880 section 4.1: the control packet's fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from veg_bfd.core.model import State
from veg_bfd.core.packet import Discard, Packet, decode, encode

from tests.unit.bfd_conformance.rig import MAX, parse, wire

u32 = st.integers(0, MAX)
packets = st.builds(
    Packet,
    state=st.sampled_from(State),
    my_discriminator=st.integers(1, MAX),
    your_discriminator=u32,
    min_tx_us=u32,
    min_rx_us=u32,
    min_echo_rx_us=u32,
    multiplier=st.integers(1, 255),
    diagnostic=st.integers(0, 31),
    poll=st.booleans(),
    final=st.booleans(),
    control_plane_independent=st.booleans(),
    demand=st.booleans(),
    authentication=st.just(value=False),
    multipoint=st.just(value=False),
)


@given(packets)
def test_round_trip(packet: Packet) -> None:
    """Every field survives encoding and decoding, at every value that fits."""
    assert decode(encode(packet)) == packet


@given(packets)
def test_places(packet: Packet) -> None:
    """Each field is where section 4.1 draws it."""
    sent = parse(encode(packet))
    assert sent == (
        *(1, packet.diagnostic, packet.state, packet.poll, packet.final),
        *(packet.control_plane_independent, False, packet.demand, False, packet.multiplier, 24),
        *(packet.my_discriminator, packet.your_discriminator),
        *(packet.min_tx_us, packet.min_rx_us, packet.min_echo_rx_us),
    )


def test_known_bytes() -> None:
    """A packet as a router sends it: Up, Poll, 300 ms, multiplier 3."""
    data = bytes.fromhex("20e00318 00000001 0000000b 000493e0 000493e0 00000000".replace(" ", ""))
    assert decode(data) == Packet(State.UP, 1, 11, 300_000, 300_000, 0, 3, poll=True)
    assert encode(Packet(State.UP, 1, 11, 300_000, 300_000, 0, 3, poll=True)) == data


@pytest.mark.parametrize("diagnostic", range(32))
def test_diagnostic_has_five_bits(diagnostic: int) -> None:
    """Values without a name are passed on unharmed."""
    packet = decode(wire(diagnostic=diagnostic))
    assert isinstance(packet, Packet)
    assert packet.diagnostic == diagnostic


@given(st.binary(max_size=64))
def test_decode_never_raises(data: bytes) -> None:
    """Any bytes give a packet or a reason; a packet obeys every rule that needs no session."""
    packet = decode(data)
    if isinstance(packet, Discard):
        return
    assert len(data) >= 24
    assert data[0] >> 5 == 1
    assert 24 <= data[3] <= len(data)
    assert packet.multiplier
    assert packet.my_discriminator
    assert not packet.multipoint
