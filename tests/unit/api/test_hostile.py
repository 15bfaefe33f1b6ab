"""Objects that somebody wrote nonsense into: nothing raises, and nobody else is hurt."""

import copy
import random
from typing import Any

import pytest
from veg_api.core.names import FINALIZER
from veg_api.core.snapshot import Snapshot
from veg_common.objects import Object, Ref, check_object, ref_of

from tests.unit.api.conftest import World, cluster, gateway, obj, pod, subnet

NONSENSE: tuple[Any, ...] = (
    None,
    3,
    -1,
    2**70,
    1.5,
    True,
    "",
    "nonsense",
    "10.16.0.1",
    "fe80::1%eth0",
    [],
    ["x"],
    [[]],
    [3],
    [{"type": []}],
    [{"type": "Ready", "status": {}}],
    {},
    {"a": {"b": []}},
    {"replicas": "x"},
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in an object but its name and kind."""
    found = [here] if here else []
    if isinstance(value, dict):
        for key in value:
            if here or key in {"metadata", "spec", "status", "data"}:
                found += paths(value[key], (*here, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += paths(item, (*here, index))
    return found


def spoilt(original: Object, path: tuple[Any, ...], value: Any) -> Object:
    """A copy with something else at a place."""
    copied = copy.deepcopy(original)
    target = copied
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return copied


def busy() -> World:
    """Two gateways, one in a VPC of its own, and a client, all settled."""
    port = {"enabled": True, "ip": "10.255.255.255", "nodeSelector": {"matchLabels": {"a": "b"}}}
    world = World(*cluster("dual"), obj("Vpc", "vpc1", spec={"bfdPort": port}))
    world.put(subnet("s1", "192.168.0.0/24", vpc="vpc1"))
    world.put(obj("Node", "edge", metadata={"labels": {"a": "b"}}))
    world.put(pod("client"))
    world.put(gateway("good"))
    bad: Object = {"vpc": "vpc1", "internalSubnet": "s1", "replicas": 2, "policies": [{"subnets": ["s1"]}]}
    world.put(gateway("bad", bfd={"enabled": True}, **bad))
    world.settle()
    return world


@pytest.mark.parametrize(
    "kind",
    [
        "VpcEgressGateway",
        "Vpc",
        "Subnet",
        "NetworkAttachmentDefinition",
        "IP",
        "Pod",
        "Node",
        "Namespace",
        "Deployment",
        "ConfigMap",
    ],
)
def test_nothing_that_a_store_lets_through_breaks_a_plan(kind: str) -> None:
    """Any value at any place of any object: every plan can be made, whatever it then says."""
    world = busy()
    rng = random.Random(kind)  # noqa: S311 - the same cases on every run
    cases = [
        spoilt(original, path, value)
        for original in world.all(kind)
        for path in paths(original)
        for value in NONSENSE
    ]
    for hostile in rng.sample(cases, min(len(cases), 150)):
        if check_object(hostile) is not None or (ref := ref_of(hostile)) not in world.objects:
            continue  # the store refuses it
        before = world.objects[ref]
        world._store(ref, hostile)
        world.plans()
        assert world.view().refused == {}
        world._store(ref, before)


def test_an_object_that_no_value_can_be_made_of(world: World) -> None:
    """It is refused with a reason, what it was before stays, all others of the batch are taken."""
    world.put(gateway())
    world.settle()
    snapshot = world.view()
    good, bad = obj("Vpc", "vpc2", spec={}), obj("Vpc", "ovn-cluster")
    del bad["metadata"]["name"]
    bad_ref = Ref("Vpc", "", "ovn-cluster")
    after, touched = snapshot.with_objects([(bad_ref, bad), (ref_of(good), good)])
    assert touched == {ref_of(good)}
    assert "KeyError" in after.refused[bad_ref]
    assert after.vpcs.get("ovn-cluster") == snapshot.vpcs.get("ovn-cluster")
    healed, _ = after.with_objects([(bad_ref, world.get("Vpc", "ovn-cluster"))])
    assert healed.refused == {}
    never, _ = Snapshot().with_objects([(bad_ref, bad)])
    assert never.vpcs.get("ovn-cluster") is None


def test_our_own_objects_are_written_anew(world: World) -> None:
    """A Deployment, a ConfigMap and a status that somebody spoilt come back."""
    world.put(gateway())
    world.settle()
    before = world.status()
    world.update("Deployment", "gateway1", {"spec": [1]})
    world.update("ConfigMap", "gateway1-config", {"data": "x"})
    nonsense = {"nexthops": ["x", 3], "conditions": [{"type": []}, 4], "pods": [{"uid": []}]}
    world.update("VpcEgressGateway", "gateway1", {"status": nonsense})
    world.settle()
    assert world.get("Deployment", "gateway1")["spec"]["replicas"] == 1
    assert "agent.json" in world.get("ConfigMap", "gateway1-config")["data"]
    assert (world.status()["ready"], world.status()["nexthops"]) == (True, before["nexthops"])
    assert world.get("VpcEgressGateway", "gateway1")["metadata"]["finalizers"] == [FINALIZER]
