"""In a real namespace: any way to a configuration ends in the same kernel state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from veg_node_agent.core import diff
from veg_node_agent.core.model import (
    BfdConfig,
    Config,
    Family,
    FamilyConfig,
    Record,
    Source,
    Timers,
    UplinkConfig,
)
from veg_node_agent.io.kernel import Kernel
from veg_node_agent.io.nat import BackendName

from tests.functional.node_agent.conftest import Lab

V4 = ["10.16.0.0/16", "10.16.0.0/24", "10.16.1.7/32", "10.17.0.0/16", "192.168.0.1/32"]
V6 = ["fd00:10:16::/112", "fd00:10:16::9/128", "fd00:10:17::/112"]


@dataclass
class Driver:
    """The agent's reconcile without its loop, in the pod's namespace."""

    lab: Lab
    kernel: Kernel
    record: Record = field(default_factory=Record)

    def converge(self, config: Config) -> None:
        """Until nothing differs."""
        self.lab.pod.call(self._converge, config)

    def _converge(self, config: Config) -> None:
        for _ in range(4):
            plan = diff.plan(config, self.kernel.read(config, self.record), self.record)
            assert not plan.waiting
            assert not plan.problems
            if not plan.operations:
                self.record = plan.after
                return
            self.record = plan.before
            outcome = self.kernel.apply(plan.operations)
            assert outcome.errors == ()
        raise AssertionError(f"does not converge: {plan.operations[0]}")

    def state(self) -> list[str]:
        """What the tools print; policy rules of one priority, and rules of the raw table, do the same whatever their
        order.
        """
        variant = self.kernel.nat_backend
        tables = [
            line
            for tool in (f"iptables-{variant}-save", f"ip6tables-{variant}-save")
            for line in self.lab.pod(tool).splitlines()
            if line.startswith("-A")
        ]
        return [
            self.lab.pod("ip", "route"),
            self.lab.pod("ip", "-6", "route"),
            *sorted(self.lab.pod("ip", "rule").splitlines()),
            *sorted(self.lab.pod("ip", "-6", "rule").splitlines()),
            *(line for line in tables if "--notrack" not in line),
            *sorted(line for line in tables if "--notrack" in line),
        ]


def entries(family: Family) -> st.SearchStrategy[FamilyConfig]:
    """Any configuration of a family."""
    prefixes = V4 if family is Family.V4 else V6
    inner, outer = ("10.16.0.1", ["172.17.0.1", "172.17.0.2"])
    if family is Family.V6:
        inner, outer = ("fd00:10:16::1", ["fd17::1", "fd17::2"])
    return st.builds(
        FamilyConfig,
        family=st.just(family),
        internal_gateway=st.just(inner),
        external_gateway=st.sampled_from(outer),
        vpc_cidrs=st.lists(st.sampled_from(prefixes), unique=True).map(tuple),
        sources=st.dictionaries(st.sampled_from(prefixes), st.booleans()).map(
            lambda chosen: tuple(Source(cidr, snat) for cidr, snat in chosen.items())
        ),
    )


def config(
    *families: FamilyConfig, bfd: BfdConfig | None = None, uplink: UplinkConfig | None = None
) -> Config:
    """A configuration of these families."""
    return Config("default/g", "eth0", "net1", families, bfd, uplink)


EXTRAS: dict[str, st.SearchStrategy[Any]] = {
    "bfd": st.sampled_from([None, BfdConfig(("10.255.255.255",), Timers(100, 100, 3), 253)]),
    "uplink": st.sampled_from([None, UplinkConfig(100, 3, ("10.16.0.12",))]),
}
DUAL = st.builds(config, entries(Family.V4), entries(Family.V6), **EXTRAS)
ANY = st.one_of(
    DUAL,
    st.builds(config, entries(Family.V4), **EXTRAS),
    st.builds(config, entries(Family.V6), **EXTRAS),
)


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_any_way_ends_in_the_same_state(lab: Lab, backend: BackendName) -> None:
    """Whatever was configured before, a configuration prints the same routes, rules and NAT rules."""
    driver = Driver(lab, Kernel(backend))
    expected: dict[Config, list[str]] = {}
    clean = config(
        FamilyConfig(Family.V4, "10.16.0.1", "172.17.0.1"),
        FamilyConfig(Family.V6, "fd00:10:16::1", "fd17::1"),
    )

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(ANY, max_size=3), DUAL)
    def check(before: list[Config], last: Config) -> None:
        if last not in expected:
            driver.converge(clean)
            driver.converge(last)
            expected[last] = driver.state()
        for each in (*before, last, last):
            driver.converge(each)
        assert driver.state() == expected[last]

    try:
        check()
    finally:
        lab.pod.call(driver.kernel.close)
