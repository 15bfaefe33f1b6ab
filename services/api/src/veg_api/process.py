"""Wiring of the running process: store, election, controller, gRPC; and how it says that it is well."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Coroutine

from veg_common import logs, metrics, server
from veg_common.store import ObjectStore
from veg_common.stores import open_store

from veg_api.config import Settings
from veg_api.controller import Controller
from veg_api.core.names import GATEWAY_LABEL
from veg_api.fence import FencedClient, FencedStore
from veg_api.io.election import Election
from veg_api.link import Client, Link
from veg_api.metrics import LEADER
from veg_api.rpc import SERVICE_NAME, GatewayService, ProgrammerClient
from veg_api.views import GatewayViews

# Of these only our own are of interest, and a cluster has many.
_OURS = {"labelSelector": GATEWAY_LABEL}
_SELECTORS = {
    "Deployment": _OURS,
    "ConfigMap": _OURS,
    "PodDisruptionBudget": _OURS,
    "Event": {"fieldSelector": "involvedObject.kind=Pod,type=Warning"},
}
# An event loop that has not turned for so long does not work.
_STUCK_S = 30.0


class Process:
    """One api. `healthy` and `ready` may be asked from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log = logs.get("main")
        self._controller: Controller | None = None
        self._turned = time.monotonic()

    def healthy(self) -> str:
        """Why the process should be ended; "" if it should not."""
        silent = time.monotonic() - self._turned
        return f"the event loop has not turned for {silent:.0f} s" if silent > _STUCK_S else ""

    def ready(self) -> str:
        """Why the process can not answer yet; "" if it can."""
        if self._controller is None or not self._controller.feed.synced:
            return "the objects of the store are not known yet"
        return self.healthy()

    async def serve(self, listen_metrics: str, stop: asyncio.Event) -> None:
        """Work until `stop`."""
        store = open_store(self._settings.store, _SELECTORS)
        with metrics.serving(listen_metrics, healthy=self.healthy, ready=self.ready):
            try:
                await self._work(store, stop)
            finally:
                await store.aclose()

    async def _work(self, store: ObjectStore, stop: asyncio.Event) -> None:
        settings = self._settings
        dialer = server.Dialer(settings.programmer, settings.tls)
        client: Client = ProgrammerClient(dialer.channel)
        election = None
        if settings.elect_in:
            identity = f"{socket.gethostname()}_{os.getpid()}_{os.urandom(4).hex()}"
            election = Election(store, settings.elect_in, identity, self._lead)
            store, client = FencedStore(store, election), FencedClient(client, election)
        LEADER.set(election is None)
        self._controller = controller = Controller(
            store,
            lambda on_change: Link(client, on_change),
            defaults=settings.defaults,
            leading=election is None,
            may_write=(lambda: True) if election is None else lambda: election.leading,
        )
        service = GatewayService(GatewayViews(controller, settings.defaults))
        grpc_server = await server.start_server(settings.listen, service.add_to, [SERVICE_NAME], settings.tls)
        self._log.info(
            "serving", listen=settings.listen, store=settings.store, programmer=settings.programmer
        )
        try:
            # The controller ends first: the Lease is given back by somebody who does not write any more.
            elections = [] if election is None else [election.run()]
            async with _running(*elections) as elected, _running(controller.run(), self._turn()) as work:
                await _first(stop, [*work, *elected])
        finally:
            await grpc_server.stop(grace=0.5)
            await dialer.close()

    def _lead(self, leading: bool) -> None:  # noqa: FBT001 - what the election tells
        LEADER.set(leading)
        if self._controller is not None:
            self._controller.lead(leading)

    async def _turn(self) -> None:
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(1)


@contextlib.asynccontextmanager
async def _running(*works: Coroutine[None, None, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Tasks that end with the block."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _first(stop: asyncio.Event, work: list[asyncio.Task[None]]) -> None:
    """Wait for `stop`, or for a task that ends and should not: raises what it raised."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, *work}, return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            if task.done():
                task.result()
    finally:
        stopping.cancel()
