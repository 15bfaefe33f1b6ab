"""Sessions between two real speakers: up, down, retuned, held, ended."""

from __future__ import annotations

import time

import grpc
import pytest
from veg.bfd.v1 import bfd_pb2 as pb

from tests.functional.bfd.conftest import ADMIN_DOWN, DOWN, UP, Ends, all_up
from tests.functional.bfd_interop.lab import DEVICE, OURS, THEIRS, until
from tests.functional.bfd_interop.speaker import PASSIVE, session


@pytest.mark.parametrize("families", [("v4",), ("v6",), ("v4", "v6")], ids="-".join)
def test_up(ends: Ends, families: tuple[str, ...]) -> None:
    """Both ends see each other: states, discriminators, the agreed intervals, no discarded packet."""
    ours, theirs = ends.up(families, ms=200)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.local_discriminator, a.remote_discriminator) == (
            b.remote_discriminator,
            b.local_discriminator,
        )
        for end in (a, b):
            assert (end.tx_interval_us, end.detection_time_us) == (200_000, 600_000)
            assert (end.diagnostic, end.rx_discarded, end.downs) == (pb.DIAGNOSTIC_NONE, 0, 0)
            assert end.since.endswith("Z")


def test_interface(ends: Ends) -> None:
    """A session tied to an interface comes up through it."""
    ends.ask()
    config = session(OURS["v4"], THEIRS["v4"])
    config.interface = DEVICE
    ends.a.set(config)
    ends.see(all_up(1))


def test_other_interface(ends: Ends) -> None:
    """Packets that come through another interface than the session's are discarded, and counted."""
    ends.ask()
    config = session(OURS["v4"], THEIRS["v4"])
    config.interface = "lo"
    ends.a.set(config)
    ends.b.set(session(THEIRS["v4"], OURS["v4"]))
    (only,) = until(ends.a.list, lambda found: found[0].rx_discarded > 0)
    assert only.state == DOWN


def test_passive_ends_find_each_other(ends: Ends) -> None:
    """Two passive ends do not wait for each other for ever (OVN may sleep until it hears something)."""
    ends.ask(a=PASSIVE, b=PASSIVE)
    ends.see(all_up(1))


def test_passive_is_never_silent_again(ends: Ends) -> None:
    """A passive end goes on speaking after its peer fell silent, so that the peer finds it again."""
    ends.up()
    ends.pair.mute(ends.pair.ours)
    try:
        (theirs,) = until(ends.b.list, lambda found: found[0].state == DOWN)
        until(ends.b.list, lambda found: found[0].tx_packets >= theirs.tx_packets + 2)
        until(ends.b.list, lambda found: found[0].remote_discriminator == 0)
    finally:
        ends.pair.unmute(ends.pair.ours)
    ends.see(all_up(1))


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_cut(ends: Ends, family: str) -> None:
    """Silence takes the session down within the detection time (and not before), and it returns by itself."""
    ends.up((family,))
    asked = time.monotonic()
    ends.pair.mute(ends.pair.theirs)
    muted = time.monotonic()
    try:
        # The other end hears Down and, the link being whole in that direction, may say Init.
        (ours,), _ = ends.see(lambda both: both[0][0].state == DOWN and both[1][0].state != UP)
        now = time.monotonic()
    finally:
        ends.pair.unmute(ends.pair.theirs)
    assert ours.diagnostic == pb.DIAGNOSTIC_CONTROL_DETECTION_TIME_EXPIRED
    assert ours.downs == 1
    assert now - asked > 0.15
    assert now - muted < 0.3 + 3.0  # of a machine that others use
    ends.see(all_up(1))


def test_link_down(ends: Ends) -> None:
    """A link that goes away under the session, and returns: sending fails meanwhile and works again."""
    ends.up(("v4", "v6"))
    ends.pair.carrier(up=False)
    try:
        ends.see(lambda both: all(s.state == DOWN for sessions in both for s in sessions))
    finally:
        ends.pair.carrier(up=True)
    ends.see(all_up(2))


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_address_comes_and_goes(ends: Ends, family: str) -> None:
    """A session may be made before its address is there, and survives the address's absence."""
    local = {"v4": "10.9.0.77", "v6": "fd09::77"}[family]
    ends.a.set(session(local, THEIRS[family]))
    ends.b.set(session(THEIRS[family], local))
    prefix = {"v4": 16, "v6": 64}[family]
    for _ in range(2):
        ends.pair.addresses(ends.pair.ours, [local])
        ends.see(all_up(1))
        ends.pair.batch(ends.pair.ours, [f"addr del {local}/{prefix} dev {DEVICE}"])
        ends.states(DOWN, DOWN)


def test_admin_down(ends: Ends) -> None:
    """Holding takes both ends down with the right reasons, keeps telling, and lets go."""
    ends.up()
    ends.a.admin_down(down=True)
    ours, theirs = ends.states(ADMIN_DOWN, DOWN)
    assert ours.admin_down
    assert ours.diagnostic == pb.DIAGNOSTIC_ADMINISTRATIVELY_DOWN
    assert (theirs.diagnostic, theirs.remote_diagnostic, theirs.remote_state) == (
        pb.DIAGNOSTIC_NEIGHBOR_SIGNALED_SESSION_DOWN,
        pb.DIAGNOSTIC_ADMINISTRATIVELY_DOWN,
        ADMIN_DOWN,
    )
    until(ends.a.list, lambda found: found[0].tx_packets >= ours.tx_packets + 2)
    ends.a.admin_down(down=False)
    ends.see(all_up(1))


def test_admin_down_with_a_diagnostic(ends: Ends) -> None:
    """The diagnostic asked for is what the peer hears; only the peers named are concerned."""
    ends.up(("v4", "v6"))
    ends.a.stub.SetAdminDown(
        pb.SetAdminDownRequest(
            peers=[THEIRS["v6"]], down=True, reason="uplink", diagnostic=pb.DIAGNOSTIC_PATH_DOWN
        ),
        timeout=10,
    )
    _, theirs = ends.see(lambda both: [s.state for s in both[1]] == [UP, DOWN])
    assert theirs[1].remote_diagnostic == pb.DIAGNOSTIC_PATH_DOWN
    ends.a.admin_down(down=False, peers=[THEIRS["v6"]])
    ends.see(all_up(2))


def test_admin_down_of_all_holds_for_later_sessions(ends: Ends) -> None:
    """A session that is made while all are held does not come up."""
    ends.a.admin_down(down=True)
    ends.ask()
    until(ends.b.list, lambda found: found[0].remote_state == ADMIN_DOWN)
    ends.a.admin_down(down=False)
    ends.see(all_up(1))


@pytest.mark.parametrize("ms", [30, 400], ids=["faster", "slower"])
def test_retune(ends: Ends, ms: int) -> None:
    """Other timers, at one end and then at the other, take effect without the session going down."""
    ends.up()
    for speaker, local, peer in ((ends.a, OURS, THEIRS), (ends.b, THEIRS, OURS)):
        speaker.set(session(local["v4"], peer["v4"], tx=ms, rx=ms, mult=10))
    ours, theirs = ends.see(
        lambda both: (
            all(s[0].tx_interval_us == ms * 1000 for s in both)
            and all(s[0].detection_time_us == 10 * ms * 1000 for s in both)
        )
    )
    assert [s.downs for s in ours + theirs] == [0, 0]
    assert ours[0].id == ends.a.list()[0].id


def test_idempotent(ends: Ends) -> None:
    """Saying the same again changes nothing."""
    ours, _ = ends.up()
    ends.ask()
    (after,) = ends.a.list()
    assert (after.id, after.local_discriminator, after.since) == (
        ours[0].id,
        ours[0].local_discriminator,
        ours[0].since,
    )


def test_owners(ends: Ends) -> None:
    """An owner's request touches only its own sessions; another owner's session is refused, and nothing changes."""
    ends.up()
    ends.a.set(session(OURS["v6"], THEIRS["v6"]), owner="other")
    with pytest.raises(grpc.RpcError) as refused:
        ends.a.set(session(OURS["v4"], THEIRS["v4"], tx=7), session("10.9.9.9", "10.9.9.8"), owner="other")
    assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert [s.config.local for s in ends.a.list()] == [OURS["v4"], OURS["v6"]]
    ends.a.set(owner="other")
    assert [(s.config.local, s.state) for s in ends.a.list()] == [(OURS["v4"], UP)]


def test_ended_session_says_goodbye(ends: Ends) -> None:
    """The peer of a session that is no longer wanted hears AdminDown; ids are never used again."""
    ours, _ = ends.up()
    ends.a.set()
    until(ends.b.list, lambda found: found[0].state == DOWN and found[0].remote_state == ADMIN_DOWN)
    ends.ask()
    again, _ = ends.see(all_up(1))
    assert again[0].id > ours[0].id


BAD = {
    "no address": session("10.9.0", "10.9.0.2"),
    "two families": session("10.9.0.1", "fd09::2"),
    "same": session("10.9.0.1", "10.9.0.1"),
    "multicast": session("10.9.0.1", "224.0.0.1"),
    "unspecified": session("0.0.0.0", "10.9.0.2"),
    "no interval": session("10.9.0.1", "10.9.0.2", tx=0),
    "long interval": session("10.9.0.1", "10.9.0.2", rx=3_600_001),
    "no multiplier": session("10.9.0.1", "10.9.0.2", mult=0),
    "large multiplier": session("10.9.0.1", "10.9.0.2", mult=256),
    "large ttl": session("10.9.0.1", "10.9.0.2", min_ttl=256),
    "link-local without interface": session("fe80::1", "fe80::2"),
    "interface": pb.SessionConfig(
        local="10.9.0.1",
        peer="10.9.0.2",
        timers=pb.Timers(min_rx_ms=1, min_tx_ms=1, multiplier=1),
        interface="x" * 16,
    ),
    "role": pb.SessionConfig(
        local="10.9.0.1",
        peer="10.9.0.2",
        timers=pb.Timers(min_rx_ms=1, min_tx_ms=1, multiplier=1),
        role=9,  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("config", BAD.values(), ids=BAD)
def test_bad_session(ends: Ends, config: pb.SessionConfig) -> None:
    """A session that makes no sense is refused in one line, with everything else of the request."""
    with pytest.raises(grpc.RpcError) as refused:
        ends.a.set(session(OURS["v4"], THEIRS["v4"]), config)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len((refused.value.details() or "").splitlines()) == 1
    assert not ends.a.list()


def test_bad_requests(ends: Ends) -> None:
    """No owner, the same session twice, an unknown diagnostic."""
    good = session(OURS["v4"], THEIRS["v4"])
    for call in (
        lambda: ends.a.set(good, owner=""),
        lambda: ends.a.set(good, good),
        lambda: ends.a.admin_down(down=True, peers=["nobody"]),
        lambda: ends.a.stub.SetAdminDown(pb.SetAdminDownRequest(down=True, diagnostic=77), timeout=10),  # type: ignore[arg-type]
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_watch(ends: Ends) -> None:
    """The stream: what is there, the synced mark, each change, numbered without gaps."""
    ends.up()
    stream = ends.a.stub.WatchSessions(pb.WatchSessionsRequest(), timeout=30)
    first, synced = next(stream), next(stream)
    assert first.session.state == UP
    assert synced.WhichOneof("event") == "synced"
    ends.a.admin_down(down=True)
    ends.a.admin_down(down=False)
    seen: list[pb.WatchSessionsResponse] = []
    while not seen or seen[-1].session.state != UP:
        seen.append(next(stream))
    ends.a.set()
    seen.append(next(stream))
    stream.cancel()
    assert [seen[0].session.state, seen[1].session.state] == [ADMIN_DOWN, DOWN]
    assert seen[-1].ended == first.session.id
    assert [e.sequence for e in (first, synced, *seen)] == list(range(1, len(seen) + 3))
