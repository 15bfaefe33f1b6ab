"""How the kernel differs from what it should hold, as operations in an order that is safe at every step.

Called by the agent after each read. The order within a family, and why:

1. the guard's deny rules, before anything could be forwarded;
2. routes: the default one is replaced in place, the VPC's are added;
3. connection tracking, then NAT rules, so that a source never gets out unmasqueraded;
4. forwarding;
5. the guard opens for new sources (a prefix that takes over from another is there before the other goes);
6. the guard closes for old ones;
7. NAT rules and routes that nobody uses any more go;
8. hardening;
9. the pod's own packets are taken out of connection tracking: last, because a kernel without the raw table should
   still be a gateway.

Foreign objects are read and never written, with one documented exception: a default route of a configured family in
the main table that would win over ours (the CNI's first one) is replaced by it.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from veg_node_agent.core.desired import DesiredFamily, desired, missing
from veg_node_agent.core.model import (
    OUR_PROTOCOL,
    Chain,
    Config,
    Exemption,
    Family,
    NatRule,
    Record,
    Route,
    Rule,
    Snapshot,
    Tracking,
)
from veg_node_agent.core.operations import (
    ExemptOp,
    NatOp,
    Operation,
    RouteOp,
    RuleOp,
    SysctlOp,
    TrackingOp,
)


@dataclass(frozen=True)
class Plan:
    """What is to be done, what is waited for, and what can not be done.

    `before` is to be recorded before the operations, `after` when all of them succeeded.
    """

    operations: tuple[Operation, ...] = ()
    waiting: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    before: Record = field(default_factory=Record)
    after: Record = field(default_factory=Record)

    @property
    def in_sync(self) -> bool:
        """Whether the kernel holds all that is wanted."""
        return not (self.operations or self.waiting or self.problems)


@dataclass
class _Draft:
    """A plan in the making."""

    operations: list[Operation] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    nat: set[NatRule] = field(default_factory=set)
    defaults: set[Route] = field(default_factory=set)
    tracked: set[Family] = field(default_factory=set)
    exempt: set[Family] = field(default_factory=set)
    sysctls: dict[str, str] = field(default_factory=dict)


def plan(config: Config, snapshot: Snapshot, record: Record) -> Plan:
    """The operations that make the kernel of `snapshot` hold what `config` asks for."""
    draft = _Draft()
    entries = {entry.family: entry for entry in config.families}
    for family in Family:
        entry = entries.get(family)
        lacking = missing(config, entry, snapshot.interfaces) if entry else ()
        if family in snapshot.unreadable:
            # Blast radius: the other family goes on.
            draft.problems.append(snapshot.unreadable[family])
            _keep(draft, family, record)
        elif entry is None:
            _remove(draft, family, snapshot, record)
        elif lacking:
            draft.waiting += [text for text in lacking if text not in draft.waiting]
            _keep(draft, family, record)
        else:
            _converge(draft, desired(config, entry, snapshot.interfaces), snapshot, record)
    originals = {
        op.path: op.was for op in draft.operations if isinstance(op, SysctlOp) and op.was is not None
    }
    return Plan(
        operations=tuple(draft.operations),
        waiting=tuple(draft.waiting),
        problems=tuple(draft.problems),
        before=Record(
            nat=record.nat | draft.nat,
            defaults=record.defaults | draft.defaults,
            tracked=record.tracked | draft.tracked,
            exempt=record.exempt | draft.exempt,
            sysctls={**originals, **record.sysctls},
        ),
        after=Record(
            frozenset(draft.nat),
            frozenset(draft.defaults),
            frozenset(draft.tracked),
            frozenset(draft.exempt),
            draft.sysctls,
        ),
    )


def _of(family: Family, sysctls: Mapping[str, str]) -> dict[str, str]:
    return {path: value for path, value in sysctls.items() if path.startswith(f"net/ipv{int(family)}/")}


def _keep(draft: _Draft, family: Family, record: Record) -> None:
    """A family that waits for its interfaces is left as it is, and so is its record."""
    draft.nat |= {rule for rule in record.nat if rule.family is family}
    draft.defaults |= {route for route in record.defaults if route.family is family}
    draft.tracked |= record.tracked & {family}
    draft.exempt |= record.exempt & {family}
    draft.sysctls |= _of(family, record.sysctls)


def _remove(draft: _Draft, family: Family, snapshot: Snapshot, record: Record) -> None:
    """A family that is not configured loses what bears our mark, forwarding first and the guard last."""
    draft.operations += _restores(family, snapshot, record, keep=())
    first, stale = nat_steps(snapshot.nat.get(family, ()), (), record.nat)
    draft.operations += _stale_rules(snapshot, family, keep=())
    draft.operations += first + stale
    draft.operations += _stale_trackings(snapshot, family, keep=())
    draft.operations += _stale_exemptions(snapshot, family, keep=())
    draft.operations += _stale_routes(snapshot, family, record, keep=())


def _converge(draft: _Draft, want: DesiredFamily, snapshot: Snapshot, record: Record) -> None:
    family = want.family
    rules = {rule for rule in snapshot.rules if rule.family is family}
    insert, stale_nat = nat_steps(snapshot.nat.get(family, ()), want.nat, record.nat)
    forwarding = _sets(family, want.forwarding, snapshot)
    hardening = _sets(family, want.hardening, snapshot)
    draft.operations += [RuleOp("add", rule) for rule in want.deny if rule not in rules]
    # Connections are tracked from the first NAT rule on: whoever is exempt shall be so before.
    draft.operations += [ExemptOp("add", rule) for rule in want.exempt if rule not in snapshot.exempt]
    draft.operations += _default_steps(want.default, snapshot)
    draft.operations += _route_steps(want.routes, snapshot, draft.problems)
    draft.operations += [TrackingOp("add", want.tracking)] if want.tracking not in snapshot.tracked else []
    draft.operations += insert
    draft.operations += forwarding
    draft.operations += [RuleOp("add", rule) for rule in want.allow if rule not in rules]
    draft.operations += _stale_rules(snapshot, family, keep={*want.deny, *want.allow})
    draft.operations += stale_nat
    draft.operations += _stale_trackings(snapshot, family, keep=(want.tracking,))
    draft.operations += _stale_routes(snapshot, family, record, keep=(want.default, *want.routes))
    draft.operations += hardening
    draft.operations += _restores(family, snapshot, record, keep=[path for path, _ in want.sysctls])
    draft.operations += _stale_exemptions(snapshot, family, keep=want.exempt)
    draft.exempt |= {family} if want.exempt else set()
    draft.nat |= set(want.nat)
    draft.defaults.add(want.default)
    draft.tracked.add(family)
    known = _of(family, record.sysctls) | {
        op.path: op.was
        for op in (*forwarding, *hardening)
        if op.was is not None and op.path not in record.sysctls
    }
    draft.sysctls |= {path: known[path] for path, _ in want.sysctls if path in known}


def _stale_trackings(snapshot: Snapshot, family: Family, keep: Sequence[Tracking]) -> list[TrackingOp]:
    old = {rule for rule in snapshot.tracked if rule.family is family}.difference(keep)
    return [TrackingOp("delete", rule) for rule in sorted(old, key=lambda rule: rule.link)]


def _stale_exemptions(snapshot: Snapshot, family: Family, keep: Sequence[Exemption]) -> list[ExemptOp]:
    old = {rule for rule in snapshot.exempt if rule.family is family}.difference(keep)
    return [ExemptOp("delete", rule) for rule in sorted(old, key=lambda rule: (rule.port, rule.chain))]


def _sets(family: Family, wanted: Iterable[tuple[str, str]], snapshot: Snapshot) -> list[SysctlOp]:
    actual = snapshot.sysctls
    return [
        SysctlOp(family, path, value, actual.get(path)) for path, value in wanted if actual.get(path) != value
    ]


def _restores(family: Family, snapshot: Snapshot, record: Record, keep: Sequence[str]) -> list[SysctlOp]:
    """Parameters that we changed and want no more get their old values back, forwarding first."""
    old = sorted(_of(family, record.sysctls).items(), key=lambda item: ("forward" not in item[0], item[0]))
    return [
        SysctlOp(family, path, value, now)
        for path, value in old
        if path not in keep and (now := snapshot.sysctls.get(path)) not in {None, value}
    ]


def _default_steps(want: Route, snapshot: Snapshot) -> list[RouteOp]:
    """Our default route, and nothing that would win over it.

    The kernel takes the smallest metric, and with equal metrics the first (IPv4) or several in turn (IPv6).
    """
    rivals = [
        route
        for route in snapshot.routes
        if route.family is want.family and route.is_default and route.metric <= want.metric and route != want
    ]
    if want in snapshot.routes:
        return [RouteOp("delete", route) for route in rivals]
    replaced = next((route for route in rivals if route.metric == want.metric), None)
    first = RouteOp("replace" if replaced else "add", want)
    return [first, *(RouteOp("delete", route) for route in rivals if route is not replaced)]


def _route_steps(wanted: Iterable[Route], snapshot: Snapshot, problems: list[str]) -> list[RouteOp]:
    steps = []
    places: dict[tuple[Family, str, int], list[Route]] = {}
    for route in snapshot.routes:
        places.setdefault((route.family, route.dst, route.metric), []).append(route)
    for want in wanted:
        held = places.get((want.family, want.dst, want.metric), [])
        foreign = [route for route in held if route.protocol != OUR_PROTOCOL]
        if want in held:
            continue
        if not held:
            steps.append(RouteOp("add", want))
        elif not foreign:
            steps.append(RouteOp("replace", want))
        elif not any(_same_way(route, want) for route in foreign):
            problems.append(f"route {want} can not be set: {foreign[0]} is not ours and in its place")
    return steps


def _same_way(route: Route, want: Route) -> bool:
    return not route.extra and (route.gateway, route.dev) == (want.gateway, want.dev)


def _stale_routes(snapshot: Snapshot, family: Family, record: Record, keep: Sequence[Route]) -> list[RouteOp]:
    """Ours that are not wanted any more; one that is about to be replaced in place is not among them."""
    replaced = {(route.dst, route.metric) for route in keep}
    return [
        RouteOp("delete", route)
        for route in snapshot.routes
        if route.family is family
        and (route.protocol == OUR_PROTOCOL or route in record.defaults)
        and (route.dst, route.metric) not in replaced
    ]


def _stale_rules(snapshot: Snapshot, family: Family, keep: Collection[Rule]) -> list[RuleOp]:
    old = [rule for rule in snapshot.rules if rule.family is family and rule not in keep]
    return [RuleOp("delete", rule) for rule in sorted(old, key=lambda rule: not rule.opens)]


def nat_steps(
    chain: Chain, wanted: Sequence[NatRule], recorded: frozenset[NatRule]
) -> tuple[list[NatOp], list[NatOp]]:
    """The steps that bring the wanted rules into their order, and those that remove what is not wanted any more.

    A rule is ours when it has our shape and is wanted or recorded. Foreign rules keep their places: ours only have an
    order among themselves, new ones go to the end of the chain when none of ours is there. Carried out in order, the
    first list is one commit: a rule in the wrong place is deleted and inserted without a gap between.
    """
    work = list(chain)
    place = {rule: index for index, rule in enumerate(wanted)}
    steps: list[NatOp] = []

    def delete(rule: NatRule) -> None:
        steps.append(NatOp("delete", rule))
        work.remove(rule)

    for rule, count in Counter(rule for rule in work if rule is not None).items():
        for _ in range(count - 1 if rule in place else 0):
            delete(rule)
    present = [rule for rule in work if rule is not None and rule in place]
    in_order = _increasing([place[rule] for rule in present])
    for rule in present:
        if place[rule] not in in_order:
            delete(rule)
    for index, rule in enumerate(wanted):
        if index in in_order:
            continue
        at = work.index(wanted[index - 1]) + 1 if index else _first(work, place)
        work.insert(at, rule)
        steps.append(NatOp("insert", rule, at + 1))
    stale = [NatOp("delete", r) for r in work if r is not None and r not in place and r in recorded]
    return steps, stale


def _first(work: list[NatRule | None], place: Mapping[NatRule, int]) -> int:
    return next((at for at, rule in enumerate(work) if rule is not None and rule in place), len(work))


def _increasing(numbers: Sequence[int]) -> set[int]:
    """A longest increasing subsequence of distinct numbers (patience sorting)."""
    tails: list[int] = []
    links: dict[int, int | None] = {}
    for number in numbers:
        at = bisect.bisect_left(tails, number)
        links[number] = tails[at - 1] if at else None
        tails[at : at + 1] = [number]
    kept: set[int] = set()
    current = tails[-1] if tails else None
    while current is not None:
        kept.add(current)
        current = links[current]
    return kept
