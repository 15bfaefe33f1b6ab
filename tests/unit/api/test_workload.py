"""The workload on a cluster: what it may do, what looks after it, how a new configuration reaches it."""

from typing import Any

import pytest
from veg_common.objects import Object, Ref

from tests.unit.api.conftest import World, cluster, gateway

# Netlink and NAT; raw sockets of probes and of tcpdump, which also changes its user.
AGENT = ["NET_ADMIN", "NET_RAW", "SETGID", "SETUID"]
MARK = "vpc-egress-gateway/config-generation"


@pytest.fixture
def running() -> World:
    """A gateway of two replicas, settled."""
    world = World(*cluster())
    world.put(gateway(replicas=2))
    world.settle()
    return world


def template(world: World, name: str = "gateway1") -> Object:
    """Spec of a gateway's pods."""
    found: Object = world.get("Deployment", name)["spec"]["template"]["spec"]
    return found


def marks(world: World) -> list[Any]:
    """What the gateway's pods say of their configuration."""
    return [pod["metadata"]["annotations"].get(MARK) for pod in world.gateway_pods()]


@pytest.mark.parametrize(
    ("bfd", "capabilities"),
    [
        pytest.param(False, {"gateway": AGENT}, id="plain"),
        pytest.param(
            True,
            {"gateway": AGENT, "bfdd": ["NET_ADMIN", "NET_RAW", "SYS_NICE"]},
            id="bfd",
        ),
    ],
)
def test_containers_may_do_what_they_must(bfd: bool, capabilities: Object) -> None:
    """Long-running containers: no privileges, no writable root, no token; only the first one, which ends, sets sysctls."""
    world = World(*cluster())
    if bfd:
        world.update(
            "Vpc", "ovn-cluster", {"spec": {"bfdPort": {"enabled": True, "ip": "10.255.255.255"}}}, ""
        )
    world.put(gateway(bfd={"enabled": bfd}))
    world.settle()
    spec = template(world)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    found = {}
    for container in spec["containers"]:
        rights = container["securityContext"]
        assert (rights["privileged"], rights["allowPrivilegeEscalation"]) == (False, False)
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["capabilities"]["drop"] == ["ALL"]
        found[container["name"]] = rights["capabilities"]["add"]
    assert found == capabilities
    assert [c["name"] for c in spec["initContainers"] if c["securityContext"]["privileged"]] == ["sysctl"]


def test_replicas_have_a_disruption_budget(running: World) -> None:
    """Two replicas are drained one by one; a single one, which would block every drain, has no budget."""
    budget = running.get("PodDisruptionBudget", "gateway1")
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["metadata"]["ownerReferences"][0]["kind"] == "VpcEgressGateway"
    running.update("VpcEgressGateway", "gateway1", {"spec": {"replicas": 1}})
    running.settle()
    assert running.all("PodDisruptionBudget") == []


@pytest.mark.parametrize("kind", ["Deployment", "ConfigMap", "PodDisruptionBudget"])
def test_what_is_deleted_by_hand_comes_back(running: World, kind: str) -> None:
    """The gateway owns its objects: without one of them it makes it anew, as it was."""
    (before,) = running.all(kind)
    running.vanish(kind, before["metadata"]["name"])
    running.settle()
    (after,) = running.all(kind)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]
    assert running.condition("Ready")["status"] == "True"


def test_a_gateway_takes_its_budget_along(running: World) -> None:
    """Nothing of ours is left when a gateway is gone."""
    running.remove("VpcEgressGateway", "gateway1")
    running.settle()
    for kind in ("Deployment", "ConfigMap", "PodDisruptionBudget", "IP"):
        assert [
            o
            for o in running.all(kind)
            if o["metadata"].get("labels", {}).get("ovn.kubernetes.io/vpc-egress-gateway")
        ] == []


def test_pods_are_touched_once_when_the_configuration_changes(running: World) -> None:
    """Kubelet refreshes the volumes of a pod that changes; without a change of the configuration nothing is touched."""
    before = marks(running)
    assert len(set(before)) == 1
    assert before[0]
    running.update("VpcEgressGateway", "gateway1", {"metadata": {"labels": {"a": "b"}}})
    running.settle()
    assert marks(running) == before
    running.update(
        "VpcEgressGateway", "gateway1", {"spec": {"policies": [{"snat": True, "ipBlocks": ["10.16.9.0/24"]}]}}
    )
    order = [(c.ref.kind, c.ref) for c in running.plan().changes]
    assert order.index(("ConfigMap", Ref("ConfigMap", "default", "gateway1-config"))) < min(
        n for n, (kind, _) in enumerate(order) if kind == "Pod"
    )
    running.settle()
    assert len(set(marks(running))) == 1
    assert marks(running) != before


def test_a_rollout_that_needs_no_settling_has_none(running: World) -> None:
    """Switching BFD off takes the pause between replicas away, which only sessions need."""
    running.update("Deployment", "gateway1", {"spec": {"minReadySeconds": 6}})
    running.settle()
    assert "minReadySeconds" not in running.get("Deployment", "gateway1")["spec"]
