"""Packets of the uplink probe: what is written, and what arrives from whomever."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from veg_node_agent.core.model import Family
from veg_node_agent.core.packets import (
    Note,
    Sight,
    arp_answer,
    arp_request,
    decode_note,
    encode_note,
    is_advertisement,
    solicitation,
    solicited_node,
)

MAC, GATEWAY_MAC = bytes.fromhex("0a5800000001"), bytes.fromhex("0a58000000fe")
OWN, GATEWAY, GATEWAY6 = "172.17.0.11", "172.17.0.1", "fd17::1"
NOTES = st.builds(
    Note,
    st.booleans(),
    st.tuples(st.sampled_from(Sight), st.sampled_from(Sight)),
    st.integers(0, 2**64 - 1),
)


def reply(  # noqa: PLR0917
    opcode: int = 2,
    mac: bytes = GATEWAY_MAC,
    sender: str = GATEWAY,
    target: str = OWN,
    header: bytes = bytes.fromhex("0001080006 04".replace(" ", "")),
    tail: bytes = b"",
) -> bytes:
    """An ARP packet, the gateway's answer by default."""
    packed = ipaddress.IPv4Address(sender).packed, ipaddress.IPv4Address(target).packed
    return header + opcode.to_bytes(2, "big") + mac + packed[0] + MAC + packed[1] + tail


def advertisement(kind: int = 136, code: int = 0, flags: int = 0x60, target: str = GATEWAY6) -> bytes:
    """An ICMPv6 packet, the gateway's answer by default."""
    return bytes([kind, code, 0, 0, flags, 0, 0, 0]) + ipaddress.IPv6Address(target).packed


def test_an_arp_request_is_as_rfc_826_has_it() -> None:
    """28 bytes: Ethernet, IPv4, request, who asks, who is asked for."""
    assert arp_request(MAC, OWN, GATEWAY).hex() == (
        "0001080006040001" + "0a5800000001" + "ac11000b" + "000000000000" + "ac110001"
    )


def test_a_solicitation_is_as_rfc_4861_has_it() -> None:
    """Type 135 with the target and our link-layer address as option 1."""
    assert solicitation(MAC, GATEWAY6).hex() == (
        "8700000000000000" + "fd170000000000000000000000000001" + "0101" + "0a5800000001"
    )
    assert solicited_node("fd17::1:2345:6789") == "ff02::1:ff45:6789"


@pytest.mark.parametrize(
    ("data", "mac"),
    [
        pytest.param(reply(), GATEWAY_MAC, id="the answer"),
        pytest.param(reply(tail=bytes(18)), GATEWAY_MAC, id="padded to the least frame"),
        pytest.param(reply(opcode=1), None, id="a question"),
        pytest.param(reply(sender="172.17.0.2"), None, id="somebody else"),
        pytest.param(reply(target="172.17.0.12"), None, id="to somebody else"),
        pytest.param(reply(mac=b"\xff" * 6), None, id="a group address"),
        pytest.param(reply(mac=bytes(6)), None, id="no address"),
        pytest.param(reply(header=bytes.fromhex("000608000604")), None, id="no Ethernet"),
        pytest.param(reply()[:-1], None, id="short"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_only_the_gateways_answer_to_us_counts(data: bytes, mac: bytes | None) -> None:
    """Anything else is no sign of life."""
    assert arp_answer(data, OWN, GATEWAY) == mac


@pytest.mark.parametrize(
    ("data", "hops", "good"),
    [
        pytest.param(advertisement(), 255, True, id="the answer"),
        pytest.param(advertisement(), 254, False, id="through a router"),
        pytest.param(advertisement(kind=135), 255, False, id="a solicitation"),
        pytest.param(advertisement(code=1), 255, False, id="another code"),
        pytest.param(advertisement(flags=0x20), 255, False, id="unsolicited"),
        pytest.param(advertisement(target="fd17::2"), 255, False, id="somebody else"),
        pytest.param(advertisement()[:-1], 255, False, id="short"),
    ],
)
def test_only_the_gateways_advertisement_counts(data: bytes, hops: int, good: bool) -> None:
    """Solicited, for the gateway, from this very link."""
    assert is_advertisement(data, hops, GATEWAY6) == good


@given(NOTES, st.binary(max_size=8))
def test_a_note_survives_the_way(note: Note, more: bytes) -> None:
    """What was written is read, whatever a later version adds behind."""
    data = encode_note(note)
    assert len(data) == 16
    assert decode_note(data + more) == note
    assert note.sight(Family.V4) is note.sights[0]


@pytest.mark.parametrize("at", range(8))
def test_a_note_of_another_kind_is_none(at: int) -> None:
    """Another magic, version, kind or sight is not understood."""
    data = bytearray(encode_note(Note(True, (Sight.ALIVE, Sight.ALIVE), 7)))
    data[at] ^= 0x40
    assert decode_note(bytes(data)) is None


def test_no_packet_does_harm() -> None:
    """Whatever arrives, the parsers answer: 50000 packets, random ones and damaged good ones."""
    chance = random.Random(18600)  # noqa: S311
    good = (reply(), advertisement(), encode_note(Note(True, (Sight.ALIVE, Sight.DEAD), 1)))
    for _ in range(50_000):
        packet = bytearray(chance.choice(good)[: chance.randrange(33)])
        for _ in range(chance.randrange(4)):
            if packet:
                packet[chance.randrange(len(packet))] = chance.randrange(256)
        data = bytes(packet) + chance.randbytes(chance.randrange(12))
        assert arp_answer(data, OWN, GATEWAY) is None or len(data) >= 28
        assert not is_advertisement(data, chance.randrange(256), GATEWAY6) or len(data) >= 24
        assert decode_note(data) is None or data.startswith(b"VEGU\x01")
