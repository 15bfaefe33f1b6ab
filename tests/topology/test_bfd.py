"""BFD between OVN and gateway pods: the third example of the specification, other families, the default VPC, what status
says, and what happens when nobody is left.
"""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from veg_sandbox.cli import context
from veg_sandbox.failover.measure import Prober, prober_command
from veg_sandbox.harness import eventually

from tests.topology.conftest import EXAMPLES, OUTSIDE, Lab, gateway, pod, subnet

THIRD = EXAMPLES.joinpath("third.yaml").read_text(encoding="utf-8")
SLOW = "{enabled: true}"
FAST = "{enabled: true, minRX: 300, minTX: 300}"
CIDRS = {"ipv4": "10.60.0.0/24", "dual": "10.60.0.0/24,fd60::/64", "ipv6": "fd60::/64"}
PORTS = {"ipv4": "10.255.60.1", "dual": "10.255.60.1,fd60:255::1", "ipv6": "fd60:255::1"}


def vpc(name: str, ip: str) -> str:
    """A Vpc with a BFD port."""
    spec = f"{{bfdPort: {{enabled: true, ip: '{ip}'}}}}"
    return f"apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def rows(lab: Lab) -> dict[str, dict[str, str]]:
    """OVN's BFD rows by peer."""
    found = {}
    for text in lab("nbctl", "list", "bfd").strip().split("\n\n"):
        row = dict(re.findall(r"^(\w+) *: (.*)$", text, re.MULTILINE))
        if row:
            found[row["dst_ip"].strip('"')] = row
    return found


def all_up(lab: Lab, count: int) -> bool:
    """Whether OVN has so many sessions, all up."""
    states = [row["status"] for row in rows(lab).values()]
    return states == ["up"] * count


def sessions(lab: Lab, name: str) -> list[str]:
    """What `bfdd-control status` says of the sessions in a pod."""
    text = lab("exec", name, "-c", "bfdd", "--", "bfdd-control", "status")
    found = re.findall(r"^ id=\d+ (local=\S+ \([ap]\) remote=\S+ state=\S+)", text, re.MULTILINE)
    assert text.startswith(f"There are {len(found)} sessions:"), text
    return sorted(found)


def row_of(pod_status: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """A replica's entry in the gateway's status."""
    return next(entry for entry in pod_status if name in entry.values())


def test_the_third_example(lab: Lab) -> None:
    """Rows, routes, status and both ends of both sessions are as the specification prints them."""
    lab.start(THIRD, pod("client", "subnet1"), gateways=("gateway2",), pods=("client",))
    status = lab.status("gateway2")
    assert (status["ready"], status["phase"]) == (True, "Completed")
    port = lab.get("vpc", "vpc1")["status"]["bfdPort"]
    assert (port["name"], port["ip"]) == ("bfd@vpc1", "10.255.255.255")
    assert port["nodes"] == ["kube-ovn-worker", "kube-ovn-worker2", "kube-ovn-worker3"]
    found = rows(lab)
    assert sorted(found) == sorted(status["internalIPs"])
    for row in found.values():
        assert row["status"] == "up"
        assert row["logical_port"] == '"bfd@vpc1"'
        assert row["external_ids"] == '{af="4", vendor=kube-ovn, vpc-egress-gateway="default/gateway2"}'
        assert (row["min_rx"], row["min_tx"], row["detect_mult"]) == ("1000", "1000", "3")
    routes = lab("nbctl", "lr-route-list", "vpc1")
    for address in status["internalIPs"]:
        assert re.search(
            rf"192\.168\.0\.0/24 +{address} src-ip ecmp ecmp-symmetric-reply bfd *$", routes, re.MULTILINE
        )
    for name in lab.gateway_pods("gateway2"):
        address = lab.get("pod", name)["status"]["podIP"]
        assert sessions(lab, name) == [f"local={address} (p) remote=10.255.255.255 state=Up"]
    assert set(lab.seen("client", count=60)) == set(status["externalIPs"])


@pytest.mark.parametrize("family", ["dual", "ipv6"])
def test_other_families(dual: Lab, family: str) -> None:
    """Every replica has a session a family, all up, and both families' traffic uses both replicas."""
    dual.start(
        vpc("bfd6", PORTS[family]),
        subnet("bfd6-inside", CIDRS[family], vpc="bfd6"),
        gateway(
            "gw",
            "[{snat: true, subnets: [bfd6-inside]}]",
            vpc="bfd6",
            internalSubnet="bfd6-inside",
            replicas=2,
            bfd=SLOW,
        ),
        pod("client", "bfd6-inside"),
        gateways=("gw",),
        pods=("client",),
    )
    peers = PORTS[family].split(",")
    eventually(lambda: all_up(dual, 2 * len(peers)), 20, "all sessions are up")
    for name in dual.gateway_pods("gw"):
        found = sessions(dual, name)
        assert all(text.endswith("state=Up") for text in found)
        assert {text.split("remote=")[1].split()[0] for text in found} == set(peers)
    for version in (4, 6) if family == "dual" else (6,):
        assert len(dual.seen("client", version=version, count=60)) == 2


def test_the_default_vpc_fails_over_and_closes(lab: Lab) -> None:
    """Policies can not follow BFD on stock OVN: a dead nexthop leaves the policy, both dead drop the traffic, and
    what comes back is taken in again.
    """
    lab.apply(
        "apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: {name: ovn-cluster}\n"
        "spec: {bfdPort: {enabled: true, ip: 10.255.61.1}}\n"
    )
    try:
        lab.start(
            gateway("gw", "[{snat: true, subnets: [ovn-default]}]", replicas=2, bfd=FAST),
            pod("client"),
            gateways=("gw",),
            pods=("client",),
        )
        internal = set(lab.status("gw")["internalIPs"])
        eventually(lambda: nexthops(lab) == internal, 20, "both are nexthops")
        pods = {lab.get("pod", name)["status"]["podIP"]: name for name in lab.gateway_pods("gw")}
        first, second = sorted(pods)
        lab("fault", "kill-pod", pods[first])
        eventually(lambda: nexthops(lab) == {second}, 15, "the dead nexthop is out")
        eventually(lambda: len(lab.seen("client", count=40)) == 1, 20, "one carries all traffic")
        eventually(lambda: lab.status("gw")["ready"] is False, 20, "status tells")
        lab("fault", "kill-pod", pods[second])
        eventually(lambda: "29090" in lab("nbctl", "lr-policy-list", "ovn-cluster"), 15, "closed")
        assert nexthops(lab) == set()
        eventually(lambda: lab.connect("client", OUTSIDE[4], count=2)["failed"] == 2, 20, "nothing leaves")
        lab("fault", "--heal")
        eventually(lambda: nexthops(lab) == internal, 60, "both are back")
        lab.ready("gw")
        eventually(lambda: len(lab.seen("client", count=60)) == 2, 20, "both carry traffic")
    finally:
        lab("fault", "--heal")
        lab("delete", "veg", "gw", "--ignore-not-found", timeout=90)
        lab.apply("apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: {name: ovn-cluster}\nspec: {}\n")


def nexthops(lab: Lab) -> set[str]:
    """Nexthops of the reroute policies at 29100 of the default VPC."""
    found = re.findall(r"29100 .* reroute +(.*\S)", lab("nbctl", "lr-policy-list", "ovn-cluster"))
    return {address for text in found for address in text.split(", ") if address}


def test_three_replicas_in_a_subnet_of_their_own(lab: Lab) -> None:
    """Flows by a dead replica go on by the two others, and back when it returns, those from its own node as well.

    Their answers enter the router from the replica, where OVN's symmetric replies remember by which nexthop a connection
    came; what a node remembers must not keep flows at a dead one.
    """
    lab.start(
        vpc("three", "10.255.62.1"),
        subnet("three-work", "10.62.0.0/24", vpc="three"),
        subnet("three-gws", "10.63.0.0/24", vpc="three"),
        gateway(
            "gw",
            "[{snat: true, subnets: [three-work]}]",
            vpc="three",
            internalSubnet="three-gws",
            replicas=3,
            bfd=FAST,
        ),
        pod("client", "three-work"),
        gateways=("gw",),
        pods=("client",),
    )
    node = lab.get("pod", "client")["spec"]["nodeName"]
    near = next(name for name in lab.gateway_pods("gw") if lab.get("pod", name)["spec"]["nodeName"] == node)
    with lab.background("exec", "client", "--", *prober_command([OUTSIDE[4]], 24, 20)) as process:
        probe = Prober(process)

        def ways() -> int:
            """By how many replicas the flows of the last second went, 0 when packets were lost."""
            found = probe.last_second()
            if any(flow["lost"] or not flow["sent"] for flow in found):
                return 0
            return len({flow["source"] for flow in found})

        eventually(lambda: ways() == 3, 30, "all three carry flows")
        try:
            lab("fault", "cut-internal", near)
            eventually(lambda: ways() == 2, 15, "two carry all of them")
        finally:
            lab("fault", "--heal")
        eventually(lambda: ways() == 3, 60, "the third has flows again")


@pytest.fixture
def bfd_lab(lab: Lab) -> Lab:
    """The IPv4 sandbox with a gateway of two replicas and BFD at 300 ms in a VPC of its own."""
    lab.start(
        vpc("own", PORTS["ipv4"]),
        subnet("own-inside", CIDRS["ipv4"], vpc="own"),
        gateway(
            "gw",
            "[{snat: true, subnets: [own-inside]}]",
            vpc="own",
            internalSubnet="own-inside",
            replicas=2,
            bfd=FAST,
        ),
        pod("client", "own-inside"),
        gateways=("gw",),
        pods=("client",),
    )
    return lab


def test_ready_follows_the_sessions(bfd_lab: Lab) -> None:
    """A speaker that hangs makes the gateway not ready, and the status tells which replica and why; then it is back."""
    name = bfd_lab.gateway_pods("gw")[0]
    bfd_lab("fault", "pause-service", f"bfdd@{name}")
    try:
        eventually(lambda: bfd_lab.status("gw")["ready"] is False, 20)

        def told() -> bool:
            found = row_of(bfd_lab.status("gw")["pods"], name)["bfd"]
            return bool(found["state"] != "Up" and found["message"])

        eventually(told, 20, "status tells which replica and why")
        eventually(lambda: len(bfd_lab.seen("client", count=40)) == 1, 20, "the other carries all traffic")
    finally:
        bfd_lab("fault", "--heal")
    bfd_lab.ready("gw")
    eventually(lambda: len(bfd_lab.seen("client", count=60)) == 2, 20, "both carry traffic")


def test_ovn_is_kept_awake_for_little(bfd_lab: Lab) -> None:
    """While sessions are up a row changes every other second, in both databases, and northd computes no flow for it."""
    ovn = context.lab(bfd_lab.name)

    def recomputed() -> int:
        return int(ovn.appctl("ovn-northd", "inc-engine/show-stats", "lflow", "recompute"))

    seen = set()
    flows, end = recomputed(), time.monotonic() + 7
    while time.monotonic() < end:
        seen.add(
            ovn.sbctl("--bare", "--columns=addresses", "find", "Address_Set", "name=vpc_egress_gateway_waker")
        )
        time.sleep(0.2)
    assert "" not in seen
    assert len(seen) >= 3
    assert recomputed() == flows


def test_timers_are_retuned_live(bfd_lab: Lab) -> None:
    """New timers are in the rows within seconds, with the same rows, pods and sessions as before."""
    before = {peer: row["_uuid"] for peer, row in rows(bfd_lab).items()}
    pods = bfd_lab.gateway_pods("gw")
    bfd_lab.apply(
        gateway(
            "gw",
            "[{snat: true, subnets: [own-inside]}]",
            vpc="own",
            internalSubnet="own-inside",
            replicas=2,
            bfd="{enabled: true, minRX: 500, minTX: 400, multiplier: 5}",
        )
    )
    wanted = {("500", "400", "5")}
    eventually(
        lambda: {(r["min_rx"], r["min_tx"], r["detect_mult"]) for r in rows(bfd_lab).values()} == wanted, 10
    )
    bfd_lab.ready("gw")
    assert {peer: row["_uuid"] for peer, row in rows(bfd_lab).items()} == before
    assert bfd_lab.gateway_pods("gw") == pods
    for name in pods:
        assert bfd_lab.get("pod", name)["status"]["containerStatuses"][0]["restartCount"] == 0


def test_failover_needs_no_service_of_ours(bfd_lab: Lab) -> None:
    """With api and ovn-programmer away, OVN itself moves the traffic of a custom VPC and takes the replica back."""
    pods = {bfd_lab.get("pod", name)["status"]["podIP"]: name for name in bfd_lab.gateway_pods("gw")}
    victim = pods[min(pods)]
    bfd_lab("fault", "kill-service", "api", "ovn-programmer")
    try:
        bfd_lab("fault", "kill-pod", victim)
        eventually(lambda: rows(bfd_lab)[min(pods)]["status"] == "down", 15)
        eventually(lambda: len(bfd_lab.seen("client", count=40)) == 1, 20, "the other carries all traffic")
        bfd_lab("fault", "kill-pod", victim, "--heal")
        eventually(lambda: all_up(bfd_lab, 2), 60, "both sessions are up again")
        eventually(lambda: len(bfd_lab.seen("client", count=60)) == 2, 20, "both carry traffic")
    finally:
        bfd_lab("fault", "--heal", timeout=90)
    bfd_lab.ready("gw")


def test_the_bfd_port_moves_with_its_chassis(bfd_lab: Lab) -> None:
    """When the node that carries the port loses its power another takes over, and replicas elsewhere serve on."""
    nodes = {bfd_lab.get("pod", name)["spec"]["nodeName"] for name in bfd_lab.gateway_pods("gw")}
    active = bfd_lab(
        "sbctl",
        "--bare",
        "--columns=name",
        "list",
        "Chassis",
        bfd_lab(
            "sbctl", "--bare", "--columns=chassis", "find", "Port_Binding", 'logical_port="cr-bfd@own"'
        ).strip(),
    ).strip()
    where = bfd_lab.get("pod", "client")["spec"]["nodeName"]
    if where == active:
        bfd_lab("delete", "pod", "client")
        elsewhere = next(iter(nodes - {active}))
        extra = f"nodeSelector: {{kubernetes.io/hostname: {elsewhere}}}, "
        bfd_lab.start(
            pod("client", "own-inside").replace("{containers", "{" + extra + "containers"), pods=("client",)
        )
    alive = len(nodes - {active})
    bfd_lab("fault", "kill-chassis", active)
    try:
        eventually(lambda: len(bfd_lab.seen("client", count=20)) == alive, 90, "traffic goes on")

        def up() -> int:
            return [row["status"] for row in rows(bfd_lab).values()].count("up")

        eventually(lambda: up() == alive, 30, "sessions of the living are up, no other")
    finally:
        bfd_lab("fault", "--heal", timeout=90)
    eventually(lambda: all_up(bfd_lab, 2), 60, "all is back")
