"""The real veg-api process on a real folder store, with a programmer that can be told to misbehave."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from veg.api.v1 import api_pb2_grpc
from veg.bfd.v1 import bfd_pb2
from veg.programmer.v1 import programmer_pb2 as pb
from veg.programmer.v1 import programmer_pb2_grpc
from veg.types.v1 import types_pb2
from veg_common import server
from veg_common.folder import FolderStore
from veg_common.objects import Object, Ref, kind_of, parse_manifests, ref_of
from veg_common.store import NotFoundError

_OWN_FIELD = {"gateway": 1, "vpc": 2, "subnet": 3, "port": 4}

CLUSTER = """
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: ovn-cluster}
spec: {}
---
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: ovn-default}
spec: {vpc: ovn-cluster, cidrBlock: 10.16.0.0/16, gateway: 10.16.0.1, default: true}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: eth1, namespace: default}
spec:
  config: '{"cniVersion": "0.3.0", "type": "macvlan", "master": "eth1", "mode": "bridge",
            "ipam": {"type": "kube-ovn", "provider": "eth1.default"}}'
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: macvlan1}
spec:
  protocol: IPv4
  provider: eth1.default
  cidrBlock: 172.17.0.0/16
  gateway: 172.17.0.1
  excludeIps: [172.17.0.0..172.17.0.10]
---
apiVersion: v1
kind: Node
metadata: {name: node1}
---
apiVersion: v1
kind: Node
metadata: {name: node2}
"""


def gateway(name: str = "gateway1", **spec: Any) -> str:
    """The specification's first gateway, with other fields on demand."""
    base = {
        "vpc": "ovn-cluster",
        "replicas": 1,
        "externalSubnet": "macvlan1",
        "policies": [{"snat": True, "subnets": ["ovn-default"]}],
    }
    return yaml.safe_dump(
        {
            "apiVersion": "kubeovn.io/v1",
            "kind": "VpcEgressGateway",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {k: v for k, v in {**base, **spec}.items() if v is not None},
        }
    )


class FakeProgrammer(programmer_pb2_grpc.ProgrammerServiceServicer):
    """Keeps rows over its own restarts, as the Northbound database does. `refused` and `slow_s` are fault switches."""

    def __init__(self, listen: str, tls: server.TlsFiles | None = None) -> None:
        self.listen = listen
        self.tls = tls
        self.rows: dict[tuple[int, str], Any] = {}
        self.history: list[Any] = []
        self.refused: set[str] = set()
        self.slow_s = 0.0
        self.resyncs = 0
        self.resets: list[tuple[str, tuple[str, ...]]] = []
        # OVN's sessions by (gateway, address); those of new nexthops begin as told here.
        self.sessions: dict[tuple[str, str], Any] = {}
        self.first_state = bfd_pb2.SESSION_STATE_UP
        self.applied = 0
        self._session: dict[str, set[tuple[int, str]]] = {}
        self._outcomes: dict[tuple[int, str], Any] = {}
        self._listeners: list[asyncio.Queue[Any]] = []
        self._instance = 0
        self._server: Any = None

    async def start(self) -> None:
        """Listen; a new instance."""
        self._instance += 1
        self._session.clear()
        self._outcomes.clear()
        self._server = await server.start_server(
            self.listen,
            lambda s: programmer_pb2_grpc.add_ProgrammerServiceServicer_to_server(self, s),
            [],
            self.tls,
        )

    async def stop(self) -> None:
        """Go away; rows stay."""
        await self._server.stop(grace=None)

    def gateway(self, name: str = "gateway1") -> Any:
        """The gateway row held; None without one."""
        return self.rows.get((1, f"default/{name}"))

    def names(self, kind: int) -> list[str]:
        """Names of the intents held of a kind."""
        return sorted(name for k, name in self.rows if k == kind)

    async def Apply(self, request: Any, _context: Any) -> Any:  # noqa: N802
        await asyncio.sleep(self.slow_s)
        picture = self._session.setdefault(request.session, set())
        outcomes = []
        for intent in request.intents:
            key, value = _named(intent)
            picture.add(key)
            state, reason = pb.OUTCOME_STATE_COMMITTED, ""
            if key[1] in self.refused:
                state, reason = pb.OUTCOME_STATE_REFUSED, "RouterMissing"
            elif self.rows.get(key) != value:
                self.rows[key] = value
                self.applied += 1
                if key[0] == 1:
                    self.history.append(value)
                    self._speak(value)
            outcome = pb.Outcome(
                key=pb.IntentKey(kind=key[0], name=key[1]),  # type: ignore[arg-type]
                generation=intent.generation,
                state=state,
                reason=reason,
                message="told by the test" if reason else "",
            )
            self._tell(key, outcome)
            outcomes.append(outcome)
        return pb.ApplyResponse(outcomes=outcomes)

    async def Delete(self, request: Any, _context: Any) -> Any:  # noqa: N802
        outcomes = []
        for key in request.keys:
            self.rows.pop((key.kind, key.name), None)
            self._session.setdefault(request.session, set()).discard((key.kind, key.name))
            outcomes.append(pb.Outcome(key=key, state=pb.OUTCOME_STATE_COMMITTED))
        return pb.DeleteResponse(outcomes=outcomes)

    async def Resync(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self.resyncs += 1
        picture = self._session.get(request.session, set())
        orphans = [key for key in self.rows if key not in picture]
        for key in orphans:
            del self.rows[key]
        removed = [pb.IntentKey(kind=k, name=n) for k, n in orphans]  # type: ignore[arg-type]
        return pb.ResyncResponse(removed=removed)

    async def ResetSessions(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self.resets.append((request.gateway.name, tuple(request.peers)))
        return pb.ResetSessionsResponse(peers=request.peers)

    async def List(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return pb.ListResponse(
            outcomes=list(self._outcomes.values()), in_sync=self.resyncs > 0, connected=True
        )

    async def Plan(self, request: Any, _context: Any) -> Any:  # noqa: N802
        from veg.types.v1 import types_pb2

        operations = []
        for intent in request.intents:
            key, value = _named(intent)
            if self.rows.get(key) != value:
                operations.append(
                    types_pb2.Operation(action=types_pb2.ACTION_CREATE, kind="Row", name=key[1])
                )
        return pb.PlanResponse(operations=operations)

    async def Watch(self, _request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._listeners.append(queue)
        numbers = itertools.count(1)
        hello = pb.Hello(instance=str(self._instance), nb_schema="7.11.0")
        yield pb.WatchResponse(sequence=next(numbers), hello=hello)
        try:
            for event in [*self._outcomes.values(), *self.sessions.values()]:
                yield _said(event, next(numbers))
            while True:
                yield _said(await queue.get(), next(numbers))
        finally:
            self._listeners.remove(queue)

    def say(self, peer: str, state: Any, name: str = "gateway1") -> None:
        """OVN's session with an address of a gateway changes."""
        key = types_pb2.ObjectKey(namespace="default", name=name)
        serving = state == bfd_pb2.SESSION_STATE_UP
        event = pb.BfdState(gateway=key, peer=peer, state=state, serving=serving)
        self.sessions[name, peer] = event
        for queue in self._listeners:
            queue.put_nowait(event)

    def _speak(self, gateway: Any) -> None:
        """A session for every nexthop of a gateway with BFD."""
        name = gateway.key.name
        hops = {h for f in gateway.families for h in f.nexthops} if gateway.HasField("bfd") else set()
        for gone in [key for key in self.sessions if key[0] == name and key[1] not in hops]:
            del self.sessions[gone]
        for hop in sorted(hops):
            if (name, hop) not in self.sessions:
                self.say(hop, self.first_state, name)

    def _tell(self, key: tuple[int, str], outcome: Any) -> None:
        if self._outcomes.get(key) != outcome:
            self._outcomes[key] = outcome
            for queue in self._listeners:
                queue.put_nowait(outcome)


def _said(event: Any, number: int) -> Any:
    if isinstance(event, pb.BfdState):
        return pb.WatchResponse(sequence=number, bfd=event)
    return pb.WatchResponse(sequence=number, outcome=event)


def _named(intent: Any) -> tuple[tuple[int, str], Any]:
    field = intent.WhichOneof("object")
    value = getattr(intent, field)
    name = f"{value.key.namespace}/{value.key.name}" if field == "gateway" else value.name
    return (_OWN_FIELD[field], name), value


class Lab:
    """One api process, its store, its programmer, and a kubelet that makes every pod ready."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "store"
        self.store = FolderStore(self.root)
        self.programmer = FakeProgrammer(f"unix:{folder}/programmer.sock")
        self.listen = f"unix:{folder}/api.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.pods_ready = True
        self.paused = False
        # Names of containers that are not ready, by pod.
        self.unready: dict[str, frozenset[str]] = {}
        self._numbers = itertools.count(1)
        self._starts = 0
        self.flags: tuple[str, ...] = ()
        self.metrics = ""

    def start_api(self) -> None:
        """Start the process; its log is in the folder."""
        self._starts += 1
        with (self.folder / f"api{self._starts}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "veg_api", "run", "--store", f"folder:{self.root}"),
                    *(
                        "--programmer",
                        self.programmer.listen,
                        "--listen",
                        self.listen,
                        "--log-level",
                        "debug",
                    ),
                    *self.flags,
                ],
                stderr=log,
            )

    def stop_api(self, number: int = signal.SIGKILL) -> None:
        """End the process."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)
            self.process.wait(10)

    async def apply(self, text: str) -> None:
        """As `kubectl apply`: create, or replace the spec."""
        for obj in parse_manifests(text):
            ref = ref_of(obj)
            try:
                current = await self.store.get(ref)
            except NotFoundError:
                await self.store.create(obj)
                continue
            gone = {key: None for key in current.get("spec", {}) if key not in obj["spec"]}
            await self.store.update(ref, {"spec": {**gone, **obj["spec"]}})

    async def get(self, kind: str, name: str) -> Object | None:
        """An object of the namespace default, None when there is none."""
        try:
            return await self.store.get(Ref(kind, "default" if kind_of(kind).namespaced else "", name))
        except NotFoundError:
            return None

    async def status(self, name: str = "gateway1") -> Object:
        """Status of a gateway."""
        found = await self.get("VpcEgressGateway", name)
        return (found or {}).get("status") or {}

    async def condition(self, kind: str, name: str = "gateway1") -> Object:
        """A condition of a gateway, {} without one."""
        conditions = (await self.status(name)).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    async def ready(self, name: str = "gateway1", timeout_s: float = 40) -> Object:
        """Wait until a gateway is complete for its present spec; its status."""

        async def check() -> Object | None:
            found = await self.get("VpcEgressGateway", name)
            status: Object = (found or {}).get("status") or {}
            current = found and status.get("observedGeneration") == found["metadata"]["generation"]
            return status if current and status.get("phase") == "Completed" and status.get("ready") else None

        return await self.until(check, timeout_s)  # type: ignore[no-any-return]

    async def until(self, check: Callable[[], Any], timeout_s: float = 40) -> Any:
        """Poll until `check` (plain or async) gives something true; its value."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = check()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not true within {timeout_s} s\n{self.logs()}")
            await asyncio.sleep(0.05)

    def logs(self) -> str:
        """The last lines of the process' log."""
        path = self.folder / f"api{self._starts}.log"
        return path.read_text()[-4000:] if path.exists() else ""

    async def kubelet(self) -> None:
        """Pods for every Deployment; plugged ones become ready, deleted ones go. Until cancelled."""
        while True:
            if not self.paused:
                with contextlib.suppress(NotFoundError):
                    await self._sync()
            await asyncio.sleep(0.05)

    async def _sync(self) -> None:
        deployments = {d["metadata"]["name"]: d for d in await self.store.list("Deployment")}
        pods = [p for p in await self.store.list("Pod") if p["metadata"].get("ownerReferences")]
        for pod in pods:
            metadata = pod["metadata"]
            if "deletionTimestamp" in metadata or metadata["ownerReferences"][0]["name"] not in deployments:
                await self.store.delete(ref_of(pod), grace_seconds=0)
            elif self.pods_ready and metadata.get("annotations", {}).get("ovn.kubernetes.io/allocated"):
                await self.store.update_status(ref_of(pod), {"status": self._pod_status(pod)})
        for name, deployment in deployments.items():
            own = [p for p in pods if p["metadata"]["ownerReferences"][0]["name"] == name]
            live = [p for p in own if "deletionTimestamp" not in p["metadata"]]
            current = [p for p in live if p["metadata"]["template"] == repr(deployment["spec"]["template"])]
            old = [p for p in live if p not in current]
            for pod in [*old, *current[deployment["spec"]["replicas"] :]][:1]:
                await self.store.delete(ref_of(pod))
            if not old and len(current) < deployment["spec"]["replicas"]:
                await self.store.create(self._pod(deployment, len(current)))

    def _pod_status(self, pod: Object) -> Object:
        names = [c["name"] for c in pod["spec"].get("containers", ())]
        down = self.unready.get(pod["metadata"]["name"], frozenset())
        return {
            "conditions": [{"type": "Ready", "status": "False" if down else "True"}],
            "containerStatuses": [{"name": name, "ready": name not in down} for name in names],
        }

    def _pod(self, deployment: Object, position: int) -> Object:
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        owner = {"kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{metadata['name']}-{next(self._numbers):04}",
                "namespace": metadata["namespace"],
                **template["metadata"],
                "ownerReferences": [owner],
                "template": repr(template),
            },
            "spec": {"nodeName": f"node{position % 2 + 1}", "containers": template["spec"]["containers"]},
        }

    @contextlib.asynccontextmanager
    async def stub(self) -> AsyncIterator[Any]:
        """A client of EgressGatewayService."""
        async with server.channel(self.listen) as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
            yield api_pb2_grpc.EgressGatewayServiceStub(channel)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A running api with a fresh cluster."""
    lab = Lab(tmp_path)
    await lab.apply(CLUSTER)
    await lab.programmer.start()
    lab.start_api()
    kubelet = asyncio.create_task(lab.kubelet())
    yield lab
    kubelet.cancel()
    await asyncio.gather(kubelet, return_exceptions=True)
    lab.stop_api()
    await lab.programmer.stop()
