"""The plan of a gateway, from the first resource to its deletion."""

import json

from tests.unit.api.conftest import World, gateway, subnet


def test_first_example(world: World) -> None:
    """The specification's first example ends ready, with its external address and the whole status."""
    world.put(gateway())
    world.settle()
    status = world.status()
    assert status["ready"] is True
    assert status["phase"] == "Completed"
    assert status["internalIPs"] == ["10.16.0.2"]
    assert status["externalIPs"] == ["172.17.0.11"]
    assert status["workload"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "gateway1",
        "nodes": ["node1"],
    }
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Validated": "True",
        "SourcesInsideVpc": "True",
        "SourcesExclusive": "True",
        "AddressesAllocated": "True",
        "WorkloadReady": "True",
        "RoutesProgrammed": "True",
        "Ready": "True",
    }
    config = json.loads(world.get("ConfigMap", "gateway1-config")["data"]["agent.json"])
    assert config["families"] == [
        {
            "family": "IP_FAMILY_IPV4",
            "internalGateway": "10.16.0.1",
            "externalGateway": "172.17.0.1",
            "vpcCidrs": [],
            "sources": [{"cidr": "10.16.0.0/16", "snat": True}],
        }
    ]
    assert [e.reason for e in world.events] == ["Ready"]


def test_scaling_is_sticky(world: World) -> None:
    """Addresses and pods of a gateway stay through 2-1-2; the template does not change."""
    world.put(gateway(replicas=2))
    world.settle()
    first = world.status()
    template = world.get("Deployment", "gateway1")["spec"]["template"]
    assert first["externalIPs"] == ["172.17.0.11", "172.17.0.12"]
    world.put(gateway(replicas=1))
    world.settle()
    assert len(world.status()["externalIPs"]) == 1
    assert len(world.all("IP")) == 4
    world.put(gateway(replicas=2, policies=[{"ipBlocks": ["10.16.1.0/24"]}]))
    world.settle()
    assert world.status()["externalIPs"] == first["externalIPs"]
    assert world.status()["internalIPs"] == first["internalIPs"]
    assert world.get("Deployment", "gateway1")["spec"]["template"] == template


def test_deletion_leaves_nothing(world: World) -> None:
    """Rows first, then workload, pods and addresses; the resource goes last."""
    world.put(gateway(replicas=2))
    world.settle()
    world.remove("VpcEgressGateway", "gateway1")
    world.settle()
    for kind in ("VpcEgressGateway", "Deployment", "ConfigMap", "Pod", "IP"):
        assert world.all(kind) == []
    assert world.intent() is None


def test_deletion_waits_for_the_programmer(world: World) -> None:
    """A gateway is not gone before its rows are, and says what it waits for."""
    world.put(gateway())
    world.settle()
    world.link = "unreachable"
    world.remove("VpcEgressGateway", "gateway1")
    world.settle()
    assert world.condition("RoutesProgrammed")["reason"] == "ProgrammerUnreachable"
    assert "ovn-programmer" in world.condition("Ready")["message"]
    world.link = "connected"
    world.settle()
    assert world.all("VpcEgressGateway") == []


def test_move_to_another_vpc(world: World) -> None:
    """spec.vpc changed: new internal address, the same external one, the intent on the new router."""
    world.put(gateway())
    world.settle()
    from tests.unit.api.conftest import obj

    world.put(obj("Vpc", "vpc1", spec={}))
    world.put(subnet("subnet1", "192.168.0.0/24", vpc="vpc1"))
    world.put(gateway(vpc="vpc1", policies=[{"ipBlocks": ["192.168.0.0/24"]}]))
    world.settle()
    assert world.status()["ready"] is True
    assert world.status()["internalIPs"] == ["192.168.0.2"]
    assert world.status()["externalIPs"] == ["172.17.0.11"]
    intent = world.intent()
    assert intent is not None
    assert intent.vpc == "vpc1"  # type: ignore[union-attr]
