"""The scheduler's decision: a node for a pod, or why there is none. Pure.

The part of kube-scheduler that egress gateways use: readiness, cordons, taints, nodeSelector, required node
affinity, required pod anti-affinity; then spread over nodes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from veg_common.objects import Object

from veg_sandbox.runtime.core.pods import condition, is_finished, labels_of, node_of, spec_of
from veg_sandbox.runtime.core.selectors import matches_labels, matches_node_selector

_HOSTNAME = "kubernetes.io/hostname"


@dataclass(frozen=True)
class Choice:
    """Either a node, or a message that says why none will do."""

    node: str = ""
    message: str = ""


def schedule(pod: Object, nodes: Sequence[Object], pods: Sequence[Object]) -> Choice:
    """The node for an unbound pod among `nodes`, given all pods (those bound count, also terminating ones)."""
    if not nodes:
        return Choice(message="no nodes available to schedule pods")
    bound = [p for p in pods if node_of(p) and not is_finished(p)]
    verdicts = {node["metadata"]["name"]: _refusal(pod, node, nodes, bound) for node in nodes}
    fitting = [node for node in nodes if not verdicts[node["metadata"]["name"]]]
    if not fitting:
        reasons = Counter(verdicts.values())
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        return Choice(message=f"0/{len(nodes)} nodes are available: {told}.")
    return Choice(node=min(fitting, key=_cost(pod, bound))["metadata"]["name"])


def is_node_ready(node: Object) -> bool:
    """Whether condition Ready is True and nobody cordoned it."""
    return condition(node, "Ready").get("status") == "True" and not spec_of(node).get("unschedulable")


def _refusal(pod: Object, node: Object, nodes: Sequence[Object], bound: Sequence[Object]) -> str:
    """kube-scheduler's words for what keeps the pod from the node, "" when nothing does."""
    if condition(node, "Ready").get("status") != "True":
        return "node(s) were not ready"
    if spec_of(node).get("unschedulable"):
        return "node(s) were unschedulable"
    if not _tolerates(pod, node):
        return "node(s) had untolerated taint"
    if not _matches_affinity(pod, node):
        return "node(s) didn't match Pod's node affinity/selector"
    if _repelled(pod, node, nodes, bound):
        return "node(s) didn't match pod anti-affinity rules"
    return ""


def _tolerates(pod: Object, node: Object) -> bool:
    taints = spec_of(node).get("taints") or []
    tolerations = spec_of(pod).get("tolerations") or []
    return all(
        any(_tolerates_taint(t, taint) for t in tolerations)
        for taint in taints
        if taint.get("effect") in ("NoSchedule", "NoExecute")
    )


def _tolerates_taint(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint.get("key"))
    return (toleration.get("key"), toleration.get("value") or "") == (
        taint.get("key"),
        taint.get("value") or "",
    )


def _matches_affinity(pod: Object, node: Object) -> bool:
    spec = spec_of(pod)
    if not matches_labels({"matchLabels": spec.get("nodeSelector") or {}}, labels_of(node)):
        return False
    required = _affinity(pod, "nodeAffinity").get("requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or matches_node_selector(required, node)


def _repelled(pod: Object, node: Object, nodes: Sequence[Object], bound: Sequence[Object]) -> bool:
    """Whether required anti-affinity, the pod's or that of one already there, keeps them apart."""
    return any(
        _domain_of(other, term, nodes) == _domain(node, term) is not None
        and (_selects(term, pod, other) if mine else _selects(term, other, pod))
        for other in bound
        for mine, terms in ((True, _anti_terms(pod)), (False, _anti_terms(other)))
        for term in terms
    )


def _selects(term: Object, holder: Object, other: Object) -> bool:
    namespaces = term.get("namespaces") or [holder["metadata"].get("namespace")]
    return other["metadata"].get("namespace") in namespaces and matches_labels(
        term.get("labelSelector"), labels_of(other)
    )


def _anti_terms(pod: Object, strength: str = "required") -> list[Object]:
    terms = _affinity(pod, "podAntiAffinity").get(f"{strength}DuringSchedulingIgnoredDuringExecution")
    return [t for t in terms if isinstance(t, dict)] if isinstance(terms, list) else []


def _affinity(pod: Object, kind: str) -> Object:
    affinity = spec_of(pod).get("affinity")
    part = affinity.get(kind) if isinstance(affinity, dict) else None
    return part if isinstance(part, dict) else {}


def _domain(node: Object, term: Object) -> str | None:
    key = str(term.get("topologyKey") or _HOSTNAME)
    value = labels_of(node).get(key)
    return node["metadata"]["name"] if value is None and key == _HOSTNAME else value


def _domain_of(pod: Object, term: Object, nodes: Sequence[Object]) -> str | None:
    name = node_of(pod)
    node = next((n for n in nodes if n["metadata"]["name"] == name), None)
    return _domain(node, term) if node else None


def _cost(pod: Object, bound: Sequence[Object]) -> Callable[[Object], tuple[Any, ...]]:
    """Least first: preferred anti-affinity, pods of the same owner, any pods, then the node's number."""
    preferred = _anti_terms(pod, "preferred")
    owners = _owners(pod)

    def cost(node: Object) -> tuple[Any, ...]:
        name = node["metadata"]["name"]
        here = [p for p in bound if node_of(p) == name]
        disliked = sum(
            int(term.get("weight", 1))
            for term in preferred
            for other in here
            if _selects(term.get("podAffinityTerm") or {}, pod, other)
        )
        siblings = sum(bool(owners & _owners(p)) for p in here)
        return (disliked, siblings, len(here), _natural(name))

    return cost


def _owners(pod: Object) -> set[str]:
    return {str(r.get("uid")) for r in pod["metadata"].get("ownerReferences") or []}


def _natural(name: str) -> tuple[Any, ...]:
    """`worker2` before `worker10`."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name))
