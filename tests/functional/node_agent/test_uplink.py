"""The probe of the way out, with real links, gateways and replicas."""

from __future__ import annotations

import logging
import random
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from veg.bfd.v1 import bfd_pb2

from tests.functional.node_agent.conftest import eventually, v4, v6
from tests.functional.node_agent.pair import (
    ADMIN_DOWN,
    OUTSIDE_V4,
    OUTSIDE_V6,
    PEER_V4,
    PEER_V6,
    UP,
    Pair,
    Replica,
    line,
    watching,
)


def serving(pair: Pair, interval: int = 300) -> None:
    """Both replicas in service: at 300 ms, so that a machine that stands still for a moment ends no session."""
    pair.listen(interval)
    for replica in pair.replicas:
        replica.configure(pair.config(interval=interval))
        replica.start()
    pair.up()
    # An uplink is alive from the first answer on.
    for replica in pair.replicas:
        eventually(lambda r=replica: "alive" in line(r.state(), "uplink"), 10, pair.explain)  # type: ignore[misc]
        eventually(lambda r=replica: known(r, OUTSIDE_V4, OUTSIDE_V6), 15, pair.explain)  # type: ignore[misc]


def known(replica: Replica, *gateways: str) -> bool:
    """Whether the agent has noted that these have answered: only they can be missed."""
    file = replica.run_dir / "gateways-seen.json"
    return file.exists() and all(gateway in file.read_text() for gateway in gateways)


@pytest.mark.parametrize(("how", "limit"), [("carrier", 2.1), ("silent", 2.4)])
def test_a_dead_uplink_takes_the_sessions_down(pair: Pair, how: str, limit: float) -> None:
    """Without carrier (of which the kernel tells at once, or up to a second later, after the probes) or answers, after
    four probes at most, the pod's sessions fall silent, and the router sees both down after the detection time, then
    AdminDown with the diagnostic "path down"; the other replica stays; the pod tells why and is not ready; healing
    brings all back.
    """
    serving(pair)
    dying, other = pair.replicas
    events: list[tuple[float, str, int]] = []
    with watching(pair.speaker, lambda *event: events.append(event)):
        cut = time.monotonic()
        dying.cut(how)
        eventually(lambda: {e[1] for e in events if e[2] != UP} >= {dying.v4, dying.v6}, 15, pair.explain)
    first = {
        peer: min(at for at, p, state in events if (p, state != UP) == (peer, True))
        for peer in (dying.v4, dying.v6)
    }
    took = max(first.values()) - cut
    logging.getLogger(__name__).info("%s: sessions down after %.0f ms", how, took * 1000)
    assert took < limit + 2  # the machine is shared
    noticed = pair.speaker.sessions()[dying.v4].diagnostic
    assert noticed == bfd_pb2.DIAGNOSTIC_CONTROL_DETECTION_TIME_EXPIRED
    eventually(
        lambda: pair.speaker.sessions()[dying.v4].remote_diagnostic == bfd_pb2.DIAGNOSTIC_PATH_DOWN,
        15,
        pair.explain,
    )
    assert dying.speaker.state(PEER_V4) == ADMIN_DOWN
    state = dying.state()
    assert line(state, "uplink").startswith("dead, withdrawn since ")
    reason = "net1 has no carrier" if how == "carrier" else "IPv4 gateway 172.17.0.1 does not answer on net1"
    eventually(lambda: reason in dying.state(), 15, dying.state)
    eventually(lambda: not dying.probe()[0] and reason in dying.probe()[1], 20, dying.state)
    assert other.probe() == (True, "")
    assert pair.states()[other.v4] == pair.states()[other.v6] == UP
    dying.mend()
    eventually(lambda: "alive" in line(dying.state(), "uplink"), 10, dying.state)
    pair.up()
    eventually(lambda: dying.probe() == (True, ""), 15)


def test_a_shared_failure_takes_nobody_out(pair: Pair) -> None:
    """When the external gateway itself goes, no replica stays withdrawn: at most one is, and for a moment."""
    serving(pair)
    pair.outside("ip", "address", "flush", "dev", "out0")
    for replica in pair.replicas:
        eventually(lambda r=replica: line(r.state(), "uplink").startswith("dead since"), 20, pair.explain)  # type: ignore[misc]
        eventually(lambda r=replica: "no other replica can take over" in r.probe()[1], 20, pair.explain)  # type: ignore[misc]
    pair.up()
    down = [address for address, session in pair.speaker.sessions().items() if session.downs]
    assert not {pair.replicas[0].v4, pair.replicas[1].v4} <= set(down)


def test_the_last_one_stays(pair: Pair) -> None:
    """A replica whose uplink dies while the other one is dead, draining or away stays in service."""
    serving(pair)
    first, last = pair.replicas
    first.cut("carrier")
    eventually(lambda: line(first.state(), "uplink").startswith("dead, withdrawn"), 20, pair.explain)
    last.cut("carrier")
    eventually(lambda: line(last.state(), "uplink").startswith("dead since"), 20, pair.explain)
    pair.up(first.v4, first.v6, last.v4, last.v6)
    assert [pair.speaker.sessions()[a].downs for a in (last.v4, last.v6)] == [0, 0]


def test_one_dead_family_takes_only_its_session(pair: Pair) -> None:
    """The IPv6 gateway of one replica's link goes silent: its IPv6 session goes down, IPv4 goes on."""
    serving(pair)
    dying, other = pair.replicas
    mac = dying.pod("cat", "/sys/class/net/net1/address").strip()
    silence = ("INPUT", "-m", "mac", "--mac-source", mac, "-j", "DROP")
    pair.outside("ip6tables-legacy", "-I", *silence)
    eventually(lambda: dying.speaker.state(PEER_V6) == ADMIN_DOWN, 20, pair.explain)
    assert dying.speaker.state(PEER_V4) == UP
    assert line(dying.state(), "uplink").startswith("alive, withdrawn since")
    assert "IPv6 gateway fd17::1 does not answer on net1" in dying.state()
    assert pair.states()[other.v6] == UP
    pair.outside("ip6tables-legacy", "-D", *silence)
    pair.up()


def test_a_gateway_that_never_answers_is_not_dead(pair: Pair) -> None:
    """An external gateway that answers no ARP or solicitation, ever, costs nothing."""
    pair.outside("ip", "link", "set", "out0", "arp", "off")
    pair.outside("ip", "address", "del", f"{OUTSIDE_V6}/64", "dev", "out0")
    pair.listen(interval=300)
    for replica in pair.replicas:
        replica.configure(pair.config(interval=300))
        replica.start()
    pair.up()
    started = time.monotonic()
    eventually(lambda: time.monotonic() > started + 3, 10)
    assert all(line(replica.state(), "uplink").startswith("alive since") for replica in pair.replicas)
    assert all(session.downs == 0 for session in pair.speaker.sessions().values())


def test_a_restarted_agent_knows_a_dead_uplink(pair: Pair) -> None:
    """kill -9 of the agent of a withdrawn replica: its sessions do not come up in between."""
    serving(pair)
    dying = pair.replicas[0]
    dying.cut("silent")
    eventually(lambda: UP not in {pair.states()[a] for a in (dying.v4, dying.v6)}, 20, pair.explain)
    assert dying.agent is not None
    dying.agent.kill()
    events: list[tuple[float, str, int]] = []
    with watching(pair.speaker, lambda *event: events.append(event)):
        dying.start_agent(wait=False)
        eventually(lambda: line(dying.state(), "uplink").startswith("dead, withdrawn"), 60, pair.explain)
    came_up = [event for event in events if event[1] in {dying.v4, dying.v6} and event[2] == UP]
    assert not came_up, pair.explain()


def test_a_change_of_the_configuration_brings_no_dead_one_back(pair: Pair) -> None:
    """While every replica takes in another list of sources, a withdrawn one stays withdrawn."""
    serving(pair)
    dying = pair.replicas[0]
    dying.cut("silent")
    eventually(lambda: UP not in {pair.states()[a] for a in (dying.v4, dying.v6)}, 20, pair.explain)
    events: list[tuple[float, str, int]] = []
    with watching(pair.speaker, lambda *event: events.append(event)):
        for count in (3, 60, 1):
            sources = [(f"10.{20 + n // 250}.{n % 250}.0/24", True) for n in range(count)]
            families = (v4(*sources, vpc=("10.16.0.0/16", f"{PEER_V4}/32")), pair.config()["families"][1])
            for replica in pair.replicas:
                replica.configure(pair.config(*families, interval=300))
            for replica in pair.replicas:
                eventually(
                    lambda r=replica, n=count: (  # type: ignore[misc]
                        r.pod("iptables-legacy", "-t", "nat", "-S").count("MASQUERADE") == n
                    ),
                    30,
                    pair.explain,
                )
    assert not [event for event in events if event[1] in {dying.v4, dying.v6} and event[2] == UP], (
        pair.explain()
    )


def test_the_probe_can_be_switched_off_and_on(pair: Pair) -> None:
    """Without the section nothing is probed, and what it took down comes up."""
    serving(pair)
    dying = pair.replicas[0]
    dying.cut("carrier")
    eventually(lambda: dying.speaker.state(PEER_V4) == ADMIN_DOWN, 20, pair.explain)
    dying.configure(pair.config(uplink=False, interval=300))
    eventually(lambda: line(dying.state(), "uplink") == "", 15, dying.state)
    eventually(lambda: dying.speaker.state(PEER_V4) == UP, 15, pair.explain)
    pair.up()
    dying.configure(pair.config(interval=300))
    eventually(lambda: dying.speaker.state(PEER_V4) == ADMIN_DOWN, 20, pair.explain)


def test_hostile_packets_do_no_harm(pair: Pair) -> None:
    """A flood of notes and ARP from strangers, from a wrong distance, and of nonsense from a replica's own address:
    nobody withdraws or dies, the agent answers nobody else, and a dead uplink without a voucher stays in service.
    """
    serving(pair)
    victim, other = pair.replicas
    other.speaker.kill()
    assert other.agent is not None
    other.agent.kill()
    victim.cut("carrier")
    eventually(lambda: line(victim.state(), "uplink").startswith("dead since"), 20, pair.explain)
    chance = random.Random(1)  # noqa: S311
    vouching = b"VEGU\x01\x01\x03\x03"
    now = time.time_ns()

    def flood(namespace: str, source: str, ttl: int, count: int) -> None:
        where = pair.router if namespace == "router" else other.pod
        with where.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            sender.bind((source, 18600))
            for _ in range(count):
                guess = struct.pack("!Q", now + chance.randrange(1 << 20))
                data = chance.choice([vouching + guess, chance.randbytes(chance.randrange(60)), b""])
                sender.sendto(data, (victim.v4, 18600))

    before = pair.speaker.sessions()[victim.v4].downs
    flood("router", "10.16.0.1", 255, 5000)
    flood("router", "10.16.0.9", 64, 5000)
    flood("other", other.v4, 254, 5000)
    assert line(victim.state(), "uplink").startswith("dead since")
    # From the replica's own address, on its own link: invented numbers vouch for nothing.
    flood("other", other.v4, 255, 20_000)
    assert line(victim.state(), "uplink").startswith("dead since")
    assert pair.speaker.sessions()[victim.v4].downs == before
    with pair.router.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.settimeout(0.3)
        stranger.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        stranger.bind(("10.16.0.9", 18600))
        stranger.sendto(b"VEGU\x01\x00\x03\x03" + bytes(8), (victim.v4, 18600))
        with pytest.raises(TimeoutError):
            stranger.recv(100)
    assert victim.agent is not None
    assert victim.agent.running


def test_a_forged_gateway_answer_keeps_a_link_alive_at_most(pair: Pair) -> None:
    """ARP from strangers on the outside, right and wrong, never takes a healthy uplink down."""
    serving(pair)
    replica = pair.replicas[0]
    chance = random.Random(2)  # noqa: S311
    raw: socket.socket = pair.outside.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    stop = threading.Event()

    def flood() -> None:
        with raw:
            good = (
                bytes.fromhex("0001080006040002" + "020000000066")
                + socket.inet_aton(OUTSIDE_V4)
                + bytes(6)
                + socket.inet_aton(replica.outer_v4)
            )
            while not stop.wait(0.0005):
                data = bytearray(good)
                data[chance.randrange(len(data))] = chance.randrange(256)
                raw.sendto(bytes(data), ("out0", 0x0806, 0, 1, b"\xff" * 6))

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    started = time.monotonic()
    eventually(lambda: time.monotonic() > started + 3, 10)
    stop.set()
    thread.join(5)
    assert line(replica.state(), "uplink").startswith("alive since")
    assert pair.speaker.sessions()[replica.v4].downs == 0


def test_the_idle_probe_costs_little(pair: Pair) -> None:
    """Sessions and the probe at 100 ms in both families: a few percent of a core at most."""
    serving(pair, interval=100)
    agent = pair.replicas[0].agent
    assert agent is not None

    def spent() -> float:
        fields = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    before, started = spent(), time.monotonic()
    eventually(lambda: time.monotonic() > started + 10, 20)
    share = (spent() - before) / (time.monotonic() - started)
    logging.getLogger(__name__).info("%.2f %% of a core", share * 100)
    assert share < 0.05


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_one_family_alone(pair: Pair, six: bool) -> None:
    """A gateway of one family, whose replicas know each other by addresses of that family, withdraws and comes back
    like one of two.
    """
    family = (
        v6(vpc=("fd00:10:16::/112", f"{PEER_V6}/128")) if six else v4(vpc=("10.16.0.0/16", f"{PEER_V4}/32"))
    )
    own = [replica.v6 if six else replica.v4 for replica in pair.replicas]
    config = pair.config(family, interval=300)
    config["uplink"]["replicas"] = own
    pair.listen(interval=300, peers=own)
    for replica in pair.replicas:
        replica.configure(config)
        replica.start()
    pair.up(*own)
    dying = pair.replicas[1]
    eventually(lambda: known(dying, OUTSIDE_V6 if six else OUTSIDE_V4), 15, pair.explain)
    dying.cut("silent")
    eventually(lambda: pair.states()[own[1]] != UP, 20, pair.explain)
    assert pair.states()[own[0]] == UP
    dying.mend()
    pair.up(*own)
