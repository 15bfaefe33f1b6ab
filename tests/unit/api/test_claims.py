"""Gateways of one VPC that name the same source are told of each other."""

import pytest
from veg_api.core.affected import affected
from veg_common.objects import Object, Ref

from tests.unit.api.conftest import World, cluster, gateway, macvlan, obj, subnet


def told(world: World, name: str) -> tuple[str, str]:
    """(status, message) of the condition."""
    status, _, message = world.condition_of("SourcesExclusive", name)
    return status, message


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ({"subnets": ["ovn-default"]}, {"subnets": ["ovn-default"]}, "10.16.0.0/16"),
        ({"subnets": ["ovn-default"]}, {"ipBlocks": ["10.16.0.0/16"]}, "10.16.0.0/16"),
        ({"ipBlocks": ["10.16.0.7"]}, {"ipBlocks": ["10.16.0.7/32"]}, "10.16.0.7/32"),
        ({"subnets": ["ovn-default"]}, {"ipBlocks": ["10.16.0.7"]}, ""),
        ({"ipBlocks": ["10.16.1.0/24"]}, {"ipBlocks": ["10.16.2.0/24"]}, ""),
    ],
    ids=["same-subnet", "subnet-and-prefix", "same-address", "nested", "apart"],
)
def test_identical_sources_are_told_at_both(world: World, one: Object, other: Object, shared: str) -> None:
    """Only the very same prefix counts; both gateways stay ready, and each names the other."""
    world.put(gateway("a", policies=[{"snat": True, **one}]))
    world.put(gateway("b", policies=[{"snat": True, **other}]))
    world.settle()
    for name, rival in (("a", "default/b"), ("b", "default/a")):
        status, message = told(world, name)
        assert status == ("False" if shared else "True")
        assert not shared or (
            f"{shared} is a source of gateway {rival}" in message and "spec.policies" in message
        )
        assert world.status(name)["ready"] is True


def test_the_neighbour_follows(world: World) -> None:
    """A gateway that takes a source, lets it go or is deleted changes what its neighbour says."""
    world.put(gateway("a"))
    world.settle()
    assert told(world, "a")[0] == "True"
    world.put(gateway("b"))
    world.settle()
    assert told(world, "a")[0] == "False"
    world.put(gateway("b", policies=[{"ipBlocks": ["10.16.0.0/24"]}]))
    world.settle()
    assert told(world, "a")[0] == "True"
    world.put(gateway("b"))
    world.settle()
    world.remove("VpcEgressGateway", "b")
    world.settle()
    assert told(world, "a")[0] == "True"


def test_other_families_and_vpcs_are_no_conflict() -> None:
    """One gateway for IPv4 and one for IPv6 may share a dual-stack subnet; so may prefixes of two VPCs."""
    world = World(*cluster("dual"))
    world.put(macvlan("172.17.0.0/16", name="four"))
    world.put(macvlan("fd17::/64", name="six"))
    world.put(obj("Vpc", "vpc1", spec={}))
    world.put(subnet("s1", "10.16.0.0/16", vpc="vpc1"))
    world.put(gateway("v4", externalSubnet="four"))
    world.put(gateway("v6", externalSubnet="six"))
    world.put(gateway("elsewhere", vpc="vpc1", internalSubnet="s1", policies=[{"subnets": ["s1"]}]))
    world.settle()
    assert {told(world, name)[0] for name in ("v4", "v6", "elsewhere")} == {"True"}


def test_only_neighbours_are_planned_again(world: World) -> None:
    """A change of sources concerns those who name them; any other change of a gateway concerns it alone."""
    for name in ("a", "b"):
        world.put(gateway(name))
    world.put(gateway("c", policies=[{"ipBlocks": ["10.16.9.0/24"]}]))
    world.settle()
    cases: dict[str, tuple[Object, set[str]]] = {
        "more replicas": ({"replicas": 2}, {"a"}),
        "other source": ({"policies": [{"ipBlocks": ["10.16.7.0/24"]}]}, {"a", "b"}),
        "another's source": ({"policies": [{"ipBlocks": ["10.16.9.0/24"]}]}, {"a", "c"}),
    }
    for spec, expected in cases.values():
        before = world.view()
        world.put(gateway("a", **spec))
        found = affected(before, world.view(), [Ref("VpcEgressGateway", "default", "a")])
        assert found.gateways == {("default", name) for name in expected}
