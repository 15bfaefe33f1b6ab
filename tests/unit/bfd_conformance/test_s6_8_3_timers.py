"""RFC 5880 sections 6.5, 6.8.2, 6.8.3, 6.8.10 to 6.8.12: negotiating intervals, changing them, polling."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.bfd_conformance.rig import (
    ADMIN_DOWN,
    DOWN,
    INIT,
    MAX,
    MS,
    SECOND,
    STATES,
    UP,
    Rig,
    Sent,
)

NOT_UP = [state for state in STATES if state is not UP]


@pytest.mark.parametrize("state", NOT_UP, ids=lambda state: state.name)
@pytest.mark.parametrize("tx", [MS, 100 * MS, 999 * MS, SECOND, 3 * SECOND])
def test_slow_unless_up(state: object, tx: int) -> None:
    """The RFC: "When bfd.SessionState is not Up, the system MUST set bfd.DesiredMinTxInterval to a value of not less than one
    second": advertised and kept, whatever the peer would take.
    """
    rig = Rig(tx=tx).reach(state)  # type: ignore[arg-type]
    hears = {ADMIN_DOWN: UP, DOWN: UP, INIT: DOWN}[state]  # type: ignore[index]
    rig.hear(hears, rx=MS)
    times: list[int] = []
    sent: list[Sent] = []
    for _ in range(40):
        rig.hear(hears, rx=MS)
        for at in rig.steps(500 * MS):
            times += [at] * (len(rig.sent) > len(sent))
            sent = list(rig.sent)
    assert rig.s.state is state
    assert {packet.min_tx for packet in sent[1:]} == {max(tx, SECOND)}
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.75 * max(tx, SECOND)


def test_fast_when_up() -> None:
    """On reaching Up the configured interval is advertised with a Poll Sequence, and used."""
    rig = Rig(tx=50 * MS, rx=60 * MS)
    rig.reach(UP)
    packet = rig.hear(UP, rx=10 * MS) or rig.advance(100 * MS)
    assert rig.sent[-1].min_tx == 50 * MS
    assert rig.sent[-1].poll
    rig.hear(UP, flags="F")
    assert rig.s.tx_interval_us == 50 * MS
    assert packet


@pytest.mark.parametrize("state", [INIT, UP], ids=lambda state: state.name)
def test_final_values_are_advertised_from_the_start(state: object) -> None:
    """Required Min RX is the configured one in every packet, so that a peer need not learn it twice."""
    rig = Rig(rx=70 * MS).reach(state)  # type: ignore[arg-type]
    rig.advance(3 * SECOND)
    assert {packet.min_rx for packet in rig.sent} == {70 * MS}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (100 * MS, 10 * MS, 100 * MS),
        (100 * MS, 100 * MS, 100 * MS),
        (100 * MS, 700 * MS, 700 * MS),
        (MS, 1, MS),
        (MS, MAX, MAX),
        (3600 * SECOND, MAX, MAX),
        (3600 * SECOND, 1, 3600 * SECOND),
    ],
)
def test_transmit_interval(ours: int, theirs: int, expected: int) -> None:
    """Section 6.8.2: the greater of bfd.DesiredMinTxInterval and bfd.RemoteMinRxInterval, up to the largest u32."""
    rig = Rig(tx=ours).up()
    rig.hear(UP, rx=theirs, tx=3600 * SECOND)
    assert rig.s.tx_interval_us == expected


def test_peer_slows_us_down_and_speeds_us_up_again() -> None:
    """A changed Required Min RX counts from its packet on; a shorter interval does not wait for the longer one's end."""
    rig = Rig(tx=100 * MS).up(tx=100 * MS, rx=100 * MS)
    rig.hear(UP, rx=MAX, tx=3600 * SECOND)
    assert rig.advance(60 * SECOND) == []
    rig.hear(UP, rx=100 * MS)
    assert rig.advance(100 * MS)


def test_zero_required_min_rx() -> None:
    """Section 6.8.7: no periodic packets while bfd.RemoteMinRxInterval is zero; polls are answered all the same, and
    a change of state is told.
    """
    rig = Rig().up(tx=3600 * SECOND)
    rig.hear(UP, rx=0)
    assert rig.advance(30 * SECOND) == []
    (final,) = rig.hear(UP, flags="P", rx=0)
    assert final.final
    assert [packet.state for packet in rig.hear(DOWN, rx=0)] == [DOWN]
    rig.hear(DOWN, rx=SECOND)
    assert rig.advance(SECOND)


class TestOurChange:
    """Sections 6.8.3 and 6.5: new intervals of ours while Up."""

    def test_longer_tx(self) -> None:
        """The RFC: "If bfd.DesiredMinTxInterval is increased and bfd.SessionState is Up, the actual transmission interval used
        MUST NOT change until the Poll Sequence … has terminated."
        """
        rig = Rig(tx=100 * MS).up(tx=100 * MS, rx=50 * MS)
        rig.retune(tx=400 * MS)
        sent = rig.keep_up(2 * SECOND)
        assert len(sent) >= 19
        assert {packet.min_tx for packet in sent if packet.poll} == {400 * MS}
        assert rig.s.tx_interval_us == 100 * MS
        rig.hear(UP, flags="F")
        assert rig.s.tx_interval_us == 400 * MS
        assert len(rig.keep_up(2 * SECOND)) <= 8

    def test_shorter_tx(self) -> None:
        """A shorter transmit interval may be used at once, and is polled for."""
        rig = Rig(tx=400 * MS).up(tx=100 * MS, rx=50 * MS)
        rig.retune(tx=100 * MS)
        sent = rig.keep_up(2 * SECOND)
        assert len(sent) >= 18
        assert all(packet.poll and packet.min_tx == 100 * MS for packet in sent[1:])

    def test_shorter_rx(self) -> None:
        """The RFC: "If bfd.RequiredMinRxInterval is reduced and bfd.SessionState is Up, the previous value … MUST be used when
        calculating the Detection Time for the remote system until the Poll Sequence … has terminated."
        """
        rig = Rig(rx=400 * MS).up(tx=50 * MS, rx=50 * MS, mult=3)
        assert rig.s.detection_time_us == 1200 * MS
        rig.retune(rx=100 * MS)
        rig.keep_up(SECOND)
        assert {packet.min_rx for packet in rig.sent[-3:]} == {100 * MS}
        assert rig.s.detection_time_us == 1200 * MS
        rig.hear(UP, flags="F")
        assert rig.s.detection_time_us == 300 * MS

    def test_longer_rx(self) -> None:
        """A longer Required Min RX makes the detection longer at once: the peer may slow down as soon as it hears."""
        rig = Rig(rx=100 * MS).up(tx=50 * MS, mult=3)
        rig.retune(rx=400 * MS)
        assert rig.s.detection_time_us == 1200 * MS

    def test_multiplier(self) -> None:
        """Section 6.8.12: a new Detect Mult goes out with the next packet; our own detection time is the peer's."""
        rig = Rig(mult=3).up(tx=100 * MS, mult=5)
        before = rig.s.detection_time_us
        rig.retune(mult=9)
        rig.keep_up(200 * MS)
        assert rig.sent[-1].multiplier == 9
        assert rig.s.detection_time_us == before
        assert rig.s.state is UP

    @pytest.mark.parametrize("tx", [10 * MS, 100 * MS, 5 * SECOND])
    @pytest.mark.parametrize("rx", [10 * MS, 100 * MS, 5 * SECOND])
    def test_session_stays_up(self, tx: int, rx: int) -> None:
        """Any change leaves the session Up, when the peer goes on at its old pace until it has heard."""
        rig = Rig().up(tx=100 * MS, rx=100 * MS)
        rig.retune(tx=tx, rx=rx)
        rig.keep_up(SECOND)
        rig.hear(UP, flags="F")
        rig.keep_up(SECOND)
        assert (rig.s.state, rig.s.downs, rig.s.polling) == (UP, 0, False)
        assert rig.s.tx_interval_us == max(tx, 100 * MS)
        assert rig.s.detection_time_us == 3 * max(rx, 100 * MS)

    def test_unchanged(self) -> None:
        """The same timers again poll for nothing."""
        rig = Rig().up()
        rig.retune()
        assert not rig.s.polling


class TestOurPoll:
    """Section 6.5: the Poll Sequence that we begin."""

    def polling(self) -> Rig:
        """A session that has just begun to poll."""
        rig = Rig().up(tx=100 * MS, rx=50 * MS)
        rig.retune(rx=200 * MS)
        return rig

    def test_until_final(self) -> None:
        """Every periodic packet bears P until an F comes, none after it."""
        rig = self.polling()
        sent = rig.keep_up(SECOND)
        assert len(sent) >= 9
        assert all(packet.poll for packet in sent[1:])
        rig.hear(UP, flags="F")
        assert not any(packet.poll for packet in rig.keep_up(SECOND))

    def test_pace(self) -> None:
        """Polls leave at the pace of periodic packets, not faster."""
        assert len(self.polling().keep_up(SECOND)) <= 1 + 1000 / 75

    def test_final_of_nothing(self) -> None:
        """An F that nobody asked for changes nothing."""
        rig = Rig().up()
        before = (rig.s.tx_interval_us, rig.s.detection_time_us, rig.s.state)
        for _ in range(3):
            assert rig.hear(UP, flags="F") == []
        assert before == (rig.s.tx_interval_us, rig.s.detection_time_us, rig.s.state)

    def test_final_before_the_poll_left(self) -> None:
        """An F that arrives before our first P left answers an older poll and does not end this one."""
        rig = self.polling()
        if not any(packet.poll and packet.min_rx == 200 * MS for packet in rig.sent):
            rig.hear(UP, flags="F")
            assert rig.s.polling

    def test_change_during_a_poll(self) -> None:
        """A change while polling gets a Poll Sequence of its own: the F of the first may not stand for the second."""
        rig = self.polling()
        rig.keep_up(200 * MS)
        rig.retune(rx=10 * MS)
        rig.hear(UP, flags="F")
        assert rig.s.detection_time_us >= 3 * 200 * MS
        rig.keep_up(300 * MS)
        assert rig.sent[-1].poll
        assert rig.sent[-1].min_rx == 10 * MS
        rig.hear(UP, flags="F")
        assert rig.s.detection_time_us == 3 * 100 * MS
        assert not any(packet.poll for packet in rig.keep_up(300 * MS))

    def test_never_poll_and_final(self) -> None:
        """The RFC: "The Poll (P) and Final (F) bits MUST NOT both be set": an answer given during our own poll bears F alone."""
        rig = self.polling()
        rig.keep_up(200 * MS)
        (answer,) = rig.hear(UP, flags="P")
        assert (answer.poll, answer.final) == (False, True)
        assert rig.s.polling
        assert all(packet.poll != packet.final for packet in rig.keep_up(300 * MS))

    def test_both_poll(self) -> None:
        """A packet with both bits answers our poll and is answered."""
        rig = self.polling()
        rig.keep_up(200 * MS)
        answers = rig.hear(UP, flags="PF")
        assert [packet.final for packet in answers] == [True]
        assert not rig.s.polling

    def test_ends_with_the_session(self) -> None:
        """A poll does not outlive Up: coming back up starts with the values of the configuration."""
        rig = self.polling()
        rig.hear(DOWN)
        assert not rig.s.polling
        assert not any(packet.poll for packet in rig.advance(3 * SECOND))


class TestTheirChange:
    """What the peer changes while Up, with its Poll Sequence."""

    def test_poll_is_answered_at_once(self) -> None:
        """The RFC: "… as soon as practicable, without respect to the transmission timer": once for each P."""
        rig = Rig().up(tx=100 * MS, rx=100 * MS)
        for _ in range(5):
            (answer,) = rig.hear(UP, flags="P")
            assert answer.final
            assert not answer.poll

    def test_answer_does_not_delay_the_periodic_packet(self) -> None:
        """However often the peer polls, packets leave at least once an interval."""
        rig = Rig(tx=100 * MS).up(tx=10 * MS, rx=100 * MS)
        periodic = 0
        for _ in range(200):
            rig.hear(UP, flags="P")
            periodic += len(rig.advance(10 * MS))
        assert periodic >= 20

    def test_longer_tx(self) -> None:
        """A longer Desired Min TX makes our detection time longer from that very packet on."""
        rig = Rig(rx=100 * MS).up(tx=100 * MS)
        rig.hear(UP, tx=SECOND, flags="P")
        assert rig.s.detection_time_us == 3 * SECOND
        rig.advance(2900 * MS)
        assert rig.s.state is UP

    def test_shorter_tx(self) -> None:
        """A shorter one makes it shorter."""
        rig = Rig(rx=100 * MS).up(tx=SECOND)
        rig.hear(UP, tx=100 * MS, flags="P")
        assert rig.s.detection_time_us == 300 * MS
        rig.advance(300 * MS)
        assert rig.s.state is DOWN

    def test_multiplier(self) -> None:
        """A new multiplier of the peer's is used from its packet on."""
        rig = Rig(rx=100 * MS).up(tx=100 * MS, mult=3)
        rig.hear(UP, mult=255)
        assert rig.s.detection_time_us == 255 * 100 * MS


def test_echo_is_never_offered() -> None:
    """Section 6.8.8: no echo function here, so Required Min Echo RX is zero in every packet, whatever the peer has."""
    rig = Rig().up()
    rig.hear(UP, echo=50 * MS)
    rig.keep_up(SECOND)
    assert {packet.min_echo_rx for packet in rig.sent} == {0}
