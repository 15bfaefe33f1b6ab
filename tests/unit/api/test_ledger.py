"""Addresses of gateways: chosen once, kept, never shared, given back."""

import pytest
from veg_api.core.addresses import address_range, merged, network
from veg_api.core.network import subnet_value
from veg_api.core.pools import PoolExhaustedError, Pools
from veg_api.core.snapshot import Snapshot

from tests.unit.api.conftest import World, cluster, gateway, macvlan, nad, node, obj, pod, subnet


def holdings(world: World, name: str = "gateway1") -> dict[str, tuple[str, str]]:
    """(internal, external) addresses on each pod of a gateway that has some."""
    found = {}
    for item in world.gateway_pods(name):
        annotations = item["metadata"]["annotations"]
        if "ovn.kubernetes.io/ip_address" in annotations:
            found[item["metadata"]["name"]] = (
                annotations["ovn.kubernetes.io/ip_address"],
                annotations["eth1.default.kubernetes.io/ip_address"],
            )
    return found


def test_annotations_are_those_of_kube_ovn() -> None:
    """A plugged pod bears every annotation of both networks, dual-stack in the order v4,v6."""
    world = World(*cluster("dual"))
    world.put(gateway())
    world.settle()
    (plugged,) = world.gateway_pods()
    annotations = plugged["metadata"]["annotations"]
    assert annotations.pop("vpc-egress-gateway/config-generation")
    assert annotations == {
        "k8s.v1.cni.cncf.io/networks": "default/eth1",
        "ovn.kubernetes.io/logical_switch": "ovn-default",
        "ovn.kubernetes.io/allocated": "true",
        "ovn.kubernetes.io/ip_address": "10.16.0.2,fd00:10:16::2",
        "ovn.kubernetes.io/cidr": "10.16.0.0/16,fd00:10:16::/112",
        "ovn.kubernetes.io/gateway": "10.16.0.1,fd00:10:16::1",
        "ovn.kubernetes.io/mac_address": "0a:58:0a:10:00:02",
        "eth1.default.kubernetes.io/logical_switch": "macvlan1",
        "eth1.default.kubernetes.io/allocated": "true",
        "eth1.default.kubernetes.io/ip_address": "172.17.0.11,fd17::2",
        "eth1.default.kubernetes.io/cidr": "172.17.0.0/16,fd17::/64",
        "eth1.default.kubernetes.io/gateway": "172.17.0.1,fd17::1",
    }
    record = world.get("IP", "gateway1-0.default")
    assert record["spec"]["v4IpAddress"] == "10.16.0.2"
    assert record["spec"]["v6IpAddress"] == "fd00:10:16::2"
    assert record["spec"]["podName"] == plugged["metadata"]["name"]
    assert world.get("IP", "gateway1-0.default.eth1.default")["spec"]["subnet"] == "macvlan1"


def test_a_replaced_pod_gets_the_old_ones_place(world: World) -> None:
    """Not before the old pod is gone, and then exactly its addresses."""
    world.put(gateway())
    world.settle()
    (old,) = holdings(world).items()
    world.remove("Pod", old[0])
    new = world.spawn(world.get("Deployment", "gateway1"))
    world.step()
    world.step()
    assert holdings(world) == dict([old])
    world.vanish("Pod", old[0])
    world.settle()
    assert holdings(world) == {new: old[1]}


def test_an_image_change_keeps_addresses(world: World) -> None:
    """A rollout hands the addresses on."""
    world.put(gateway(replicas=2))
    world.settle()
    before = sorted(holdings(world).values())
    world.put(gateway(replicas=2, image="other:1"))
    world.settle()
    assert sorted(holdings(world).values()) == before
    assert world.status()["phase"] == "Completed"


def test_given_lists_are_kept_to(world: World) -> None:
    """Addresses come from the lists in their order; a changed list moves the pods, one after the other."""
    world.put(
        gateway(
            replicas=2,
            internalIPs=["10.16.0.102", "10.16.0.101", "10.16.0.103"],
            externalIPs=["172.17.0.31", "172.17.0.30"],
        )
    )
    world.settle()
    assert sorted(holdings(world).values()) == [
        ("10.16.0.101", "172.17.0.30"),
        ("10.16.0.102", "172.17.0.31"),
    ]
    assert world.status()["internalIPs"] == ["10.16.0.101", "10.16.0.102"]
    world.put(
        gateway(
            replicas=2, internalIPs=["10.16.0.103", "10.16.0.101"], externalIPs=["172.17.0.31", "172.17.0.30"]
        )
    )
    world.settle()
    assert sorted(holdings(world).values()) == [
        ("10.16.0.101", "172.17.0.30"),
        ("10.16.0.103", "172.17.0.31"),
    ]
    assert world.status()["phase"] == "Completed"


def test_addresses_that_somebody_named_are_not_given_to_others(world: World) -> None:
    """A pod created later does not get the next replica's address by chance."""
    world.put(gateway(replicas=1, internalIPs=["10.16.0.2", "10.16.0.3"]))
    world.put(pod("client"))
    world.settle()
    assert (
        world.get("Pod", "client")["metadata"]["annotations"]["ovn.kubernetes.io/ip_address"] == "10.16.0.4"
    )


def test_exhaustion_says_numbers_and_heals(world: World) -> None:
    """Three addresses and four replicas: three run, the condition counts; room makes it whole."""
    world.put(subnet("tiny", "10.80.0.0/29", vpc="ovn-cluster", excludeIps=["10.80.0.2..10.80.0.3"]))
    for name in ("node4", "node5"):
        world.put(node(name))
    world.put(gateway(replicas=4, internalSubnet="tiny"))
    world.settle()
    condition = world.condition("AddressesAllocated")
    assert condition["status"] == "False"
    assert "subnet tiny: 3 IPv4 addresses, 3 in use" in condition["message"]
    assert len(holdings(world)) == 3
    assert world.status()["phase"] == "Processing"
    world.put(gateway(replicas=3, internalSubnet="tiny"))
    world.settle()
    assert world.status()["ready"] is True


def test_reservations_are_reclaimed_when_the_pool_runs_out(world: World) -> None:
    """What a scale-down left over stays reserved until another gateway would get nothing."""
    world.put(macvlan("172.30.0.0/29", "small"))
    world.put(gateway("one", replicas=3, externalSubnet="small"))
    world.settle()
    world.put(gateway("one", replicas=1, externalSubnet="small"))
    world.settle()
    assert len([ip for ip in world.all("IP") if ip["spec"]["subnet"] == "small"]) == 3
    world.put(gateway("two", replicas=3, externalSubnet="small"))
    world.settle()
    assert world.status("two")["ready"] is True
    assert world.status("one")["ready"] is True
    addresses = [ip["spec"]["ipAddress"] for ip in world.all("IP") if ip["spec"]["subnet"] == "small"]
    assert len(addresses) == len(set(addresses)) == 5


def test_lost_records_are_written_again(world: World) -> None:
    """IP objects deleted by hand come back with the addresses that the pods have."""
    world.put(gateway(replicas=2))
    world.settle()
    before = {ip["metadata"]["name"]: ip["spec"]["ipAddress"] for ip in world.all("IP")}
    for name in before:
        world.vanish("IP", name)
    world.put(pod("client"))
    world.settle()
    after = {ip["metadata"]["name"]: ip["spec"]["ipAddress"] for ip in world.all("IP")}
    assert {k: v for k, v in after.items() if k in before} == before
    assert after["client.default"] not in before.values()


def test_a_pod_on_a_dead_node_does_not_block_its_successor(world: World) -> None:
    """Its addresses stay its own, for it may still run; the successor gets a spare entry."""
    world.put(gateway())
    world.settle()
    (old,) = holdings(world).items()
    world.put(node("node1", ready=False))
    world.update("Node", "node1", {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    world.remove("Pod", old[0])
    new = world.spawn(world.get("Deployment", "gateway1"))
    for _ in range(3):
        world.step()
    assert holdings(world)[new] != old[1]
    assert holdings(world)[old[0]] == old[1]


def test_two_living_pods_never_share(world: World) -> None:
    """More pods than entries: the surplus one waits."""
    world.put(gateway())
    world.settle()
    extra = world.spawn(world.get("Deployment", "gateway1"))
    for _ in range(3):
        world.step()
    assert extra not in holdings(world)


def test_a_label_alone_makes_no_gateway_pod(world: World) -> None:
    """A stranger's pod with the gateway's label is a client pod like any other."""
    world.put(gateway())
    world.settle()
    stranger = pod("stranger")
    stranger["metadata"]["labels"] = {"ovn.kubernetes.io/vpc-egress-gateway": "gateway1"}
    world.put(stranger)
    world.settle()
    annotations = world.get("Pod", "stranger")["metadata"]["annotations"]
    assert annotations["ovn.kubernetes.io/ip_address"] == "10.16.0.3"
    assert world.status()["internalIPs"] == ["10.16.0.2"]


@pytest.mark.parametrize(
    ("cidr", "excluded", "first"),
    [
        ("10.0.0.0/8", ["10.0.0.0..10.200.0.0"], "10.200.0.1"),
        ("10.0.0.0/24", ["10.0.0.2", "10.0.0.3..10.0.0.5", "10.0.0.5..10.0.0.6"], "10.0.0.7"),
        ("fd00::/64", ["fd00::..fd00::ffff:ffff"], "fd00::1:0:0"),
        ("10.0.0.0/30", [], "10.0.0.2"),
    ],
)
def test_lowest_free_address(cidr: str, excluded: list[str], first: str) -> None:
    """Ranges are jumped over, gateway and network addresses are never handed out."""
    value, problems = subnet_value("s", {"cidrBlock": cidr, "excludeIps": excluded})
    assert problems == ()
    assert value is not None
    pools = Pools(Snapshot())
    assert pools.next_free(value, network(cidr).version) == first


def test_an_empty_pool_raises() -> None:
    """No address left: the error has the numbers."""
    value, _ = subnet_value("s", {"cidrBlock": "10.0.0.0/30"})
    assert value is not None
    pools = Pools(Snapshot())
    pools.take("s", ["10.0.0.2"], "me")
    with pytest.raises(PoolExhaustedError, match="subnet s: 1 IPv4 addresses, 1 in use"):
        pools.next_free(value, 4)


def test_ranges() -> None:
    """Ranges merge, and a backward one is refused."""
    assert merged([(5, 6), (1, 2), (3, 3), (9, 9)]) == ((1, 3), (5, 6), (9, 9))
    with pytest.raises(ValueError, match="ends before"):
        address_range("10.0.0.2..10.0.0.1")


def test_a_statefulset_pod_may_have_an_entrys_name(world: World) -> None:
    """A client pod whose IP object's name is a gateway's gets another name, and both keep their addresses."""
    world.put(gateway())
    world.settle()
    world.put(pod("gateway1-0"))
    world.settle()
    assert len({ip["spec"]["ipAddress"] for ip in world.all("IP")}) == 3
    world.vanish("Pod", "gateway1-0")
    world.settle()
    assert len(world.all("IP")) == 2


def test_another_external_subnet(world: World) -> None:
    """externalSubnet changed: new external addresses on the same internal ones; the old ones are given back."""
    world.put(gateway(replicas=2))
    world.settle()
    internal = world.status()["internalIPs"]
    world.put(macvlan("172.30.0.0/24", "other"))
    world.put(gateway(replicas=2, externalSubnet="other"))
    world.settle()
    assert world.status()["phase"] == "Completed"
    assert world.status()["internalIPs"] == internal
    assert world.status()["externalIPs"] == ["172.30.0.2", "172.30.0.3"]
    assert {ip["spec"]["subnet"] for ip in world.all("IP")} == {"ovn-default", "other"}
    assert len(world.all("IP")) == 4


def test_another_internal_subnet_of_the_same_vpc(world: World) -> None:
    """internalSubnet changed: old pods serve until they are replaced, external addresses stay."""
    world.put(gateway(replicas=2))
    world.settle()
    external = world.status()["externalIPs"]
    world.put(subnet("second", "10.90.0.0/24"))
    world.put(gateway(replicas=2, internalSubnet="second"))
    world.step()
    assert len(world.intent().families[0].nexthops) == 2  # type: ignore[union-attr]
    world.settle()
    assert world.status()["internalIPs"] == ["10.90.0.2", "10.90.0.3"]
    assert world.status()["externalIPs"] == external
    assert world.status()["ready"] is True


def test_an_address_that_a_stranger_has_is_given_up(world: World) -> None:
    """An unused entry whose address some pod runs on is not handed to a pod of the gateway."""
    world.put(gateway(replicas=2))
    world.settle()
    world.put(gateway(replicas=1))
    world.settle()
    stranger = pod("stranger", **{"ovn.kubernetes.io/allocated": "true"})
    free = ({"10.16.0.2", "10.16.0.3"} - {internal for internal, _ in holdings(world).values()}).pop()
    annotations = stranger["metadata"]["annotations"]
    annotations["ovn.kubernetes.io/ip_address"] = free
    annotations["ovn.kubernetes.io/logical_switch"] = "ovn-default"
    world.put(stranger)
    world.put(gateway(replicas=2))
    world.settle()
    assert free not in {internal for internal, _ in holdings(world).values()}
    assert len(holdings(world)) == 2


def externals(world: World) -> list[str]:
    """External addresses of all IP objects, sorted."""
    return sorted(
        ip["spec"]["ipAddress"] for ip in world.all("IP") if ip["metadata"]["name"].endswith("eth1.default")
    )


def test_overlapping_subnets_of_one_provider_share_their_addresses(world: World) -> None:
    """One wire has each address once: what one Subnet handed out is taken, and counted, in the other."""
    world.put(
        macvlan("172.17.0.8/29", name="corner", gateway="172.17.0.14", excludeIps=["172.17.0.9..172.17.0.10"])
    )
    world.put(gateway("a", replicas=2))
    world.put(gateway("b", externalSubnet="corner"))
    world.settle()
    assert externals(world) == ["172.17.0.11", "172.17.0.12", "172.17.0.13"]
    world.put(gateway("c", externalSubnet="corner"))
    world.put(gateway("d", externalIPs=["172.17.0.13"]))
    world.settle()
    assert "3 IPv4 addresses, 3 in use" in world.condition_of("AddressesAllocated", "c")[2]
    assert "172.17.0.13 is taken by gateway default/b" in world.condition_of("Validated", "d")[2]
    assert world.get("Subnet", "corner")["status"]["v4availableIPs"] == 0
    assert world.get("Subnet", "macvlan1")["status"]["v4usingIPs"] == 3
    world.put(gateway("a", replicas=1))
    world.settle()
    assert world.status("c")["externalIPs"] == ["172.17.0.12"]


def test_subnets_of_other_wires_do_not_share_addresses(world: World) -> None:
    """The same range behind another provider, or as subnets of two VPCs, is another network."""
    world.put(nad("eth2"))
    world.put(macvlan(name="other-wire", provider="eth2.default"))
    for name in ("vpc1", "vpc2"):
        world.put(obj("Vpc", name, spec={}))
        world.put(subnet(f"{name}-s", "192.168.0.0/24", vpc=name))
        world.put(pod(f"in-{name}", **{"ovn.kubernetes.io/logical_switch": f"{name}-s"}))
    world.put(gateway("a"))
    world.put(gateway("b", externalSubnet="other-wire"))
    world.settle()
    assert {world.status(name)["externalIPs"][0] for name in ("a", "b")} == {"172.17.0.11"}
    assert {world.get("IP", f"in-vpc{i}.default")["spec"]["ipAddress"] for i in (1, 2)} == {"192.168.0.2"}


def test_moving_to_an_overlapping_subnet_takes_no_address_twice(world: World) -> None:
    """Old and new pods of a gateway stand side by side on one wire, each with addresses of its own."""
    world.put(macvlan(name="twin"))
    world.put(gateway(replicas=2))
    world.settle()
    old = set(world.status()["externalIPs"])
    world.put(gateway(replicas=2, externalSubnet="twin"))
    world.settle()
    assert world.status()["ready"] is True
    assert len(old | set(world.status()["externalIPs"])) == 4
