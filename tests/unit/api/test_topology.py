"""Routers, switches, ports and the addresses of client pods."""

import pytest
from veg_api.core.intents import IntentKey, PortIntent, SubnetIntent, VpcIntent
from veg_common.objects import Object

from tests.unit.api.conftest import World, cluster, obj, pod, subnet


def annotations(world: World, name: str) -> Object:
    """Annotations of a client pod."""
    found: Object = world.get("Pod", name)["metadata"].get("annotations", {})
    return found


def test_client_pods_get_addresses_ports_and_records(world: World) -> None:
    """By the pod's annotation, its namespace's, or the default subnet; everything is freed when the pod is gone."""
    world.put(obj("Vpc", "vpc1", spec={}))
    world.put(subnet("s1", "192.168.0.0/24", vpc="vpc1"))
    world.put(subnet("s2", "192.168.1.0/24", vpc="vpc1", gateway="192.168.1.254"))
    world.put(obj("Namespace", "team", metadata={"annotations": {"ovn.kubernetes.io/logical_switch": "s1"}}))
    world.put(pod("plain"))
    world.put(pod("of-team", "team"))
    world.put(pod("chosen", "team", **{"ovn.kubernetes.io/logical_switch": "s2"}))
    world.settle()
    _, topology = world.plans()
    assert topology.changes == ()
    assert topology.intents == {
        IntentKey("VPC", "ovn-cluster"): VpcIntent("ovn-cluster", default_vpc=True),
        IntentKey("VPC", "vpc1"): VpcIntent("vpc1", default_vpc=False),
        IntentKey("SUBNET", "ovn-default"): SubnetIntent(
            "ovn-default", "ovn-cluster", ("10.16.0.0/16",), ("10.16.0.1",)
        ),
        IntentKey("SUBNET", "s1"): SubnetIntent("s1", "vpc1", ("192.168.0.0/24",), ("192.168.0.1",)),
        IntentKey("SUBNET", "s2"): SubnetIntent("s2", "vpc1", ("192.168.1.0/24",), ("192.168.1.254",)),
        IntentKey("PORT", "plain.default"): PortIntent(
            "plain.default", "ovn-default", "0a:58:0a:10:00:02", ("10.16.0.2",)
        ),
        IntentKey("PORT", "of-team.team"): PortIntent(
            "of-team.team", "s1", "0a:58:c0:a8:00:02", ("192.168.0.2",)
        ),
        IntentKey("PORT", "chosen.team"): PortIntent(
            "chosen.team", "s2", "0a:58:c0:a8:01:01", ("192.168.1.1",)
        ),
    }
    assert annotations(world, "plain")["ovn.kubernetes.io/gateway"] == "10.16.0.1"
    record = world.get("IP", "plain.default")["spec"]
    assert (record["podName"], record["ipAddress"], record["subnet"]) == ("plain", "10.16.0.2", "ovn-default")
    world.vanish("Pod", "plain")
    world.settle()
    assert "plain.default" not in [ip["metadata"]["name"] for ip in world.all("IP")]
    assert IntentKey("PORT", "plain.default") not in world.plans()[1].intents


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"ovn.kubernetes.io/ip_address": "10.99.0.1"}, "outside Subnet 'ovn-default'"),
        ({"ovn.kubernetes.io/ip_address": "10.16.0.1"}, "excluded"),
        ({"ovn.kubernetes.io/ip_address": "10.16.0.2"}, "taken by pod default/first"),
        ({"ovn.kubernetes.io/ip_address": "ten"}, "not an IP address"),
        ({"ovn.kubernetes.io/logical_switch": "nope"}, "does not exist"),
        ({"ovn.kubernetes.io/logical_switch": "macvlan1"}, "not one of OVN"),
        ({"ovn.kubernetes.io/mac_address": "ff:ff:ff:ff:ff:ff"}, "unicast MAC"),
    ],
    ids=["outside", "excluded", "taken", "malformed", "no-subnet", "external", "mac"],
)
def test_a_wish_that_can_not_be_granted(world: World, wish: dict[str, str], reason: str) -> None:
    """The pod gets no address, one event and an annotation that say why; it heals when the wish goes."""
    world.put(pod("first"))
    world.settle()
    world.put(pod("second", **wish))
    world.settle()
    assert [e.about.name for e in world.events] == ["second"]
    assert reason in world.events[0].message
    assert reason in annotations(world, "second")["ovn.kubernetes.io/allocation_error"]
    assert "ovn.kubernetes.io/allocated" not in annotations(world, "second")
    world.update("Pod", "second", {"metadata": {"annotations": dict.fromkeys(wish)}})
    world.settle()
    assert annotations(world, "second")["ovn.kubernetes.io/ip_address"] == "10.16.0.3"
    assert "ovn.kubernetes.io/allocation_error" not in annotations(world, "second")


def test_a_fixed_address_is_given(world: World) -> None:
    """A free address that the author asks for is the pod's; on a dual-stack Subnet the other family is chosen."""
    dual = World(*cluster("dual"))
    for where, ip in ((world, "10.16.7.7"), (dual, "10.16.7.7,fd00:10:16::2")):
        where.put(pod("fixed", **{"ovn.kubernetes.io/ip_address": "10.16.7.7"}))
        where.settle()
        assert annotations(where, "fixed")["ovn.kubernetes.io/ip_address"] == ip


def test_a_record_without_annotation_is_used_again(world: World) -> None:
    """Killed between the IP object and the annotation: the same address is written, not a second one."""
    world.put(pod("client"))
    world.settle()
    world.update("Pod", "client", {"metadata": {"annotations": dict.fromkeys(annotations(world, "client"))}})
    world.put(pod("later"))
    world.settle()
    assert annotations(world, "client")["ovn.kubernetes.io/ip_address"] == "10.16.0.2"
    assert len(world.all("IP")) == 2


def test_finished_and_host_pods_have_no_address(world: World) -> None:
    """A finished pod gives its address back; a pod of the host network never gets one."""
    world.put(pod("job"))
    host = pod("host")
    host["spec"]["hostNetwork"] = True
    world.put(host)
    world.settle()
    assert "ovn.kubernetes.io/ip_address" not in annotations(world, "host")
    world.update("Pod", "job", {"status": {"phase": "Succeeded"}})
    world.put(pod("next"))
    world.settle()
    assert [ip["metadata"]["name"] for ip in world.all("IP")] == ["next.default"]
    assert [k.name for k in world.plans()[1].intents if k.kind == "PORT"] == ["next.default"]


def test_overlapping_subnets(world: World) -> None:
    """The older one stays, the younger one is told why it is not built; other VPCs may use the same prefix."""
    world.put(subnet("late", "10.16.5.0/24"))
    world.put(obj("Vpc", "vpc1", spec={}))
    world.put(subnet("elsewhere", "10.16.5.0/24", vpc="vpc1"))
    world.settle()
    conditions = {s["metadata"]["name"]: s["status"]["conditions"][0] for s in world.all("Subnet")}
    assert conditions["late"]["reason"] == "Overlap"
    assert "'ovn-default'" in conditions["late"]["message"]
    assert conditions["elsewhere"]["status"] == "True"
    subnets = [k.name for k in world.plans()[1].intents if k.kind == "SUBNET"]
    assert subnets == ["elsewhere", "ovn-default"]


def test_a_bad_edit_after_a_good_state(world: World) -> None:
    """What was built stays, pods still get addresses of it, the condition names the field."""
    world.settle()
    world.put(subnet("ovn-default", "10.16.0.0/33", default=True))
    world.put(pod("client"))
    world.settle()
    condition = world.get("Subnet", "ovn-default")["status"]["conditions"][0]
    assert condition["status"] == "False"
    assert "spec.cidrBlock" in condition["message"]
    assert annotations(world, "client")["ovn.kubernetes.io/ip_address"] == "10.16.0.2"
    assert IntentKey("SUBNET", "ovn-default") in world.plans()[1].intents


def test_subnet_status_counts(world: World) -> None:
    """Addresses in use and free, of both families."""
    world.put(subnet("six", "fd00::/64"))
    world.put(pod("client"))
    world.settle()
    four = world.get("Subnet", "ovn-default")["status"]
    assert (four["v4usingIPs"], four["v4availableIPs"]) == (1, 65532)
    six = world.get("Subnet", "six")["status"]
    assert (six["v6usingIPs"], six["v6availableIPs"]) == (0, float(2**64 - 3))
