"""Drives the Deployment controller and the scheduler: reads the cache, asks `core`, writes what it decided."""

from __future__ import annotations

import asyncio
import datetime as dt
import random

from veg_common.logs import get
from veg_common.objects import Object, Ref, ref_of
from veg_common.store import AlreadyExistsError, ConflictError, NotFoundError, ObjectStore

from veg_sandbox.runtime.cache import Cache
from veg_sandbox.runtime.core import deployment as core
from veg_sandbox.runtime.core import podstatus
from veg_sandbox.runtime.core.events import PodEvent
from veg_sandbox.runtime.core.pods import is_finished, is_terminating, node_of
from veg_sandbox.runtime.core.schedule import schedule
from veg_sandbox.runtime.core.template import pod_from
from veg_sandbox.runtime.loop import Loop
from veg_sandbox.runtime.recorder import SCHEDULER, Recorder

log = get("controller")


class DeploymentController:
    """Deployments to pods, pods' states to Deployments' status; pods without their Deployment go."""

    def __init__(self, store: ObjectStore, cache: Cache) -> None:
        self._store = store
        self._cache = cache
        self._rng = random.Random()  # noqa: S311 - names, not secrets
        self.loop = Loop("deployments", self._pass)
        cache.listen(lambda ref: self.loop.wake() if ref.kind in ("Deployment", "Pod") else None)

    async def _pass(self) -> None:
        pods, deployments = self._cache.all("Pod"), self._cache.all("Deployment")
        for ref in core.orphans(pods, deployments):
            await self._delete(ref, "its Deployment is gone")
        for deployment in deployments:
            try:
                await self._reconcile(deployment, core.owned_by(deployment, pods))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                # One that makes no sense must not hold up the others.
                log.warning("deployment is malformed", deployment=str(ref_of(deployment)), error=repr(error))

    async def _reconcile(self, deployment: Object, pods: list[Object]) -> None:
        step = core.decide(deployment, pods, now())
        for ref in step.delete:
            await self._delete(ref, f"Deployment {deployment['metadata']['name']} wants fewer or others")
        for _ in range(step.create):
            await self._create(deployment)
        wait = core.next_look(deployment, pods, now())
        if wait is not None:
            asyncio.get_running_loop().call_later(wait + 0.05, self.loop.wake)
        wanted = core.status(deployment, pods, now())
        if not step.create and core.status_differs(deployment, wanted):
            try:
                self._cache.put(await self._store.update_status(ref_of(deployment), {"status": wanted}))
            except NotFoundError:
                return

    async def _create(self, deployment: Object) -> None:
        try:
            pod = await self._store.create(pod_from(deployment, self._rng))
        except AlreadyExistsError:
            self.loop.wake()  # the same five letters twice
            return
        log.info("pod created", pod=pod["metadata"]["name"])
        self._cache.put(pod)

    async def _delete(self, ref: Ref, why: str) -> None:
        log.info("deleting pod", pod=ref.name, why=why)
        try:
            await self._store.delete(ref)
            self._cache.put(await self._store.get(ref))
        except NotFoundError:
            self._cache.drop(ref)


class Scheduler:
    """Binds pods to nodes, and says why where it can not."""

    def __init__(self, store: ObjectStore, cache: Cache, recorder: Recorder) -> None:
        self._store = store
        self._cache = cache
        self._recorder = recorder
        self.loop = Loop("scheduler", self._pass)
        cache.listen(lambda ref: self.loop.wake() if ref.kind in ("Pod", "Node") else None)

    async def _pass(self) -> None:
        waiting = [
            pod
            for pod in self._cache.all("Pod")
            if not node_of(pod) and not is_terminating(pod) and not is_finished(pod)
        ]
        for pod in sorted(waiting, key=lambda p: (p["metadata"].get("creationTimestamp", ""), ref_of(p))):
            try:
                await self._place(pod)
            except (NotFoundError, ConflictError):
                self.loop.wake()

    async def _place(self, pod: Object) -> None:
        choice = schedule(pod, self._cache.all("Node"), self._cache.all("Pod"))
        ref = ref_of(pod)
        if not choice.node:
            status = podstatus.unschedulable_status(pod, choice.message, now())
            if podstatus.changed(pod, status):
                log.info("pod is unschedulable", pod=ref.name, why=choice.message)
                self._cache.put(await self._store.update_status(ref, {"status": status}))
                told = PodEvent(SCHEDULER, "FailedScheduling", choice.message, warning=True)
                self._recorder.tell(pod, told)
            return
        # The version keeps a second scheduler, or a deletion in between, from being overridden.
        version = pod["metadata"].get("resourceVersion")
        patch = {"metadata": {"resourceVersion": version}, "spec": {"nodeName": choice.node}}
        self._cache.put(await self._store.update(ref, patch))
        status = podstatus.scheduled_status(pod, now())
        self._cache.put(await self._store.update_status(ref, {"status": status}))
        log.info("pod bound", pod=ref.name, node=choice.node)
        assigned = f"Successfully assigned {ref.namespace}/{ref.name} to {choice.node}"
        self._recorder.tell(pod, PodEvent(SCHEDULER, "Scheduled", assigned))


def now() -> dt.datetime:
    """The present moment."""
    return dt.datetime.now(dt.UTC)
