"""How the whole control plane bears many gateways: real API server and controllers, api, ovn-programmer, ovsdb-server.

Only kubelets are played: a pod that has its addresses is told Ready. Every gateway has one replica in the default VPC and
one source. Measured for each number of gateways:

* `created`: until the API server has all of them, eight at a time; `rows`: until the Northbound database has a policy of
  each; `ready`: until every status says so; all from the first create;
* CPU of api and of ovn-programmer for that, and their resident memory after it;
* `one more`: from the create of one more gateway among all others to its row (p50, max);
* `change`: from a changed source of one among all others to its row (p50, max);
* `api back`: from kill -9 of api (a new one starts at once) to the row of a change
  that was asked for meanwhile; `writes`: what it wrote to the API server for that;
* `programmer back`: from kill -9 to in sync.

    python -m tests.bench.kube [--sizes 100,1000]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from veg.programmer.v1 import programmer_pb2 as pb
from veg.programmer.v1 import programmer_pb2_grpc as pb_grpc
from veg_common.kube import KubernetesStore
from veg_common.objects import Object, Ref, parse_manifests, ref_of
from veg_common.server import channel
from veg_common.store import StoreError
from veg_sandbox.ovn.root import ovn_root

from tests.bench import programmer as base
from tests.bench.scale import _memory_of
from tests.functional.api.conftest import CLUSTER
from tests.kube.api_lab import free_port, metric, running
from tests.kube.cluster import Cluster
from tests.kube.rig import install_crds

SIZES = (100, 1_000)
AT_ONCE = 8
SINGLES = 20
NODES = 10


@dataclass(frozen=True)
class Result:
    """One size. Times in s, p50 and max of single ones in ms, memory in MiB."""

    gateways: int
    created: float
    rows: float
    ready: float
    api_cpu: float
    api_memory: float
    nb_cpu: float
    nb_memory: float
    one_more: str
    change: str
    api_back: float
    writes: int
    programmer_back: float


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    sizes = [int(size) for size in parser.parse_args(argv).sizes.split(",")]
    names = [field.name for field in fields(Result)]
    base._say(" ".join(f"{name:>15}" for name in names))
    for result in run(sizes):
        cells = (getattr(result, name) for name in names)
        base._say(" ".join(f"{f'{cell:.1f}' if isinstance(cell, float) else cell:>15}" for cell in cells))


def run(sizes: Sequence[int] = SIZES) -> list[Result]:
    """Measure every size on a control plane and a database of its own."""
    root = ovn_root()
    results = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="vegkube") as name, base._ovsdb(root, Path(name)) as nb:
            cluster = Cluster.start(Path(name) / "cluster")
            try:
                install_crds(cluster)
                results.append(asyncio.run(_measure(cluster, Path(name), nb, size)))
            finally:
                cluster.stop()
    return results


async def _measure(cluster: Cluster, folder: Path, nb: Path, size: int) -> Result:
    numbers = itertools.count()
    async with _store(cluster) as store, _kubelets(store):
        with base._programmer(folder, nb) as (listen, programmer), _api(cluster, listen) as (api, _):
            processes = (api.pid, programmer.pid)
            cpu = [base._cpu_of(pid) for pid in processes]
            started = time.monotonic()
            await _many([_gateway(next(numbers)) for _ in range(size)], store)
            created = time.monotonic() - started
            await _until(lambda: len(_policies(nb)) == size)
            rows = time.monotonic() - started
            await _all_ready(store)
            ready = time.monotonic() - started
            cpu = [base._cpu_of(pid) - before for pid, before in zip(processes, cpu, strict=True)]
            memory = [_memory_of(pid) for pid in processes]
            more = [await _one_more(store, nb, next(numbers)) for _ in range(SINGLES)]
            changes = [await _change(store, nb, number) for number in range(SINGLES)]
            api.kill()
            back = time.monotonic()
            with _api(cluster, listen) as (_, metrics):
                await _change(store, nb, SINGLES)
                api_back = time.monotonic() - back
                writes = int(metric(metrics, "veg_api_writes_total"))
                programmer.kill()
                programmer.wait()
                back = time.monotonic()
                with base._programmer(folder, nb):
                    await _in_sync(listen)
                programmer_back = time.monotonic() - back
    return Result(
        size,
        created,
        rows,
        ready,
        api_cpu=cpu[0],
        api_memory=memory[0],
        nb_cpu=cpu[1],
        nb_memory=memory[1],
        one_more=_shown(more),
        change=_shown(changes),
        api_back=api_back,
        writes=writes,
        programmer_back=programmer_back,
    )


def _shown(times: Sequence[float]) -> str:
    return f"{sorted(times)[len(times) // 2]:.0f} / {max(times):.0f}"


@asynccontextmanager
async def _store(cluster: Cluster) -> AsyncIterator[KubernetesStore]:
    """The cluster as the first example finds it, with nodes."""
    store = KubernetesStore(cluster.kubeconfig)
    try:
        for obj in parse_manifests(CLUSTER):
            if obj["kind"] != "Node" and obj["metadata"]["name"] != "default":
                await store.create(obj)
        for number in range(NODES):
            name = f"node{number}"
            labels = {"kubernetes.io/hostname": name}
            await store.create(
                {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
            )
            status = {
                "allocatable": {"cpu": "400", "memory": "800Gi", "pods": "10000"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Kubelet", "message": "played"}],
            }
            await store.update_status(Ref("Node", "", name), {"status": status})
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def _kubelets(store: KubernetesStore) -> AsyncIterator[None]:
    """Every pod that is plugged becomes ready while the block runs."""

    async def play() -> None:
        async for event in store.watch(["Pod"]):
            if event.object and (status := running(event.object)):
                with contextlib.suppress(StoreError):
                    await store.update_status(ref_of(event.object), {"status": status})

    playing = asyncio.create_task(play())
    try:
        yield
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


@contextmanager
def _api(cluster: Cluster, programmer: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    metrics = f"127.0.0.1:{free_port()}"
    argv = [str(Path(sys.executable).with_name("veg-api")), "run", "--store", f"kube:{cluster.kubeconfig}"]
    argv += ["--programmer", programmer, "--listen", f"127.0.0.1:{free_port()}", "--metrics", metrics]
    process = subprocess.Popen([*argv, "--log-level=error"])
    try:
        yield process, metrics
    finally:
        process.kill()
        process.wait(5)


async def _many(gateways: Sequence[Object], store: KubernetesStore) -> None:
    waiting = iter(gateways)

    async def some() -> None:
        for gateway in waiting:
            await store.create(gateway)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


def _gateway(number: int) -> Object:
    return {
        "apiVersion": "kubeovn.io/v1",
        "kind": "VpcEgressGateway",
        "metadata": {"name": f"g{number}", "namespace": "default"},
        "spec": {
            "externalSubnet": "macvlan1",
            "policies": [{"snat": True, "ipBlocks": [_source(100, number)]}],
        },
    }


def _source(block: int, number: int) -> str:
    """An address in the default subnet that no pod has."""
    return f"10.16.{block + number // 200}.{1 + number % 200}"


async def _one_more(store: KubernetesStore, nb: Path, number: int) -> float:
    """Ms from a create to its row."""
    started = time.monotonic()
    await store.create(_gateway(number))
    await _until(lambda: _policies(nb, _source(100, number)))
    return (time.monotonic() - started) * 1e3


async def _change(store: KubernetesStore, nb: Path, number: int) -> float:
    """Ms from a changed source to its row."""
    started = time.monotonic()
    policies = [{"snat": True, "ipBlocks": [_source(200, number)]}]
    await store.update(Ref("VpcEgressGateway", "default", f"g{number}"), {"spec": {"policies": policies}})
    await _until(lambda: _policies(nb, _source(200, number)))
    return (time.monotonic() - started) * 1e3


def _policies(nb: Path, source: str = "") -> list[Any]:
    """Rows of gateways' policies, all or of one source."""
    where: list[Any] = [["action", "==", "reroute"]]
    if source:
        where.append(["match", "==", f"ip4.src == {source}"])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(nb))
        select = {"op": "select", "table": "Logical_Router_Policy", "where": where, "columns": ["_uuid"]}
        found: list[Any] = base._call(client, select)[0]["rows"]
    return found


async def _until(true: Callable[[], object], seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        if time.monotonic() > deadline:
            raise TimeoutError("did not become true")
        await asyncio.sleep(0.02)


async def _all_ready(store: KubernetesStore) -> None:
    while not all(  # noqa: ASYNC110 (another process makes them ready)
        gateway.get("status", {}).get("ready") for gateway in await store.list("VpcEgressGateway")
    ):
        await asyncio.sleep(0.5)


async def _in_sync(listen: str) -> None:
    async with channel(listen) as opened:
        stub = pb_grpc.ProgrammerServiceStub(opened)
        while not (await stub.List(pb.ListRequest(), wait_for_ready=True, timeout=60)).in_sync:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    main()
