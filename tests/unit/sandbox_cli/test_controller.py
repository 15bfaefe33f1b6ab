"""Deployment controller and scheduler on a real store."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from veg_common.folder import FolderStore
from veg_common.objects import Object, Ref, ref_of
from veg_sandbox.cli import seed
from veg_sandbox.runtime.cache import Cache
from veg_sandbox.runtime.controller import DeploymentController, Scheduler
from veg_sandbox.runtime.recorder import Recorder

LABELS = {"app": "g"}
DEPLOYMENT = Ref("Deployment", "default", "g")


def deployment(replicas: int) -> Object:
    """A Deployment whose pods keep apart."""
    anti = [{"labelSelector": {"matchLabels": LABELS}, "topologyKey": "kubernetes.io/hostname"}]
    spec = {
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": anti}},
        "containers": [{"name": "gateway", "image": "a"}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "g", "namespace": "default"},
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": LABELS}, "spec": spec}},
    }


class Cluster:
    """The store, and a way to wait for what must become true of it."""

    def __init__(self, store: FolderStore, cache: Cache) -> None:
        self.store = store
        self._changed = asyncio.Event()
        cache.listen(lambda _: self._changed.set())

    async def until(self, check: Callable[[list[Object]], Any]) -> list[Object]:
        """Wait until `check` holds for the pods; returns them."""
        async with asyncio.timeout(10):
            while not check(pods := await self.store.list("Pod")):
                self._changed.clear()
                await asyncio.wait([asyncio.ensure_future(self._changed.wait())], timeout=0.2)
        return pods

    async def event(self, reason: str) -> Object:
        """An event of that reason, once it is recorded."""
        async with asyncio.timeout(10):
            async for told in self.store.watch(["Event"]):
                if told.object is not None and told.object["reason"] == reason:
                    return told.object
        raise AssertionError(f"no event {reason}")

    async def ready(self, count: int) -> None:
        """Wait until the Deployment's status counts so many ready replicas."""
        async with asyncio.timeout(10):
            while (await self.store.get(DEPLOYMENT)).get("status", {}).get("readyReplicas") != count:
                self._changed.clear()
                await asyncio.wait([asyncio.ensure_future(self._changed.wait())], timeout=0.2)


@asynccontextmanager
async def cluster(root: Path, nodes: int = 3) -> AsyncIterator[Cluster]:
    """Nodes in a store, with controller and scheduler at work."""
    store = FolderStore(root)
    facts = [seed.NodeFacts(f"n{i}", f"172.18.0.{i}") for i in range(1, nodes + 1)]
    for node in facts:
        name = node.name
        if not any(o["metadata"]["name"] == name for o in await store.list("Node")):
            await store.create(seed.node_object(node, dt.datetime.now(dt.UTC)))
    cache = Cache(["Deployment", "Pod", "Node"])
    recorder = Recorder(store)
    works = (
        DeploymentController(store, cache).loop.run,
        Scheduler(store, cache, recorder).loop.run,
        recorder.run,
    )
    found = Cluster(store, cache)
    following = asyncio.ensure_future(cache.follow(store))
    await asyncio.wait_for(cache.synced.wait(), 10)
    tasks = [asyncio.ensure_future(work()) for work in works]
    try:
        yield found
    finally:
        for task in (following, *tasks):
            task.cancel()
        await asyncio.gather(following, *tasks, return_exceptions=True)


def nodes_of(pods: list[Object]) -> list[str]:
    """The nodes that pods are bound to."""
    return sorted(pod["spec"].get("nodeName", "") for pod in pods)


async def become_ready(store: FolderStore, pods: list[Object]) -> None:
    """What a kubelet would do."""
    for pod in pods:
        await store.update_status(
            ref_of(pod), {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        )


async def test_pods_are_made_spread_and_counted(tmp_path: Path) -> None:
    """Each replica gets a pod on a node of its own, exactly one; status counts them; scaling keeps the first ones."""
    async with cluster(tmp_path) as at:
        await at.store.create(deployment(2))
        pods = await at.until(lambda pods: nodes_of(pods) == ["n1", "n2"])
        await become_ready(at.store, pods)
        await at.ready(2)
        await at.store.update(DEPLOYMENT, {"spec": {"replicas": 4}})
        four = await at.until(lambda pods: len(pods) == 4 and nodes_of(pods) == ["", "n1", "n2", "n3"])
        waiting = next(pod for pod in four if not pod["spec"].get("nodeName"))
        refused = waiting["status"]["conditions"][0]
        assert (refused["type"], refused["reason"]) == ("PodScheduled", "Unschedulable")
        told = await at.event("FailedScheduling")
        assert told["message"] == refused["message"]
        assert told["message"].startswith("0/3 nodes are available: ")
        assert told["involvedObject"]["name"] == waiting["metadata"]["name"]
        assert (await at.event("Scheduled"))["source"] == {"component": "default-scheduler"}
        assert {ref_of(pod) for pod in pods} < {ref_of(pod) for pod in four}
        # An unbound pod goes before a bound one, and that before a ready one.
        await at.store.update(DEPLOYMENT, {"spec": {"replicas": 3}})
        await at.until(lambda pods: nodes_of(pods) == ["n1", "n2", "n3"])


async def test_a_new_controller_repeats_nothing(tmp_path: Path) -> None:
    """After a restart the pods that are there are found again."""
    async with cluster(tmp_path) as at:
        await at.store.create(deployment(2))
        before = await at.until(lambda pods: nodes_of(pods) == ["n1", "n2"])
    async with cluster(tmp_path) as at:
        await at.store.update(DEPLOYMENT, {"spec": {"replicas": 3}})
        after = await at.until(lambda pods: nodes_of(pods) == ["n1", "n2", "n3"])
        assert {ref_of(pod) for pod in before} < {ref_of(pod) for pod in after}


async def test_pods_go_with_their_deployment(tmp_path: Path) -> None:
    """A deleted Deployment's pods are deleted, also when nobody was there to see it go; others stay."""
    async with cluster(tmp_path) as at:
        await at.store.create(deployment(2))
        alone = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "alone", "namespace": "default"},
            "spec": {},
        }
        await at.store.create(alone)
        await at.until(lambda pods: len(pods) == 3 and all(nodes_of(pods)))
    await FolderStore(tmp_path).delete(DEPLOYMENT)
    async with cluster(tmp_path) as at:
        pods = await at.until(
            lambda pods: sum("deletionTimestamp" in pod["metadata"] for pod in pods) == 2 and len(pods) == 3
        )
        assert [p["metadata"]["name"] for p in pods if "deletionTimestamp" not in p["metadata"]] == ["alone"]
