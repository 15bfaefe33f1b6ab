"""One pod on its node, from the first plug to the last unplug: the share of kubelet and CNI."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from veg_common.logs import get
from veg_common.objects import Object, Ref, ref_of
from veg_common.store import NotFoundError, StoreError

from veg_sandbox.net.errors import LabError
from veg_sandbox.net.lab import Node
from veg_sandbox.proc import ProcessError
from veg_sandbox.runtime import plumbing
from veg_sandbox.runtime.container import ContainerRunner
from veg_sandbox.runtime.core import containers, network, podstatus
from veg_sandbox.runtime.core.events import PodEvent
from veg_sandbox.runtime.core.hostnet import address_for
from veg_sandbox.runtime.core.network import Interface, NetworkError
from veg_sandbox.runtime.core.pods import (
    annotations_of,
    condition,
    container_specs,
    grace_of,
    is_terminating,
    labels_of,
    node_of,
    spec_of,
    status_of,
)
from veg_sandbox.runtime.core.returns import GATEWAY_LABEL
from veg_sandbox.runtime.engine import LabEngine, PodPlace, find_program, initialize
from veg_sandbox.runtime.host import Host, WaitingError
from veg_sandbox.runtime.mounts import MissingError, Mounter
from veg_sandbox.runtime.process import wait_any
from veg_sandbox.runtime.recorder import KUBELET

_RETRY_SECONDS = 1.0
_PORT_UP_SECONDS = 2.0
_LONG_WAIT_SECONDS = 5.0
_REFRESH_SECONDS = 5.0
log = get("kubelet")


class PodWorker:
    """Brings one pod (by uid) up, keeps it up, and takes it down when its object goes."""

    def __init__(self, host: Host, pod: Object) -> None:
        self._host = host
        self.ref: Ref = ref_of(pod)
        self.uid = str(pod["metadata"]["uid"])
        self._started_at = podstatus.started_at(pod, now())
        self._wake = asyncio.Event()
        self._plugging = asyncio.Lock()
        self._wanted: tuple[Interface, ...] = ()
        self._interfaces: tuple[Interface, ...] = ()
        self._macs: dict[str, str] = {}
        self._runners: list[ContainerRunner] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._wait = ("", 0.0)
        self._initialized = False
        self._files: dict[Path, str] = {}
        self._mounter = Mounter(host.volumes / self.uid, self._config_map, host.api)
        self._log = log.bind(pod=str(self.ref), uid=self.uid)

    def wake(self) -> None:
        """Look at the objects again."""
        self._wake.set()

    async def run(self) -> None:
        """Until the pod is gone. Never raises: a failure is logged, shown in the pod's status and tried again."""
        while True:
            self._wake.clear()
            # A kubelet looks at its volumes from time to time: nobody tells it of secrets.
            pause: float | None = None if self._host.api is None else _REFRESH_SECONDS
            try:
                if await self._step():
                    return
            except WaitingError as reason:
                await self._publish_waiting(str(reason))
                self._tell_wait(str(reason))
                pause = _RETRY_SECONDS
            except (LabError, ProcessError, NetworkError, OSError) as error:
                self._log.warning("failed, trying again", error=str(error))
                await self._publish_waiting(str(error))
                self._tell("FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
                pause = _RETRY_SECONDS
            except StoreError as error:
                self._log.warning("the store refused, trying again", error=str(error))
                pause = _RETRY_SECONDS
            except Exception:  # noqa: BLE001 - the edge of the pod's loop; logged with its traceback
                self._log.exception("failed, trying again")
                pause = _RETRY_SECONDS
            await wait_any(self._wake, seconds=pause)

    async def _step(self) -> bool:
        """One look at the pod; True when it is gone."""
        pod = self._pod()
        if pod is not None and self._is_lost(pod):
            return False  # no kubelet is there; `wake` comes with its return
        if pod is None or is_terminating(pod):
            await self._take_down(pod)
            return True
        if containers.is_on_host(pod):
            await self._join_host(pod)
        elif not self._interfaces:
            await self._plug(pod)
        elif not self._host.lab.outage.is_held(self.uid):
            await self.whole()
        await self._mount(pod)
        if not self._runners:
            await self._start_containers(pod)
        await self._publish(pod)
        return False

    def _pod(self) -> Object | None:
        pod = self._host.cache.get(self.ref)
        return pod if pod is not None and pod["metadata"].get("uid") == self.uid else None

    # -- network -----------------------------------------------------------------------------------------------

    async def whole(self) -> None:
        """Plug again what a crash took. Raises LabError, NetworkError."""
        async with self._plugging:
            outage, pod = self._host.lab.outage, self._pod()
            if pod is None or not await self._host.call(outage.is_broken, self.uid):
                return
            await self._connect(pod)
            await self._host.call(outage.repaired, self.uid)
            self._log.info("pod plugged again")

    async def _join_host(self, pod: Object) -> None:
        """Give a pod on the host's network its address, and the names of Services."""
        host = self._host
        if not self._interfaces:
            before = str(status_of(pod).get("podIP") or "")
            address = before or address_for(pod, str(host.lab.directory), host.addresses.values())
            host.addresses[self.uid] = address
            await host.call(host.lab.create_host_pod, self.uid)
            self._interfaces = (Interface("lo", "host", (f"{address}/8",), ()),)
            self._log.info("pod on the host's network", address=address)
            await self._publish(pod)
        if host.names is not None and not self._files:
            self._files = {await host.names.file(self.ref.namespace): "/etc/hosts"}

    async def _plug(self, pod: Object) -> None:
        port = await self._connect(pod)
        # One that was plugged before works already, whatever OVN does at the moment.
        plugged = bool(status_of(pod).get("podIP"))
        if not plugged and not await self._host.call(
            self._host.lab.wait_port_up, port, timeout=_PORT_UP_SECONDS
        ):
            raise WaitingError(f"logical switch port {port} is not up yet")
        self._interfaces = self._wanted
        self._log.info("pod plugged", node=node_of(pod), ips=[ip for i in self._wanted for ip in i.ips])

    async def _connect(self, pod: Object) -> str:
        """Make namespace and interfaces, whatever is there; returns the logical switch port."""
        attachments = {ref_of(o): o for o in self._host.cache.all("NetworkAttachmentDefinition")}
        plug = network.plug_of(pod, attachments)
        if plug.waiting:
            raise WaitingError(plug.waiting)
        lab, node, port = self._host.lab, node_of(pod), f"{self.ref.name}.{self.ref.namespace}"
        primary, *others = plug.interfaces
        if is_gateway(pod):
            # Its default route leads outside and is its agent's business.
            primary = replace(primary, gateways=())
        self._macs = await self._host.call(plumbing.plug, lab, self.uid, node, port, [primary, *others])
        self._wanted = plug.interfaces
        return port

    # -- containers --------------------------------------------------------------------------------------------

    async def _mount(self, pod: Object) -> None:
        """Bring the volumes up to date. Raises WaitingError for what is not there."""
        try:
            await self._mounter.refresh(self._addressed(pod), lenient=bool(self._runners))
        except MissingError as error:
            raise WaitingError(str(error)) from error

    def _config_map(self, name: str) -> Object | None:
        return self._host.cache.get(Ref("ConfigMap", self.ref.namespace, name))

    def _addressed(self, pod: Object) -> Object:
        """The pod with the addresses that its containers may ask for, which the store may not show yet."""
        ips = self._interfaces[0].ips if self._interfaces else ()
        known = {"podIP": ips[0] if ips else "", "podIPs": [{"ip": ip} for ip in ips]}
        node = self._node(pod)
        return {**pod, "status": {**status_of(pod), **known, "hostIP": node.underlay_ip if node else ""}}

    async def _start_containers(self, pod: Object) -> None:
        on_host, ready = containers.is_on_host(pod), self._addressed(pod)
        sources = {
            name: self._mounter.source(name, spec) for name, spec in containers.volumes_of(pod).items()
        }
        extra = self._host.api.environment() if on_host and self._host.api else {}
        address = self._interfaces[0].ips[0] if on_host else ""
        files = dict(self._files)
        engine = LabEngine(
            self._host, PodPlace(self.uid, self.ref.name, sources, files, extra, address), self.whole
        )
        must_run = is_gateway(pod) or on_host
        if not self._initialized:
            inits = containers.init_containers_of(ready, find_program, must_run=must_run)
            if condition(pod, "Initialized").get("status") != "True" or not status_of(pod).get("podIP"):
                await initialize(inits, engine)
            self._initialized = True
        listed = containers.containers_of(ready, find_program, must_run=must_run)
        tell = partial(self._host.recorder.tell, pod)
        self._runners = [ContainerRunner(container, engine, pod, self.wake, tell) for container in listed]
        self._tasks = [asyncio.ensure_future(runner.run()) for runner in self._runners]

    # -- status ------------------------------------------------------------------------------------------------

    async def _publish(self, pod: Object) -> None:
        await self._annotate(pod)
        ips = self._interfaces[0].ips if self._interfaces else ()
        facts = [runner.facts() for runner in self._runners] or _creating(pod)
        await self._write(pod, facts, ips)

    async def _publish_waiting(self, message: str) -> None:
        """Show why the pod does not run yet; one that ran keeps the status it has."""
        pod = self._pod()
        if pod is None or is_terminating(pod) or self._runners or status_of(pod).get("podIP"):
            return
        await self._write(pod, _creating(pod, message), ())

    async def _write(self, pod: Object, facts: list[podstatus.ContainerFacts], ips: tuple[str, ...]) -> None:
        if self._is_lost(pod):
            return
        node = self._node(pod)
        inits = spec_of(pod).get("initContainers") or ()
        summary = podstatus.PodFacts(
            host_ip=node.underlay_ip if node else "",
            ips=ips,
            started_at=self._started_at,
            containers=facts,
            initialized=self._initialized or not inits,
            init_containers=inits,
        )
        status = podstatus.running_status(pod, summary, now())
        if podstatus.changed(pod, status):
            try:
                self._host.cache.put(await self._host.store.update_status(self.ref, {"status": status}))
            except NotFoundError:
                self._host.cache.drop(self.ref, self.uid)

    def _node(self, pod: Object) -> Node | None:
        return next((n for n in self._host.lab.nodes if n.name == node_of(pod)), None)

    def _is_lost(self, pod: Object) -> bool:
        """Whether its node has lost its power."""
        lab = self._host.lab
        return any(lab.outage.lost_since(n) is not None for n in lab.nodes if n.name == node_of(pod))

    async def _annotate(self, pod: Object) -> None:
        if containers.is_on_host(pod):
            return
        text = network.network_status(self._interfaces, self._macs)
        if annotations_of(pod).get(network.NETWORK_STATUS) == text:
            return
        patch = {"metadata": {"annotations": {network.NETWORK_STATUS: text}}}
        try:
            self._host.cache.put(await self._host.store.update(self.ref, patch))
        except NotFoundError:
            self._host.cache.drop(self.ref, self.uid)

    def _tell_wait(self, reason: str) -> None:
        """An event for a wait that lasts: every pod waits for its addresses for a moment."""
        now = time.monotonic()
        if reason != self._wait[0]:
            self._wait = (reason, now)
        elif now - self._wait[1] >= _LONG_WAIT_SECONDS:
            self._tell("FailedMount" if "configmap" in reason else "FailedCreatePodSandBox", reason)
            self._wait = (reason, now)

    def _tell(self, reason: str, message: str) -> None:
        if (pod := self._pod()) is not None:
            self._host.recorder.tell(pod, PodEvent(KUBELET, reason, message, warning=True))

    # -- the end -----------------------------------------------------------------------------------------------

    async def _take_down(self, pod: Object | None) -> None:
        """TERM, wait, KILL, unplug, and let the object go."""
        for runner in self._runners:
            runner.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        lab, grace = self._host.lab, 0.0 if pod is None else grace_of(pod)
        names = [str(spec["name"]) for spec in container_specs(pod)] if pod else []
        await asyncio.gather(
            *(self._host.call(lab.pod_kill, self.uid, name, signal.SIGTERM, wait=grace) for name in names)
        )
        await self._host.call(lab.unplug_pod, self.uid)
        shutil.rmtree(self._host.volumes / self.uid, ignore_errors=True)
        self._host.addresses.pop(self.uid, None)
        if self._host.api is not None:
            self._host.api.forget(self.uid)
        self._log.info("pod removed")
        if pod is None:
            return
        try:
            await self._host.store.delete(self.ref, grace_seconds=0)
            self._host.cache.put(await self._host.store.get(self.ref))
        except NotFoundError:
            self._host.cache.drop(self.ref, self.uid)


def _creating(pod: Object, message: str = "") -> list[podstatus.ContainerFacts]:
    """Containers that are not started yet, and why."""
    return [
        podstatus.ContainerFacts(
            name=str(spec["name"]),
            image=str(spec.get("image", "")),
            ready=False,
            restarts=0,
            waiting="ContainerCreating",
            waiting_message=message,
        )
        for spec in container_specs(pod)
    ]


def is_gateway(pod: Object) -> bool:
    """Whether it is a gateway's pod."""
    return GATEWAY_LABEL in labels_of(pod)


def now() -> dt.datetime:
    """The present moment."""
    return dt.datetime.now(dt.UTC)
