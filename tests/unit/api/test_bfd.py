"""Gateways with BFD: the specification's third example, who is a nexthop, who serves, and what the status tells."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from veg_api.core.intents import BfdIntent, GatewayIntent, Session
from veg_api.core.planner import plan_gateway
from veg_api.core.pools import Pools
from veg_api.core.workload import Defaults
from veg_common.objects import Object

from tests.unit.api.conftest import World, cluster, gateway, macvlan, obj, pod_status, subnet

GOLDEN = Path(__file__).parent / "golden"
UP, DOWN = Session("Up", serving=True), Session("Down", serving=False)
NAME = "default/gateway2"
FAMILIES = {
    "ipv4": ("10.255.255.255", "192.168.0.0/24", "172.17.0.0/16"),
    "ipv6": ("fdff::1", "fd00:192:168::/112", "fd17::/64"),
    "dual": ("10.255.255.255,fdff::1", "192.168.0.0/24,fd00:192:168::/112", "172.17.0.0/16,fd17::/64"),
}


def third(family: str = "ipv4") -> World:
    """The specification's third example before its gateway."""
    ip, inside, outside = FAMILIES[family]
    world = World(*cluster(family))
    world.put(obj("Vpc", "vpc1", spec={"bfdPort": {"enabled": True, "ip": ip}}))
    world.put(subnet("subnet1", inside, vpc="vpc1"))
    world.put(macvlan(outside, name="macvlan"))
    return world


def example(family: str = "ipv4", **spec: Any) -> Object:
    """Its gateway, with other fields on demand."""
    base: Object = {
        "vpc": "vpc1",
        "replicas": 2,
        "internalSubnet": "subnet1",
        "externalSubnet": "macvlan",
        "bfd": {"enabled": True},
        "policies": [{"snat": True, "ipBlocks": FAMILIES[family][1].split(",")}],
    }
    return gateway("gateway2", **{**base, **spec})


@pytest.fixture
def two() -> World:
    """The third example, settled."""
    world = third()
    world.put(example())
    world.settle()
    return world


def wanted(world: World) -> GatewayIntent:
    """What the programmer holds for the gateway."""
    found = world.intent("gateway2")
    assert isinstance(found, GatewayIntent)
    return found


def hops(world: World) -> tuple[str, ...]:
    """The nexthops that the programmer holds."""
    return tuple(hop for family in wanted(world).families for hop in family.nexthops)


def config(world: World) -> Object:
    """What the agents read."""
    found: Object = json.loads(world.get("ConfigMap", "gateway2-config")["data"]["agent.json"])
    return found


def names(world: World) -> list[str]:
    """Names of the gateway's pods, by internal address."""
    return [entry["pod"] for entry in world.status("gateway2")["pods"]]


def entry(world: World, name: str) -> Object:
    """A pod's entry in the status."""
    return next(e for e in world.status("gateway2")["pods"] if e["pod"] == name)


def steps(world: World, count: int = 3) -> None:
    """Plans without a kubelet."""
    for _ in range(count):
        world.step()


def kubelet(world: World, name: str, *unready: str, message: str = "") -> None:
    """What the kubelet says of a pod's containers."""
    status = pod_status(world.get("Pod", name), *unready)
    status["conditions"][0].update({"reason": "ContainersNotReady", "message": message} if message else {})
    world.update("Pod", name, {"status": status})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_third_example(family: str) -> None:
    """Every output of the plan is as recorded (rewrite with VEG_REWRITE_GOLDEN=1), and the whole is ready."""
    world = third(family)
    world.put(example(family))
    world.settle()
    status = world.status("gateway2")
    for replica in status["pods"]:
        replica["uid"] = replica["pod"] = "*"
    deployment = world.get("Deployment", "gateway2")
    found = {
        "agent.json": config(world),
        "deployment": {
            k: deployment["spec"][k] for k in ("minReadySeconds", "replicas", "strategy", "template")
        },
        "intent": dataclasses.asdict(wanted(world)),
        "status": status,
        "vpc": world.get("Vpc", "vpc1")["status"],
    }
    text = json.dumps(found, indent=2) + "\n"
    path = GOLDEN / f"third-{family}.json"
    if os.environ.get("VEG_REWRITE_GOLDEN"):
        path.write_text(text)
    assert json.loads(path.read_text()) == json.loads(text)
    assert (status["ready"], status["phase"]) == (True, "Completed")


def test_the_agent_alone_makes_a_nexthop_and_sessions_make_it_ready() -> None:
    """OVN needs the row before it speaks: the pod is no nexthop before its agent is ready, and no replica before BFD."""
    world = third()
    world.sessions_come_up = False
    world.put(example())
    world.settle(ready=False)
    assert hops(world) == ()
    first, second = names(world)
    kubelet(world, first, "bfdd")
    steps(world)
    assert hops(world) == ("192.168.0.2",)
    assert (entry(world, first)["nexthop"], entry(world, first)["serving"]) == (True, False)
    assert entry(world, first)["reason"] == "SessionDown"
    kubelet(world, second, "bfdd")
    steps(world)
    assert hops(world) == ("192.168.0.2", "192.168.0.3")
    assert world.status("gateway2")["ready"] is False
    assert world.condition_of("Ready", "gateway2")[1] == "ReplicasNotServing"
    world.sessions[NAME]["192.168.0.2"] = UP
    kubelet(world, first)
    steps(world)
    assert entry(world, first)["bfd"]["state"] == "Up"
    assert "1 of 2 replicas" in world.condition_of("BfdSessionsUp", "gateway2")[2]
    assert world.status("gateway2")["ready"] is False
    world.sessions[NAME]["192.168.0.3"] = UP
    kubelet(world, second)
    world.settle()
    assert world.status("gateway2")["ready"] is True
    assert world.condition_of("BfdSessionsUp", "gateway2")[:2] == ("True", "SessionsUp")


def test_a_session_that_goes_down_is_told_with_time_and_reason(two: World) -> None:
    """The nexthop stays (OVN decides), ready goes, the condition has pod, session, time and the kubelet's words."""
    first, _ = names(two)
    two.events.clear()
    two.sessions[NAME]["192.168.0.2"] = DOWN
    kubelet(two, first, "gateway", "bfdd", message="gateway: uplink net1: no answer from 172.17.0.1")
    steps(two)
    since = entry(two, first)["bfd"]["since"]
    assert hops(two) == ("192.168.0.2", "192.168.0.3")
    assert two.status("gateway2")["ready"] is False
    status, reason, message = two.condition_of("BfdSessionsUp", "gateway2")
    assert (status, reason) == ("False", "SessionsDown")
    assert f"{first}: Down since {since}: session 10.255.255.255 - 192.168.0.2 is Down" in message
    assert "uplink net1: no answer from 172.17.0.1" in message
    assert {e.reason for e in two.events} == {"SessionsDown", "ReplicasNotServing"}
    steps(two, 5)
    assert entry(two, first)["bfd"]["since"] == since
    two.sessions[NAME]["192.168.0.2"] = UP
    kubelet(two, first)
    steps(two)
    assert two.status("gateway2")["ready"] is True
    assert entry(two, first)["bfd"] == {
        "state": "Up",
        "since": entry(two, first)["bfd"]["since"],
        "message": "",
    }


def test_up_without_traffic_is_not_serving(two: World) -> None:
    """OVN says Up and has not put the nexthop back yet: the replica does not serve."""
    first, _ = names(two)
    two.sessions[NAME]["192.168.0.2"] = Session("Up", serving=False)
    steps(two)
    assert two.status("gateway2")["ready"] is False
    assert "OVN does not send traffic yet" in entry(two, first)["bfd"]["message"]


def test_one_family_down_is_a_replica_down() -> None:
    """The worst session counts, and is named."""
    world = third("dual")
    world.put(example("dual"))
    world.settle()
    first, _ = names(world)
    world.sessions[NAME]["fd00:192:168::2"] = Session("Init", serving=False)
    steps(world)
    told = entry(world, first)["bfd"]
    assert told["state"] == "Init"
    assert "session fdff::1 - fd00:192:168::2 is Init" in told["message"]
    assert world.status("gateway2")["ready"] is False


def test_timers_change_live(two: World) -> None:
    """Intent and configuration change; no pod restarts, no address moves, the session is not touched."""
    pods, template = names(two), two.get("Deployment", "gateway2")["spec"]["template"]
    before = wanted(two)
    two.put(example(bfd={"enabled": True, "minRX": 100, "minTX": 50, "multiplier": 5}))
    two.settle()
    assert wanted(two) == dataclasses.replace(
        before,
        bfd=BfdIntent(100, 50, 5, "bfd@vpc1", nodes=(("192.168.0.2", "node1"), ("192.168.0.3", "node2"))),
    )
    # The same at both ends.
    assert config(two)["bfd"]["timers"] == {"minRxMs": 100, "minTxMs": 50, "multiplier": 5}
    assert config(two)["uplink"]["intervalMs"] == 100
    assert names(two) == pods
    assert two.get("Deployment", "gateway2")["spec"]["template"] == template
    assert two.status("gateway2")["ready"] is True


def test_another_port_address_reaches_agents_live(two: World) -> None:
    """The agents' peer and way back follow the Vpc without a restart."""
    pods = names(two)
    two.put(obj("Vpc", "vpc1", spec={"bfdPort": {"enabled": True, "ip": "10.254.0.1"}}))
    two.settle()
    assert config(two)["bfd"]["peers"] == ["10.254.0.1"]
    assert config(two)["families"][0]["vpcCidrs"] == ["10.254.0.1/32"]
    assert names(two) == pods


def test_switching_bfd_on_and_off(two: World) -> None:
    """The container comes and goes with the field; without it a pod has what it had, and serves by being ready."""
    two.put(example(bfd={"enabled": False}))
    two.settle()
    spec = two.get("Deployment", "gateway2")["spec"]
    assert [c["name"] for c in spec["template"]["spec"]["containers"]] == ["gateway"]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 10
    assert wanted(two).bfd is None
    assert {"bfd", "uplink"} & set(config(two)) == set()
    assert "bfd" not in two.status("gateway2")["pods"][0]
    assert two.condition("BfdSessionsUp", "gateway2") == {}
    two.put(example())
    two.settle()
    assert two.status("gateway2")["ready"] is True
    assert wanted(two).bfd is not None


def test_switching_bfd_on_loses_nobody() -> None:
    """Pods of before have no speaker: they get traffic without a session until their successors have one."""
    world = third()
    world.put(example(bfd={"enabled": False}))
    world.settle()
    old = set(names(world))
    world.put(example())
    seen = []
    for _ in range(40):
        busy = world.step()
        busy |= world._kubelet(ready=True)
        bfd = wanted(world).bfd
        if bfd is not None:
            sessions = world.sessions.get(NAME, {})
            usable = [
                h for h in hops(world) if h in bfd.silent or ((s := sessions.get(h)) and s.state == "Up")
            ]
            assert usable
            seen.append(bfd.silent)
        if not busy:
            break
    assert seen[0] == ("192.168.0.2", "192.168.0.3")
    assert seen[-1] == ()
    assert not old & set(names(world))
    assert world.status("gateway2")["ready"] is True


def test_pods_without_a_speaker_are_told_of() -> None:
    """Ready waits for the last of them."""
    world = third()
    world.put(example(bfd={"enabled": False}))
    world.settle()
    (first, *_) = names(world)
    world.put(example())
    steps(world)
    assert world.condition_of("Ready", "gateway2")[:2] == ("False", "PodsToReplace")
    assert f"{first}: None" in world.condition_of("BfdSessionsUp", "gateway2")[2]
    assert entry(world, first)["serving"] is True
    assert hops(world) == ("192.168.0.2", "192.168.0.3")


def test_the_uplink_probe_can_be_switched_off(two: World) -> None:
    """By an annotation of the gateway; the replicas' addresses follow their number."""
    assert config(two)["uplink"] == {
        "intervalMs": 1000,
        "multiplier": 3,
        "replicas": ["192.168.0.2", "192.168.0.3"],
    }
    two.put(example(replicas=1))
    two.settle()
    assert config(two)["uplink"]["replicas"] == ["192.168.0.2"]
    off = {"metadata": {"annotations": {"ovn.kubernetes.io/uplink-probe": "false"}}}
    two.update("VpcEgressGateway", "gateway2", off)
    two.settle()
    assert "uplink" not in config(two)
    assert config(two)["bfd"]["minTtl"] == 253


def test_replicas_keep_ovn_awake(two: World) -> None:
    """Those that are left when one dies, together four times an interval; nobody does it alone; an annotation ends it."""
    assert config(two)["bfd"]["nudgeMs"] == 250
    two.put(example(replicas=4))
    two.settle()
    assert config(two)["bfd"]["nudgeMs"] == 750
    two.update("VpcEgressGateway", "gateway2", {"spec": {"bfd": {"minRX": 50, "minTX": 50}}})
    two.settle()
    assert config(two)["bfd"]["nudgeMs"] == 75
    off = {"metadata": {"annotations": {"ovn.kubernetes.io/bfd-nudge": "false"}}}
    two.update("VpcEgressGateway", "gateway2", off)
    two.settle()
    assert "nudgeMs" not in config(two)["bfd"]
    two.put(example(replicas=1))
    two.settle()
    assert "nudgeMs" not in config(two)["bfd"]


def test_defaults_of_the_process(two: World) -> None:
    """The least TTL is a setting of api."""
    snapshot = two.view()
    plan = plan_gateway(snapshot, ("default", "gateway2"), Pools(snapshot), Defaults(bfd_min_ttl=255))
    assert '"minTtl": 255' in str(plan.changes).replace("\\n", "").replace("\\\\", "")


def test_a_restarted_api_does_not_doubt_sessions(two: World) -> None:
    """What the programmer has not told yet is as the status says; what it does not tell then is not there."""
    two.sessions.clear()
    two.outcomes.clear()
    two.link = "connecting"
    steps(two)
    assert two.status("gateway2")["ready"] is True
    two.link, two.settling = "connected", True
    two.sessions_come_up = False
    snapshot = two.view()
    plan = plan_gateway(snapshot, ("default", "gateway2"), Pools(snapshot))
    two.carry_out(plan.changes)
    assert [e["bfd"]["state"] for e in two.status("gateway2")["pods"]] == ["Up", "Up"]
    two.settling = False
    steps(two)
    assert [e["bfd"]["state"] for e in two.status("gateway2")["pods"]] == ["Down", "Down"]
    assert two.status("gateway2")["ready"] is False
    assert hops(two) == ("192.168.0.2", "192.168.0.3")


def test_a_pod_that_goes_takes_its_nexthop_along(two: World) -> None:
    """Deleted pods and those of lost nodes are no nexthops; the others' sessions are left alone."""
    first, second = names(two)
    two.remove("Pod", first)
    steps(two)
    assert hops(two) == ("192.168.0.3",)
    node_name = two.get("Pod", second)["spec"]["nodeName"]
    two.update("Node", node_name, {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    steps(two)
    # Nobody is left: the last one stays, and BFD keeps traffic from it.
    assert hops(two) == ("192.168.0.3",)


def test_a_speaker_without_sessions_that_ovn_believes_in_is_a_suspect(two: World) -> None:
    """Only where OVN says Up and the kubelet says that the speaker's sessions are not."""
    first, second = names(two)

    def suspects() -> tuple[tuple[str, ...], ...]:
        return two.plan("gateway2").suspects

    assert suspects() == ()
    kubelet(two, first, "bfdd")
    assert suspects() == (("192.168.0.2",),)
    kubelet(two, second, "gateway")
    assert suspects() == (("192.168.0.2",),)
    two.link = "connecting"
    assert suspects() == ()
    two.link = "connected"
    two.sessions[NAME]["192.168.0.2"] = DOWN
    assert suspects() == ()


def test_one_family_that_ovn_knows_to_be_down_makes_no_suspect_of_the_other() -> None:
    """The speaker is not ready because of the session that OVN does not believe in either: the other one is left alone."""
    world = third("dual")
    world.put(example("dual"))
    world.settle()
    six = next(text for text in world.sessions[NAME] if ":" in text)
    name = next(p["pod"] for p in world.status("gateway2")["pods"] if six in p["internalIPs"])
    kubelet(world, name, "bfdd")
    (suspect,) = world.plan("gateway2").suspects
    assert six in suspect
    assert len(suspect) == 2
    world.sessions[NAME][six] = DOWN
    assert world.plan("gateway2").suspects == ()


def test_moving_pods_waits_for_sessions(two: World) -> None:
    """After a change of addresses the next pod is replaced only when the one before has its session up."""
    two.sessions_come_up = False
    two.put(example(internalIPs=["192.168.0.51", "192.168.0.52", "192.168.0.53"]))
    for _ in range(12):
        two.step()
        two._kubelet(ready=True)
    moved = [hop for hop in hops(two) if hop in {"192.168.0.51", "192.168.0.52", "192.168.0.53"}]
    assert len(moved) == 1
    two.sessions[NAME][moved[0]] = UP
    two.sessions_come_up = True
    two.settle()
    assert set(two.status("gateway2")["internalIPs"]) < {"192.168.0.51", "192.168.0.52", "192.168.0.53"}
    assert two.status("gateway2")["ready"] is True


def test_a_broken_resource_keeps_its_bfd(two: World) -> None:
    """The last good state has its sessions, container and port."""
    before, pods = wanted(two), names(two)
    two.put(example(bfd={"enabled": True, "multiplier": 300}))
    two.settle()
    assert "spec.bfd.multiplier" in two.condition_of("Validated", "gateway2")[2]
    assert wanted(two) == before
    assert names(two) == pods
    assert two.status("gateway2")["ready"] is True


def test_the_default_vpc_too(world: World) -> None:
    """BFD is no matter of custom VPCs only."""
    world.put(obj("Vpc", "ovn-cluster", spec={"bfdPort": {"enabled": True, "ip": "10.255.255.254"}}))
    world.put(gateway("gateway2", bfd={"enabled": True}))
    world.settle()
    assert wanted(world).bfd == BfdIntent(1000, 1000, 3, "bfd@ovn-cluster", nodes=(("10.16.0.2", "node1"),))
    assert config(world)["families"][0]["vpcCidrs"] == ["10.255.255.254/32"]
    assert world.status("gateway2")["ready"] is True
