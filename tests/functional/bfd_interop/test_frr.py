"""What veg-bfd and FRR's bfdd do together, seen at both ends, in both families."""

from __future__ import annotations

from pathlib import Path

import pytest
from veg.bfd.v1 import bfd_pb2 as pb

from tests.functional.bfd_interop.conftest import MULT, RX_MS, TX_MS, Ends, is_down, is_up
from tests.functional.bfd_interop.lab import until
from tests.functional.bfd_interop.speaker import ACTIVE, PASSIVE, Speaker, session

UP, DOWN, ADMIN_DOWN = pb.SESSION_STATE_UP, pb.SESSION_STATE_DOWN, pb.SESSION_STATE_ADMIN_DOWN
EXPIRED = pb.DIAGNOSTIC_CONTROL_DETECTION_TIME_EXPIRED
ROLES = {
    "both-active": (ACTIVE, ()),
    "we-are-passive": (PASSIVE, ()),
    "frr-is-passive": (ACTIVE, ("passive-mode",)),
}


@pytest.mark.parametrize("roles", ROLES)
def test_up(ends: Ends, roles: str) -> None:
    """A session comes up whoever begins, and each end runs on what the other asked for."""
    role, settings = ROLES[roles]
    ends.up(role=role, settings=settings)
    theirs, ours = ends.see(
        lambda seen: (
            (seen[0]["remote-transmit-interval"], seen[0]["remote-receive-interval"]) == (TX_MS, RX_MS)
            and seen[1].tx_interval_us == max(TX_MS, RX_MS) * 1000
        )
    )
    assert theirs["remote-detect-multiplier"] == MULT
    assert ours.detection_time_us == MULT * max(TX_MS, RX_MS) * 1000
    assert ours.downs == 0
    assert ends.frr_downs() == 0


def test_retuned_here(ends: Ends) -> None:
    """New timers of ours reach FRR through a poll sequence, slower and faster, and neither end goes down."""
    ends.up()
    for tx, rx, mult in ((400, 500, 5), (50, 60, 3), (1000, 50, 4), (100, 100, 3)):
        ends.ask(tx=tx, rx=rx, mult=mult)
        _, ours = ends.see(
            lambda seen, want=(tx, rx, mult): (
                (  # type: ignore[misc]
                    seen[0]["remote-transmit-interval"],
                    seen[0]["remote-receive-interval"],
                    seen[0]["remote-detect-multiplier"],
                )
                == want
                and seen[1].tx_interval_us == max(want[0], RX_MS) * 1000
                and seen[1].detection_time_us == MULT * max(want[1], TX_MS) * 1000
            )
        )
        assert ours.downs == 0
    assert ends.frr_downs() == 0
    assert is_up(ends.look())


def test_retuned_by_frr(ends: Ends) -> None:
    """New timers of FRR's change our transmit interval and detection time, and neither end goes down."""
    ends.up()
    for tx, rx, mult in ((400, 500, 5), (60, 70, 3), (1000, 60, 4), (100, 100, 3)):
        ends.ask_frr(f"transmit-interval {tx}", f"receive-interval {rx}", f"detect-multiplier {mult}")
        _, ours = ends.see(
            lambda seen, want=(tx, rx, mult): (  # type: ignore[misc]
                seen[1].tx_interval_us == max(TX_MS, want[1]) * 1000
                and seen[1].detection_time_us == want[2] * max(want[0], RX_MS) * 1000
            )
        )
        assert ours.downs == 0
    assert ends.frr_downs() == 0
    assert is_up(ends.look())


def test_admin_down_here(ends: Ends) -> None:
    """SetAdminDown is seen by FRR as AdminDown with its diagnostic, and lasts until it is taken back."""
    ends.up()
    ends.speaker.admin_down(down=True)
    theirs, ours = ends.see(
        lambda seen: seen[0]["status"] == "down" and seen[0]["remote-diagnostic"] == "administratively down"
    )
    assert theirs["diagnostic"] == "neighbor signaled session down"
    assert ours.state == ADMIN_DOWN
    assert ours.admin_down
    ends.speaker.admin_down(down=False)
    ends.see(is_up)


def test_admin_down_by_frr(ends: Ends) -> None:
    """`shutdown` at FRR takes our end Down, with the peer's AdminDown told; `no shutdown` brings it back."""
    ends.up()
    ends.ask_frr("shutdown")
    theirs, ours = ends.see(lambda seen: seen[1].state == DOWN and seen[1].remote_state == ADMIN_DOWN)
    assert theirs["status"] == "shutdown"
    assert ours.diagnostic == pb.DIAGNOSTIC_NEIGHBOR_SIGNALED_SESSION_DOWN
    ends.ask_frr("no shutdown")
    ends.see(is_up)


@pytest.mark.parametrize("role", [ACTIVE, PASSIVE], ids=["active", "passive"])
def test_frr_restarted(ends: Ends, role: pb.SessionRole.ValueType) -> None:
    """bfdd killed with -9 is noticed in its detection time; started again, the session is up with the new peer."""
    _, before = ends.up(role=role)
    ends.frr.kill()
    (ours,) = until(ends.speaker.list, lambda sessions: sessions[0].state == DOWN, within=2)
    assert ours.diagnostic == EXPIRED
    ends.frr.start()
    ends.ask_frr(f"transmit-interval {TX_MS}", f"receive-interval {RX_MS}")
    _, after = ends.see(is_up)
    assert (after.id, after.downs) == (before.id, 1)


@pytest.mark.parametrize("role", [ACTIVE, PASSIVE], ids=["active", "passive"])
def test_restarted_here(ends: Ends, role: pb.SessionRole.ValueType) -> None:
    """veg-bfd killed with -9 and started again has a session that is up, with a discriminator of its own."""
    _, before = ends.up(role=role)
    ends.speaker.kill()
    until(ends.frr.peers, lambda peers: peers[0]["status"] == "down", within=5)
    ends.speaker.start()
    assert ends.speaker.list() == []
    ends.ask(role=role)
    _, after = ends.see(is_up)
    assert after.local_discriminator != before.local_discriminator


def test_restarted_here_before_frr_notices(ends: Ends) -> None:
    """A speaker that is back within the detection time does not stay stuck with the peer's old discriminator."""
    ends.up(settings=("detect-multiplier 50",))
    for _ in range(3):
        ends.speaker.kill()
        ends.speaker.start()
        ends.ask(mult=50)
        ends.see(is_up)


def test_frr_restarted_before_we_notice(ends: Ends) -> None:
    """The same for a peer that is back within our detection time."""
    ends.up()
    ends.ask(mult=50)
    for _ in range(3):
        ends.frr.kill()
        ends.frr.start()
        ends.ask_frr(f"transmit-interval {TX_MS}", f"receive-interval {RX_MS}", "detect-multiplier 50")
        ends.see(is_up)


@pytest.mark.parametrize("role", [ACTIVE, PASSIVE], ids=["active", "passive"])
def test_silence_and_back(ends: Ends, role: pb.SessionRole.ValueType) -> None:
    """A link that loses everything takes both ends Down with diagnostic 1, and both come back when it heals."""
    ends.up(role=role)
    for times in (1, 2):
        ends.pair.cut()
        theirs, ours = ends.see(lambda seen: is_down(seen) and seen[1].state == DOWN)
        assert ours.diagnostic == EXPIRED
        assert theirs["diagnostic"] == "control detection time expired"
        ends.pair.heal()
        _, ours = ends.see(is_up)
        assert ours.downs == times


def test_deaf_one_way(ends: Ends) -> None:
    """When only our packets are lost, FRR notices by itself and we learn it from FRR's packets; and back."""
    ends.up()
    ends.pair.mute(ends.pair.ours)
    _, ours = ends.see(lambda seen: is_down(seen) and seen[1].state == DOWN)
    assert ours.diagnostic == pb.DIAGNOSTIC_NEIGHBOR_SIGNALED_SESSION_DOWN
    ends.pair.unmute(ends.pair.ours)
    ends.see(is_up)


def test_long_silence(ends: Ends) -> None:
    """After more than ten detection times of silence, passive end included, the session still comes back."""
    ends.up(role=PASSIVE)
    ends.pair.cut()
    sent = ends.see(is_down)[1].tx_packets
    # Never silent: a passive end that has heard its peer once goes on sending (at 1 s while Down).
    ends.see(lambda seen: seen[1].tx_packets >= sent + 10, within=20)
    ends.pair.heal()
    ends.see(is_up)


def test_carrier(ends: Ends) -> None:
    """An interface that goes down and comes up again, and its address with it, leaves a session that is up."""
    ends.up()
    ends.pair.carrier(up=False)
    until(ends.speaker.list, lambda sessions: sessions[0].state == DOWN, within=3)
    ends.pair.carrier(up=True)
    ends.see(is_up)


def test_frr_forgets_the_session(ends: Ends) -> None:
    """A session deleted at FRR and made anew, with another discriminator, comes up again."""
    _, before = ends.up()
    peer = f"peer {ends.local} local-address {ends.peer} interface e0"
    ends.frr.configure(f"no {peer}")
    until(ends.speaker.list, lambda sessions: sessions[0].state == DOWN, within=3)
    ends.ask_frr(f"transmit-interval {TX_MS}", f"receive-interval {RX_MS}")
    _, after = ends.see(is_up)
    assert after.remote_discriminator != before.remote_discriminator


def test_sigterm(ends: Ends) -> None:
    """SIGTERM tells FRR AdminDown at once, long before the detection time, and then ends with code 0."""
    ends.up()
    ends.ask(mult=100)
    ends.see(lambda seen: seen[0]["remote-detect-multiplier"] == 100)
    ends.speaker.terminate()
    until(ends.frr.peers, lambda peers: peers[0]["remote-diagnostic"] == "administratively down", within=2)
    assert ends.speaker.wait(timeout=8) == 0


def test_both_families_at_once(ends: Ends, folder: Path) -> None:
    """Sessions of both families live side by side, and one going down leaves the other alone."""
    other = Ends("v6" if ends.family == "v4" else "v4", ends.pair, ends.speaker, ends.frr)
    ends.speaker.set(session(ends.local, ends.peer), session(other.local, other.peer))
    for end in (ends, other):
        end.ask_frr("transmit-interval 100", "receive-interval 100")
    until(ends.speaker.list, lambda sessions: [s.state for s in sessions] == [UP, UP])
    other.ask_frr("shutdown")
    sessions = until(
        ends.speaker.list, lambda sessions: sorted(s.state for s in sessions) == sorted([DOWN, UP])
    )
    assert {s.config.peer: s.state for s in sessions} == {ends.peer: UP, other.peer: DOWN}
    assert {peer["peer"]: peer["status"] for peer in ends.frr.peers()} == {
        ends.local: "up",
        other.local: "shutdown",
    }


def test_scheduling_is_told(ends: Ends) -> None:
    """The speaker says how its packet loop is scheduled; here, as root, SCHED_FIFO."""
    assert isinstance(ends.speaker, Speaker)
    assert ends.speaker.scheduling().policy == "SCHED_FIFO"
