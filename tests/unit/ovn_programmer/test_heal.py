"""When sessions that are not up are helped."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from veg_ovn_programmer.core.heal import AT_ONCE, AWAY_S, CALM_S, HOLD_S, NUDGES_S, PATIENCE_S, Healer
from veg_ovn_programmer.core.intents import Key, Kind

KEY = Key(Kind.GATEWAY, "default/g")
A, B = "10.0.0.2", "10.0.0.3"


def play(
    healer: Healer, until: float, now: float, status: dict[str, str], *, obeys: bool = True
) -> list[str]:
    """What happens to the gateway until some time, with OVN's answers: `time what peer`."""
    seen: list[str] = []
    while (due := healer.next()) is not None and due <= until:
        now = due
        held = set(healer.held)
        assert healer.due(now) == {KEY}
        seen += [f"{now:.1f} nudge {peer}" for _, peer in sorted(healer.nudged)]
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
        assert not healer.nudged
    return seen


def test_a_session_that_never_comes() -> None:
    """Some nudges, then a fresh start after 5 s; after 10 s, 20 s and then every minute the row is away for a second."""
    healer = Healer()
    assert not healer.observe(KEY, {A: "up", B: "down"}, 0.0)
    seen = play(healer, 160.0, 0.0, {A: "up", B: "down"})
    assert seen[:8] == [
        f"0.1 nudge {B}",
        f"1.5 nudge {B}",
        f"3.5 nudge {B}",
        f"5.0 hold {B}",
        f"5.1 nudge {B}",
        f"6.5 nudge {B}",
        f"8.5 nudge {B}",
        f"15.0 away {B}",
    ]
    assert [line for line in seen if "nudge" not in line][1:] == [
        f"{when} {B}"
        for when in (
            "15.0 away",
            "16.0 let go",
            "36.0 away",
            "37.0 let go",
            "97.0 away",
            "98.0 let go",
            "158.0 away",
            "159.0 let go",
        )
    ]


def test_up_ends_it() -> None:
    """Nothing is due when all are up; a session that fails again soon is not helped sooner than before."""
    healer = Healer()
    healer.observe(KEY, {A: "down"}, 0.0)
    play(healer, 5.0, 0.0, {A: "down"})
    assert not healer.observe(KEY, {A: "up"}, 7.0)
    assert healer.next() is None
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
    assert play(healer, 1.0 + HOLD_S, 1.0, {A: "up"}, obeys=False) == [f"{1.0 + HOLD_S:.1f} let go {A}"]
    assert healer.next() is None


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
    """Held until the row says admin_down, then referred to again at once."""
    healer = Healer()
    healer.observe(KEY, {A: "up", B: "up"}, 0.0)
    healer.reset(KEY, [A], 1.0)
    assert not healer.observe(KEY, {A: "up", B: "up"}, 1.0)
    assert healer.observe(KEY, {A: "admin_down", B: "up"}, 1.1)
    assert not healer.held
    assert not healer.observe(KEY, {A: "down", B: "up"}, 1.2)
    assert healer.next() == 1.1 + NUDGES_S[0]


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
    """A hundred gateways that went down together are helped in several rounds."""
    healer = Healer()
    keys = [Key(Kind.GATEWAY, f"default/g{n}") for n in range(100)]
    for key in keys:
        healer.observe(key, {A: "down"}, 0.0)
    helped: set[Key] = set()
    rounds = 0
    while (healer.next() or 9.0) <= 1.0:
        some = healer.due(1.0)
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
        assert not healer.nudged
        for peer, status in statuses.items():
            if status == "up" and (KEY, peer) not in healer.held:
                assert healer.next() is None or len(statuses) > 1
        if asked:
            healer.reset(KEY, statuses, now)
    assert tuple(sorted(PATIENCE_S)) == PATIENCE_S
