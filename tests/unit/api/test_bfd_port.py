"""The BFD port of a VPC: its faults, its nodes, what stays in force, and what the status says."""

from typing import Any

import pytest
from veg_api.core.affected import affected
from veg_api.core.intents import BfdPortIntent, IntentKey, Outcome, VpcIntent
from veg_common.objects import Object, Ref

from tests.unit.api.conftest import World, cluster, gateway, node, obj, subnet

IP = "10.255.255.255"


def vpc(ip: Any = IP, name: str = "vpc1", **port: Any) -> Object:
    """A Vpc with a BFD port."""
    return obj("Vpc", name, spec={"bfdPort": {"enabled": True, "ip": ip, **port}})


def labelled(name: str, *, ready: bool = True, **labels: str) -> Object:
    """A node with labels."""
    item = node(name, ready=ready)
    item["metadata"]["labels"] = labels
    return item


def intent(world: World, name: str = "vpc1") -> BfdPortIntent | None:
    """The port that the programmer is asked for."""
    found = world.plans()[1].intents[IntentKey("VPC", name)]
    assert isinstance(found, VpcIntent)
    return found.bfd_port


def nodes(world: World) -> list[str]:
    """Names of the port's nodes, as the status and the intent have them."""
    listed: list[str] = world.get("Vpc", "vpc1")["status"]["bfdPort"]["nodes"]
    asked = intent(world)
    assert asked is not None
    assert tuple(listed) == asked.nodes
    return listed


def told(world: World, kind: str = "BFDPortReady", name: str = "vpc1") -> tuple[str, str, str]:
    """(status, reason, message) of a condition of a Vpc."""
    conditions = world.get("Vpc", name)["status"]["conditions"]
    found = next(c for c in conditions if c["type"] == kind)
    return found["status"], found["reason"], found["message"]


@pytest.mark.parametrize(
    ("ip", "canonical"),
    [
        (IP, (IP,)),
        ("fdff::0:1", ("fdff::1",)),
        ("fdff::1, 169.255.255.255", ("169.255.255.255", "fdff::1")),
    ],
    ids=["ipv4", "ipv6", "dual"],
)
def test_a_port_of_any_family(world: World, ip: str, canonical: tuple[str, ...]) -> None:
    """Addresses are canonical, IPv4 first; the status is the specification's."""
    world.put(vpc(ip))
    world.settle()
    assert intent(world) == BfdPortIntent(canonical, ("node1", "node2", "node3"))
    assert world.get("Vpc", "vpc1")["status"]["bfdPort"] == {
        "ip": ",".join(canonical),
        "name": "bfd@vpc1",
        "nodes": ["node1", "node2", "node3"],
    }
    assert told(world)[:2] == ("True", "Ready")
    assert told(world, "Ready")[0] == "True"


BAD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "no-ip": ({"ip": ""}, "spec.bfdPort.ip", "FieldRequired", "is required"),
    "null-ip": ({"ip": None}, "spec.bfdPort.ip", "FieldRequired", "is required"),
    "malformed": ({"ip": "ten"}, "spec.bfdPort.ip", "InvalidAddress", "'ten' is not an IP address"),
    "prefix": ({"ip": "10.0.0.1/32"}, "spec.bfdPort.ip", "InvalidAddress", "not an IP address"),
    "twice": ({"ip": "10.0.0.1,10.0.0.2"}, "spec.bfdPort.ip", "InvalidAddress", "one address a family"),
    "multicast": ({"ip": "224.0.0.5"}, "spec.bfdPort.ip", "InvalidAddress", "multicast"),
    "link-local": ({"ip": "fe80::1"}, "spec.bfdPort.ip", "InvalidAddress", "link-local"),
    "number": ({"ip": 10}, "spec.bfdPort.ip", "InvalidType", "must be a string"),
    "enabled-text": ({"enabled": "yes"}, "spec.bfdPort.enabled", "InvalidType", "true or false"),
    "in-subnet": (
        {"ip": "192.168.0.9"},
        "spec.bfdPort.ip",
        "AddressConflict",
        "192.168.0.0/24 of Subnet 's1'",
    ),
    "outside-gateway": (
        {"ip": "172.17.0.1"},
        "spec.bfdPort.ip",
        "AddressConflict",
        "gateway of Subnet 'macvlan1'",
    ),
    "taken-outside": (
        {"ip": "172.17.0.11"},
        "spec.bfdPort.ip",
        "AddressConflict",
        "172.17.0.11 of Subnet 'macvlan1' is taken by gateway default/taker",
    ),
    "operator": (
        {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}},
        "spec.bfdPort.nodeSelector.matchExpressions[0].operator",
        "InvalidNodeSelector",
        "'Like'",
    ),
    "no-gt": (
        {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}},
        "spec.bfdPort.nodeSelector.matchExpressions[0].operator",
        "InvalidNodeSelector",
        "'Gt'",
    ),
    "no-values": (
        {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        "spec.bfdPort.nodeSelector.matchExpressions[0].values",
        "InvalidNodeSelector",
        "needs values",
    ),
    "label-key": (
        {"nodeSelector": {"matchLabels": {"a b": "x"}}},
        "spec.bfdPort.nodeSelector.matchLabels",
        "InvalidNodeSelector",
        "not a label key",
    ),
    "selector-type": ({"nodeSelector": ["a"]}, "spec.bfdPort.nodeSelector", "InvalidType", "a mapping"),
    "label-type": (
        {"nodeSelector": {"matchLabels": {"a": 1}}},
        "spec.bfdPort.nodeSelector.matchLabels.a",
        "InvalidType",
        "a string",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_told_and_what_was_stays(world: World, case: str) -> None:
    """Field and reason in both conditions; a new port is not made, one in force stays, the router works on."""
    spec, field, reason, message = BAD[case]
    world.put(vpc(name="before"))
    world.put(gateway("taker"))
    world.settle()
    world.put(vpc(**spec))
    world.put(subnet("s1", "192.168.0.0/24", vpc="vpc1"))
    world.put(subnet("s2", "192.168.0.0/24", vpc="before"))
    world.settle()
    for kind in ("Validated", "BFDPortReady"):
        status, why, text = told(world, kind)
        assert (status, why) == ("False", reason)
        assert f"{field}: " in text
        assert message in text
    assert told(world, "Ready")[0] == "True"
    assert intent(world) is None
    good = intent(world, "before")
    world.put(vpc(name="before", **spec))
    world.settle()
    assert told(world, name="before")[:2] == ("False", reason)
    assert intent(world, "before") == good
    assert world.get("Vpc", "before")["status"]["bfdPort"]["ip"] == IP


def test_a_later_subnet_gives_way_to_the_port(world: World) -> None:
    """Of a Subnet and a port that share an address the one that came first stays."""
    world.put(vpc())
    world.settle()
    world.put(subnet("late", "10.255.255.0/24", vpc="vpc1"))
    world.settle()
    (reason,) = {c["reason"] for c in world.get("Subnet", "late")["status"]["conditions"]}
    assert reason == "Overlap"
    assert told(world)[0] == "True"
    assert IntentKey("SUBNET", "late") not in world.plans()[1].intents


def test_nodes_are_at_most_three_and_sticky(world: World) -> None:
    """A node that leaves is replaced at the end; one that comes back does not push anybody away."""
    world.put(node("node4"))
    world.put(vpc())
    world.settle()
    assert nodes(world) == ["node1", "node2", "node3"]
    world.update("Node", "node1", {"status": node("node1", ready=False)["status"]})
    world.settle()
    assert nodes(world) == ["node2", "node3", "node4"]
    world.update("Node", "node1", {"status": node("node1")["status"]})
    world.settle()
    assert nodes(world) == ["node2", "node3", "node4"]
    world.vanish("Node", "node3")
    world.settle()
    assert nodes(world) == ["node2", "node4", "node1"]
    world.update("Node", "node2", {"spec": {"unschedulable": True}})
    world.settle()
    assert nodes(world) == ["node2", "node4", "node1"]


def test_a_selector_follows_labels_and_takes_all(world: World) -> None:
    """Every ready node that matches, however many; a label that comes or goes counts."""
    for number in range(1, 6):
        world.put(labelled(f"edge{number}", role="edge", zone="b" if number == 5 else "a"))
    zone = {"key": "zone", "operator": "NotIn", "values": ["b"]}
    world.put(vpc(nodeSelector={"matchLabels": {"role": "edge"}, "matchExpressions": [zone]}))
    world.settle()
    assert nodes(world) == ["edge1", "edge2", "edge3", "edge4"]
    world.update("Node", "edge2", {"metadata": {"labels": {"role": None}}})
    world.update("Node", "node1", {"metadata": {"labels": {"role": "edge"}}})
    world.settle()
    assert nodes(world) == ["edge1", "edge3", "edge4", "node1"]
    world.put(vpc(nodeSelector={"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}]}))
    world.settle()
    assert nodes(world) == ["edge2", "node2", "node3"]
    world.put(vpc(nodeSelector={}))
    world.settle()
    assert len(nodes(world)) == 8


def test_nobody_matches(world: World) -> None:
    """Never an emptied group: the last good nodes stay and a condition tells; without any there is no port yet."""
    world.put(labelled("edge", role="edge"))
    world.put(vpc(nodeSelector={"matchLabels": {"role": "edge"}}))
    world.put(vpc(name="never", nodeSelector={"matchLabels": {"role": "core"}}))
    world.settle()
    assert intent(world, "never") is None
    assert told(world, name="never")[:2] == ("False", "NoNode")
    assert "spec.bfdPort.nodeSelector" in told(world, name="never")[2]
    world.update("Node", "edge", {"metadata": {"labels": {"role": "x"}}})
    world.settle()
    assert nodes(world) == ["edge"]
    assert told(world)[:2] == ("False", "NoNode")
    assert "the port stays on edge" in told(world)[2]
    world.update("Node", "edge", {"metadata": {"labels": {"role": "edge"}}})
    world.settle()
    assert told(world)[0] == "True"


def test_switching_off_waits_for_gateways(world: World) -> None:
    """The port stays while a gateway runs with it, whatever its resource says by then, and goes with the last."""
    world.put(vpc())
    world.put(subnet("s1", "192.168.0.0/24", vpc="vpc1"))
    mine: Object = {"vpc": "vpc1", "policies": [{"subnets": ["s1"]}]}
    world.put(gateway(bfd={"enabled": True}, **mine))
    world.settle()
    rows = world.intent()
    world.put(obj("Vpc", "vpc1", spec={}))
    world.settle()
    assert intent(world) is not None
    assert told(world)[:2] == ("False", "InUse")
    assert "default/gateway1" in told(world)[2]
    assert world.condition_of("Validated", "gateway1")[1] == "NoBFDPort"
    assert world.intent() == rows
    assert world.status()["ready"] is True
    world.put(gateway(bfd={"enabled": False}, **mine))
    world.settle()
    assert intent(world) is None
    assert "bfdPort" not in world.get("Vpc", "vpc1")["status"]
    assert world.status()["ready"] is True


def test_the_condition_follows_the_programmer(world: World) -> None:
    """Refused, waiting, away: the port is Ready only when its rows are committed."""
    world.put(vpc())
    world.settle()
    key = IntentKey("VPC", "vpc1")
    wanted = world.plans()[1].intents[key]

    def after(outcome: Outcome | None) -> tuple[str, str, str]:
        if outcome is None:
            del world.outcomes[key]
        else:
            world.outcomes[key] = outcome
        world.carry_out(world.plans()[1].changes)
        return told(world)

    assert after(Outcome(wanted, "REFUSED", "TransitTaken", "no room"))[:2] == ("False", "TransitTaken")
    assert after(Outcome(wanted, "WAITING", "NoDatabase", "away"))[2] == "away"
    assert after(Outcome(VpcIntent("vpc1", default_vpc=False), "COMMITTED"))[1] == "Programming"
    assert after(Outcome(wanted, "COMMITTED"))[0] == "True"
    world.link = "unreachable"
    assert after(None)[0] == "True"


def test_nodes_and_configurations_matter_to_ports_only_where_there_are_some(world: World) -> None:
    """A node is no reason to plan the topology of a cluster without BFD ports."""
    ref = Ref("Node", "", "node9")
    before = world.view()
    world.put(node("node9"))
    assert not affected(before, world.view(), [ref]).topology
    world.put(vpc())
    before = world.view()
    world.update("Node", "node9", {"metadata": {"labels": {"a": "b"}}})
    assert affected(before, world.view(), [ref]).topology


def test_a_dual_stack_gateway_needs_both_addresses() -> None:
    """The fault names the field, the family and the Vpc."""
    world = World(*cluster("dual"), vpc(name="ovn-cluster"))
    world.put(gateway(bfd={"enabled": True}))
    world.settle()
    status, reason, message = world.condition_of("Validated", "gateway1")
    assert (status, reason) == ("False", "FamilyMismatch")
    assert "spec.bfd.enabled: the gateway has IPv6, but the BFD port of Vpc 'ovn-cluster'" in message
