"""The demo's steps, in order. Each shows what a user would type and holds the output against the specification."""

from __future__ import annotations

import json
import re
import time
from importlib import resources
from typing import Any

from veg_sandbox.demo.story import NotHeldError, Step, Story
from veg_sandbox.harness import ECHO_PORT, eventually

CONNECTIONS = 400
OUTSIDE = "172.17.0.1"
# Detection takes 300 ms; the rest is for machines that are busy with other things.
OUTAGE_LIMIT_MS = 3000
PODS = "ovn.kubernetes.io/vpc-egress-gateway"


def example(name: str) -> str:
    """The text of an example manifest."""
    return resources.files("veg_sandbox.demo").joinpath("examples", name).read_text(encoding="utf-8")


def up(story: Story) -> str:
    """A fresh sandbox: three chassis, the default VPC, an outside network."""
    story.sandbox("down", timeout=120)
    begun = time.monotonic()
    story.watch("up", "--nodes", "3", timeout=600)
    seconds = time.monotonic() - begun
    story.show("get", "node")
    return f"3 nodes in {seconds:.1f} s"


def first_example(story: Story) -> str:
    """The specification's first example, unchanged."""
    story.show("apply", "-f", "-", stdin=example("first.yaml"))
    begun = time.monotonic()
    story.show("wait", "veg", "gateway1", "--timeout", "60", timeout=90)
    seconds = time.monotonic() - begun
    table = story.show("get", "veg", "gateway1")
    story.expect(
        table,
        r"^NAME       VPC           REPLICAS   BFD ENABLED   EXTERNAL SUBNET   PHASE       READY   AGE\n"
        r"gateway1   ovn-cluster   1          false         macvlan1          Completed   true    \w+$",
        "get veg",
    )
    wide = story.show("get", "veg", "gateway1", "-o", "wide")
    story.expect(
        wide, r'true +\["10\.16\.0\.\d+"\] +\["172\.17\.0\.11"\] +\["kube-ovn-worker\d?"\] +\w+$', "wide"
    )
    return f"ready {seconds:.1f} s after apply, first external address 172.17.0.11"


def workload(story: Story) -> str:
    """The Deployment and its pod."""
    deployment = story.show("get", "deployment", "-l", f"{PODS}=gateway1")
    story.expect(
        deployment,
        r"^NAME       READY   UP-TO-DATE   AVAILABLE   AGE\ngateway1   1/1     1            1           \w+$",
        "deployment",
    )
    pods = story.show("get", "pod", "-l", f"{PODS}=gateway1", "-o", "wide")
    story.expect(
        pods,
        r"^NAME +READY +STATUS +RESTARTS +AGE +IP +NODE +NOMINATED NODE +READINESS GATES\n"
        r"gateway1-[a-z0-9]{8,10}-[a-z0-9]{5} +1/1 +Running +0 +\w+ +10\.16\.0\.\d+ +kube-ovn-worker\d? +<none> +<none>$",
        "pods",
    )
    return "deployment 1/1, pod Running"


def inside_the_pod(story: Story) -> str:
    """Addresses, routes and NAT rules of the pod, as the specification prints them."""
    (pod,) = story.sandbox.gateway_pods("gateway1")
    internal = story.sandbox.get("pod", pod)["status"]["podIP"]
    inside = ("exec", pod, "-c", "gateway", "--")
    addresses = story.show(*inside, "ip", "address", "show")
    story.expect(addresses, r"net1@if\d+: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500", "net1")
    story.expect(
        addresses, r"inet 172\.17\.0\.11/16 brd 172\.17\.255\.255 scope global net1$", "external address"
    )
    story.expect(addresses, r"eth0@if\d+: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1400", "eth0")
    story.expect(
        addresses, rf"inet {internal}/16 brd 10\.16\.255\.255 scope global eth0$", "internal address"
    )
    routes = story.show(*inside, "ip", "route", "show")
    wanted = [
        "default via 172.17.0.1 dev net1",
        f"10.16.0.0/16 dev eth0 proto kernel scope link src {internal}",
        "172.17.0.0/16 dev net1 proto kernel scope link src 172.17.0.11",
    ]
    if [line.rstrip() for line in routes.splitlines()] != wanted:
        raise NotHeldError(f"ip route show: expected {wanted}, got {routes!r}")
    nat = story.show(*inside, "iptables", "-t", "nat", "-S")
    chains = [f"-P {chain} ACCEPT" for chain in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")]
    if nat.splitlines() != [*chains, "-A POSTROUTING -s 10.16.0.0/16 -j MASQUERADE --random-fully"]:
        raise NotHeldError(f"iptables -t nat -S: {nat!r}")
    return "addresses, routes and NAT rules to the letter"


def policies(story: Story) -> str:
    """OVN's logical router policies."""
    listing = story.show("nbctl", "lr-policy-list", "ovn-cluster")
    story.expect(listing, r"^Routing Policies$", "title")
    story.expect(listing, r"^ +31000 +ip4\.dst == 10\.16\.0\.0/16 +allow *$", "allow policy")
    story.expect(
        listing, r"^ +29100 +ip4\.src == 10\.16\.0\.0/16 +reroute +10\.16\.0\.\d+ *$", "reroute policy"
    )
    return "allow 31000, reroute 29100"


def egress(story: Story) -> str:
    """A client pod's traffic arrives outside with the gateway's address."""
    story.show("apply", "-f", "-", stdin=example("client.yaml"))
    _running(story, "client")
    seen = _connections(story, "client", 20)
    if set(seen) != {"172.17.0.11"}:
        raise NotHeldError(f"outside saw {seen}, expected 172.17.0.11 only")
    return "20 of 20 connections masqueraded as 172.17.0.11"


def scale(story: Story) -> str:
    """Two replicas share the load, and the first one's pod and address stay."""
    (before,) = story.sandbox.gateway_pods("gateway1")
    story.show("scale", "veg", "gateway1", "--replicas=2")
    story.show("wait", "veg", "gateway1", "--timeout", "60", timeout=90)
    story.show("get", "veg", "gateway1", "-o", "wide")
    story.show("get", "pod", "-l", f"{PODS}=gateway1", "-o", "wide")
    listing = story.show("nbctl", "lr-policy-list", "ovn-cluster")
    story.expect(
        listing, r"29100 +ip4\.src == 10\.16\.0\.0/16 +reroute +10\.16\.0\.\d+, 10\.16\.0\.\d+ *$", "ECMP"
    )
    if before not in story.sandbox.gateway_pods("gateway1"):
        raise NotHeldError(f"pod {before} was replaced by scaling")
    return _shared(story, "client", {"172.17.0.11", "172.17.0.12"})


def custom_vpc(story: Story) -> str:
    """A custom VPC uses static routes by source."""
    story.show("apply", "-f", "-", stdin=example("custom-vpc.yaml"))
    story.show("wait", "veg", "gateway2", "--timeout", "60", timeout=90)
    story.show("get", "veg", "gateway2", "-o", "wide")
    story.show("nbctl", "show", "vpc1")
    listing = story.show("nbctl", "lr-route-list", "vpc1")
    internal = story.sandbox.get("veg", "gateway2")["status"]["internalIPs"]
    for address in internal:
        story.expect(
            listing, rf"^ +192\.168\.0\.0/24 +{address} src-ip ecmp ecmp-symmetric-reply *$", "static route"
        )
    _running(story, "client-vpc1")
    external = story.sandbox.get("veg", "gateway2")["status"]["externalIPs"]
    return _shared(story, "client-vpc1", set(external))


def high_availability(story: Story) -> str:
    """The third example: a BFD port for the VPC, a session between it and every replica, seen at both ends."""
    story.show("delete", "veg", "gateway2", timeout=90)
    story.show("apply", "-f", "-", stdin=example("third.yaml"))
    begun = time.monotonic()
    story.show("wait", "veg", "gateway2", "--timeout", "120", timeout=150)
    seconds = time.monotonic() - begun
    wide = story.show("get", "veg", "gateway2", "-o", "wide")
    story.expect(
        wide,
        r"^gateway2   vpc1   2          true          macvlan1          Completed   true    "
        r'\["192\.168\.0\.\d+","192\.168\.0\.\d+"\]   \["172\.17\.0\.1\d","172\.17\.0\.1\d"\]   '
        r'\["kube-ovn-worker\d?","kube-ovn-worker\d?"\]   \w+$',
        "get veg -o wide",
    )
    story.show("get", "pod", "-l", f"{PODS}=gateway2", "-o", "wide")
    _bfd_port(story)
    listing = story.show("nbctl", "lr-route-list", "vpc1")
    sessions = story.show("nbctl", "list", "bfd")
    for address in story.sandbox.get("veg", "gateway2")["status"]["internalIPs"]:
        route = rf"^ +192\.168\.0\.0/24 +{re.escape(address)} src-ip ecmp ecmp-symmetric-reply bfd *$"
        story.expect(listing, route, "static route with BFD")
        story.expect(sessions, _BFD_ROW.format(address=re.escape(address)), "BFD row")
    for pod in story.sandbox.gateway_pods("gateway2"):
        address = story.sandbox.get("pod", pod)["status"]["podIP"]
        seen = story.show("exec", pod, "-c", "bfdd", "--", "bfdd-control", "status")
        line = f" id=1 local={address} (p) remote=10.255.255.255 state=Up"
        if [text.rstrip() for text in seen.splitlines()] != ["There are 1 sessions:", "Session 1", line]:
            raise NotHeldError(f"bfdd-control status: {seen!r}")
    _running(story, "client-vpc1")
    external = story.sandbox.get("veg", "gateway2")["status"]["externalIPs"]
    shares = _shared(story, "client-vpc1", set(external))
    return f"ready {seconds:.1f} s after apply, 2 sessions up at both ends; {shares}"


_BFD_ROW = r"""detect_mult +: 3
dst_ip +: "{address}"
external_ids +: \{{af="4", vendor=kube-ovn, vpc-egress-gateway="default/gateway2"\}}
logical_port +: "bfd@vpc1"
min_rx +: 1000
min_tx +: 1000
options +: \{{\}}
status +: up$"""


def _bfd_port(story: Story) -> None:
    """The port lies on the VPC's router, or on one of its own where OVN can not have it there."""
    routers = story.show("nbctl", "show", "vpc1")
    if "port bfd@vpc1" not in routers:
        routers = story.show("nbctl", "show", "vpc1-bfd")
    port = r'port bfd@vpc1\n +mac: "[0-9a-f:]{17}"\n(?: +ipv6-lla: .*\n)? +networks: \["10\.255\.255\.255"'
    story.expect(routers, port, "BFD port")
    story.expect(story.show("get", "vpc", "vpc1", "-o", "wide"), r"bfd@vpc1 +10\.255\.255\.255", "get vpc")


def failover(story: Story) -> str:
    """Traffic in many flows while replicas are killed and drained, one after the other."""
    killed = _failover(story, "kill-pod", "--interval", "100", "--runs", "2")
    drained = _failover(story, "drain", "--interval", "300", "--runs", "1")
    outage = killed["dying"]["max_ms"]
    if outage > OUTAGE_LIMIT_MS:
        raise NotHeldError(f"traffic was away for {outage} ms, expected at most {OUTAGE_LIMIT_MS}")
    if drained["dying"]["lost"]:
        raise NotHeldError(f"{drained['dying']['lost']} packets lost when a replica was drained")
    return f"killed: traffic away {outage:g} ms at most (BFD 100 ms x 3); drained: 0 packets lost"


def _failover(story: Story, fault: str, *args: str) -> dict[str, Any]:
    output = story.show("failover", "--fault", fault, *args, "--json", timeout=300)
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def deletion(story: Story) -> str:
    """Deleting the gateways takes every row and pod of theirs along."""
    for name in ("gateway1", "gateway2"):
        story.show("delete", "veg", name, timeout=90)
    policies_left = story.show("nbctl", "lr-policy-list", "ovn-cluster")
    routes_left = story.show("nbctl", "lr-route-list", "vpc1")
    if "29100" in policies_left or "src-ip" in routes_left:
        raise NotHeldError(f"rows left: {policies_left} {routes_left}")
    left = story.sandbox.gateway_pods("gateway1") + story.sandbox.gateway_pods("gateway2")
    if left:
        raise NotHeldError(f"pods left: {left}")
    story.show("get", "pod")
    return "no row, no pod left"


def _running(story: Story, pod: str) -> None:
    eventually(
        lambda: story.sandbox.get("pod", pod)["status"].get("phase") == "Running", 30, f"pod {pod} runs"
    )
    story.show("get", "pod", pod, "-o", "wide")


def _connections(story: Story, pod: str, count: int) -> dict[str, int]:
    """How many TCP connections the outside host saw from which address; none may fail."""
    args = ("connect", "--count", str(count), "--proto", "tcp", "--target", OUTSIDE, "--port", str(ECHO_PORT))
    result = story.sandbox.probe(pod, *args, timeout=120)
    story.console.print(f"{count} TCP connections from {pod}: outside saw {result['sources']}", markup=False)
    if result["failed"]:
        raise NotHeldError(f"{result['failed']} of {count} connections failed")
    seen: dict[str, int] = result["sources"]
    return seen


def _shared(story: Story, pod: str, addresses: set[str]) -> str:
    seen = _connections(story, pod, CONNECTIONS)
    shares = {address: count / CONNECTIONS for address, count in sorted(seen.items())}
    if set(seen) != addresses or not all(0.3 <= share <= 0.7 for share in shares.values()):
        raise NotHeldError(f"expected {sorted(addresses)} with 30-70 % each, outside saw {seen}")
    return ", ".join(f"{address} {share:.0%}" for address, share in shares.items()) + f" of {CONNECTIONS}"


STEPS = (
    Step("a sandbox with real OVN", up),
    Step("the specification's first example", first_example),
    Step("its workload", workload),
    Step("inside the gateway pod", inside_the_pod),
    Step("OVN's routing policies", policies),
    Step("egress from a client pod", egress),
    Step("scaled to two replicas", scale),
    Step("a custom VPC", custom_vpc),
    Step("BFD high availability", high_availability),
    Step("deletion", deletion),
    Step("a live failover", failover),
)
