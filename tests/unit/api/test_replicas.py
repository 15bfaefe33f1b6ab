"""Who serves, where traffic is sent, and what the status says of it."""

from typing import Any

import pytest
from veg_api.core.gateway import GatewaySpec
from veg_api.core.intents import GatewayIntent, Outcome
from veg_common.objects import Object

from tests.unit.api.conftest import World, cluster, gateway, obj, subnet


def hops(world: World, name: str = "gateway1") -> tuple[str, ...]:
    """The nexthops that the programmer holds."""
    intent = world.intent(name)
    assert isinstance(intent, GatewayIntent)
    return tuple(hop for family in intent.families for hop in family.nexthops)


def set_ready(world: World, name: str, *, ready: bool) -> None:
    """What the kubelet says of a pod."""
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    world.update("Pod", name, {"status": {"conditions": conditions}})


def steps(world: World, count: int = 3) -> None:
    """Plans without a kubelet."""
    for _ in range(count):
        world.step()


@pytest.fixture
def two(world: World) -> World:
    """A settled gateway of two replicas."""
    world.put(gateway(replicas=2))
    world.settle()
    return world


def names(world: World) -> list[str]:
    """Names of the gateway's pods."""
    return [p["metadata"]["name"] for p in world.gateway_pods()]


def test_nothing_serves_before_it_was_ready(world: World) -> None:
    """A gateway whose pods never were ready has no nexthop: OVN drops its sources' traffic."""
    world.put(gateway(replicas=2))
    world.settle(ready=False)
    assert hops(world) == ()
    assert world.status()["ready"] is False
    assert world.status()["phase"] == "Processing"
    assert world.condition("WorkloadReady")["reason"] == "PodsNotReady"


def test_an_agent_that_crashed_keeps_the_traffic(two: World) -> None:
    """Not Ready any more, but Ready once: the kernel forwards on, the nexthop stays, ready stays."""
    set_ready(two, names(two)[0], ready=False)
    steps(two)
    assert hops(two) == ("10.16.0.2", "10.16.0.3")
    assert two.status()["ready"] is True
    assert two.condition("WorkloadReady")["status"] == "False"
    assert [p["reason"] for p in two.status()["pods"]] == ["WasReady", "Ready"]


def test_a_terminating_pod_loses_the_traffic(two: World) -> None:
    """While another serves, a pod on its way out gets none."""
    two.remove("Pod", names(two)[0])
    steps(two)
    assert hops(two) == ("10.16.0.3",)
    assert two.status()["ready"] is False


def test_a_node_that_is_not_ready_loses_the_traffic(two: World) -> None:
    """And gets it back when node and pod are well again."""
    two.update("Node", "node1", {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    steps(two)
    assert hops(two) == ("10.16.0.3",)
    set_ready(two, names(two)[0], ready=False)
    two.update("Node", "node1", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    steps(two)
    assert hops(two) == ("10.16.0.3",)
    set_ready(two, names(two)[0], ready=True)
    steps(two)
    assert hops(two) == ("10.16.0.2", "10.16.0.3")


def test_the_last_nexthop_stays(world: World) -> None:
    """When nobody serves any more, traffic ends at the dead nexthop and leaks nowhere."""
    world.put(gateway())
    world.settle()
    world.remove("Pod", names(world)[0])
    steps(world)
    assert hops(world) == ("10.16.0.2",)
    world.vanish("Pod", names(world)[0])
    steps(world)
    assert hops(world) == ("10.16.0.2",)
    assert world.status()["ready"] is False


def test_scaled_to_zero(world: World) -> None:
    """No replicas: no nexthop, complete but not ready."""
    world.put(gateway())
    world.settle()
    world.put(gateway(replicas=0))
    world.settle()
    assert hops(world) == ()
    assert world.status()["phase"] == "Completed"
    assert world.status()["ready"] is False
    assert world.condition("Ready")["reason"] == "ScaledToZero"
    world.put(gateway())
    world.settle()
    assert world.status()["externalIPs"] == ["172.17.0.11"]


def test_nexthops_are_sorted_as_numbers(world: World) -> None:
    """10.16.0.9 comes before 10.16.0.10."""
    world.put(gateway(replicas=2, internalIPs=["10.16.0.10", "10.16.0.9"]))
    world.settle()
    assert hops(world) == ("10.16.0.9", "10.16.0.10")
    assert world.status()["internalIPs"] == ["10.16.0.9", "10.16.0.10"]


def test_intent_of_a_custom_vpc(world: World) -> None:
    """Local prefixes are those of all its subnets; agents get routes to the ones that are not on their link."""
    world.put(obj("Vpc", "vpc1", spec={}))
    world.put(subnet("s1", "192.168.0.0/24", vpc="vpc1", default=True))
    world.put(subnet("s2", "192.168.1.0/24", vpc="vpc1"))
    world.put(gateway(vpc="vpc1", policies=[{"ipBlocks": ["192.168.1.7", "10.5.0.0/16"]}]))
    world.settle()
    intent = world.intent()
    assert isinstance(intent, GatewayIntent)
    (family,) = intent.families
    assert not intent.default_vpc
    assert family.sources == ("10.5.0.0/16", "192.168.1.7/32")
    assert family.local_cidrs == ("192.168.0.0/24", "192.168.1.0/24")
    config = world.get("ConfigMap", "gateway1-config")["data"]["agent.json"]
    assert '"vpcCidrs": [\n        "10.5.0.0/16",\n        "192.168.1.0/24"\n      ]' in config


def test_everything_as_source_does_not_become_a_route(world: World) -> None:
    """0.0.0.0/0 is everybody in the VPC; as a route back it would take the default route's place."""
    world.put(gateway(policies=[{"snat": True, "ipBlocks": ["0.0.0.0/0"]}]))
    world.settle()
    assert world.status()["ready"] is True
    assert '"vpcCidrs": []' in world.get("ConfigMap", "gateway1-config")["data"]["agent.json"]


def test_ipv6_text_is_canonical() -> None:
    """However an address was written, what leaves api is RFC 5952."""
    world = World(*cluster("ipv6"))
    policies = [{"ipBlocks": ["FD00:0010:0016:0:0:0:0:0/112"]}]
    world.put(gateway(internalIPs=["fd00:10:16:0::00AB"], policies=policies))
    world.settle()
    intent = world.intent()
    assert isinstance(intent, GatewayIntent)
    assert intent.families[0].sources == ("fd00:10:16::/112",)
    assert intent.families[0].nexthops == ("fd00:10:16::ab",)
    assert world.status()["internalIPs"] == ["fd00:10:16::ab"]


def test_transition_times_move_only_with_status(world: World) -> None:
    """A condition's first time is that of its last change of status, its second that of its last change of anything; a
    quiet gateway's status is not written at all.
    """
    world.put(gateway())
    world.settle()
    before = {c["type"]: c for c in world.status()["conditions"]}
    world.clock += 100
    world.put(gateway(policies=[{"ipBlocks": ["10.16.1.0/24"]}]))
    world.settle()
    after = {c["type"]: c for c in world.status()["conditions"]}
    for kind in ("Validated", "AddressesAllocated"):
        assert after[kind]["lastTransitionTime"] == before[kind]["lastTransitionTime"]
        assert after[kind]["observedGeneration"] > before[kind]["observedGeneration"]
        assert after[kind]["lastUpdateTime"] > before[kind]["lastUpdateTime"]
    world.clock += 100
    assert world.plan().changes == ()


@pytest.mark.parametrize("link", ["connecting", "unreachable"])
def test_a_restarted_api_does_not_doubt_what_was_committed(two: World, link: str) -> None:
    """Before the programmer has answered, a gateway that was ready and has not changed stays ready."""
    two.link = link
    two.outcomes.clear()
    two.clock += 10
    before = two.status()
    steps(two)
    assert two.status()["ready"] is True
    assert hops_wanted(two) == ("10.16.0.2", "10.16.0.3")
    if link == "connecting":
        assert two.status() == before
    two.put(gateway(replicas=2, policies=[{"ipBlocks": ["10.16.1.0/24"]}]))
    steps(two)
    assert two.status()["ready"] is False


def hops_wanted(world: World) -> tuple[str, ...]:
    """The nexthops that the plan asks for."""
    intent = world.plan().intent
    assert intent is not None
    return intent.families[0].nexthops


@pytest.mark.parametrize("state", ["WAITING", "REFUSED"])
def test_an_intent_that_is_not_committed(two: World, state: Any) -> None:
    """The reason of the programmer is the condition's; the gateway is not ready."""
    key = two.plan().intent_key
    two.outcomes[key] = Outcome(two.plan().intent, state, "RouterMissing", "no router vpc1")
    two.clock += 1
    two.carry_out(two.plan().changes)
    condition = two.condition("RoutesProgrammed")
    assert (condition["status"], condition["reason"]) == ("False", "RouterMissing")
    assert "no router vpc1" in condition["message"]
    assert two.status()["ready"] is False


def test_a_hidden_manifest_keeps_the_gateway_running(two: World) -> None:
    """A manifest that can not be read since before api started: pods, rows and addresses are looked after all the same."""
    from veg_common.objects import Ref

    intent = two.intent()
    two.vanish("VpcEgressGateway", "gateway1")
    two.hidden = frozenset({Ref("VpcEgressGateway", "default", "gateway1")})
    plan = two.plan()
    assert plan.intent == intent
    assert plan.changes == ()
    assert not plan.withdraw


def test_defaults() -> None:
    """The defaults are those of the specification's tables."""
    from veg_api.core.gateway import parse_spec

    spec, problems = parse_spec({"externalSubnet": "e", "bfd": None, "policies": None})
    assert problems == ()
    assert spec == GatewaySpec(external_subnet="e")
    assert (spec.vpc, spec.replicas, spec.bfd.enabled) == ("ovn-cluster", 1, False)
    assert (spec.bfd.min_rx, spec.bfd.min_tx, spec.bfd.multiplier) == (1000, 1000, 3)


def test_ready_events_are_for_transitions(two: World) -> None:
    """One event when it becomes ready, one when it is no longer, none for what stays."""
    assert [e.reason for e in two.events] == ["Ready"]
    two.put(gateway(replicas=2, policies=[]))
    two.settle()
    two.settle()
    assert [(e.type, e.reason) for e in two.events[1:]] == [("Warning", "NoPolicies")]


def test_objects_have_what_the_pod_needs(two: World) -> None:
    """The pod template is the agreed one: command, mounts, probes, spread over nodes, no token."""
    spec: Object = two.get("Deployment", "gateway1")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["name"] == "gateway"
    assert container["command"] == [
        *("veg-node-agent", "run", "--config", "/etc/veg/agent.json", "--run-dir", "/run/veg"),
        *("--inspect", "127.0.0.1:50053"),
    ]
    assert container["readinessProbe"]["exec"]["command"][-1] == (
        "find /run/veg/healthy -newermt '-5 seconds' 2>/dev/null | grep -q . || { cat /run/veg/problem; exit 1; }"
    )
    assert spec["automountServiceAccountToken"] is False
    rule = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert rule["topologyKey"] == "kubernetes.io/hostname"
    assert two.get("Deployment", "gateway1")["metadata"]["annotations"] == {
        "ovn.kubernetes.io/ip_pool": "10.16.0.2,10.16.0.3",
        "eth1.default.kubernetes.io/ip_pool": "172.17.0.11,172.17.0.12",
    }


UNSCHEDULABLE = {
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.",
        }
    ]
}
WAITING = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nope:1"'}
FAILED = {"exitCode": 2, "reason": "Error", "message": "no such flag"}


@pytest.mark.parametrize(
    ("pod_status", "text"),
    [
        (UNSCHEDULABLE, "Unschedulable: 0/3 nodes are available"),
        (
            {"containerStatuses": [{"name": "gateway", "state": {"waiting": WAITING}}]},
            'container gateway: ImagePullBackOff: Back-off pulling image "nope:1"',
        ),
        (
            {"containerStatuses": [{"name": "gateway", "state": {"terminated": FAILED}}]},
            "container gateway: exit code 2: Error: no such flag",
        ),
        (
            {
                "containerStatuses": [
                    {"name": "gateway", "state": {"waiting": {"reason": "ContainerCreating"}}}
                ]
            },
            "",
        ),
        ({"containerStatuses": "nonsense", "conditions": [3]}, ""),
    ],
    ids=["unschedulable", "image", "failed", "creating", "nonsense"],
)
def test_why_a_pod_does_not_start(world: World, pod_status: Object, text: str) -> None:
    """What scheduler or kubelet say is in the replica's status and in the condition."""
    world.put(gateway())
    world.settle(ready=False)
    (name,) = names(world)
    world.update("Pod", name, {"status": pod_status})
    steps(world)
    (entry,) = world.status()["pods"]
    message = world.condition("WorkloadReady")["message"]
    assert (text in entry["message"], bool(entry["message"])) == (True, bool(text))
    assert message.startswith("0 of 1 pods ready")
    assert f"{name}: NotReadyYet" in message
    assert text in message
