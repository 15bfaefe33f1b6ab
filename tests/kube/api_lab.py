"""Real veg-api processes on a real API server, with the chart's own CRDs and RBAC; kubelets and OVN are played."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from veg_common.kube import KubernetesStore
from veg_common.objects import Object, Ref, kind_of, parse_manifests, ref_of
from veg_common.store import NotFoundError, StoreError

from tests.functional.api.conftest import CLUSTER, FakeProgrammer
from tests.kube.cluster import ROOT, Cluster

SYSTEM = "veg-system"
LABEL = "ovn.kubernetes.io/vpc-egress-gateway"
_INSTALLED = (
    "CustomResourceDefinition",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
)
_OURS = ("VpcEgressGateway", "Deployment", "PodDisruptionBudget", "ConfigMap", "Pod", "IP", "Subnet", "Vpc")


@dataclass
class Api:
    """One process. Its gRPC and HTTP addresses, its log."""

    process: subprocess.Popen[bytes]
    grpc: str
    http: str
    log: Path

    def metric(self, name: str) -> float:
        """Sum of a metric's values; 0 while the process does not answer."""
        return metric(self.http, name)

    @property
    def leads(self) -> bool:
        """Whether it says so."""
        return self.process.poll() is None and self.metric("veg_api_leader") == 1

    @property
    def writes(self) -> float:
        """Objects written since its start."""
        return self.metric("veg_api_writes_total")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it; a stopped one too."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
            self.process.wait(15)


@dataclass
class ApiLab:
    """See the module."""

    cluster: Cluster
    folder: Path
    store: KubernetesStore = field(init=False)
    programmer: FakeProgrammer = field(init=False)
    apis: list[Api] = field(default_factory=list)
    paused: bool = False
    flags: tuple[str, ...] = ()
    topology: str = "managed"
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _kubelet: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """A cluster as the specification's first example finds it, without an api."""
        self.store = KubernetesStore(self.cluster.kubeconfig)
        self.programmer = FakeProgrammer(f"127.0.0.1:{free_port()}")
        await asyncio.to_thread(self._install)
        await self.apply(CLUSTER)
        for node in ("node1", "node2"):
            await self.node(node, ready=True)
        await self.programmer.start()
        self._kubelet = asyncio.create_task(self.kubelet())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Everything goes; the CRDs stay for the next test."""
        for api in self.apis:
            api.end(signal.SIGKILL)
        if self._kubelet is not None:
            self._kubelet.cancel()
            await asyncio.gather(self._kubelet, return_exceptions=True)
        await self.clean()
        await self.programmer.stop()
        await self.store.aclose()

    def _install(self) -> None:
        chart = ROOT / "charts" / "vpc-egress-gateway"
        self.cluster.kubectl("create", "namespace", SYSTEM) if not self._has_system() else None
        rendered = self.cluster.helm(
            *("template", "veg", str(chart), "-n", SYSTEM, "--kube-version", "v1.36.0"),
            *("--set", "ovn.northbound.remotes={tcp:127.0.0.1:6641}", "--set", f"topology={self.topology}"),
        )
        documents = [doc for doc in yaml.safe_load_all(rendered) if doc and doc["kind"] in _INSTALLED]
        self.cluster.apply(yaml.safe_dump_all(documents))
        self.cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        self.account = next(
            doc["metadata"]["name"]
            for doc in documents
            if doc["kind"] == "ServiceAccount" and doc["metadata"]["name"].endswith("-api")
        )

    def _has_system(self) -> bool:
        return any(n["metadata"]["name"] == SYSTEM for n in self.cluster.items("namespaces"))

    async def node(self, name: str, *, ready: bool) -> None:
        """A node that is ready or not."""
        ref = Ref("Node", "", name)
        with contextlib.suppress(StoreError):
            labels = {"kubernetes.io/hostname": name}
            await self.store.create(
                {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
            )
        status = {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [
                {"type": "Ready", "status": str(ready), "reason": "Kubelet", "message": "told by the test"}
            ],
        }
        await self.store.update_status(ref, {"status": status})

    def start(self, *flags: str) -> Api:
        """One more api, with the chart's service account."""
        number = next(self._numbers)
        grpc, http = (f"127.0.0.1:{free_port()}" for _ in range(2))
        kubeconfig = self.cluster.token_kubeconfig(f"system:serviceaccount:{SYSTEM}:{self.account}")
        log = self.folder / f"api{number}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "veg_api", "run", "--store", f"kube:{kubeconfig}"),
                    *("--programmer", self.programmer.listen, "--listen", grpc, "--metrics", http),
                    *("--topology", self.topology, *self.flags, *flags),
                ],
                stderr=file,
            )
        self.apis.append(Api(process, grpc, http, log))
        return self.apis[-1]

    async def apply(self, text: str) -> None:
        """Create, or replace the spec."""
        for obj in parse_manifests(text):
            try:
                current = await self.store.get(ref_of(obj))
            except NotFoundError:
                await self.store.create(obj)
                continue
            gone = {key: None for key in current.get("spec", {}) if key not in obj.get("spec", {})}
            await self.store.update(ref_of(obj), {"spec": {**gone, **obj.get("spec", {})}})

    async def get(self, kind: str, name: str = "gateway1", namespace: str = "default") -> Object | None:
        """An object, None when there is none."""
        try:
            return await self.store.get(Ref(kind, namespace if kind_of(kind).namespaced else "", name))
        except NotFoundError:
            return None

    async def status(self, name: str = "gateway1") -> Object:
        """Status of a gateway."""
        return ((await self.get("VpcEgressGateway", name)) or {}).get("status") or {}

    async def condition(self, kind: str, name: str = "gateway1") -> Object:
        """A condition of a gateway, {} without one."""
        conditions = (await self.status(name)).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    async def ready(self, name: str = "gateway1", timeout_s: float = 120) -> Object:
        """Wait until a gateway is complete for its present spec; its status."""

        async def check() -> Object | None:
            found = await self.get("VpcEgressGateway", name)
            status: Object = (found or {}).get("status") or {}
            current = found and status.get("observedGeneration") == found["metadata"]["generation"]
            return status if current and status.get("phase") == "Completed" and status.get("ready") else None

        return await self.until(check, timeout_s)  # type: ignore[no-any-return]

    async def until(self, check: Callable[[], Any], timeout_s: float = 120) -> Any:
        """Poll until `check` (plain or async) gives something true; its value."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = None
            with contextlib.suppress(StoreError):
                found = check()
                if asyncio.iscoroutine(found):
                    found = await found
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not true within {timeout_s} s\n{self.logs()}")
            await asyncio.sleep(0.1)

    async def quiet(self, *apis: Api, seconds: float = 3.0) -> None:
        """Wait until nothing is written for a while."""
        last, since = [api.writes for api in apis], time.monotonic()

        def check() -> bool:
            nonlocal last, since
            now = [api.writes for api in apis]
            if now != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since > seconds

        await self.until(check, 90)

    def logs(self) -> str:
        """The last lines of the processes' logs."""
        return "\n".join(f"-- {api.log.name}\n{api.log.read_text()[-3000:]}" for api in self.apis)

    async def pods(self, name: str = "gateway1") -> list[Object]:
        """The gateway's pods that are not on their way out."""
        found = await self.store.list("Pod", "default")
        return [
            pod
            for pod in found
            if pod["metadata"].get("labels", {}).get(LABEL) == name
            and "deletionTimestamp" not in pod["metadata"]
        ]

    async def kubelet(self) -> None:
        """Pods that are plugged become ready, deleted ones go. Until cancelled."""
        while True:
            if not self.paused:
                with contextlib.suppress(StoreError):
                    for pod in await self.store.list("Pod", "default"):
                        await self._tend(pod)
            await asyncio.sleep(0.2)

    async def _tend(self, pod: Object) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            await self.store.delete(ref_of(pod), grace_seconds=0)
            return
        if wanted := running(pod):
            await self.store.update_status(ref_of(pod), {"status": wanted})

    async def clean(self) -> None:
        """Remove all that tests made."""
        for kind in _OURS:
            for obj in await self.store.list(kind):
                ref = ref_of(obj)
                if ref.namespace not in ("", "default") or ref.name == "kube-root-ca.crt":
                    continue
                with contextlib.suppress(StoreError):
                    if obj["metadata"].get("finalizers"):
                        await self.store.update(ref, {"metadata": {"finalizers": None}})
                    await self.store.delete(ref, grace_seconds=0 if kind == "Pod" else None)
        for node in ("node1", "node2"):
            with contextlib.suppress(StoreError):
                await self.store.delete(Ref("Node", "", node))
        with contextlib.suppress(StoreError):
            await self.store.delete(Ref("Lease", SYSTEM, "vpc-egress-gateway-api"))


def running(pod: Object) -> Object | None:
    """The status that a kubelet would tell of a pod that is plugged in; None when it is too early or told already."""
    metadata, status = pod["metadata"], pod.get("status", {})
    plugged = metadata.get("annotations", {}).get("ovn.kubernetes.io/allocated")
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
    if not plugged or ready or not pod["spec"].get("nodeName"):
        return None
    containers = [
        {
            "name": container["name"],
            "ready": True,
            "started": True,
            "image": "i",
            "imageID": "",
            "restartCount": 0,
            "state": {"running": {"startedAt": metadata["creationTimestamp"]}},
        }
        for container in pod["spec"]["containers"]
    ]
    kept = [c for c in status.get("conditions", []) if c["type"] not in ("Ready", "ContainersReady")]
    ready_now = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
    return {"phase": "Running", "conditions": [*kept, *ready_now], "containerStatuses": containers}


def metric(http: str, name: str) -> float:
    """Sum of a metric's values at an address; 0 while nobody answers there."""
    try:
        with urllib.request.urlopen(f"http://{http}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def shown(obj: Any) -> str:
    """For messages."""
    return json.dumps(obj, indent=1)
