"""What veg-bfd and FRR's bfdd do together, seen at both ends, in both families at once."""

from __future__ import annotations

import pytest
from veg.bfd.v1 import bfd_pb2 as pb

from tests.functional.bfd_interop.conftest import MULT, RX_MS, TX_MS, Ends, Seen, frr_peer, is_down, is_up
from tests.functional.bfd_interop.lab import OURS, THEIRS, until
from tests.functional.bfd_interop.speaker import ACTIVE, PASSIVE

UP, DOWN, ADMIN_DOWN = pb.SESSION_STATE_UP, pb.SESSION_STATE_DOWN, pb.SESSION_STATE_ADMIN_DOWN
EXPIRED = pb.DIAGNOSTIC_CONTROL_DETECTION_TIME_EXPIRED
ROLES = {
    "both-active": (ACTIVE, ()),
    "we-are-passive": (PASSIVE, ()),
    "frr-is-passive": (ACTIVE, ("passive-mode",)),
}
both_roles = pytest.mark.parametrize("role", [ACTIVE, PASSIVE], ids=["active", "passive"])


@pytest.mark.parametrize("roles", ROLES)
def test_up(ends: Ends, roles: str) -> None:
    """A session comes up whoever begins, and each end runs on what the other asked for."""
    role, settings = ROLES[roles]
    ends.up(role=role, settings=settings)

    def negotiated(seen: Seen) -> bool:
        told = seen.theirs["remote-transmit-interval"], seen.theirs["remote-receive-interval"]
        return told == (TX_MS, RX_MS) and seen.ours.tx_interval_us == max(TX_MS, RX_MS) * 1000

    for theirs, ours in ends.see(negotiated):
        assert theirs["remote-detect-multiplier"] == MULT
        assert ours.detection_time_us == MULT * max(TX_MS, RX_MS) * 1000
        assert ours.downs == 0
    assert ends.frr_downs() == 0


def test_retuned_here(ends: Ends) -> None:
    """New timers of ours reach FRR through a poll sequence, slower and faster, and neither end goes down."""
    ends.up()
    for tx, rx, mult in ((400, 500, 15), (50, 60, 25), (1000, 50, 12), (100, 100, 10)):
        ends.ask(tx=tx, rx=rx, mult=mult)

        def taken(seen: Seen, tx: int = tx, rx: int = rx, mult: int = mult) -> bool:
            theirs, ours = seen
            told = theirs["remote-transmit-interval"], theirs["remote-receive-interval"]
            return (
                (*told, theirs["remote-detect-multiplier"]) == (tx, rx, mult)
                and ours.tx_interval_us == max(tx, RX_MS) * 1000
                and ours.detection_time_us == MULT * max(rx, TX_MS) * 1000
            )

        ends.see(taken)
    assert all(is_up(seen) and not seen.ours.downs for seen in ends.look())
    assert ends.frr_downs() == 0


def test_retuned_by_frr(ends: Ends) -> None:
    """New timers of FRR's change our transmit interval and detection time, and neither end goes down."""
    ends.up()
    for tx, rx, mult in ((400, 500, 15), (60, 70, 25), (1000, 60, 12), (100, 100, 10)):
        ends.ask_frr(f"transmit-interval {tx}", f"receive-interval {rx}", f"detect-multiplier {mult}")

        def taken(seen: Seen, tx: int = tx, rx: int = rx, mult: int = mult) -> bool:
            ours = seen.ours
            detection = mult * max(tx, RX_MS) * 1000
            return (ours.tx_interval_us, ours.detection_time_us) == (max(TX_MS, rx) * 1000, detection)

        ends.see(taken)
    assert all(is_up(seen) and not seen.ours.downs for seen in ends.look())
    assert ends.frr_downs() == 0


def test_admin_down_here(ends: Ends) -> None:
    """SetAdminDown is seen by FRR as AdminDown with its diagnostic, and lasts until it is taken back."""
    ends.up()
    ends.speaker.admin_down(down=True)
    told = ends.see(
        lambda seen: (
            seen.theirs["status"] == "down" and seen.theirs["remote-diagnostic"] == "administratively down"
        )
    )
    for theirs, ours in told:
        assert theirs["diagnostic"] == "neighbor signaled session down"
        assert ours.state == ADMIN_DOWN
        assert ours.admin_down
    ends.speaker.admin_down(down=False)
    ends.see(is_up)


def test_admin_down_by_frr(ends: Ends) -> None:
    """`shutdown` at FRR takes our end Down, with the peer's AdminDown told; `no shutdown` brings it back."""
    ends.up()
    ends.ask_frr("shutdown")
    for theirs, ours in ends.see(lambda seen: seen.ours.remote_state == ADMIN_DOWN):
        assert theirs["status"] == "shutdown"
        assert ours.state == DOWN
        assert ours.diagnostic == pb.DIAGNOSTIC_NEIGHBOR_SIGNALED_SESSION_DOWN
    ends.ask_frr("no shutdown")
    ends.see(is_up)


def test_one_admin_down_leaves_the_other(ends: Ends) -> None:
    """What happens to one family's session, from either side, leaves the other's alone."""
    ends.up()
    ends.ask_frr("shutdown", families=["v6"])
    until(ends.look, lambda seen: seen[1].ours.state == DOWN)
    ends.ask_frr("no shutdown", families=["v6"])
    ends.see(is_up)
    ends.speaker.admin_down(down=True, peers=[THEIRS["v6"]])
    until(ends.look, lambda seen: seen[1].theirs["status"] == "down")
    v4, v6 = ends.look()
    assert is_up(v4)
    assert (v4.ours.downs, v6.ours.downs) == (0, 2)


@both_roles
def test_frr_restarted(ends: Ends, role: pb.SessionRole.ValueType) -> None:
    """bfdd killed with -9 is noticed by its silence; started again, the session is up with the new peer."""
    before = ends.up(role=role)
    ends.frr.kill()
    assert all(ours.diagnostic == EXPIRED for ours in ends.ours(lambda ours: ours.state == DOWN, within=15))
    ends.frr.start()
    ends.ask_frr(f"transmit-interval {TX_MS}", f"receive-interval {RX_MS}")
    after = ends.see(is_up)
    assert [(seen.ours.id, seen.ours.downs) for seen in after] == [(seen.ours.id, 1) for seen in before]


@pytest.mark.parametrize("remembers", [True, False], ids=["remembers", "forgets"])
def test_restarted_here(ends: Ends, remembers: bool) -> None:
    """veg-bfd killed with -9 and started again is up again: by itself where its run folder survived, and when it is
    told its sessions where that is gone.
    """
    before = ends.up(role=PASSIVE)
    ends.remembered()
    ends.speaker.kill()
    until(ends.frr.peers, lambda peers: {peer["status"] for peer in peers} == {"down"})
    if not remembers:
        (ends.speaker.folder / "sessions.json").unlink()
    ends.speaker.start()
    if not remembers:
        assert ends.speaker.list() == []
        ends.ask(role=PASSIVE)
    after = ends.see(is_up)
    same = [
        a.ours.local_discriminator == b.ours.local_discriminator for a, b in zip(after, before, strict=True)
    ]
    assert same == [remembers, remembers]


def test_restarted_here_before_frr_notices(ends: Ends) -> None:
    """A speaker that is back within the detection time does not stay stuck with what the peer remembers."""
    ends.up(settings=("detect-multiplier 50",))
    ends.remembered()
    for remembers in (True, False):
        ends.speaker.kill()
        if not remembers:
            (ends.speaker.folder / "sessions.json").unlink()
        ends.speaker.start()
        ends.ask(mult=50)
        ends.see(is_up)
        ends.remembered()


def test_frr_restarted_before_we_notice(ends: Ends) -> None:
    """The same for a peer that is back within our detection time."""
    ends.up()
    ends.ask(mult=50)
    for _ in range(2):
        ends.frr.kill()
        ends.frr.start()
        ends.ask_frr(f"transmit-interval {TX_MS}", f"receive-interval {RX_MS}", "detect-multiplier 50")
        ends.see(is_up)


@both_roles
def test_silence_and_back(ends: Ends, role: pb.SessionRole.ValueType) -> None:
    """A link that loses everything takes both ends Down with diagnostic 1, and both come back when it heals."""
    ends.up(role=role)
    ends.pair.cut()
    for theirs, ours in ends.see(is_down):
        assert (ours.state, ours.diagnostic) == (DOWN, EXPIRED)
        assert theirs["diagnostic"] == "control detection time expired"
    ends.pair.heal()
    assert [seen.ours.downs for seen in ends.see(is_up)] == [1, 1]


def test_deaf_one_way(ends: Ends) -> None:
    """When only our packets are lost, FRR notices by itself and we learn it from FRR's packets; and back."""
    ends.up()
    ends.pair.mute(ends.pair.ours)
    # FRR goes on saying Down, which takes our end to Init again and again.
    for _, ours in ends.see(lambda seen: is_down(seen) and seen.ours.downs == 1):
        assert ours.diagnostic == pb.DIAGNOSTIC_NEIGHBOR_SIGNALED_SESSION_DOWN
    ends.pair.unmute(ends.pair.ours)
    ends.see(is_up)


def test_long_silence(ends: Ends) -> None:
    """Ten seconds of silence end neither end's sending: a passive session too goes on at one packet a second."""
    ends.up(role=PASSIVE)
    ends.pair.cut()
    sent = {seen.ours.id: seen.ours.tx_packets for seen in ends.see(is_down)}
    ends.ours(lambda ours: ours.tx_packets >= sent[ours.id] + 10)
    ends.pair.heal()
    ends.see(is_up)


def test_carrier(ends: Ends) -> None:
    """An interface that goes down and comes up again leaves sessions that are up."""
    ends.up()
    ends.pair.carrier(up=False)
    ends.ours(lambda ours: ours.state == DOWN)
    ends.pair.carrier(up=True)
    ends.see(is_up)


def test_frr_forgets_the_session(ends: Ends) -> None:
    """A session deleted at FRR and made anew, with another discriminator, comes up again."""
    before = ends.up()
    ends.frr.configure(*(f"no {frr_peer(family)}" for family in OURS))
    ends.ours(lambda ours: ours.state == DOWN)
    ends.ask_frr(f"transmit-interval {TX_MS}", f"receive-interval {RX_MS}")
    for new, old in zip(ends.see(is_up), before, strict=True):
        assert new.ours.remote_discriminator != old.ours.remote_discriminator


def test_session_taken_away_here(ends: Ends) -> None:
    """A session that is no longer asked for says AdminDown to FRR; asked for again, it comes up."""
    ends.up()
    ends.speaker.set()
    until(
        ends.frr.peers,
        lambda peers: {peer["remote-diagnostic"] for peer in peers} == {"administratively down"},
    )
    assert ends.speaker.list() == []
    ends.ask()
    ends.see(is_up)


def test_sigterm(ends: Ends) -> None:
    """SIGTERM tells FRR AdminDown at once, long before the detection time, and then ends with code 0."""
    ends.up()
    ends.ask(mult=255)
    ends.see(lambda seen: seen.theirs["remote-detect-multiplier"] == 255)
    ends.speaker.terminate()
    until(
        ends.frr.peers,
        lambda peers: {peer["remote-diagnostic"] for peer in peers} == {"administratively down"},
    )
    assert ends.speaker.wait(timeout=20) == 0


def test_scheduling_is_told(ends: Ends) -> None:
    """The speaker says how its packet loop is scheduled; here, as root, SCHED_FIFO."""
    assert ends.speaker.scheduling().policy == "SCHED_FIFO"
