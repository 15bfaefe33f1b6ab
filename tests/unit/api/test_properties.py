"""What holds for every input: order does not matter, and a plan that was carried out leaves nothing to do."""

import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from veg_api.core.change import PatchStatus
from veg_api.core.planner import gateway_keys, plan_gateway
from veg_api.core.pools import Pools
from veg_api.core.snapshot import Snapshot
from veg_api.core.topology import plan_topology
from veg_common.objects import Object, Ref, ref_of

from tests.unit.api.conftest import World, cluster, gateway, macvlan, obj, pod, subnet

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

BLOCKS = [
    "10.16.0.0/16",
    "10.16.1.0/24",
    "10.16.0.9",
    "10.16.1.1/24",
    "fd00::/64",
    "10.200.0.0/24",
    "0.0.0.0/0",
]
policies = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "snat": st.booleans(),
            "ipBlocks": st.lists(st.sampled_from(BLOCKS), max_size=3),
            "subnets": st.lists(st.sampled_from(["ovn-default", "s1", "s2", "nope"]), max_size=2),
        },
    ),
    max_size=3,
)
specs = st.fixed_dictionaries(
    {"policies": policies},
    optional={
        "vpc": st.sampled_from(["ovn-cluster", "vpc1", "nope"]),
        "replicas": st.integers(-1, 4),
        "internalSubnet": st.sampled_from(["", "ovn-default", "s1", "s2", "tiny"]),
        "externalSubnet": st.sampled_from(["macvlan1", "small", "ovn-default"]),
        "externalIPs": st.lists(st.sampled_from([f"172.17.0.{i}" for i in range(9, 15)]), max_size=4),
        "prefix": st.sampled_from(["", "veg-"]),
        "image": st.sampled_from(["", "other:1"]),
        "bfd": st.sampled_from(
            [
                {},
                {"enabled": True},
                {"enabled": True, "minTX": 20, "multiplier": 2},
                {"enabled": True, "minRX": 0},
            ]
        ),
    },
)
CLUSTER = [
    *cluster(),
    obj("Vpc", "vpc1", spec={"bfdPort": {"enabled": True, "ip": "10.255.255.255"}}),
    subnet("s1", "192.168.0.0/24", vpc="vpc1", default=True),
    subnet("s2", "192.168.1.0/24", vpc="vpc1"),
    subnet("tiny", "10.80.0.0/29"),
    macvlan("172.30.0.0/29", "small"),
]
histories = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), specs), min_size=1, max_size=6)


def events_of(history: list[tuple[str, dict[str, Any]]]) -> list[tuple[Ref, Object]]:
    """Every state that the resources went through, oldest first."""
    world = World(*CLUSTER)
    states = [(ref, item) for ref, item in sorted(world.objects.items())]
    for name, spec in history:
        world.put(gateway(name, **spec))
        ref = Ref("VpcEgressGateway", "default", name)
        states.append((ref, world.objects[ref]))
    for name in ("client", "other"):
        world.put(pod(name))
        states.append((ref_of(pod(name)), world.get("Pod", name)))
    return states


def everything(snapshot: Snapshot) -> list[Any]:
    """All plans of a snapshot, as one pass makes them."""
    pools = Pools(snapshot)
    plans: list[Any] = [plan_gateway(snapshot, key, pools) for key in sorted(gateway_keys(snapshot))]
    return [*plans, plan_topology(snapshot, pools)]


@SETTINGS
@given(histories, st.randoms(use_true_random=False))
def test_order_repetition_and_grouping_do_not_matter(
    history: list[tuple[str, dict[str, Any]]], rng: random.Random
) -> None:
    """Whatever way the same last states were reached, the plans are the same."""
    states = events_of(history)
    straight, _ = Snapshot().with_objects(states)
    last = dict(states)
    shuffled = [*states, *rng.choices(states, k=len(states))]
    rng.shuffle(shuffled)
    closing = list(last.items())
    rng.shuffle(closing)
    snapshot = Snapshot()
    queue = [*shuffled, *closing]
    while queue:
        size = rng.randint(1, 5)
        snapshot, _ = snapshot.with_objects(queue[:size])
        queue = queue[size:]
        if rng.random() < 0.2:
            everything(snapshot)  # a plan that nobody carries out leaves no trace
    assert everything(snapshot) == everything(straight)


@SETTINGS
@given(histories)
def test_a_plan_carried_out_leaves_nothing_to_do(history: list[tuple[str, dict[str, Any]]]) -> None:
    """With nothing else happening, the next plan is empty."""
    world = World(*CLUSTER, pod("client"))
    for name, spec in history:
        world.put(gateway(name, **spec))
        plans, topology = world.plans()
        for plan in plans.values():
            world.carry_out(plan.changes)
        world.carry_out(topology.changes)
        plans, topology = world.plans()
        assert {key: plan.changes for key, plan in plans.items()} == dict.fromkeys(plans, ())
        assert {key: plan.events for key, plan in plans.items()} == dict.fromkeys(plans, ())
        assert topology.changes == ()


@SETTINGS
@given(histories, st.randoms(use_true_random=False))
def test_the_end_depends_on_the_last_state_only(
    history: list[tuple[str, dict[str, Any]]], rng: random.Random
) -> None:
    """Gateways that went through a history of changes serve the same as those created as they ended.

    Which free addresses they have may differ, for those are sticky; all else may not: validity of what never ran,
    sources, routers, numbers of replicas. A gateway whose last state is bad runs its last good one.
    """
    world = World(*CLUSTER)
    for name, spec in history:
        spec.pop("externalIPs", None)
        spec["prefix"] = ""
        world.put(gateway(name, **spec))
        if rng.random() < 0.7:
            world.settle()
    world.settle()
    fresh = World(*CLUSTER)
    for name, spec in dict(history).items():
        fresh.put(gateway(name, **spec))
    fresh.settle()
    for name in dict(history):
        assert world.condition_of("Validated", name) == fresh.condition_of("Validated", name)
        if fresh.condition_of("Validated", name)[0] != "True":
            continue
        assert shape(world, name) == shape(fresh, name)
    check_no_sharing(world)


def shape(world: World, name: str) -> Any:
    """What a gateway does, without the addresses that were chosen for it."""
    intent = world.plan(name).intent
    assert intent is not None
    families = [(f.family, f.sources, f.local_cidrs, len(f.nexthops)) for f in intent.families]
    config = world.get("ConfigMap", f"{name}-config")["data"]
    return intent.vpc, intent.default_vpc, families, config, world.status(name)["phase"]


def check_no_sharing(world: World) -> None:
    """No address of a Subnet is in two IP objects."""
    seen: dict[tuple[str, str], str] = {}
    for ip in world.all("IP"):
        key = (ip["spec"]["subnet"], ip["spec"]["ipAddress"])
        assert key not in seen, (ip["metadata"]["name"], seen[key])
        seen[key] = ip["metadata"]["name"]


def test_status_is_one_patch(world: World) -> None:
    """A status is written as a whole, at most once a plan, and last."""
    world.put(gateway())
    changes = world.plan().changes
    assert [isinstance(c, PatchStatus) for c in changes] == [False] * (len(changes) - 1) + [True]
