"""The scheduler's choices."""

from __future__ import annotations

from typing import Any

import pytest
from veg_sandbox.runtime.core.schedule import Choice, schedule

LABEL = {"ovn.kubernetes.io/vpc-egress-gateway": "g"}
ANTI = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": LABEL}}
        ]
    }
}


def node(
    name: str, *, ready: bool = True, labels: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    """A node."""
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def pod(name: str = "p", on: str = "", labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A pod, bound when `on` is given."""
    metadata = {"name": name, "namespace": "default", "labels": labels or {}}
    return {"metadata": metadata, "spec": {**spec, **({"nodeName": on} if on else {})}}


NODES = [node("kube-ovn-worker"), node("kube-ovn-worker2"), node("kube-ovn-worker10")]


def required(**term: Any) -> dict[str, Any]:
    """Required node affinity of one term."""
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def test_first_node_first() -> None:
    """An empty cluster is filled in the order of the nodes' numbers, whatever order they are listed in."""
    assert schedule(pod(), NODES[::-1], []) == Choice("kube-ovn-worker")
    assert schedule(pod(), NODES[::-1], [pod("a", "kube-ovn-worker")]) == Choice("kube-ovn-worker2")


def test_gateway_pods_spread() -> None:
    """Required anti-affinity puts each replica on a node of its own, counts terminating ones, and says when it can not."""
    there: list[dict[str, Any]] = []
    for expected in ("kube-ovn-worker", "kube-ovn-worker2", "kube-ovn-worker10"):
        choice = schedule(pod("new", labels=LABEL, affinity=ANTI), NODES, there)
        assert choice.node == expected
        there.append(pod(f"g{expected}", choice.node, LABEL, affinity=ANTI))
    there[0]["metadata"]["deletionTimestamp"] = "t"
    assert schedule(pod("new", labels=LABEL, affinity=ANTI), NODES, there).message == (
        "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."
    )
    assert schedule(pod("client"), NODES, there).node


def test_anti_affinity_works_both_ways_and_stays_in_its_namespace() -> None:
    """A pod that others keep away from is kept away; the same label in another namespace means nothing."""
    there = [pod("g", "kube-ovn-worker", {"app": "x"}, affinity=ANTI)]
    assert schedule(pod("new", labels=LABEL), NODES[:1], there).node == ""
    there[0]["metadata"]["namespace"] = "other"
    assert schedule(pod("new", labels=LABEL), NODES[:1], there).node == "kube-ovn-worker"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"nodeSelector": {"zone": "b"}}, "b"),
        ({"affinity": required(matchExpressions=[{"key": "zone", "operator": "In", "values": ["b"]}])}, "b"),
        (
            {"affinity": required(matchExpressions=[{"key": "zone", "operator": "NotIn", "values": ["a"]}])},
            "b",
        ),
        ({"affinity": required(matchExpressions=[{"key": "zone", "operator": "DoesNotExist"}])}, "c"),
        ({"affinity": required(matchExpressions=[{"key": "n", "operator": "Gt", "values": ["1"]}])}, "b"),
        (
            {"affinity": required(matchFields=[{"key": "metadata.name", "operator": "In", "values": ["c"]}])},
            "c",
        ),
        ({"nodeSelector": {"zone": "z"}}, ""),
        (
            {
                "nodeSelector": {"zone": "a"},
                "affinity": required(matchExpressions=[{"key": "n", "operator": "Exists"}]),
            },
            "a",
        ),
    ],
)
def test_node_selectors(spec: dict[str, Any], expected: str) -> None:
    """nodeSelector and every operator of required node affinity choose the node."""
    nodes = [node("a", labels={"zone": "a", "n": "1"}), node("b", labels={"zone": "b", "n": "2"}), node("c")]
    assert schedule(pod(**spec), nodes, []).node == expected


def test_unfit_nodes_are_counted() -> None:
    """The message tells how many nodes are unfit for which reason, in kube-scheduler's words."""
    nodes = [
        node("a", ready=False),
        node("b", unschedulable=True),
        node("c", taints=[{"key": "k", "effect": "NoSchedule"}]),
        node("d", labels={"x": "y"}),
    ]
    assert schedule(pod(nodeSelector={"x": "z"}), nodes, []).message == (
        "0/4 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint, "
        "1 node(s) were not ready, 1 node(s) were unschedulable."
    )
    assert schedule(pod(tolerations=[{"key": "k", "operator": "Exists"}]), nodes[2:3], []).node == "c"
    assert schedule(pod(), [], []).message == "no nodes available to schedule pods"
