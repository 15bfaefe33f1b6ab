"""Change while traffic flows: policies, scaling, restarts, moves, deletion."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from veg_sandbox.harness import ECHO_PORT, eventually
from veg_sandbox.net.model import Layout, lab_dir
from veg_sandbox.net.shell import netns_names

from tests.topology.conftest import FIRST, OUTSIDE, Lab, gateway, pod, subnet, vpc

SNAT_ALL = "[{snat: true, subnets: [ovn-default]}]"


@contextmanager
def held_connection(lab: Lab, client: str, version: int = 4) -> Iterator[dict[str, Any]]:
    """An established TCP connection that is used all the time; its record is filled in when the block ends."""
    record: dict[str, Any] = {}
    command = lab.probe_command(
        "hold", "--target", OUTSIDE[version], "--port", str(ECHO_PORT), "--duration", "120"
    )
    with lab.background("exec", client, "--", *command) as process:
        assert process.stdout
        assert process.stdin
        assert "connected" in process.stdout.readline()
        yield record
        process.stdin.write("stop\n")
        process.stdin.flush()
        record.update(json.loads(process.stdout.readline()))


def addresses(lab: Lab, name: str) -> tuple[list[str], list[str]]:
    """Internal and external addresses of a gateway."""
    status = lab.status(name)
    return sorted(status["internalIPs"]), sorted(status["externalIPs"])


def test_addresses_stay(dual: Lab) -> None:
    """Through pod restart, api restart, scaling 2-1-2 and a change of policies."""
    dual.start(gateway("stay", SNAT_ALL, replicas=2), gateways=("stay",))
    before = addresses(dual, "stay")
    first = dual.gateway_pods("stay")[0]
    dual("delete", "pod", first, timeout=60)
    eventually(lambda: first not in dual.gateway_pods("stay") and len(dual.gateway_pods("stay")) == 2)
    dual.ready("stay")
    assert addresses(dual, "stay") == before
    dual("restart", "api", "--kill")
    dual("scale", "veg", "stay", "--replicas=1")
    eventually(lambda: len(dual.status("stay")["internalIPs"]) == 1 and len(dual.gateway_pods("stay")) == 1)
    dual.ready("stay")
    dual("scale", "veg", "stay", "--replicas=2")
    eventually(lambda: len(dual.status("stay")["internalIPs"]) == 2)
    dual.ready("stay")
    assert addresses(dual, "stay") == before
    dual.start(gateway("stay", "[{snat: false, ipBlocks: [10.16.1.0/24]}]", replicas=2), gateways=("stay",))
    assert addresses(dual, "stay") == before


def test_a_policy_change_is_live_and_breaks_nothing(lab: Lab) -> None:
    """Within 2 s, in the same pods, and an established connection that still matches goes on."""
    other = subnet("late", "10.50.0.0/24", vpc="ovn-cluster")
    lab.start(other, gateway("gw", SNAT_ALL), pod("client"), pod("late", "late"), gateways=("gw",))
    for name in ("client", "late"):
        eventually(lambda name=name: lab.running(name))  # type: ignore[misc]
    (external,) = lab.status("gw")["externalIPs"]
    pods = lab.gateway_pods("gw")
    with held_connection(lab, "client") as record:
        assert lab.connect("late", OUTSIDE[4], count=1)["failed"] == 1
        lab.apply(gateway("gw", "[{snat: true, subnets: [ovn-default, late]}]"))
        begun = time.monotonic()
        eventually(lambda: lab.connect("late", OUTSIDE[4], count=1)["sources"] == {external: 1}, 10)
        live = time.monotonic() - begun
        lab.apply(gateway("gw", "[{snat: true, subnets: [ovn-default]}]"))
        eventually(
            lambda: "10.50" not in lab("nbctl", "lr-policy-list", "ovn-cluster").replace("dst == 10.50", ""),
            10,
        )
    # Some 0.1 s; a lost first packet of a connection costs another second or three, the commands themselves 0.3 s.
    assert live < 5
    assert record["alive"], record
    assert record["resets"] == 0
    assert lab.gateway_pods("gw") == pods


def test_another_vpc_is_a_clean_move(lab: Lab) -> None:
    """No row stays on the old router, and the new VPC's pods get out."""
    lab.start(
        vpc("dest"),
        subnet("dest1", "10.60.0.0/24", vpc="dest"),
        gateway("mover", "[{snat: true, ipBlocks: [10.16.0.0/16]}]"),
        pod("there", "dest1"),
        gateways=("mover",),
        pods=("there",),
    )
    lab.apply(gateway("mover", "[{snat: true, subnets: [dest1]}]", vpc="dest", internalSubnet="dest1"))
    eventually(lambda: "29100" not in lab("nbctl", "lr-policy-list", "ovn-cluster"), 30)
    lab.ready("mover")
    (external,) = lab.status("mover")["externalIPs"]
    assert lab.seen("there") == {external: 10}
    assert lab.status("mover")["internalIPs"][0].startswith("10.60.0.")


def northbound(lab: Lab) -> str:
    """Everything in the Northbound database that people or we wrote."""
    columns = {
        "Logical_Router": "name,ports,policies,static_routes,external_ids",
        "Logical_Router_Policy": "priority,match,action,nexthop,nexthops,external_ids",
        "Logical_Router_Static_Route": "ip_prefix,nexthop,policy,options,external_ids",
        "Logical_Switch": "name,ports,external_ids",
        "Logical_Switch_Port": "name,type,addresses,external_ids",
        "BFD": "logical_port,dst_ip",
        "Address_Set": "name,addresses",
    }
    dumps = []
    for table, names in columns.items():
        rows = lab("nbctl", "--format=csv", "--no-headings", f"--columns=_uuid,{names}", "list", table)
        dumps.append("\n".join([table, *sorted(rows.splitlines())]))
    return "\n".join(dumps)


def test_deletion_leaves_everything_else_as_it_was(lab: Lab) -> None:
    """Rows, pods, namespaces, addresses and files of the gateway go; strangers' rows stay byte for byte."""
    lab.start(FIRST.replace("gateway1", "stays"), pod("client"), gateways=("stays",), pods=("client",))
    lab("nbctl", "lr-policy-add", "ovn-cluster", "29100", "ip4.src == 10.99.0.0/16", "drop")
    lab("nbctl", "lr-route-add", "ovn-cluster", "10.98.0.0/16", "10.16.0.254")
    try:
        before = northbound(lab), namespaces(lab), files(lab)
        lab.start(
            gateway(
                "goes",
                "[{snat: true, ipBlocks: [10.16.200.0/24, 10.16.201.7]}, {ipBlocks: [10.17.0.0/24]}]",
                replicas=2,
            ),
            gateways=("goes",),
        )
        assert northbound(lab) != before[0]
        assert namespaces(lab) != before[1]
        lab("delete", "veg", "goes", timeout=90)
        eventually(lambda: files(lab) == before[2], 30)
        eventually(lambda: (northbound(lab), namespaces(lab)) == before[:2], 30, "all else is as it was")
    finally:
        lab("nbctl", "lr-policy-del", "ovn-cluster", "29100", "ip4.src == 10.99.0.0/16")
        lab("nbctl", "lr-route-del", "ovn-cluster", "10.98.0.0/16", "10.16.0.254")


def namespaces(lab: Lab) -> list[str]:
    """Network namespaces of a sandbox."""
    return netns_names(Layout(lab_dir(lab.name)).netns_prefix)


def files(lab: Lab) -> list[str]:
    """Objects in the store, but for the record of what happened."""
    kinds = ("veg", "deployment", "pod", "configmap", "ip", "subnet", "vpc", "nad")
    return sorted(f"{kind}/{i['metadata']['name']}" for kind in kinds for i in lab.items(kind))


# In the pod, in one go: break something ($1), then look ($2) until it reads as before ($3); prints how many
# nanoseconds it took.
REPAIR = """
eval "$1" || exit 2; begun=$(date +%s%N)
for _ in $(seq 700); do
  [ "$(eval "$2")" = "$3" ] && echo $(( $(date +%s%N) - begun )) && exit 0
  sleep 0.02
done
eval "$2"; exit 1
"""
# node-agent reads the routing back every fifteen seconds: what is back sooner was healed by an event.
EVENT_S = 2.0


@pytest.mark.parametrize(
    ("breaking", "view", "within"),
    [
        pytest.param("ip route del default", "ip route show", EVENT_S, id="route"),
        pytest.param(
            "ours=$(ip rule show | cut -d: -f1 | grep -v -x -e 0 -e 32766 -e 32767)"
            " && for pref in $ours; do ip rule del pref $pref; done",
            "ip rule show",
            EVENT_S,
            id="rule",
        ),
        pytest.param("ip link set net1 down; ip link set net1 up", "ip route show", EVENT_S, id="address"),
        pytest.param(
            "iptables -t nat -S | grep -q -e -j.MASQUERADE -e -j.SNAT && iptables -t nat -F POSTROUTING",
            "iptables -t nat -S",
            10,
            id="nat",
        ),
    ],
)
def test_what_a_hand_removes_in_a_pod_comes_back(lab: Lab, breaking: str, view: str, within: float) -> None:
    """Routes, rules and links by netlink's events, NAT by reading it; traffic flows again."""
    lab.start(gateway("gw", SNAT_ALL), pod("client"), gateways=("gw",), pods=("client",))
    (name,) = lab.gateway_pods("gw")
    inside = ("exec", name, "-c", "gateway", "--")
    before = lab(*inside, "sh", "-c", view).rstrip("\n")
    took = int(lab(*inside, "sh", "-c", REPAIR, "sh", breaking, view, before, timeout=60)) / 1e9
    assert took < within
    (external,) = lab.status("gw")["externalIPs"]
    eventually(lambda: lab.seen("client") == {external: 10}, 20, "traffic flows")


@pytest.mark.parametrize("removed", ["policy", "nexthop"])
def test_what_a_hand_removes_in_ovn_comes_back(lab: Lab, removed: str) -> None:
    """By the database's notifications, nothing reads it again and again; traffic flows again."""
    lab.start(gateway("gw", SNAT_ALL), pod("client"), gateways=("gw",), pods=("client",))
    nbctl = ("nbctl", "--bare", "--columns=_uuid", "find", "Logical_Router_Policy", "priority=29100")
    breaks = {
        "policy": ("nbctl", "lr-policy-del", "ovn-cluster", "29100"),
        "nexthop": ("nbctl", "set", "Logical_Router_Policy", lab(*nbctl).strip(), "nexthops=10.16.0.200"),
    }
    view = ("nbctl", "lr-policy-list", "ovn-cluster")
    before = lab(*view)
    lab(*breaks[removed])
    eventually(lambda: lab(*view) == before, 10, f"{removed} is back")
    (external,) = lab.status("gw")["externalIPs"]
    eventually(lambda: lab.seen("client") == {external: 10}, 20, "traffic flows")
