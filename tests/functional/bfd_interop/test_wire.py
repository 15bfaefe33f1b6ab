"""RFC 5881 on real packets: what leaves veg-bfd, and what a hostile neighbour on the link achieves against it."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.bfd_interop.conftest import FAMILIES, Ends, is_up
from tests.functional.bfd_interop.lab import OURS, THEIRS, Pair, socket_in, until
from tests.functional.bfd_interop.speaker import Speaker, session
from tests.unit.bfd_conformance.rig import DOWN, UP, wire

PORT = 3784
_TTL = {"v4": (socket.IPPROTO_IP, socket.IP_TTL), "v6": (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}
_RECVTTL = {
    "v4": (socket.IPPROTO_IP, 12),
    "v6": (socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT),
}  # 12: IP_RECVTTL
_KINDS = {"v4": socket.AF_INET, "v6": socket.AF_INET6}


@pytest.fixture
def attackers(ends: Ends) -> Iterator[dict[str, socket.socket]]:
    """A socket a family at FRR's address, on another port than FRR's."""
    made = {family: socket_in(ends.pair.theirs, _KINDS[family]) for family in FAMILIES}
    for family, one in made.items():
        one.bind((THEIRS[family], 0))
    yield made
    for one in made.values():
        one.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_leaves(pair: Pair, folder: Path, family: str) -> None:
    """Sections 4 and 5: 24 bytes to port 3784 with TTL 255, from one source port a session in 49152..65535, another
    for another session.
    """
    others = {"v4": "10.9.0.3", "v6": "fd09::3"}
    pair.addresses(pair.theirs, [others[family]])
    speaker = Speaker(pair.ours, folder)
    with socket_in(pair.theirs, _KINDS[family]) as receiver:
        receiver.setsockopt(*_RECVTTL[family], 1)
        receiver.bind(("" if family == "v4" else "::", PORT))
        try:
            speaker.start()
            speaker.set(session(OURS[family], THEIRS[family]), session(OURS[family], others[family]))
            seen = [receiver.recvmsg(256, 256) for _ in range(8)]
        finally:
            speaker.close()
    discriminators: dict[int, set[int]] = {}
    for data, ancillary, _, source in seen:
        assert len(data) == 24
        assert source[0] == OURS[family]
        assert [struct.unpack("i", value)[0] for _, _, value in ancillary] == [255]
        discriminators.setdefault(int.from_bytes(data[4:8], "big"), set()).add(source[1])
    ports = [port for found in discriminators.values() for port in found]
    assert len(discriminators) == len(ports) == len(set(ports)) == 2
    assert all(49152 <= port <= 65535 for port in ports)


def test_from_too_far_away(ends: Ends, attackers: dict[str, socket.socket]) -> None:
    """A packet that came through a router cannot take a session down, whatever else is right about it."""
    before = ends.up()
    for family, (_, ours) in zip(FAMILIES, before, strict=True):
        lie = wire(DOWN, mine=ours.remote_discriminator, yours=ours.local_discriminator)
        for ttl in (1, 64, 254):
            attackers[family].setsockopt(*_TTL[family], ttl)
            attackers[family].sendto(lie, (OURS[family], PORT))
    seen = ends.see(lambda seen: seen.ours.rx_discarded >= 3)
    assert all(is_up(one) and not one.ours.downs for one in seen)


def test_from_a_neighbour(ends: Ends, attackers: dict[str, socket.socket]) -> None:
    """A neighbour with another address cannot take a session down, not even if he guesses its discriminators."""
    ends.pair.addresses(ends.pair.theirs, ["10.9.0.66", "fd09::66"])
    before = ends.up()
    for family, (_, ours) in zip(FAMILIES, before, strict=True):
        with socket_in(ends.pair.theirs, _KINDS[family]) as neighbour:
            neighbour.setsockopt(*_TTL[family], 255)
            neighbour.bind(({"v4": "10.9.0.66", "v6": "fd09::66"}[family], 0))
            for yours in (0, ours.local_discriminator):
                neighbour.sendto(wire(DOWN, yours=yours), (OURS[family], PORT))
    seen = ends.see(lambda seen: seen.ours.rx_discarded >= 1)
    assert all(is_up(one) and not one.ours.downs for one in seen)


def test_flood(ends: Ends, attackers: dict[str, socket.socket]) -> None:
    """20,000 packets of any bytes and length from the peer's own addresses change nothing, and all are counted."""
    ends.up()
    rnd = random.Random(7)  # noqa: S311 - repeatable
    lengths = (0, 1, 23, 24, 24, 25, 26, 100, 1400)
    unknown = ends.speaker.unknown()
    sent = 0
    for number in range(20_000):
        family = FAMILIES[number % 2]
        if number < 2:
            attackers[family].setsockopt(*_TTL[family], 255)
        data = bytearray(rnd.randbytes(rnd.choice(lengths)))
        if len(data) >= 24 and number % 3:
            data[:4] = wire(UP)[:4]  # a good beginning; Your Discriminator stays a guess
        sent += attackers[family].sendto(data, (OURS[family], PORT)) == len(data)
    # What overflows the receive buffer is lost on the way, as on any link; most is not.
    until(ends.speaker.unknown, lambda count: count - unknown > sent // 2)
    assert all(is_up(seen) and not seen.ours.downs for seen in ends.look())
