"""What the speaker is told, against a model of it that forgets, hangs and comes back."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from veg_node_agent.core.model import BfdConfig, Config, Family, FamilyConfig, Interface, Timers
from veg_node_agent.core.sessions import (
    Hold,
    Session,
    SetHold,
    SetSessions,
    Step,
    Told,
    Wish,
    after,
    before,
    next_step,
    own_address,
    sessions,
)

TIMERS = Timers(100, 100, 3)
PEERS = ["10.255.255.255", "fd00:255::1"]
CONFIG = Config(
    "default/g",
    "eth0",
    "net1",
    (
        FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.1"),
        FamilyConfig(Family.V6, "fd00:10:16::1", "fd17::1"),
    ),
    BfdConfig(tuple(PEERS), TIMERS, 253),
)


def session(peer: str, local: str = "", interval: int = 100) -> Session:
    """A session with a peer."""
    own = local or ("fd00:10:16::c" if ":" in peer else "10.16.0.12")
    return Session(peer, own, "eth0", Timers(interval, interval, 3), 253)


@dataclass
class ModelSpeaker:
    """A speaker as the contract has it."""

    sessions: dict[tuple[str, str], Session] = field(default_factory=dict)
    held: set[tuple[str, str]] = field(default_factory=set)
    all_held: bool = False

    def do(self, step: Step) -> None:
        """One call."""
        if isinstance(step, SetSessions):
            wanted = {(s.peer, s.local): s for s in step.sessions}
            new = set(wanted) - set(self.sessions)
            self.held = (self.held & set(wanted)) | (new if self.all_held else set())
            self.sessions = wanted
            return
        concerned = {name for name in self.sessions if not step.peers or name[0] in step.peers}
        if not step.peers:
            self.all_held = step.hold is not None
        self.held = self.held | concerned if step.hold is not None else self.held - concerned

    def down(self) -> set[str]:
        """Peers whose sessions are held down."""
        return {peer for peer, _ in self.held}


SESSIONS = st.sets(st.sampled_from(PEERS)).flatmap(
    lambda peers: st.tuples(
        *(
            st.builds(
                session,
                st.just(peer),
                st.just("") if ":" in peer else st.sampled_from(["10.16.0.12", "10.16.0.13"]),
                st.sampled_from([50, 100]),
            )
            for peer in sorted(peers)
        )
    )
)
WISHES = st.builds(
    Wish,
    sessions=SESSIONS,
    holds=st.dictionaries(
        st.sampled_from(PEERS), st.builds(Hold, st.sampled_from(["a", "b"]), st.booleans())
    ),
    settled=st.booleans(),
)
EVENTS = st.lists(
    st.one_of(WISHES, st.sampled_from(["restart", "break"]), st.tuples(WISHES, st.booleans())), max_size=8
)


Event = Wish | str | tuple[Wish, bool]


def settle(wish: Wish, told: Told, speaker: ModelSpeaker) -> Told:
    """Say all there is to say."""
    for _ in range(20):
        step = next_step(wish, told)
        if step is None:
            return told
        speaker.do(step)
        told = after(told, step)
    raise AssertionError("it never stops talking")


def unanswered(wish: Wish, done: bool, told: Told, speaker: ModelSpeaker) -> Told:
    """Say the first thing of a wish on a connection that breaks, before or after it is done."""
    step = next_step(wish, told)
    if step is None:
        return told
    if done:
        speaker.do(step)
    return before(told, step).lost()


@settings(max_examples=200)
@given(EVENTS, WISHES)
def test_the_speaker_ends_as_it_is_wished(events: list[Event], last: Wish) -> None:
    """After any history of wishes, restarts and broken connections, also one on which a call was carried out and not
    confirmed, a settled wish is what the speaker has.
    """
    speaker, told, wish = ModelSpeaker(), Told(), Wish(settled=False)
    for event in events:
        if isinstance(event, Wish):
            wish = event
            told = settle(wish, told, speaker)
        elif isinstance(event, tuple):
            told = unanswered(*event, told, speaker)
        else:
            speaker = ModelSpeaker() if event == "restart" else speaker
            told = told.lost()
    final = Wish(last.sessions, last.holds)
    settle(final, told, speaker)
    assert set(speaker.sessions.values()) == set(last.sessions)
    assert speaker.down() == set(last.holds) & {s.peer for s in last.sessions}
    assert not speaker.all_held


@settings(max_examples=60)
@given(EVENTS, WISHES)
def test_draining_comes_first_and_stays(events: list[Event], last: Wish) -> None:
    """The first thing said after the decision to leave takes everything down; nothing later lets anything up."""
    speaker, told = ModelSpeaker(), Told()
    for event in events:
        told = settle(event, told, speaker) if isinstance(event, Wish) else told.lost()
    leaving = Wish(last.sessions, last.holds, drain=Hold("draining"))
    assert next_step(leaving, told) == SetHold((), Hold("draining"))
    told = settle(leaving, told, speaker)
    assert speaker.all_held
    assert set(speaker.sessions) == speaker.held
    assert next_step(leaving, told.lost()) == SetHold((), Hold("draining"))


def test_a_predecessors_hold_stays_until_the_uplink_is_known() -> None:
    """A restarted agent lets nothing up before it knows whether its uplink is dead."""
    speaker = ModelSpeaker({(s.peer, s.local): s for s in map(session, PEERS)}, all_held=True)
    speaker.held = set(speaker.sessions)
    wanted = tuple(map(session, PEERS))
    told = settle(Wish(wanted, settled=False), Told(), speaker)
    assert speaker.down() == set(PEERS)
    wish = Wish(wanted, {PEERS[0]: Hold("uplink")})
    while step := next_step(wish, told):
        speaker.do(step)
        told = after(told, step)
        assert PEERS[0] in speaker.down(), "not even for a moment"
    assert speaker.down() == {PEERS[0]}
    settle(Wish(wanted), told, speaker)
    assert speaker.down() == set()
    assert not speaker.all_held


@pytest.mark.parametrize(
    ("addresses", "local", "missing"),
    [
        (("10.16.0.12/16", "fd00:10:16::c/112"), ["10.16.0.12", "fd00:10:16::c"], 0),
        (("10.16.0.12/16",), ["10.16.0.12"], 1),
        (("192.168.9.9/24", "10.16.0.12/16"), ["10.16.0.12"], 1),
        (("192.168.9.9/24",), ["192.168.9.9"], 1),
        ((), [], 2),
    ],
)
def test_sessions_have_the_pods_own_addresses(
    addresses: tuple[str, ...], local: list[str], missing: int
) -> None:
    """The address beside the VPC's gateway, else any of the family; a family without one is named."""
    wanted, lacking = sessions(CONFIG, {"eth0": Interface("eth0", up=True, addresses=addresses)})
    assert [s.local for s in wanted] == local
    assert len(lacking) == missing
    assert all("eth0 has no IPv" in text for text in lacking)
    assert sessions(CONFIG, {})[0] == ()
    assert own_address(CONFIG, Family.V4, {}) == ""
