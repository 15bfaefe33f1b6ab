"""Kubelet's own words, which it says in Events only."""

from typing import Any

import pytest
from veg_common.objects import Object

from tests.unit.api.conftest import World, cluster, gateway

PROBE = "Readiness probe failed: interface net1 does not exist"


def event(pod: Object, message: str = PROBE, at: str = "2026-01-01T10:00:00Z", **content: Any) -> Object:
    """A warning about a pod."""
    metadata = pod["metadata"]
    about = {"kind": "Pod", "name": metadata["name"], "namespace": "default", "uid": metadata["uid"]}
    made = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"e{at}", "namespace": "default"},
        "involvedObject": about,
        "type": "Warning",
        "reason": "Unhealthy",
        "message": message,
        "lastTimestamp": at,
    }
    return {**made, **content}


@pytest.fixture
def unready() -> World:
    """A gateway whose pod has ceased to be ready at ten."""
    world = World(*cluster())
    world.put(gateway())
    world.settle()
    (pod,) = world.gateway_pods()
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "ContainersNotReady",
        "message": "containers with unready status: [gateway]",
        "lastTransitionTime": "2026-01-01T10:00:01Z",
    }
    world.update("Pod", pod["metadata"]["name"], {"status": {"conditions": [condition]}})
    world.step()
    return world


def told(world: World) -> str:
    """What people read of the workload."""
    return world.condition_of("WorkloadReady", "gateway1")[2]


def test_why_a_probe_fails_is_told(unready: World) -> None:
    """The condition of the gateway names the reason that only an Event has; the latest one counts."""
    (pod,) = unready.gateway_pods()
    unready.put(event(pod, "Readiness probe failed: something else", "2026-01-01T09:59:59Z"))
    unready.put(event(pod))
    unready.step()
    assert "unready status: [gateway]; Unhealthy: Readiness probe failed: interface net1" in told(unready)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"lastTimestamp": "2026-01-01T09:50:00Z"}, id="of an earlier time"),
        pytest.param({"type": "Normal"}, id="no warning"),
        pytest.param({"reason": "Preempting"}, id="of no help"),
        pytest.param({"involvedObject": {"kind": "Node", "name": "node1"}}, id="of something else"),
        pytest.param({"involvedObject": "gateway1"}, id="malformed"),
        pytest.param({"message": "Readiness probe failed: containers with unready status"}, id="known"),
    ],
)
def test_other_events_are_not_told(unready: World, content: Object) -> None:
    """What was before the pod was last ready, or says nothing new, is left out."""
    before = told(unready)
    (pod,) = unready.gateway_pods()
    unready.put({**event(pod), **content})
    unready.step()
    assert told(unready) == before


def test_a_ready_pod_has_no_trouble(unready: World) -> None:
    """An old warning is not held against a pod that is well."""
    (pod,) = unready.gateway_pods()
    unready.put(event(pod))
    unready.settle()
    assert told(unready) == "1 of 1 pods ready"
