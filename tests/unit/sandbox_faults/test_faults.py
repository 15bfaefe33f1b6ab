"""Faults as data: names, the book of active ones, conditions of lost nodes, and what the command line refuses."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from veg_common.objects import merge_patch
from veg_sandbox.cli import seed
from veg_sandbox.cli.app import COMMANDS
from veg_sandbox.cli.failover import _FAULTS as OFFERED
from veg_sandbox.failover import manifests, measure
from veg_sandbox.failover.gateway import Replica
from veg_sandbox.faults.book import Book
from veg_sandbox.faults.kinds import ABOUT, TARGETS, Fault, Kind, pod_service
from veg_sandbox.runtime.core import nodestatus
from veg_sandbox.runtime.core.pods import condition

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(seconds=30)


def test_every_kind_is_told_and_has_a_target() -> None:
    """The help names each kind; the command exists."""
    assert set(ABOUT) == set(TARGETS) == set(Kind)
    assert {"fault", "failover"} <= set(COMMANDS)


@pytest.mark.parametrize(
    ("service", "found"),
    [
        ("node-agent@p", ("p", "gateway")),
        ("bfdd@p", ("p", "bfdd")),
        ("ovn-controller@kube-ovn-worker", None),
        ("api", None),
        ("bfdd", None),
    ],
)
def test_services_in_pods(service: str, found: tuple[str, str] | None) -> None:
    """`SERVICE@POD` names a container; `DAEMON@NODE` does not."""
    assert pod_service(service) == found


def test_the_book_remembers_across_processes(tmp_path: Path) -> None:
    """The oldest first, the same fault once, damaged files left out."""
    one = Fault(Kind.CUT_UPLINK, "p", "default", "u1", "path", 2.0)
    two = Fault(Kind.KILL_SERVICE, "ovn-controller@n", since=1.0)
    book = Book(tmp_path)
    assert book.all() == []
    for fault in (one, two, one):
        book.add(fault)
    (tmp_path / "faults" / "x.json").write_text("{")
    (tmp_path / "faults" / "y.json").write_text('{"kind": "flood", "target": "x"}')
    assert Book(tmp_path).all() == [two, one]
    assert one.shown == "cut-uplink p path"
    book.remove(one)
    assert Book(tmp_path).all() == [two]


def node() -> dict[str, Any]:
    """A node that is ready."""
    return seed.node_object(seed.NodeFacts("n", "172.18.0.2"), NOW)


def test_a_lost_node_is_unknown_until_it_returns() -> None:
    """Ready becomes Unknown once, and True again with the moment of its return."""
    patch = nodestatus.lost(node(), LATER)
    assert patch is not None
    lost = {**node(), "status": merge_patch(node()["status"], patch)}
    assert condition(lost, "Ready")["status"] == "Unknown"
    assert condition(lost, "Ready")["lastTransitionTime"] == "2026-03-01T00:00:30Z"
    assert nodestatus.lost(lost, LATER) is None
    patch = nodestatus.returned(lost, LATER)
    assert patch is not None
    assert condition({"status": patch}, "Ready")["status"] == "True"


def test_a_node_that_somebody_else_marked_stays_so() -> None:
    """Only what `lost` wrote is undone: a Ready condition written by hand is respected."""
    by_hand = node()
    by_hand["status"]["conditions"] = [{"type": "Ready", "status": "False", "reason": "Testing"}]
    assert nodestatus.returned(by_hand, LATER) is None
    assert nodestatus.returned(node(), LATER) is None


def test_pods_of_a_lost_node_are_not_ready() -> None:
    """Their other conditions stay as the kubelet last said."""
    pod = {
        "status": {
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
        }
    }
    patch = nodestatus.pod_of_lost_node(pod, NOW)
    assert patch is not None
    assert [(c["type"], c["status"]) for c in patch["conditions"]] == [
        ("PodScheduled", "True"),
        ("Ready", "False"),
    ]
    assert nodestatus.pod_of_lost_node({"status": patch}, NOW) is None


def test_every_fault_that_failover_offers_is_known() -> None:
    """The command's choices are those of the measurement, and each but the drain breaks the victim or its node."""
    assert measure.FAULTS == OFFERED
    victim = Replica("p", "u", "n", ("172.17.254.1",))
    for make in measure._FAULTS.values():
        fault = make(victim)
        assert fault.uid == "u" or fault.target == "n"


@pytest.mark.parametrize("ip_family", seed.IP_FAMILIES)
def test_the_gateway_of_failover_is_whole(ip_family: str) -> None:
    """Each subnet, the BFD port and the targets have the families asked for, and one name serves one object."""
    objects = [*manifests.topology(ip_family), manifests.gateway(50, 3, ["m"]), manifests.client("n")]
    names = [(obj["kind"], obj["metadata"]["name"]) for obj in objects]
    assert len(set(names)) == len(names)
    versions = {"ipv4": {False}, "ipv6": {True}, "dual": {False, True}}[ip_family]
    (vpc,) = (obj for obj in objects if obj["kind"] == "Vpc")
    assert {":" in ip for ip in vpc["spec"]["bfdPort"]["ip"].split(",")} == versions
    for subnet in (obj for obj in objects if obj["kind"] == "Subnet"):
        assert {":" in cidr for cidr in subnet["spec"]["cidrBlock"].split(",")} == versions
        # Router port and switch port of a VPC's subnet would have one name in OVN.
        assert subnet["metadata"]["name"] != vpc["metadata"]["name"]
    assert {":" in target for target in manifests.targets(ip_family)} == versions
