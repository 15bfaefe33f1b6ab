"""BFD sessions of the pod, with a real speaker at both ends."""

from __future__ import annotations

import json
import signal
import socket
import statistics
import struct
import time
from datetime import datetime
from typing import Any

import pytest
from veg.bfd.v1 import bfd_pb2

from tests.functional.node_agent.conftest import eventually, v4
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
)


def source_ports(pair: Pair, port: int, seconds: float) -> dict[str, set[int]]:
    """Source ports by source address of the UDP packets to a port that reach the router's link in a time."""
    found: dict[str, set[int]] = {}
    sniffer: socket.socket = pair.router.call(
        socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)
    )
    with sniffer:
        sniffer.settimeout(0.2)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                data, (interface, _, kind, *_) = sniffer.recvfrom(2048)
            except TimeoutError:
                continue
            if interface != "br0" or kind == socket.PACKET_OUTGOING:
                continue
            six = data[0] >> 4 == 6
            if data[6 if six else 9] != socket.IPPROTO_UDP:
                continue
            source = socket.inet_ntop(
                socket.AF_INET6 if six else socket.AF_INET, data[8:24] if six else data[12:16]
            )
            sport, dport = struct.unpack_from("!HH", data, 40 if six else 20)
            if dport == port:
                found.setdefault(source, set()).add(sport)
    return found


def bound_ports(replica: Replica) -> dict[str, set[int]]:
    """The ports that the pod's speaker has bound, by local address, without the one it listens on."""
    ports: dict[str, set[int]] = {}
    for each in replica.pod("ss", "-Huna").splitlines():
        address, _, port = each.split()[3].rpartition(":")
        if port != "3784":
            ports.setdefault(address.split("%")[0].strip("[]"), set()).add(int(port))
    return ports


def logged(replica: Replica, event: str) -> list[dict[str, Any]]:
    """The speaker's log entries of one kind."""
    lines = [json.loads(text) for text in replica.speaker.log.read_text().splitlines() if text[:1] == "{"]
    return [entry for entry in lines if entry["event"] == event]


def test_sessions_come_up_in_both_families(pair: Pair) -> None:
    """Configured sessions are set as passive ones with the pod's own addresses, come up, and are told in the state."""
    replica = pair.replicas[0]
    pair.listen()
    replica.configure(pair.config())
    replica.start()
    pair.up(replica.v4, replica.v6)
    for told in (f"{replica.v4} -> {PEER_V4} UP", f"{replica.v6} -> {PEER_V6} UP"):
        eventually(lambda told=told: told in replica.state(), 10, replica.state)  # type: ignore[misc]
    assert line(replica.state(), "bfd") == ""
    assert line(replica.state(), "uplink").startswith("alive since ")
    config = replica.speaker.sessions()[PEER_V6].config
    assert (config.interface, config.min_ttl) == ("eth0", 253)
    assert config.role == bfd_pb2.SESSION_ROLE_PASSIVE
    assert (replica.run_dir / "problem").read_text() == ""
    assert replica.probe() == (True, "")


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_the_pods_packets_keep_their_ports(pair: Pair, backend: str) -> None:
    """BFD packets from an address in a masqueraded source leave with the port they were sent from and are not
    tracked; `iptables -t nat -S` prints no more than before, and traffic to the same port that only passes through is
    masqueraded as any other.
    """
    replica = pair.replicas[0]
    pair.listen()
    replica.configure(pair.config())
    replica.start("--nat-backend", backend)
    pair.up(replica.v4, replica.v6)
    seen = source_ports(pair, 3784, 1)
    bound = bound_ports(replica)
    for address in (replica.v4, replica.v6):
        assert len(seen[address]) == 1
        assert seen[address] <= bound[address], (seen, bound)
    assert "3784" not in replica.pod("conntrack", "-L", check=False)
    tool = f"iptables-{backend}"
    assert [rule for rule in replica.pod(tool, "-t", "nat", "-S").splitlines() if rule.startswith("-A")] == [
        "-A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully"
    ]
    pair.router("ip", "route", "add", "default", "via", replica.v4)
    with (
        pair.outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        pair.router.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("172.17.0.1", 3784))
        client.bind(("10.16.0.9", 0))
        client.sendto(b"x", ("172.17.0.1", 3784))
        assert server.recvfrom(10)[1][0] == replica.outer_v4
    replica.configure(pair.config(bfd=False, uplink=False))
    eventually(lambda: "notrack" not in replica.pod(tool, "-t", "raw", "-S"), 10, lambda: replica.log)


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_masquerading_may_choose_any_port(pair: Pair, backend: str) -> None:
    """Answers from outside come to the pod's own address: they find their way back also where masquerading chose a port that
    is the pod's own in the VPC (one flow in 32,000).
    """
    replica = pair.replicas[0]
    pair.listen()
    replica.configure(pair.config())
    replica.start("--nat-backend", backend)
    pair.router("ip", "route", "add", "default", "via", replica.v4)
    pair.router("ip", "-6", "route", "add", "default", "via", replica.v6)
    for family, source, server, outer in (
        (socket.AF_INET, "10.16.0.9", OUTSIDE_V4, replica.outer_v4),
        (socket.AF_INET6, "fd00:10:16::9", OUTSIDE_V6, replica.outer_v6),
    ):
        for port in (3784, 18600):
            to = f"{outer}:{port}" if family is socket.AF_INET else f"[{outer}]:{port}"
            flow = ("-p", "udp", "-s", source, "-d", server, "--sport", str(30_000 + port), "--dport", "7777")
            replica.pod("conntrack", "-I", *flow, "--src-nat", to, "-t", "60")
            with pair.router.socket(family, socket.SOCK_DGRAM) as client:
                client.bind((source, 30_000 + port))
                client.sendto(b"x", (server, 7777))
                assert client.recv(100) == f"x {outer}".encode()
            listed = replica.pod("conntrack", "-L", "-f", "ipv4" if family is socket.AF_INET else "ipv6")
            assert any(
                f"sport={30_000 + port}" in one and f"dport={port} " in one for one in listed.splitlines()
            )


def test_a_speaker_that_comes_late_or_back_is_told_at_once(pair: Pair) -> None:
    """The agent does its work without a speaker, says why, and tells one that comes, or comes back after kill -9,
    as soon as it listens.
    """
    replica = pair.replicas[0]
    pair.listen()
    replica.configure(pair.config())
    replica.start_agent()
    assert "no BFD speaker at" in line(replica.state(), "bfd")
    assert replica.probe()[0]
    took = []
    for count in (1, 2, 3):
        replica.speaker.start()
        eventually(
            lambda count=count: (  # type: ignore[misc]
                len(logged(replica, "session made")) == 2 * count and len(logged(replica, "ready")) == count
            ),
            30,
            pair.explain,
        )
        ready, made = logged(replica, "ready")[-1], logged(replica, "session made")[-1]
        moments = [datetime.fromisoformat(entry["timestamp"]) for entry in (ready, made)]
        took.append((moments[1] - moments[0]).total_seconds())
        pair.up(replica.v4, replica.v6)
        replica.speaker.kill()
        eventually(lambda: line(replica.state(), "bfd") != "", 10, replica.state)
        assert "->" not in replica.state()
    assert statistics.median(took) < 1, pair.explain()
    assert replica.agent is not None
    assert replica.agent.running


def test_a_speaker_that_hangs_is_told_when_it_wakes(pair: Pair) -> None:
    """A stopped speaker holds nobody up: the agent says so, and tells it what changed once it runs again."""
    replica = pair.replicas[0]
    pair.listen()
    replica.configure(pair.config())
    replica.start()
    pair.up(replica.v4, replica.v6)
    assert replica.speaker.process is not None
    group = replica.pod("pgrep", "-f", f"run-dir {replica.run_dir}").split()
    speakers = [pid for pid in group if "veg-bfd" in replica.pod("cat", f"/proc/{pid}/cmdline", check=False)]
    for pid in speakers:
        replica.pod("kill", "-STOP", pid)
    replica.configure(pair.config(interval=300))
    eventually(lambda: "does not answer" in line(replica.state(), "bfd"), 20, replica.state)
    before = replica.healthy_since()
    eventually(lambda: replica.healthy_since() > before, 10)
    for pid in speakers:
        replica.pod("kill", "-CONT", pid)
    eventually(lambda: replica.speaker.sessions()[PEER_V4].config.timers.min_tx_ms == 300, 20, pair.explain)
    pair.up(replica.v4, replica.v6)


def test_timers_are_retuned_live(pair: Pair) -> None:
    """Changed timers are those of the same session a moment later, which never leaves Up."""
    replica = pair.replicas[0]
    pair.listen(interval=300)
    replica.configure(pair.config(interval=300))
    replica.start()
    pair.up(replica.v4, replica.v6)
    before = replica.speaker.sessions()
    replica.configure(pair.config(interval=450))

    def retuned() -> bool:
        now = replica.speaker.sessions().values()
        return len(now) == 2 and all(s.config.timers.min_rx_ms == 450 for s in now)

    eventually(retuned, 10)
    after = replica.speaker.sessions()
    assert {s.id: s.downs for s in before.values()} == {s.id: s.downs for s in after.values()}
    assert {s.state for s in after.values()} == {UP}


def test_sessions_follow_the_configuration(pair: Pair) -> None:
    """A family that goes takes its session along, BFD that goes takes all, sessions of others stay."""
    replica = pair.replicas[0]
    pair.listen()
    replica.configure(pair.config())
    replica.start()
    pair.up(replica.v4, replica.v6)
    other = bfd_pb2.SessionConfig(
        peer="10.16.0.99",
        local=replica.v4,
        timers=bfd_pb2.Timers(min_rx_ms=1000, min_tx_ms=1000, multiplier=3),
    )
    replica.speaker.call("SetSessions", bfd_pb2.SetSessionsRequest(owner="somebody", sessions=[other]))
    replica.configure(pair.config(v4()))
    eventually(lambda: set(replica.speaker.sessions()) == {PEER_V4, "10.16.0.99"}, 10, pair.explain)
    assert replica.speaker.state(PEER_V4) == UP
    replica.configure(pair.config(bfd=False))
    eventually(lambda: set(replica.speaker.sessions()) == {"10.16.0.99"}, 10, pair.explain)


def test_a_killed_agent_leaves_sessions_alone(pair: Pair) -> None:
    """kill -9 of the agent and its return: the sessions never leave Up."""
    replica = pair.replicas[0]
    pair.listen(interval=300)
    replica.configure(pair.config(interval=300))
    replica.start()
    pair.up(replica.v4, replica.v6)
    assert replica.agent is not None
    for _ in range(2):
        replica.agent.kill()
        replica.start_agent()
        eventually(lambda: f"{PEER_V4} UP" in replica.state(), 15, replica.state)
    assert [(s.state, s.downs) for s in replica.speaker.sessions().values()] == [(UP, 0), (UP, 0)]
    assert all(session.downs == 0 for session in pair.speaker.sessions().values())


def test_a_drained_speaker_serves_again_after_a_restart_of_the_agent(pair: Pair) -> None:
    """What a predecessor took down for good when it drained comes up again when the agent is back."""
    replica = pair.replicas[0]
    pair.listen()
    replica.configure(pair.config())
    replica.start()
    pair.up(replica.v4, replica.v6)
    assert replica.agent is not None
    replica.agent.signal(signal.SIGTERM)
    eventually(lambda: replica.speaker.state(PEER_V4) == ADMIN_DOWN, 10, pair.explain)
    assert replica.agent.wait() == 0
    assert (replica.run_dir / "drained").exists()
    replica.start_agent()
    assert not (replica.run_dir / "drained").exists()
    pair.up(replica.v4, replica.v6)


def test_ovn_is_kept_awake(pair: Pair) -> None:
    """As configured, packets that belong to no session go to the peers; a speaker that gets them is none the wiser."""
    replica = pair.replicas[0]
    pair.listen(interval=300)
    config = pair.config(interval=300)
    config["bfd"]["nudgeMs"] = 50
    replica.configure(config)
    replica.start()
    pair.up(replica.v4, replica.v6)
    before = {peer: session.downs for peer, session in replica.speaker.sessions().items()}
    seen = source_ports(pair, 3784, 2)
    assert [len(seen[address]) for address in (replica.v4, replica.v6)] == [2, 2]
    assert "3784" not in replica.pod("conntrack", "-L", check=False)
    replica.configure(pair.config(interval=300))
    eventually(lambda: len(source_ports(pair, 3784, 1).get(replica.v4, ())) == 1, 15, lambda: replica.log)
    assert {peer: session.downs for peer, session in replica.speaker.sessions().items()} == before
    assert [pair.states()[address] for address in (replica.v4, replica.v6)] == [UP, UP]
