"""When sessions that are not up are helped."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from veg_ovn_programmer.core.heal import (
    AT_ONCE,
    AWAY_S,
    CALM_S,
    HOLD_S,
    LAST_CALL_S,
    LEAST_HOLD_S,
    NUDGES_S,
    PATIENCE_S,
    WAKE_EVERY_S,
    Healer,
)
from veg_ovn_programmer.core.intents import Key, Kind

KEY = Key(Kind.GATEWAY, "default/g")
A, B = "10.0.0.2", "10.0.0.3"


def play(
    healer: Healer, until: float, now: float, status: dict[str, str], *, obeys: bool = True
) -> list[str]:
    """What happens to the gateway until some time, with OVN's answers: `time what peer`, `time nudge`."""
    seen: list[str] = []
    while (due := healer.next()) is not None and due <= until:
        now = due
        held, wakes = set(healer.held), healer.wakes
        look = healer.due(now)
        assert look == ({KEY} if set(healer.held) != held else set())
        seen += [f"{now:.1f} nudge"] * (healer.wakes - wakes)
        for session in sorted(set(healer.held) - held):
            seen.append(f"{now:.1f} {'away' if session in healer.away else 'hold'} {session[1]}")
        seen += [f"{now:.1f} let go {peer}" for _, peer in sorted(held - set(healer.held))]
        for _ in range(3):
            told = {
                peer: ""
                if (KEY, peer) in healer.away
                else "admin_down"
                if (KEY, peer) in healer.held and obeys
                else text
                for peer, text in status.items()
            }
            if not healer.observe(KEY, told, now):
                break
    return seen


def test_a_session_that_never_comes() -> None:
    """Nudges, the last just before a fresh start after 5 s; after 10 s, 20 s and then every minute the row is away for a second."""
    healer = Healer()
    assert not healer.observe(KEY, {A: "up", B: "down"}, 0.0)
    seen = play(healer, 160.0, 0.0, {A: "up", B: "down"})
    assert seen[:15] == [
        "0.1 nudge",
        "1.5 nudge",
        "3.5 nudge",
        "4.5 nudge",
        f"5.0 hold {B}",
        f"5.3 let go {B}",
        "5.4 nudge",
        "6.8 nudge",
        "8.8 nudge",
        "10.3 nudge",
        "11.8 nudge",
        "13.3 nudge",
        "14.8 nudge",
        f"15.3 away {B}",
        f"16.3 let go {B}",
    ]
    assert [line for line in seen if "nudge" not in line][4:] == [
        f"{when} {B}"
        for when in (
            "36.3 away",
            "37.3 let go",
            "97.3 away",
            "98.3 let go",
            "158.3 away",
            "159.3 let go",
        )
    ]
    nudges = [float(line.split()[0]) for line in seen if "nudge" in line]
    assert max(later - sooner for sooner, later in itertools.pairwise(nudges)) < 2.2


def test_many_that_never_come() -> None:
    """One nudge is for all, whatever the number of sessions."""
    healer = Healer()
    keys = [Key(Kind.GATEWAY, f"default/g{n}") for n in range(200)]
    for key in keys:
        healer.observe(key, {A: "down"}, 0.0)
    nudges = []
    while (due := healer.next() or 0.0) < PATIENCE_S[0]:
        wakes = healer.wakes
        assert healer.due(due) == set()
        nudges += [due] * (healer.wakes - wakes)
    assert nudges == [*NUDGES_S, PATIENCE_S[0] - LAST_CALL_S]


def test_while_all_is_well() -> None:
    """A nudge every two seconds: a session that OVN has ended may not have been written down. None without a session."""
    healer = Healer()
    assert healer.next() is None
    healer.observe(KEY, {A: "up", B: "up"}, 0.0)
    assert play(healer, 3 * WAKE_EVERY_S, 0.0, {A: "up", B: "up"}) == ["2.0 nudge", "4.0 nudge", "6.0 nudge"]
    healer.observe(KEY, {}, 7.0)
    assert healer.next() is None


def test_the_last_that_serves_is_not_started_afresh() -> None:
    """One that is on its way up, and told to be the last, is nudged on until it is not the last, or up."""
    healer = Healer()
    last = {(KEY, A)}
    healer.observe(KEY, {A: "init"}, 0.0)
    while (due := healer.next() or 99.0) < 20.0:
        assert healer.due(due, lambda session: session not in last) == set()
        assert not healer.held
        healer.observe(KEY, {A: "init"}, due)
    last.clear()
    while not healer.held:
        healer.due(due := healer.next() or 99.0, lambda session: session not in last)
        healer.observe(KEY, {A: "init"}, due)
    assert due < 22.0


def test_up_ends_it() -> None:
    """Nobody is helped when all are up; a session that fails again soon is not helped sooner than before."""
    healer = Healer()
    healer.observe(KEY, {A: "down"}, 0.0)
    play(healer, 6.0, 0.0, {A: "down"})
    assert not healer.observe(KEY, {A: "up"}, 7.0)
    assert play(healer, 7.5, 7.0, {A: "up"}) == ["7.4 nudge"]
    healer.observe(KEY, {A: "down"}, 8.0)
    assert [line for line in play(healer, 19.0, 8.0, {A: "down"}) if "nudge" not in line] == [
        f"18.0 away {A}",
        f"19.0 let go {A}",
    ]
    healer.observe(KEY, {A: "up"}, 20.0)
    healer.observe(KEY, {A: "down"}, 20.0 + CALM_S)
    assert healer.next() == 20.0 + CALM_S + NUDGES_S[0]
    assert [line for line in play(healer, 56.0, 50.0, {A: "down"}) if "hold" in line] == [f"55.0 hold {A}"]


def test_an_ovn_that_does_not_answer() -> None:
    """The references come back all the same."""
    healer = Healer()
    healer.observe(KEY, {A: "up"}, 0.0)
    assert healer.reset(KEY, [A, "10.9.9.9"], 1.0) == [A]
    assert not healer.observe(KEY, {A: "up"}, 1.0)
    assert healer.held
    over = 1.0 + HOLD_S
    assert play(healer, over, 1.0, {A: "up"}, obeys=False)[0] == f"{over:.1f} let go {A}"
    assert healer.due(over) == set()


def test_ovn_forgets() -> None:
    """Rows are away for a second and then return, whatever they said."""
    healer = Healer()
    healer.observe(KEY, {A: "up", B: "up"}, 0.0)
    healer.forget(KEY, 1.0)
    assert set(healer.held) == healer.away == {(KEY, A), (KEY, B)}
    assert not healer.observe(KEY, {A: "", B: "admin_down"}, 1.1)
    assert healer.due(1.0 + AWAY_S) == {KEY}
    assert not healer.held
    assert not healer.away
    healer.forget(Key(Kind.GATEWAY, "default/unknown"), 3.0)
    assert not healer.held


def test_a_reset_ends_with_ovns_answer() -> None:
    """Held until the row says admin_down, and so long that ovn-controller has seen it; then referred to again."""
    healer = Healer()
    healer.observe(KEY, {A: "up", B: "up"}, 0.0)
    healer.reset(KEY, [A], 1.0)
    assert not healer.observe(KEY, {A: "up", B: "up"}, 1.0)
    assert not healer.observe(KEY, {A: "admin_down", B: "up"}, 1.1)
    assert healer.held
    over = healer.next()
    assert over == 1.0 + LEAST_HOLD_S
    assert healer.due(over) == {KEY}
    assert not healer.held
    assert not healer.observe(KEY, {A: "down", B: "up"}, over)
    assert healer.next() == over + NUDGES_S[0]
    late = Healer()
    late.observe(KEY, {A: "up", B: "up"}, 0.0)
    late.reset(KEY, [A], 1.0)
    assert late.observe(KEY, {A: "admin_down", B: "up"}, 1.0 + LEAST_HOLD_S)
    assert not late.held


def test_what_is_gone_is_forgotten() -> None:
    """A peer or gateway that left is not held, nudged or due."""
    healer = Healer()
    healer.observe(KEY, {A: "down", B: "down"}, 0.0)
    healer.reset(KEY, [A], 0.5)
    healer.observe(KEY, {B: "down"}, 1.0)
    assert not healer.held
    healer.observe(KEY, {}, 2.0)
    assert healer.next() is None
    assert healer.reset(KEY, [A, B], 3.0) == []
    assert healer.due(1000.0) == set()


def test_not_all_at_once() -> None:
    """A hundred gateways that went down together are started afresh in several rounds, after nudges for all of them."""
    healer = Healer()
    keys = [Key(Kind.GATEWAY, f"default/g{n}") for n in range(100)]
    for key in keys:
        healer.observe(key, {A: "down"}, 0.0)
    helped: set[Key] = set()
    rounds = 0
    while (due := healer.next() or 9.0) < PATIENCE_S[0]:
        assert healer.due(due) == set()
    while (healer.next() or 9.0) <= PATIENCE_S[0]:
        some = healer.due(PATIENCE_S[0])
        assert len(some) <= AT_ONCE
        helped |= some
        rounds += 1
    assert rounds == 100 // AT_ONCE
    assert helped == set(keys)


STATUS = st.sampled_from(["", "up", "init", "down", "admin_down"])
STEPS = st.lists(
    st.tuples(st.floats(0.0, 30.0), st.dictionaries(st.sampled_from([A, B]), STATUS), st.booleans()),
    max_size=30,
)


@settings(deadline=None)
@given(STEPS)
def test_never_for_long_without_references(steps: list[tuple[float, dict[str, str], bool]]) -> None:
    """Whatever OVN says: no session is held longer than the limit, none that is up is helped, and all that is due ends."""
    healer = Healer()
    now = 0.0
    for pause, statuses, asked in steps:
        end = now + pause
        while (due := healer.next()) is not None and due <= end:
            now = max(now, due)
            healer.due(now)
            assert all(now < since + HOLD_S for since in healer.held.values())
        now = end
        healer.observe(KEY, statuses, now)
        assert {peer for _, peer in healer.held} <= set(statuses)
        if statuses and not healer.held and set(statuses.values()) == {"up"}:
            # Nobody is to be helped; but one nudge is always near.
            assert (healer.next() or 0.0) <= now + WAKE_EVERY_S
            assert healer.due(now) == set()
        if asked:
            healer.reset(KEY, statuses, now)
    assert tuple(sorted(PATIENCE_S)) == PATIENCE_S
