"""Traffic through gateways: families, masquerading, policies, the VPC's own traffic."""

import itertools
from collections.abc import Callable

import pytest
from veg_sandbox.harness import eventually

from tests.topology.conftest import OUTSIDE, Lab, gateway, macvlan, pod, subnet, vpc

FIRST_EXTERNAL = {4: "172.17.0.11", 6: "fd17::11"}
SECOND_EXTERNAL = {4: "172.17.0.12", 6: "fd17::12"}
SNAT_ALL = "[{snat: true, subnets: [ovn-default]}]"


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual"])
def test_one_and_two_replicas_of_every_family(
    family: str, sandboxes: Callable[[str], Lab], cleaned: Callable[[Lab], Lab]
) -> None:
    """TCP and UDP leave with the gateway's address; two replicas share 400 connections 30-70 %."""
    lab = cleaned(sandboxes(family))
    versions = {"ipv4": (4,), "ipv6": (6,), "dual": (4, 6)}[family]
    lab.start(gateway("gw", SNAT_ALL), pod("client"), gateways=("gw",), pods=("client",))
    expected = ",".join(FIRST_EXTERNAL[v] for v in versions)
    assert lab.status("gw")["externalIPs"] == [expected]
    for version, proto in itertools.product(versions, ("tcp", "udp")):
        assert lab.seen("client", version=version, proto=proto) == {FIRST_EXTERNAL[version]: 10}
    lab("scale", "veg", "gw", "--replicas=2")
    lab.ready("gw")
    for version in versions:
        seen = lab.seen("client", version=version, count=400)
        assert set(seen) == {FIRST_EXTERNAL[version], SECOND_EXTERNAL[version]}
        assert all(120 <= count <= 280 for count in seen.values()), seen


def test_ipv4_outside_of_a_dual_stack_subnet_gives_an_ipv4_gateway(dual: Lab) -> None:
    """The gateway is ready in the family that both sides have; the other is left alone."""
    dual.start(
        macvlan("ipv4", "macvlan4"),
        gateway("gw4", SNAT_ALL, externalSubnet="macvlan4"),
        pod("client"),
        gateways=("gw4",),
        pods=("client",),
    )
    (external,) = dual.status("gw4")["externalIPs"]
    assert ":" not in external
    assert dual.seen("client") == {external: 10}
    rows = dual("nbctl", "lr-policy-list", "ovn-cluster")
    assert "ip6.src" not in rows


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_without_snat_the_pod_shows_its_own_address(dual: Lab, proto: str) -> None:
    """Outside sees the pod, in both families, and answers come back over the gateway."""
    dual.start(
        gateway("plain", "[{subnets: [ovn-default]}]", replicas=2),
        pod("client"),
        gateways=("plain",),
        pods=("client",),
    )
    own = {ip["ip"] for ip in dual.get("pod", "client")["status"]["podIPs"]}
    seen = {*dual.seen("client", proto=proto), *dual.seen("client", version=6, proto=proto)}
    assert seen == own


def test_policies_of_every_form_mix_in_one_gateway(dual: Lab) -> None:
    """Subnets, networks, single addresses, both families, masqueraded or not: each source as its policy says."""
    dual.start(
        vpc("mix"),
        subnet("mix1", "10.30.0.0/24,fd30::/64", vpc="mix"),
        subnet("mix2", "10.31.0.0/24,fd31::/64", vpc="mix"),
        subnet("mix3", "10.32.0.0/24,fd32::/64", vpc="mix"),
        *(pod(f"c{n}", f"mix{n}") for n in (1, 2, 3)),
        pods=("c1", "c2", "c3"),
    )
    addresses = {n: [ip["ip"] for ip in dual.get("pod", f"c{n}")["status"]["podIPs"]] for n in (1, 2, 3)}
    policies = (
        "[{snat: true, subnets: [mix1]},"
        f" {{snat: false, ipBlocks: [10.31.0.0/24, 'fd31::/64']}},"
        f" {{snat: true, ipBlocks: ['{addresses[3][0]}', '{addresses[3][1]}']}}]"
    )
    dual.start(gateway("mixed", policies, vpc="mix", internalSubnet="mix1"), gateways=("mixed",))
    external = dual.status("mixed")["externalIPs"][0].split(",")
    for index, version in enumerate((4, 6)):
        assert dual.seen("c1", version=version) == {external[index]: 10}
        assert dual.seen("c2", version=version) == {addresses[2][index]: 10}
        assert dual.seen("c3", version=version) == {external[index]: 10}


@pytest.mark.parametrize("default", [True, False], ids=["default-vpc", "custom-vpc"])
def test_pods_of_the_vpc_reach_each_other(dual: Lab, default: bool) -> None:
    """In and across subnets, both families, while gateways stand, also with one address of a subnet as a source."""
    name = "ovn-cluster" if default else "own"
    first = "ovn-default" if default else "own1"
    made = [] if default else [vpc("own"), subnet("own1", "10.40.0.0/24,fd40::/64", vpc="own")]
    dual.start(
        *made,
        subnet("own2", "10.41.0.0/16,fd41::/64" if default else "10.41.0.0/24,fd41::/64", vpc=name),
        pod("a", first),
        pod("b", first),
        pod("c", "own2"),
        pods=("a", "b", "c"),
    )
    of = {n: [ip["ip"] for ip in dual.get("pod", n)["status"]["podIPs"]] for n in "abc"}
    dual.start(
        gateway(
            "one",
            f"[{{snat: true, ipBlocks: ['{of['a'][0]}', '{of['a'][1]}']}}]",
            vpc=name,
            internalSubnet=first,
        ),
        gateway("two", "[{snat: true, subnets: [own2]}]", vpc=name, internalSubnet=first, replicas=2),
        gateways=("one", "two"),
    )
    for source, target in itertools.permutations("abc", 2):
        for address in of[target]:
            assert dual.pings(source, address), f"{source} -> {address}"
    for version in (4, 6):
        external = {
            gw: {ip.split(",")[version == 6] for ip in dual.status(gw)["externalIPs"]}
            for gw in ("one", "two")
        }
        assert set(dual.seen("a", version=version)) == external["one"]
        assert set(dual.seen("c", version=version, count=40)) == external["two"]
        assert dual.connect("b", OUTSIDE[version], count=2)["failed"] == 2, (
            "nobody serves b: it must not get out"
        )


@pytest.mark.parametrize("default", [True, False], ids=["default-vpc", "custom-vpc"])
def test_the_longer_source_decides_between_gateways(dual: Lab, default: bool) -> None:
    """One gateway for a subnet, another for one address in it: each serves its own, also while the other has nobody."""
    name, net = ("ovn-cluster", "ovn-default") if default else ("nest", "nest1")
    made = [] if default else [vpc("nest"), subnet("nest1", "10.50.0.0/24,fd50::/64", vpc="nest")]
    dual.start(*made, pod("one", net), pod("rest", net), pods=("one", "rest"))
    one = [ip["ip"] for ip in dual.get("pod", "one")["status"]["podIPs"]]
    dual.start(
        gateway("wide", f"[{{snat: true, subnets: [{net}]}}]", vpc=name, internalSubnet=net),
        gateway(
            "narrow", f"[{{snat: true, ipBlocks: ['{one[0]}', '{one[1]}']}}]", vpc=name, internalSubnet=net
        ),
        gateways=("wide", "narrow"),
    )
    external = {gw: dual.status(gw)["externalIPs"][0].split(",") for gw in ("wide", "narrow")}
    for index, version in enumerate((4, 6)):
        assert set(dual.seen("one", version=version)) == {external["narrow"][index]}
        assert set(dual.seen("rest", version=version)) == {external["wide"][index]}
    dual("scale", "veg", "narrow", "--replicas=0")
    eventually(lambda: dual.connect("one", OUTSIDE[4], count=2)["failed"] == 2, 20)
    assert set(dual.seen("rest")) == {external["wide"][0]}
    dual("delete", "veg", "narrow")
    eventually(lambda: set(dual.seen("one")) == {external["wide"][0]}, 20)


def test_a_gateways_own_traffic_does_not_loop(lab: Lab) -> None:
    """What a gateway pod itself sends, outside and to the VPC, goes straight; TTL shows no extra router."""
    lab.start(gateway("gw", SNAT_ALL, replicas=2), pod("client"), gateways=("gw",), pods=("client",))
    client = lab.get("pod", "client")["status"]["podIP"]
    for name in lab.gateway_pods("gw"):
        ping = ("exec", name, "-c", "gateway", "--", "ping", "-n", "-c", "2", "-i", "0.2", "-W", "1")
        assert "ttl=64" in lab(*ping, OUTSIDE[4])
        assert "ttl=64" in lab(*ping, client)
        routes = lab("exec", name, "-c", "gateway", "--", "ip", "route", "get", OUTSIDE[4])
        assert "dev net1" in routes
