"""The Deployment controller's decisions, alone and driven to their end."""

from __future__ import annotations

import datetime as dt
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from veg_common.objects import Ref
from veg_sandbox.runtime.core import deployment as core
from veg_sandbox.runtime.core.pods import is_ready
from veg_sandbox.runtime.core.template import HASH_LABEL, pod_from, safe_encode, template_hash

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def deployment(replicas: int = 1, image: str = "a", **spec: Any) -> dict[str, Any]:
    """A Deployment with a template that `image` distinguishes."""
    template = {"metadata": {"labels": {"app": "g"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "gateway1", "namespace": "default", "uid": "d1", "generation": 3},
        "spec": {"replicas": replicas, "template": template, **spec},
    }


def pod(
    name: str, digest: str, *, ready: bool = True, node: str = "n1", created: int = 0, **metadata: Any
) -> dict[str, Any]:
    """A pod of that Deployment; `created` in seconds."""
    stamp = (NOW + dt.timedelta(seconds=created)).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": stamp}
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {HASH_LABEL: digest},
            "creationTimestamp": stamp,
            "ownerReferences": [{"kind": "Deployment", "uid": "d1", "controller": True}],
            **metadata,
        },
        "spec": {"nodeName": node},
        "status": {"conditions": [condition]},
    }


def names(decision: core.Decision) -> list[str]:
    """Names of the pods to delete."""
    return [ref.name for ref in decision.delete]


def test_pod_of_a_template() -> None:
    """Names look like Kubernetes' own, the template's labels and annotations are there, the owner is named."""
    made = pod_from(deployment(), random.Random(1))  # noqa: S311 - names, not secrets
    assert re.fullmatch(
        r"gateway1-[bcdf-hj-np-tv-xz2456789]{8,10}-[bcdf-hj-np-tv-xz2456789]{5}", made["metadata"]["name"]
    )
    assert made["metadata"]["labels"]["app"] == "g"
    assert made["metadata"]["ownerReferences"][0]["uid"] == "d1"
    assert core.owned_by(deployment(), [made]) == [made]


def test_safe_encode_is_kubernetes_own() -> None:
    """Digits become letters as in k8s.io/apimachinery: 0 is 4, 5 is 9, 6 is b, 9 is f."""
    assert safe_encode("0123456789") == "456789bcdf"


def test_hash_follows_the_template_only() -> None:
    """Scaling never renames; any change of the template does; the order of keys does not matter."""
    one = deployment(1)["spec"]["template"]
    assert template_hash(one) == template_hash(dict(reversed(one.items())))
    assert template_hash(one) == template_hash(deployment(5)["spec"]["template"])
    assert template_hash(one) != template_hash(deployment(1, "b")["spec"]["template"])


def test_who_goes_first() -> None:
    """Scale-down takes unbound before bound, unready before ready, crowded nodes first, then the newest."""
    digest = template_hash(deployment()["spec"]["template"])
    pods = [
        pod("old", digest, node="n1"),
        pod("newer", digest, node="n2", created=60),
        pod("twin", digest, node="n1", created=30),
        pod("unready", digest, node="n3", ready=False),
        pod("unbound", digest, node="", ready=False, created=5),
    ]
    order = []
    while pods:
        (gone,) = names(core.decide(deployment(len(pods) - 1), pods, NOW))
        order.append(gone)
        pods = [p for p in pods if p["metadata"]["name"] != gone]
    assert order == ["unbound", "unready", "twin", "newer", "old"]


def test_terminating_and_finished_pods_are_replaced() -> None:
    """A pod deleted by hand gets its successor at once; a finished one is replaced and removed."""
    digest = template_hash(deployment()["spec"]["template"])
    going = pod("going", digest, deletionTimestamp="t")
    assert core.decide(deployment(1), [going], NOW) == core.Decision(create=1)
    finished = pod("finished", digest)
    finished["status"]["phase"] = "Failed"
    step = core.decide(deployment(1), [finished], NOW)
    assert (step.create, names(step)) == (1, ["finished"])


def test_a_deleted_deployment_takes_its_pods_along() -> None:
    """With deletionTimestamp all go; pods of one that is not there any more are orphans, those of others stay."""
    digest = "x"
    gone = deployment(2)
    gone["metadata"]["deletionTimestamp"] = "t"
    assert names(core.decide(gone, [pod("a", digest), pod("b", digest)], NOW)) == ["a", "b"]
    alone = pod("alone", digest, ownerReferences=[])
    assert core.orphans([pod("a", digest), alone], []) == [Ref("Pod", "default", "a")]
    assert core.orphans([pod("a", digest), alone], [deployment()]) == []


@pytest.mark.parametrize(
    ("rolling", "replicas", "expected"),
    [
        ({}, 4, (1, 1)),
        ({}, 1, (1, 0)),
        ({"maxSurge": 0, "maxUnavailable": 0}, 3, (0, 1)),
        ({"maxSurge": "50%", "maxUnavailable": "50%"}, 3, (2, 1)),
        ({"maxSurge": 0, "maxUnavailable": 1}, 2, (0, 1)),
    ],
)
def test_limits(rolling: dict[str, Any], replicas: int, expected: tuple[int, int]) -> None:
    """Percentages: surge rounds up, unavailability down; never both zero."""
    assert core.limits(rolling, replicas) == expected


def test_recreate_waits_for_the_old_pods_to_go() -> None:
    """Strategy Recreate never runs old and new pods side by side."""
    wanted = deployment(1, strategy={"type": "Recreate"})
    digest = template_hash(wanted["spec"]["template"])
    assert names(core.decide(wanted, [pod("old", "x")], NOW)) == ["old"]
    assert core.decide(wanted, [pod("old", "x", deletionTimestamp="t")], NOW) == core.Decision()
    assert core.decide(wanted, [], NOW) == core.Decision(create=1)
    assert core.decide(wanted, [pod("new", digest)], NOW) == core.Decision()


def test_status() -> None:
    """Counts are Kubernetes', and a condition keeps its time while its status does not change."""
    wanted = deployment(2)
    digest = template_hash(wanted["spec"]["template"])
    status = core.status(wanted, [pod("a", digest), pod("b", "x", ready=False)], NOW)
    assert {k: v for k, v in status.items() if k != "conditions"} == {
        "observedGeneration": 3,
        "replicas": 2,
        "updatedReplicas": 1,
        "readyReplicas": 1,
        "availableReplicas": 1,
        "unavailableReplicas": 1,
    }
    again = core.status(
        {**wanted, "status": status}, [pod("a", digest), pod("b", "x", ready=False)], NOW + dt.timedelta(1)
    )
    assert again == status


def test_ready_for_a_while() -> None:
    """With minReadySeconds a rollout goes on when the new pod was ready for so long, and looks again by then."""
    rolling = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    wanted = deployment(2, strategy=rolling, minReadySeconds=6)
    pods = [pod("old", "x", created=-60), pod("new", template_hash(wanted["spec"]["template"]), created=-2)]
    assert core.decide(wanted, pods, NOW) == core.Decision()
    assert core.next_look(wanted, pods, NOW) == 4
    assert core.status(wanted, pods, NOW)["availableReplicas"] == 1
    later = NOW + dt.timedelta(seconds=4)
    assert names(core.decide(wanted, pods, later)) == ["old"]
    assert core.next_look(wanted, pods, later) is None


@settings(max_examples=200, deadline=None)
@given(
    start=st.integers(0, 4),
    target=st.integers(0, 5),
    surge=st.integers(0, 2),
    unavailable=st.integers(0, 2),
    change=st.tuples(st.booleans(), st.integers(0, 10_000)),
)
def test_rollouts_end_and_keep_their_promise(
    start: int, target: int, surge: int, unavailable: int, change: tuple[bool, int]
) -> None:
    """Whatever becomes ready or goes when: all pods are new at the end, never more than replicas + maxSurge are
    created into, and ready pods are never deleted below replicas - maxUnavailable.
    """
    changed, seed = change
    rng = random.Random(seed)  # noqa: S311 - a repeatable test
    before = template_hash(deployment(start, "a")["spec"]["template"])
    strategy = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    wanted = deployment(target, "b" if changed else "a", strategy=strategy)
    max_surge, max_unavailable = core.limits(strategy["rollingUpdate"], target)
    pods = [pod(f"p{i}", before) for i in range(start)]
    for _ in range(200):
        step = core.decide(wanted, pods, NOW)
        ready = sum(is_ready(p) for p in pods)
        gone = set(names(step))
        if step == core.Decision() and ready == len(pods):
            break
        if step.create:
            assert len(pods) + step.create <= max(target + max_surge, len(pods))
        lost = sum(is_ready(p) for p in pods if p["metadata"]["name"] in gone)
        assert not lost or ready - lost >= target - max_unavailable
        pods = [p for p in pods if p["metadata"]["name"] not in gone]
        for _ in range(step.create):
            made = pod_from(wanted, rng)
            pods.append(pod(made["metadata"]["name"], made["metadata"]["labels"][HASH_LABEL], ready=False))
        for one in pods:
            if rng.random() < 0.5:
                one["status"]["conditions"][0]["status"] = "True"
    digest = template_hash(wanted["spec"]["template"])
    assert [p["metadata"]["labels"][HASH_LABEL] for p in pods] == [digest] * target
