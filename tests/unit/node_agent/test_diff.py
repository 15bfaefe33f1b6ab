"""Plans against a deliberately dumb model of the kernel: they converge, they are safe at every step."""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from veg_node_agent.core.desired import sysctl_paths
from veg_node_agent.core.diff import Plan, plan
from veg_node_agent.core.model import (
    OUR_PROTOCOL,
    BfdConfig,
    Config,
    Exemption,
    Family,
    FamilyConfig,
    Interface,
    NatRule,
    Record,
    Route,
    Rule,
    Snapshot,
    Source,
    Timers,
    Tracking,
    UplinkConfig,
    network,
)
from veg_node_agent.core.operations import ExemptOp, NatOp, Operation, RouteOp, RuleOp, SysctlOp

INTERFACES = {
    "eth0": Interface("eth0", up=True, addresses=("10.16.0.12/16", "fd00:10:16::c/112")),
    "net1": Interface("net1", up=True, addresses=("172.17.0.11/16", "fd17::b/64")),
}
FOREIGN_ROUTES = (
    Route(Family.V4, "10.16.0.0/16", "", "eth0", 0, 2, "src 10.16.0.12"),
    Route(Family.V4, "0.0.0.0/0", "10.16.0.1", "eth0", 500, 3),
    Route(Family.V4, "192.0.2.0/24", "172.17.0.9", "net1", 0, 4),
    Route(Family.V6, "::/0", "fd00:10:16::1", "eth0", 2048, 3),
)
CNI_DEFAULTS = (
    Route(Family.V4, "0.0.0.0/0", "10.16.0.1", "eth0", 0, 3),
    Route(Family.V6, "::/0", "fd00:10:16::1", "eth0", 1024, 3),
)
V4 = [
    "10.0.0.0/8",
    "10.16.0.0/16",
    "10.16.0.0/24",
    "10.16.1.0/24",
    "10.16.1.7/32",
    "10.17.0.0/16",
    "192.168.0.1/32",
]
V6 = ["fd00::/16", "fd00:10:16::/112", "fd00:10:16::7/128", "fd00:10:17::/112", "fd99::/64"]
FOREIGN_NAT = (None, None)


@dataclass
class ModelKernel:
    """Lists, and what the kernel would say to each command."""

    routes: list[Route] = field(default_factory=lambda: [*FOREIGN_ROUTES, *CNI_DEFAULTS])
    rules: list[Rule] = field(default_factory=list)
    nat: dict[Family, list[NatRule | None]] = field(
        default_factory=lambda: {f: list(FOREIGN_NAT) for f in Family}
    )
    sysctls: dict[str, str] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    tracked: set[Tracking] = field(default_factory=set)
    exempt: set[Exemption] = field(default_factory=set)

    def snapshot(self, config: Config) -> Snapshot:
        """What the agent would read."""
        paths = (*sysctl_paths(config), *self.record.sysctls)
        return Snapshot(
            interfaces=INTERFACES,
            routes=tuple(self.routes),
            rules=tuple(self.rules),
            nat={family: tuple(chain) for family, chain in self.nat.items()},
            tracked=frozenset(self.tracked),
            exempt=frozenset(self.exempt) if config.untracked_ports or self.record.exempt else frozenset(),
            sysctls={path: self.sysctls.get(path, "1" if "redirects" in path else "0") for path in paths},
        )

    def plan(self, config: Config) -> Plan:
        """What the agent would do."""
        return plan(config, self.snapshot(config), self.record)

    def do(self, op: Operation) -> None:
        """One step, with the kernel's own refusals as assertions."""
        if isinstance(op, RouteOp):
            self._route(op)
        elif isinstance(op, RuleOp):
            if op.verb == "add":
                assert op.rule not in self.rules, "File exists"
                self.rules.append(op.rule)
            else:
                self.rules.remove(op.rule)
        elif isinstance(op, NatOp):
            chain = self.nat[op.family]
            if op.verb == "insert":
                assert 1 <= op.position <= len(chain) + 1, "Index of insertion too big"
                chain.insert(op.position - 1, op.rule)
            else:
                chain.remove(op.rule)
        elif isinstance(op, SysctlOp):
            self._set(op.path, op.value)
        elif isinstance(op, ExemptOp):
            assert (op.rule in self.exempt) == (op.verb == "delete")
            self.exempt ^= {op.rule}
        else:
            assert (op.rule in self.tracked) == (op.verb == "delete")
            self.tracked ^= {op.rule}

    def _route(self, op: RouteOp) -> None:
        route = op.route
        same = [
            r for r in self.routes if (r.family, r.dst, r.metric) == (route.family, route.dst, route.metric)
        ]
        if op.verb == "delete":
            self.routes.remove(route)
        elif same:
            assert op.verb == "replace", "File exists"
            self.routes[self.routes.index(same[0])] = route
        else:
            self.routes.append(route)

    def _set(self, path: str, value: str) -> None:
        self.sysctls[path] = value
        # ip-sysctl.rst: the switch for all sets the links' own.
        if path in {"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}:
            for link in INTERFACES:
                self.sysctls[f"{path[:8]}/conf/{link}/forwarding"] = value

    def converge(self, config: Config) -> list[Operation]:
        """The agent's loop; the operations it took."""
        done: list[Operation] = []
        for _ in range(4):
            step = self.plan(config)
            if not step.operations:
                self.record = step.after
                return done
            self.record = step.before
            for op in step.operations:
                self.do(op)
            done += step.operations
        raise AssertionError(f"does not converge: {step.operations[0]}")

    def state(self) -> tuple[object, ...]:
        """All that a later reader could see; rules of one priority do the same whatever their order."""
        off = {
            path: value
            for path, value in self.sysctls.items()
            if value != ("1" if "redirects" in path else "0")
        }
        return set(self.routes), set(self.rules), self.nat, off, self.tracked, self.exempt, self.record.nat


def sources(prefixes: list[str]) -> st.SearchStrategy[tuple[Source, ...]]:
    """Any choice of prefixes in any order, each masqueraded or not."""
    return st.dictionaries(st.sampled_from(prefixes), st.booleans()).map(
        lambda chosen: tuple(Source(cidr, snat) for cidr, snat in chosen.items())
    )


def families(family: Family) -> st.SearchStrategy[FamilyConfig]:
    """Any configuration of a family."""
    inner, outer, prefixes = (
        ("10.16.0.1", ["172.17.0.1", "172.17.0.2"], V4)
        if family is Family.V4
        else ("fd00:10:16::1", ["fd17::1", "fd17::2"], V6)
    )
    return st.builds(
        FamilyConfig,
        family=st.just(family),
        internal_gateway=st.just(inner),
        external_gateway=st.sampled_from(outer),
        vpc_cidrs=st.lists(st.sampled_from(prefixes[1:]), unique=True).map(tuple),
        sources=sources(prefixes),
    )


def config(
    *entries: FamilyConfig, bfd: BfdConfig | None = None, uplink: UplinkConfig | None = None
) -> Config:
    """A configuration of these families."""
    return Config("default/g", "eth0", "net1", entries, bfd, uplink)


EXTRAS: dict[str, st.SearchStrategy[Any]] = {
    "bfd": st.sampled_from([None, BfdConfig(("10.255.255.255",), Timers(100, 100, 3), 253)]),
    "uplink": st.sampled_from([None, UplinkConfig(100, 3, ("10.16.0.12",))]),
}
DUAL = st.builds(config, families(Family.V4), families(Family.V6), **EXTRAS)
ANY = st.one_of(
    DUAL,
    st.builds(config, families(Family.V4), **EXTRAS),
    st.builds(config, families(Family.V6), **EXTRAS),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(ANY, max_size=4), ANY)
def test_the_end_depends_only_on_the_last_configuration(before: list[Config], last: Config) -> None:
    """Any order and repetition of configurations ends in the state of the last one alone."""
    direct, travelled = ModelKernel(), ModelKernel()
    for each in (*before, last, last):
        travelled.converge(each)
    direct.converge(last)
    gone = {entry.family for each in before for entry in each.families} - {e.family for e in last.families}
    # The CNI's first default route was replaced on the way and is the one thing that does not come back.
    direct.routes = [r for r in direct.routes if not (r in CNI_DEFAULTS and r.family in gone)]
    assert travelled.state() == direct.state()
    assert travelled.plan(last).in_sync


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY, min_size=1, max_size=3))
def test_foreign_objects_are_never_touched(configs: list[Config]) -> None:
    """Routes without our mark and rules of another shape stay where they are, in their order."""
    kernel = ModelKernel()
    for each in configs:
        kernel.converge(each)
        assert [r for r in kernel.routes if r in FOREIGN_ROUTES] == list(FOREIGN_ROUTES)
        assert all(chain.count(None) == len(FOREIGN_NAT) for chain in kernel.nat.values())


def verdict(chain: list[NatRule | None], address: str) -> bool:
    """Whether the chain masquerades an address."""
    for rule in chain:
        if rule is not None and ipaddress.ip_address(address) in network(rule.cidr):
            return rule.masquerade
    return False


def wanted(entry: FamilyConfig, address: str) -> bool | None:
    """Whether the most specific source of an address is masqueraded; None when there is no source for it."""
    found = [s for s in entry.sources if ipaddress.ip_address(address) in network(s.cidr)]
    return max(found, key=lambda s: network(s.cidr).prefixlen).snat if found else None


def opened(kernel: ModelKernel, address: str) -> bool:
    """Whether a packet from an address gets through the guard."""
    if kernel.sysctls.get("net/ipv4/ip_forward") != "1":
        return False
    if not any(not rule.opens for rule in kernel.rules if rule.iif == "eth0"):
        return True
    inner = (rule for rule in kernel.rules if rule.opens and rule.iif == "eth0")
    return any(not rule.src or ipaddress.ip_address(address) in network(rule.src) for rule in inner)


PROBES = ["10.16.1.7", "10.16.1.8", "10.16.0.5", "10.17.0.1", "10.99.0.1", "192.168.0.1", "8.8.8.8"]


@settings(max_examples=80, deadline=None)
@given(families(Family.V4), families(Family.V4))
def test_every_step_is_safe(old: FamilyConfig, new: FamilyConfig) -> None:
    """At no step of a change is a stranger let through, a continuing source shut out, or an address let out with
    another source address than the old or the new configuration wants.
    """
    kernel = ModelKernel()
    kernel.converge(config(old))
    # Neighbouring NAT operations are one commit, and the kernel shows nothing in between.
    for _, group in itertools.groupby(
        enumerate(kernel.plan(config(new)).operations),
        lambda item: -1 if isinstance(item[1], NatOp) else item[0],
    ):
        for _, op in group:
            kernel.do(op)
        for address in PROBES:
            before, after = wanted(old, address), wanted(new, address)
            if before is not None and after is not None:
                assert opened(kernel, address), (address, str(op))
            if opened(kernel, address):
                assert any(rule.family is Family.V4 for rule in kernel.tracked)
                assert verdict(kernel.nat[Family.V4], address) in {before, after} - {None}, (address, str(op))


def test_the_first_steps_never_leave_it_open() -> None:
    """From a fresh pod, nothing is forwarded before the guard stands, the route leads out and NAT is there."""
    entry = FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.1", (), (Source("10.16.0.0/16", snat=True),))
    kernel = ModelKernel()
    for op in kernel.plan(config(entry)).operations:
        kernel.do(op)
        if opened(kernel, "10.16.0.9"):
            assert verdict(kernel.nat[Family.V4], "10.16.0.9")
            assert Route(Family.V4, "0.0.0.0/0", "172.17.0.1", "net1", 0, 3) in kernel.routes
        assert not opened(kernel, "10.99.0.1")
    assert opened(kernel, "10.16.0.9")


@settings(max_examples=60, deadline=None)
@given(families(Family.V4), st.data())
def test_drift_is_repaired(entry: FamilyConfig, data: st.DataObject) -> None:
    """Whatever of ours is removed, doubled or moved comes back; what is right already needs no operation."""
    kernel = ModelKernel()
    kernel.converge(config(entry))
    good = ModelKernel(list(kernel.routes), list(kernel.rules), {f: list(c) for f, c in kernel.nat.items()})
    chain = kernel.nat[Family.V4]
    ours = [rule for rule in chain if rule is not None]
    chain[:] = data.draw(st.permutations(chain))
    if ours:
        chain.insert(0, data.draw(st.sampled_from(ours)))
        chain.remove(data.draw(st.sampled_from(ours)))
    kernel.rules.remove(data.draw(st.sampled_from(kernel.rules)))
    ours_too = [r for r in kernel.routes if r.family is Family.V4 and r not in FOREIGN_ROUTES]
    kernel.routes.remove(data.draw(st.sampled_from(ours_too)))
    kernel.converge(config(entry))
    assert [rule for rule in chain if rule is not None] == [r for r in good.nat[Family.V4] if r is not None]
    assert set(kernel.rules) == set(good.rules)
    assert set(kernel.routes) == set(good.routes)


def test_a_killed_agents_successor_knows_what_is_ours() -> None:
    """Killed after any step of a change, the next agent ends where an undisturbed one ends, and leaves nothing."""
    old = config(FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.1", (), (Source("10.17.0.0/16", snat=True),)))
    new = config(FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.2", (), (Source("10.18.0.0/16", snat=True),)))
    undisturbed = ModelKernel()
    undisturbed.converge(old)
    steps = undisturbed.plan(new)
    undisturbed.converge(new)
    for killed_after in range(len(steps.operations)):
        kernel = ModelKernel()
        kernel.converge(old)
        kernel.record = kernel.plan(new).before
        for op in steps.operations[:killed_after]:
            kernel.do(op)
        kernel.converge(new)
        assert kernel.state() == undisturbed.state()


@pytest.mark.parametrize(
    ("present", "steps"),
    [
        pytest.param([], ["add default via 172.17.0.1 dev net1"], id="none"),
        pytest.param(["net1 172.17.0.1 0 3"], [], id="right"),
        pytest.param(["eth0 10.16.0.1 0 3"], ["replace default via 172.17.0.1 dev net1"], id="the CNI's"),
        pytest.param(
            ["net1 172.17.0.1 0 4"], ["replace default via 172.17.0.1 dev net1"], id="other protocol"
        ),
        pytest.param(
            ["eth0 10.16.0.1 100 3"], ["add default via 172.17.0.1 dev net1"], id="worse metric stays"
        ),
        pytest.param(
            ["eth0 10.16.0.1 0 3", "net1 172.17.0.1 0 3"],
            ["delete default via 10.16.0.1 dev eth0"],
            id="before ours",
        ),
    ],
)
def test_default_route(present: list[str], steps: list[str]) -> None:
    """Our default route wins: it takes the place of an equal one, and what cannot win stays as it is."""
    entry = FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.1")
    fields = [text.split() for text in present]
    kernel = ModelKernel(
        routes=[
            Route(Family.V4, "0.0.0.0/0", gw, dev, int(metric), int(proto))
            for dev, gw, metric, proto in fields
        ]
    )
    found = [op for op in kernel.plan(config(entry)).operations if isinstance(op, RouteOp)]
    assert [str(op).removeprefix("ip -4 route ") for op in found] == steps


def test_a_foreign_route_in_the_way_is_a_problem() -> None:
    """A foreign route is not replaced even where ours should stand; one that leads the same way is as good."""
    entry = FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.1", ("10.17.0.0/16",))
    kernel = ModelKernel(routes=[Route(Family.V4, "10.17.0.0/16", "172.17.0.9", "net1", 0, 4)])
    kernel.converge(config(entry))
    assert kernel.plan(config(entry)).problems == (
        "route 10.17.0.0/16 via 10.16.0.1 dev eth0 proto 118 can not be set: 10.17.0.0/16 via 172.17.0.9 dev net1 proto 4 is not ours and in its place",
    )
    kernel.routes[0] = replace(kernel.routes[0], gateway="10.16.0.1", dev="eth0")
    assert kernel.plan(config(entry)).in_sync


def test_a_waiting_family_does_not_hold_up_the_other() -> None:
    """What is missing for IPv6 is said, and IPv4 is set up meanwhile; nothing of the waiting family is undone."""
    entries = (
        FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.1", (), (Source("10.16.0.0/16", snat=True),)),
        FamilyConfig(Family.V6, "fd00:10:16::1", "fd17::1", (), (Source("fd00::/16", snat=True),)),
    )
    kernel = ModelKernel()
    kernel.converge(config(*entries))
    snapshot = replace(
        kernel.snapshot(config(*entries)),
        interfaces={**INTERFACES, "net1": Interface("net1", up=True, addresses=("172.17.0.11/16",))},
        rules=(),
    )
    found = plan(config(*entries), snapshot, kernel.record)
    assert found.waiting == ("interface net1 has no IPv6 address",)
    assert {op.family for op in found.operations} == {Family.V4}
    assert found.after == kernel.record
    assert not found.in_sync


def test_an_unreadable_family_does_not_hold_up_the_other() -> None:
    """A kernel without NAT for one family is a problem of that family alone."""
    entries = [
        FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.1"),
        FamilyConfig(Family.V6, "fd00::1", "fd17::1"),
    ]
    kernel = ModelKernel()
    snapshot = replace(kernel.snapshot(config(*entries)), unreadable={Family.V6: "no table"})
    found = plan(config(*entries), snapshot, Record())
    assert found.problems == ("no table",)
    assert {op.family for op in found.operations} == {Family.V4}


def test_a_tampered_rule_of_ours_is_replaced() -> None:
    """A rule with our mark that says something else is removed after the right one is there."""
    entry = FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.1", (), (Source("10.16.0.0/16", snat=True),))
    kernel = ModelKernel()
    kernel.converge(config(entry))
    tampered = Rule(Family.V4, 18600, "eth0", "lookup main", src="10.0.0.0/8")
    kernel.rules[0] = tampered
    assert [str(op) for op in kernel.plan(config(entry)).operations][-1] == (
        f"ip -4 rule delete pref 18600 from 10.0.0.0/8 iif eth0 lookup main proto {OUR_PROTOCOL}"
    )
    kernel.converge(config(entry))
    assert tampered not in kernel.rules


def test_a_thousand_sources_are_planned_quickly() -> None:
    """The cost of a plan that is in sync does not grow out of hand with the number of sources."""
    many = tuple(
        Source(f"10.{a}.{b}.0/24", snat=True) for a, b in itertools.product(range(0, 8, 2), range(250))
    )
    entry = FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.1", (), many)
    kernel = ModelKernel()
    assert len([op for op in kernel.converge(config(entry)) if isinstance(op, NatOp)]) == 1000
    assert kernel.plan(config(entry)).in_sync
