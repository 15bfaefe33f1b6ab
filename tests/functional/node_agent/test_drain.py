"""Leaving service: traffic goes elsewhere first, and no packet is lost on the way."""

from __future__ import annotations

import signal
import time
import urllib.request

import pytest

from tests.functional.node_agent.conftest import eventually, steady_stream, v4
from tests.functional.node_agent.pair import ADMIN_DOWN, OUTSIDE_V4, PEER_V4, UP, Pair, watching


def serving(pair: Pair, *flags: str) -> None:
    """Both replicas in service, and the VPC's traffic on its way through the first."""
    pair.listen()
    for replica in pair.replicas:
        replica.configure(pair.config())
        replica.start(*flags)
    pair.up()
    pair.router("ip", "route", "replace", "default", "via", pair.replicas[0].v4)


@pytest.mark.parametrize("order", ["agent first", "speaker first"])
def test_nothing_is_lost_by_a_drain(pair: Pair, order: str) -> None:
    """SIGTERM to both containers, as the kubelet does it: the router sees AdminDown, moves the traffic, the agent
    leaves when the last packet has passed, the speaker after it; each ends with 0 and no packet is missing.
    """
    serving(pair)
    leaving, staying = pair.replicas
    assert leaving.agent is not None
    assert leaving.speaker.process is not None

    def follow(_at: float, peer: str, state: int) -> None:
        if peer == leaving.v4 and state != UP:
            pair.router("ip", "route", "replace", "default", "via", staying.v4)

    with steady_stream(pair.router, "10.16.0.9", OUTSIDE_V4) as lost, watching(pair.speaker, follow):
        both = [leaving.agent, leaving.speaker.process]
        for process in both if order == "agent first" else reversed(both):
            process.signal(signal.SIGTERM)
        started = time.monotonic()
        eventually(lambda: pair.states()[leaving.v4] != UP, 15, pair.explain)
        assert leaving.agent.wait(30) == 0
        took = time.monotonic() - started
        assert (leaving.run_dir / "drained").exists()
        assert leaving.speaker.process.wait(30) == 0
    assert lost == []
    assert 1 <= took < 15
    assert "MASQUERADE" in leaving.pod("iptables-legacy", "-t", "nat", "-S")


def test_it_waits_for_traffic_that_stays(pair: Pair) -> None:
    """While somebody still sends, the agent waits as long as it may, says that it drains, is not ready, and repairs."""
    serving(pair, "--drain-seconds", "8")
    leaving = pair.replicas[0]
    assert leaving.agent is not None
    with steady_stream(pair.router, "10.16.0.9", OUTSIDE_V4) as lost:
        leaving.agent.signal(signal.SIGTERM)
        started = time.monotonic()
        eventually(lambda: "draining:    yes" in leaving.state(), 5, leaving.state)
        eventually(lambda: leaving.speaker.state(PEER_V4) == ADMIN_DOWN, 5, pair.explain)
        assert (leaving.run_dir / "problem").read_text() == "draining\n"
        leaving.pod("ip", "rule", "del", "pref", "18600", "iif", "eth0")
        eventually(lambda: "18600" in leaving.pod("ip", "rule", "show", "iif", "eth0"), 5, pair.explain)
        assert not (leaving.run_dir / "drained").exists()
        assert leaving.agent.wait(30) == 0
        assert time.monotonic() - started >= 8
    assert len(lost) < 500  # only the repair took a moment


def test_a_second_signal_ends_it_at_once(pair: Pair) -> None:
    """Whoever is in a hurry sends SIGTERM twice."""
    serving(pair)
    leaving = pair.replicas[0]
    assert leaving.agent is not None
    with steady_stream(pair.router, "10.16.0.9", OUTSIDE_V4):
        leaving.agent.signal(signal.SIGTERM)
        eventually(lambda: "draining:    yes" in leaving.state(), 15, leaving.state)
        leaving.agent.signal(signal.SIGTERM)
        assert leaving.agent.wait(15) == 128 + signal.SIGTERM
    assert not (leaving.run_dir / "drained").exists()


def test_without_bfd_it_waits_the_same_way(pair: Pair) -> None:
    """Nobody to tell: quiet traffic, however it became so, is enough."""
    replica = pair.replicas[0]
    replica.configure(pair.config(v4(), bfd=False, uplink=False))
    replica.start_agent()
    pair.router("ip", "route", "replace", "default", "via", replica.v4)
    assert replica.agent is not None
    with steady_stream(pair.router, "10.16.0.9", OUTSIDE_V4):
        replica.agent.signal(signal.SIGTERM)
        quiet = time.monotonic() + 2
        eventually(lambda: time.monotonic() > quiet, 3)
        assert replica.agent.running
    assert replica.agent.wait(10) == 0
    assert (replica.run_dir / "drained").exists()


def test_without_a_speaker_the_detection_time_is_waited_for(pair: Pair) -> None:
    """When nobody can say AdminDown, OVN needs its detection time: a second of quiet before it proves nothing."""
    replica = pair.replicas[0]
    pair.listen(interval=1000)
    replica.configure(pair.config(interval=1000))
    replica.start()
    pair.up(replica.v4, replica.v6)
    replica.speaker.kill()
    assert replica.agent is not None
    started = time.monotonic()
    replica.agent.signal(signal.SIGTERM)
    assert replica.agent.wait(20) == 0
    assert time.monotonic() - started >= 4


def test_metrics_tell_what_the_state_tells(pair: Pair) -> None:
    """Sync, sessions and the uplink, for Prometheus."""
    replica = pair.replicas[0]
    pair.listen()
    replica.configure(pair.config())
    replica.start("--metrics", "127.0.0.1:9405")
    pair.up(replica.v4, replica.v6)

    def scrape() -> str:
        with urllib.request.urlopen("http://127.0.0.1:9405/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    eventually(lambda: f'session_up{{peer="{PEER_V4}"}} 1.0' in replica.pod.call(scrape), 5, pair.explain)
    text = replica.pod.call(scrape)
    for wanted in (
        "in_sync 1.0",
        "repairs_total 0.0",
        "uplink_alive 1.0",
        "draining 0.0",
        "bfd_reachable 1.0",
    ):
        assert f"veg_node_agent_{wanted}" in text, text
    assert 'veg_node_agent_withdrawn{family="IPv6"} 0.0' in text
