"""The kubelets of all nodes in one: a worker for each bound pod, leftovers cleaned, return routes kept."""

from __future__ import annotations

import asyncio

from veg_common.logs import get
from veg_common.objects import Object, Ref

from veg_sandbox.net.errors import LabError
from veg_sandbox.proc import ProcessError
from veg_sandbox.runtime.core.pods import is_finished, node_of
from veg_sandbox.runtime.core.returns import return_routes
from veg_sandbox.runtime.host import Host
from veg_sandbox.runtime.loop import Loop
from veg_sandbox.runtime.worker import PodWorker

log = get("kubelet")


class Kubelet:
    """Starts a PodWorker for every pod that is bound to a node, and forgets it when it is done."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._workers: dict[str, tuple[PodWorker, asyncio.Task[None]]] = {}
        self._done: set[str] = set()
        self._cleaned = False
        self.loop = Loop("kubelet", self._pass)
        host.cache.listen(self._changed)

    def wake(self, uid: str) -> None:
        """Have a pod looked at again."""
        if uid in self._workers:
            self._workers[uid][0].wake()

    def _changed(self, ref: Ref) -> None:
        if ref.kind == "Pod":
            self.loop.wake()
        shared = ref.kind in ("ConfigMap", "NetworkAttachmentDefinition")
        for worker, _ in self._workers.values():
            if worker.ref == ref or (
                shared and (ref.kind != "ConfigMap" or ref.namespace == worker.ref.namespace)
            ):
                worker.wake()

    async def _pass(self) -> None:
        pods = self._host.cache.all("Pod")
        if not self._cleaned:
            await self._clean_leftovers({uid_of(pod) for pod in pods})
            self._cleaned = True
        for pod in pods:
            uid = uid_of(pod)
            if node_of(pod) and not is_finished(pod) and uid not in self._workers and uid not in self._done:
                self._start(pod)
        # A uid never comes back; remembering it only matters while its object is still there.
        self._done &= {uid_of(pod) for pod in pods}

    def _start(self, pod: Object) -> None:
        worker = PodWorker(self._host, pod)
        task = asyncio.ensure_future(worker.run())
        self._workers[worker.uid] = (worker, task)
        task.add_done_callback(lambda _task: self._finish(worker.uid))

    def _finish(self, uid: str) -> None:
        self._workers.pop(uid, None)
        self._done.add(uid)
        self.loop.wake()

    async def _clean_leftovers(self, alive: set[str]) -> None:
        """Unplug pods whose object went while no runtime was there."""
        for uid in await self._host.call(self._host.lab.pod_ids):
            if uid not in alive:
                log.info("removing what is left of a pod", uid=uid)
                await self._host.call(self._host.lab.unplug_pod, uid)
        if self._host.volumes.is_dir():
            for folder in self._host.volumes.iterdir():
                if folder.name not in alive:
                    await self._host.call(_remove, folder)


class ReturnRoutes:
    """Keeps the outside host's routes back to sources that gateways forward unmasqueraded."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._last: dict[str, tuple[str, ...]] | None = None
        self.loop = Loop("return-routes", self._pass)
        kinds = ("VpcEgressGateway", "Subnet", "Pod", "NetworkAttachmentDefinition")
        host.cache.listen(lambda ref: self.loop.wake() if ref.kind in kinds else None)

    async def _pass(self) -> None:
        cache = self._host.cache
        subnets = {subnet["metadata"]["name"]: subnet for subnet in cache.all("Subnet")}
        attachments = {_ref(nad): nad for nad in cache.all("NetworkAttachmentDefinition")}
        wanted = return_routes(cache.all("VpcEgressGateway"), subnets, cache.all("Pod"), attachments)
        if wanted == self._last:
            return
        try:
            await self._host.call(self._host.lab.outside_routes, wanted)
        except (LabError, ProcessError) as error:
            log.warning("return routes not set", routes=wanted, error=str(error))
            return
        log.info("return routes set", routes=wanted)
        self._last = wanted


def uid_of(pod: Object) -> str:
    """metadata.uid."""
    return str(pod["metadata"].get("uid", ""))


def _ref(obj: Object) -> Ref:
    return Ref(obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


def _remove(folder: object) -> None:
    import shutil  # noqa: PLC0415

    shutil.rmtree(str(folder), ignore_errors=True)
