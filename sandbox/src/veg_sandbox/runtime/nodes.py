"""What the node lifecycle controller and a returning kubelet do: nodes without power become NotReady after a while
and Ready again, and pods that a fault lets go are looked at again.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable

from veg_common.logs import get
from veg_common.objects import Object, Ref, ref_of
from veg_common.store import NotFoundError

from veg_sandbox.net.model import Node
from veg_sandbox.runtime.core import nodestatus
from veg_sandbox.runtime.core.pods import node_of
from veg_sandbox.runtime.host import Host

# Kubernetes' node-monitor-grace-period is 40 s; a sandbox is watched by people.
GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.1
log = get("nodes")


class NodeKeeper:
    """Polls the lab's marks, which any process may set."""

    def __init__(self, host: Host, wake: Callable[[str], None]) -> None:
        """`wake` is called with the uid of a pod to look at."""
        self._host = host
        self._wake = wake
        self._lost: set[str] = set()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                await self._pass()
            except Exception:
                log.exception("failed, trying again")
            await asyncio.sleep(_POLL_SECONDS)

    async def _pass(self) -> None:
        outage = self._host.lab.outage
        for uid in outage.released():
            self._wake(uid)
        for node in self._host.lab.nodes:
            since = outage.lost_since(node)
            if since is None and node.name in self._lost:
                self._lost.discard(node.name)
                log.info("node has power again", node=node.name)
                for pod in self._pods_on(node):
                    self._wake(str(pod["metadata"].get("uid")))
            elif since is not None:
                self._lost.add(node.name)
            await self._tell(node, since)

    async def _tell(self, node: Node, since: float | None) -> None:
        found = self._host.cache.get(Ref("Node", "", node.name))
        if found is None:
            return
        now = dt.datetime.now(dt.UTC)
        if since is None:
            await self._patch(found, nodestatus.returned(found, now))
        elif time.time() - since >= GRACE_SECONDS:
            await self._patch(found, nodestatus.lost(found, now))
            for pod in self._pods_on(node):
                await self._patch(pod, nodestatus.pod_of_lost_node(pod, now))

    async def _patch(self, obj: Object, status: Object | None) -> None:
        if status is None:
            return
        log.info("conditions change", object=str(ref_of(obj)))
        try:
            self._host.cache.put(await self._host.store.update_status(ref_of(obj), {"status": status}))
        except NotFoundError:
            self._host.cache.drop(ref_of(obj))

    def _pods_on(self, node: Node) -> list[Object]:
        return [pod for pod in self._host.cache.all("Pod") if node_of(pod) == node.name]
