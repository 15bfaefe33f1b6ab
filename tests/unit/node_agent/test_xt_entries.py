"""Our NAT rules as the kernel's own structures, and everybody else's as not ours."""

from __future__ import annotations

import pytest
from veg_node_agent.core.model import OWN_PORTS, Exemption, Family, NatRule, exemptions
from veg_node_agent.io.xt_entries import decode, encode, encode_exemption, same_exemption

# What the kernel returns for `iptables-legacy -A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully`: libxtables
# leaves old memory behind the target's name, which must not matter.
MASQUERADE_V4 = bytes.fromhex(
    "0a10000000000000ffff0000"
    + "00" * 76
    + "7000a80010000000"
    + "00" * 16
    + "38004d415351554552414445006c696e75782d676e752f6c69627031312d6b00"
    + "010000001000000000000000000000000000000000000000"
)
RETURN_V4 = bytes.fromhex(
    "0a10000100000000ffffffff"
    + "00" * 76
    + "7000980010000000"
    + "00" * 16
    + "280000ffffffffffffffffffffffffffffffffffffffffff0000000000000000"
    + "fbffffff00000000"
)
OUT_INTERFACE_V4 = bytearray(RETURN_V4)
OUT_INTERFACE_V4[32:36] = b"eth0"
ACCEPT_V4 = RETURN_V4[:-8] + bytes.fromhex("feffffff00000000")
DESTINATION_V4 = RETURN_V4[:4] + bytes([10, 0, 0, 1]) + RETURN_V4[8:12] + b"\xff" * 4 + RETURN_V4[16:]
INVERTED_V4 = RETURN_V4[:83] + b"\x08" + RETURN_V4[84:]
NOT_RANDOM_V4 = MASQUERADE_V4[:-20] + bytes(4) + MASQUERADE_V4[-16:]


def test_the_kernels_entries_are_read() -> None:
    """Rules of our shape are recognised whoever wrote them."""
    assert decode(Family.V4, MASQUERADE_V4) == NatRule(Family.V4, "10.16.0.0/16", masquerade=True)
    assert decode(Family.V4, RETURN_V4) == NatRule(Family.V4, "10.16.0.1/32", masquerade=False)


@pytest.mark.parametrize(
    "raw",
    [OUT_INTERFACE_V4, ACCEPT_V4, DESTINATION_V4, INVERTED_V4, NOT_RANDOM_V4],
    ids=["out interface", "accept", "destination", "inverted", "not random"],
)
def test_any_other_bit_makes_a_rule_foreign(raw: bytes) -> None:
    """A rule that says anything more, less or else is not of our shape."""
    assert len(raw) in {len(MASQUERADE_V4), len(RETURN_V4)}
    assert decode(Family.V4, bytes(raw)) is None


@pytest.mark.parametrize(
    "cidr", ["0.0.0.0/0", "10.0.0.0/9", "192.168.0.1/32", "::/0", "fc00::/7", "fd00::1/128"]
)
def test_masquerade_round_trip(cidr: str) -> None:
    """What is written is recognised when it is read back, for both families and every length."""
    family = Family.V6 if ":" in cidr else Family.V4
    rule = NatRule(family, cidr, masquerade=True)
    assert decode(family, encode(rule)) == rule


# What the kernel returns for `iptables-legacy -t raw -A PREROUTING -p udp -m udp --dport 3784 -m addrtype --dst-type
# LOCAL -j CT --notrack`, without a comment.
NOT_COMMENTED_V4 = bytes.fromhex(
    "00" * 80
    + "11000000"
    + "00000000c8003001"
    + "00" * 20
    + "3000756470000000000000000000000000000000000000000000000000000000"
    + "0000ffffc80ec80e0000000000000000"
    + "28006164647274797065000000000000000000000000000000000000000000010000040000000000"
    + "6800435400000000000000000000000000000000000000000000000000000002"
    + "0100"
    + "00" * 70
)


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("number", range(2), ids=["PREROUTING", "OUTPUT"])
def test_an_exemption_is_told_from_everything_else(family: Family, number: int) -> None:
    """It is recognised with counters and with the kernel's own pointer in it, and in no other rule."""
    ours = exemptions(family, OWN_PORTS, "eth0")
    rule = ours[number]
    raw = bytearray(encode_exemption(rule))
    raw[-8:] = b"\xff" * 8
    everywhere = Exemption(family, "PREROUTING", rule.port)
    for other in (*ours, *exemptions(family, OWN_PORTS, "eth01"), *exemptions(family, OWN_PORTS, "eth")):
        assert same_exemption(other, bytes(raw)) == (other == rule)
    assert same_exemption(everywhere, bytes(raw)) == (rule.link == "")
    tracking = bytearray(raw)
    tracking[-72] = 0
    assert not same_exemption(rule, bytes(tracking))
    inverted = bytearray(raw)
    inverted[83 if family is Family.V4 else 132] = 1
    assert not same_exemption(rule, bytes(inverted))


def test_an_exemption_of_somebody_else_is_theirs() -> None:
    """Without our comment it is not ours, however alike."""
    assert not any(same_exemption(one, NOT_COMMENTED_V4) for one in exemptions(Family.V4, (3784,), ""))
