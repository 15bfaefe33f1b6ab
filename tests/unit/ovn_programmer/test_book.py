"""Sessions, generations, relations and orphans, against a dumb model."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from veg_ovn_programmer.core.book import Book, Job, Outcome, State
from veg_ovn_programmer.core.desired import desired
from veg_ovn_programmer.core.intents import (
    DERIVED,
    WAKER,
    Bfd,
    BfdPort,
    DefaultRoute,
    Gateway,
    GatewayFamily,
    Intent,
    Key,
    Kind,
    Port,
    Subnet,
    Vpc,
    Waker,
)
from veg_ovn_programmer.core.pace import Pace
from veg_ovn_programmer.core.rows import show
from veg_ovn_programmer.core.view import Scene, View
from veg_ovn_programmer.errors import WaitingError


def gateway(name: str, vpc: str, *, inside: bool = False, bfd: bool = False) -> Gateway:
    """A gateway by routes, or by policies."""
    source = "10.0.0.9/32" if inside else "10.0.0.0/24"
    family = GatewayFamily(4, (source,), ("10.0.0.2",), ("10.0.0.0/24",))
    timers = Bfd(f"bfd@{vpc}", 1000, 1000, 3) if bfd else None
    return Gateway("default", name, vpc, False, (family,), timers)


@dataclass
class Rows:
    """A stand-in for the database: what every owner's last job made of it, holders not checked."""

    book: Book = field(default_factory=Book)
    rows: dict[Key, tuple[str, ...]] = field(default_factory=dict)

    def look(self, keys: set[Key]) -> None:
        """Commit the jobs of the keys."""
        for job in self.book.jobs(keys):
            state = State.COMMITTED
            try:
                view = View(scene=Scene(vpcs=self.book.vpcs, prefixes=self.book.prefixes))
                wanted = desired(job.intent, view) if job.intent is not None else ()
                self.rows.pop(job.key, None)
                if wanted:
                    self.rows[job.key] = tuple(
                        sorted(
                            f"{row.table} {row.holder} {row.identity} {show(row.columns.get('networks', ''))}"
                            for row in wanted
                        )
                    )
            except WaitingError:
                state = State.WAITING
            outcome = Outcome(job.key, self.book.generation(job.key), state)
            self.book.settle(outcome, removal=job.intent is None)


NAMES = st.sampled_from(["a", "b"])
INTENTS = st.one_of(
    st.builds(Vpc, NAMES, st.booleans(), st.sampled_from([None, BfdPort(("10.255.255.255",), ("node1",))])),
    st.builds(
        lambda name, vpc, net: Subnet(name, vpc, (f"{net}.0/24",), (f"{net}.1",)),
        NAMES,
        NAMES,
        # The second lies around the first choice for the BFD port's join.
        st.sampled_from(["10.0.0", "169.254.255"]),
    ),
    st.builds(lambda name, subnet: Port(name, subnet, "0a:00:00:00:00:01", ("10.0.0.5",)), NAMES, NAMES),
    st.builds(
        lambda name, vpc, inside, bfd: gateway(name, vpc, inside=inside, bfd=bfd),
        NAMES,
        NAMES,
        st.booleans(),
        st.booleans(),
    ),
)
KEYS = st.builds(Key, st.sampled_from([Kind.VPC, Kind.SUBNET, Kind.PORT]), NAMES) | st.builds(
    lambda name: Key(Kind.GATEWAY, f"default/{name}"), NAMES
)


def dumb(held: dict[Key, Intent]) -> dict[Key, tuple[str, ...]]:
    """The rows of a picture, from nothing."""
    rows = Rows()
    rows.book.resync("model", [])
    for kind in (Kind.VPC, Kind.SUBNET, Kind.PORT, Kind.GATEWAY):
        for key in sorted(held):
            if key.kind is kind:
                rows.look(rows.book.put(held[key], 1))
    return rows.rows


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(INTENTS | KEYS, max_size=4), max_size=8))
def test_the_end_depends_on_the_last_state_only(steps: list[list[Intent | Key]]) -> None:
    """Any order, repetition and grouping of applies and deletes ends in the rows of the final picture."""
    rows = Rows()
    rows.book.begin("one")
    held: dict[Key, Intent] = {}
    for group in steps:
        look: set[Key] = set()
        for step in group:
            if isinstance(step, Key):
                held.pop(step, None)
                look |= rows.book.remove(step)
            else:
                held[step.key] = step
                look |= rows.book.put(step, 1)
        rows.look(look)
    rows.look(rows.book.resync("one", list(rows.rows))[1])
    # A subnet whose VPC left keeps its last rows in this model: there is no database that takes them with the router.
    gone = {
        key for key, one in held.items() if isinstance(one, Subnet) and Key(Kind.VPC, one.vpc) not in held
    }
    expected = dumb(held)
    assert {key: value for key, value in rows.rows.items() if key not in gone} == {
        key: value for key, value in expected.items() if key not in gone
    }


@settings(deadline=None)
@given(st.lists(INTENTS, max_size=6), st.lists(INTENTS, max_size=6))
def test_a_new_session_removes_nothing_before_its_resync(old: list[Intent], new: list[Intent]) -> None:
    """Owners only go at the Resync, and then exactly those that the new picture lacks."""
    rows = Rows()
    rows.book.begin("one")
    for intent in old:
        rows.look(rows.book.put(intent, 1))
    rows.look(rows.book.resync("one", list(rows.rows))[1])
    # The programmer restarts: only the rows are left.
    rows.book = Book()
    rows.book.begin("two")
    for intent in new:
        before = set(rows.rows)
        rows.look(rows.book.put(intent, 1))
        assert set(rows.rows) >= before
    owners = set(rows.rows)
    removed, look = rows.book.resync("two", list(rows.rows))
    rows.look(look)
    picture = {intent.key for intent in new}
    assert set(removed) == {key for key in owners if key not in picture and key.kind not in DERIVED}
    assert {key for key in rows.rows if key.kind not in DERIVED} <= picture


def test_default_route_is_shared() -> None:
    """It stays while one gateway needs it, and goes with the last; before the Resync it only comes."""
    route = Key(Kind.DEFAULT_ROUTE, "v")
    book = Book()
    book.begin("one")
    assert route in book.put(gateway("a", "v", inside=True), 1)
    book.put(gateway("b", "v", inside=True), 1)
    book.remove(Key(Kind.GATEWAY, "default/a"))
    assert book.job(route).intent == DefaultRoute("v")  # type: ignore[union-attr]
    assert book.rank(route) < book.rank(Key(Kind.GATEWAY, "default/b"))
    assert route in book.put(gateway("b", "v"), 2)
    assert book.job(route) is None
    book.resync("one", [])
    assert book.job(route).intent is None  # type: ignore[union-attr]
    assert book.rank(route) > book.rank(Key(Kind.GATEWAY, "default/b"))


def test_the_waker_is_shared() -> None:
    """It is there while one gateway has BFD."""
    book = Book()
    book.begin("one")
    assert WAKER in book.put(gateway("a", "v", bfd=True), 1)
    assert WAKER not in book.put(gateway("b", "w", bfd=True), 1)
    assert WAKER in book.everything()
    assert WAKER not in book.put(gateway("a", "v"), 2)
    assert book.job(WAKER) == Job(WAKER, Waker())
    assert WAKER in book.remove(Key(Kind.GATEWAY, "default/b"))
    assert book.job(WAKER) is None
    book.resync("one", [])
    assert book.job(WAKER) == Job(WAKER, None)
    assert WAKER not in book.everything()


def test_a_refusal_keeps_the_last_good_intent() -> None:
    """Its outcome stands, the job is still that of the good one, and a later good one takes over."""
    book = Book()
    book.begin("one")
    good = gateway("a", "v")
    book.put(good, 1)
    refusal = Outcome(good.key, 2, State.REFUSED, "InvalidCIDR", "sources")
    assert book.refuse(refusal)
    assert book.job(good.key).intent == good  # type: ignore[union-attr]
    assert not book.settle(Outcome(good.key, 2, State.COMMITTED), removal=False)
    assert book.outcome(good.key) == refusal
    book.put(good, 3)
    assert book.settle(Outcome(good.key, 3, State.COMMITTED), removal=False)


def test_what_is_out_of_date_is_not_settled() -> None:
    """A delete that comes while the apply is committed is not ended by the apply, nor the other way round."""
    book = Book()
    book.begin("one")
    vpc = Vpc("v")
    book.put(vpc, 1)
    book.remove(vpc.key)
    assert not book.settle(Outcome(vpc.key, 1, State.COMMITTED), removal=False)
    assert book.job(vpc.key).intent is None  # type: ignore[union-attr]
    book.put(vpc, 2)
    assert not book.settle(Outcome(vpc.key, 2, State.COMMITTED), removal=True)
    assert book.job(vpc.key).intent == vpc  # type: ignore[union-attr]


def test_repairs_get_slower() -> None:
    """The first three are at once, then ever later up to half a minute; a calm minute forgets."""
    pace, key, now = Pace(), Key(Kind.VPC, "v"), 0.0
    delays = []
    for _ in range(14):
        delay = pace.delay(key, now)
        delays.append(delay)
        now += delay
        pace.repaired(key, now)
    assert delays[:6] == [0, 0, 0, 0.25, 0.5, 1]
    assert delays[-1] == 30
    assert pace.delay(key, now + 61) == 0


def test_who_must_be_forgotten() -> None:
    """The gateways with sessions of a port whose address changes, and nobody else."""
    book = Book()
    port = BfdPort(("10.255.255.255",), ("a",))
    book.put(Vpc("v", bfd_port=port), 1)
    for name, vpc, bfd in (("g", "v", True), ("h", "v", False), ("i", "w", True)):
        book.put(gateway(name, vpc, bfd=bfd), 1)
    assert book.readdressed(Vpc("v", bfd_port=BfdPort(port.addresses, ("b",)))) == []
    assert book.readdressed(Vpc("v")) == []
    assert book.readdressed(Vpc("w", bfd_port=port)) == []
    moved = BfdPort(("10.255.255.1",), ("a",))
    assert book.readdressed(Vpc("v", bfd_port=moved)) == [Key(Kind.GATEWAY, "default/g")]
