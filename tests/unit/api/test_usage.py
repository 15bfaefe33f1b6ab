"""Subnets and Vpcs in use are not deleted under those who use them."""

from veg_common.objects import Object, Ref

from tests.unit.api.conftest import World, gateway, obj, pod, subnet

FINALIZER = "kubeovn.io/vpc-egress-gateway"


def finalizers(world: World, kind: str, name: str) -> list[str]:
    """Finalizers of an object."""
    found: list[str] = world.get(kind, name)["metadata"].get("finalizers", [])
    return found


def deletable(world: World, kind: str, name: str) -> Object:
    """The condition that tells why a deletion waits; {} without one."""
    conditions = world.get(kind, name)["status"]["conditions"]
    return next((c for c in conditions if c["type"] == "Deletable"), {})


def test_what_is_in_use_bears_a_finalizer(world: World) -> None:
    """A Vpc with Subnets, a Subnet with a gateway or an address: and nothing else; it goes with the last use."""
    world.put(obj("Vpc", "vpc1", spec={}))
    world.put(subnet("unused", "192.168.0.0/24", vpc="vpc1"))
    world.put(obj("Vpc", "empty", spec={}))
    world.put(gateway())
    world.settle()
    assert finalizers(world, "Vpc", "ovn-cluster") == [FINALIZER]
    assert finalizers(world, "Vpc", "vpc1") == [FINALIZER]
    assert finalizers(world, "Vpc", "empty") == []
    assert finalizers(world, "Subnet", "ovn-default") == [FINALIZER]
    assert finalizers(world, "Subnet", "macvlan1") == [FINALIZER]
    assert finalizers(world, "Subnet", "unused") == []
    world.remove("VpcEgressGateway", "gateway1")
    world.settle()
    assert finalizers(world, "Subnet", "ovn-default") == []
    assert finalizers(world, "Subnet", "macvlan1") == []


def test_a_deletion_waits_and_says_for_whom(world: World) -> None:
    """The gateway runs on, the Subnet and the Vpc tell of it once; both go by themselves when it is gone."""
    world.put(obj("Vpc", "vpc1", spec={}))
    world.put(subnet("s1", "192.168.0.0/24", vpc="vpc1"))
    world.put(pod("client", **{"ovn.kubernetes.io/logical_switch": "s1"}))
    world.put(gateway(vpc="vpc1", internalSubnet="s1", policies=[{"subnets": ["s1"]}]))
    world.settle()
    world.events.clear()
    world.remove("Vpc", "vpc1")
    world.remove("Subnet", "s1")
    world.settle()
    assert deletable(world, "Subnet", "s1")["message"] == (
        "deleted, but used by gateway default/gateway1, pod default/client: it goes when they are gone"
    )
    assert "gateway default/gateway1, Subnet s1" in deletable(world, "Vpc", "vpc1")["message"]
    assert sorted((e.about.kind, e.reason) for e in world.events) == [("Subnet", "InUse"), ("Vpc", "InUse")]
    assert world.status()["ready"] is True
    world.put(gateway(vpc="vpc1", internalSubnet="s1", replicas=2, policies=[{"subnets": ["s1"]}]))
    world.settle()
    assert len(world.status()["internalIPs"]) == 2
    world.remove("VpcEgressGateway", "gateway1")
    world.settle()
    assert deletable(world, "Subnet", "s1")["message"].startswith("deleted, but used by pod default/client:")
    world.vanish("Pod", "client")
    world.settle()
    assert Ref("Subnet", "", "s1") not in world.objects
    assert Ref("Vpc", "", "vpc1") not in world.objects


def test_nobody_new_moves_in(world: World) -> None:
    """A Subnet that waits for its deletion takes neither pods nor gateways."""
    world.put(subnet("s1", "10.17.0.0/24"))
    world.put(pod("old", **{"ovn.kubernetes.io/logical_switch": "s1"}))
    world.settle()
    world.remove("Subnet", "s1")
    world.put(pod("new", **{"ovn.kubernetes.io/logical_switch": "s1"}))
    world.put(gateway(internalSubnet="s1"))
    world.settle()
    assert "being deleted" in world.events[-1].message or "being deleted" in world.events[-2].message
    assert world.condition_of("Validated", "gateway1")[1] == "SubnetDeleting"
    assert "ovn.kubernetes.io/allocated" not in world.get("Pod", "new")["metadata"].get("annotations", {})
