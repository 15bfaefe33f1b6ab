"""A sandbox's nodes on an API server: registered as kubelets do it, and taken off with all that was bound to them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from veg_common.objects import Object, Ref, ref_of
from veg_common.store import AlreadyExistsError, NotFoundError, ObjectStore

from veg_sandbox.cli import seed
from veg_sandbox.cli.seed import NodeFacts
from veg_sandbox.runtime.core.pods import node_of

# What the kinds of managed topology need; an API server may not know them yet.
_CUSTOM = ("Vpc", "Subnet")


async def register(
    store: ObjectStore, nodes: Sequence[NodeFacts], ip_family: str, namespaces: Sequence[str]
) -> bool:
    """Create nodes, namespaces, and the default VPC with its subnet. False when the API server knows no VPCs yet."""
    complete = True
    for obj in seed.objects(nodes, ip_family, namespaces, dt.datetime.now(dt.UTC)):
        try:
            await store.create(obj)
        except AlreadyExistsError:
            if obj["kind"] == "Node":
                await store.update_status(ref_of(obj), {"status": obj["status"]})
        except NotFoundError:
            if obj["kind"] not in _CUSTOM:
                raise
            complete = False
    return complete


async def deregister(store: ObjectStore, names: Sequence[str]) -> None:
    """Delete the nodes and, by force, the pods bound to them: no kubelet is left to let them go.

    Raises StoreError when the API server does not answer.
    """
    for name in names:
        await _gone(store, Ref("Node", "", name))
    pods: list[Object] = await store.list("Pod")
    for pod in pods:
        if node_of(pod) in names:
            await _gone(store, ref_of(pod), grace_seconds=0)


async def _gone(store: ObjectStore, ref: Ref, grace_seconds: int | None = None) -> None:
    try:
        await store.delete(ref, grace_seconds=grace_seconds)
    except NotFoundError:
        return
