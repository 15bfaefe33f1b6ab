"""ovn-programmer: from Apply to rows committed, with more and more gateways in the database.

Beside it, on the same server in the same run: a bare JSON-RPC mutate (the lower bound) and ovsdbapp's stock
`lr_policy_add`; and `followed`: from OVN's word that a BFD session went down or up to the policies committed that
follow from it. What must hold: from 100 to 10,000 gateways the programmer's time and CPU grow less than threefold.

    python -m tests.bench.programmer [--sizes 10,100,1000,10000] [--changes 200]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veg.bfd.v1 import bfd_pb2
from veg.programmer.v1 import programmer_pb2 as pb
from veg.programmer.v1 import programmer_pb2_grpc as pb_grpc
from veg.types.v1 import types_pb2
from veg_common.server import channel
from veg_sandbox.ovn.root import OvnRoot, ovn_root

ROUTER = "ovn-cluster"
SIZES = (10, 100, 1_000, 10_000)
CHANGES = 200
STOCK_CHANGES = 20
FILL = 500
BFD_GATEWAYS = 50


@dataclass(frozen=True)
class Figures:
    """Times of one way to change one gateway, in ms."""

    p50: float
    p99: float
    cpu: float
    """CPU of the client's process a change (gRPC server included for the programmer)."""


@dataclass(frozen=True)
class Result:
    """One size of the database."""

    gateways: int
    programmer: Figures
    noop: Figures
    raw: Figures
    stock: Figures
    followed: Figures
    start_s: float
    """From a killed programmer to all its gateways applied again with zero operations, in sync."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--changes", type=int, default=CHANGES)
    flags = parser.parse_args(argv)
    run([int(size) for size in flags.sizes.split(",")], flags.changes)


def run(sizes: Sequence[int] = SIZES, changes: int = CHANGES) -> list[Result]:
    """Measure and print; returns the figures."""
    root = ovn_root()
    results = []
    with tempfile.TemporaryDirectory(prefix="vegbench") as name:
        folder = Path(name)
        with _ovsdb(root, folder) as nb:
            for size in sizes:
                results.append(asyncio.run(_measure(folder, nb, size, changes)))
                _print(results[-1], head=size == sizes[0])
    by_size = {result.gateways: result.programmer for result in results}
    if {100, 10_000} <= by_size.keys():
        few, many = by_size[100], by_size[10_000]
        _say(f"growth from 100 to 10,000: p50 x{many.p50 / few.p50:.2f}, CPU x{many.cpu / few.cpu:.2f}")
    return results


def _print(result: Result, *, head: bool) -> None:
    ways = ("programmer", "noop", "raw", "stock", "followed")
    if head:
        _say("ms a change of one gateway: p50 / p99 / CPU of the client")
        _say(f"{'gateways':>9}" + "".join(f"{way:>24}" for way in ways) + f"{'restart s':>11}")
    cells = (getattr(result, way) for way in ways)
    shown = "".join(f"{f'{one.p50:.2f} / {one.p99:.2f} / {one.cpu:.2f}':>24}" for one in cells)
    _say(f"{result.gateways:>9}{shown}{result.start_s:>11.1f}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def _ovsdb(root: OvnRoot, folder: Path) -> Iterator[Path]:
    database, path = folder / "nb.db", folder / "nb.sock"
    environment = os.environ | dict.fromkeys(("OVS_RUNDIR", "OVN_RUNDIR"), str(folder))
    schema = str(root.schema("ovn-nb"))
    subprocess.run(
        [*root.command("ovsdb-tool"), "create", str(database), schema], check=True, env=environment
    )
    argv = [
        *root.command("ovsdb-server"),
        f"--remote=punix:{path}",
        f"--unixctl={folder}/nb.ctl",
        str(database),
    ]
    server = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(path.exists)
        yield path
    finally:
        server.kill()
        server.wait(5)


@contextmanager
def _programmer(folder: Path, nb: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    listen = f"unix:{folder}/programmer.sock"
    binary = str(Path(sys.executable).with_name("veg-ovn-programmer"))
    argv = [binary, "run", f"--nb=unix:{nb}", f"--listen={listen}", "--topology=managed", "--log-level=error"]
    process = subprocess.Popen(argv)
    try:
        yield listen, process
    finally:
        process.kill()
        process.wait(5)


async def _measure(folder: Path, nb: Path, size: int, changes: int) -> Result:
    with _programmer(folder, nb) as (listen, process):
        async with channel(listen) as opened:
            stub = pb_grpc.ProgrammerServiceStub(opened)
            await _fill(stub, size)
            programmer = await _changes(stub, process.pid, size, changes)
            noop = await _noops(stub, process.pid, changes)
            followed = await _followed(stub, process.pid, nb, changes)
    raw = await asyncio.to_thread(_raw, nb, changes)
    stock = await asyncio.to_thread(_stock, nb, STOCK_CHANGES)
    started = time.monotonic()
    with _programmer(folder, nb) as (listen, process):
        async with channel(listen) as opened:
            stub = pb_grpc.ProgrammerServiceStub(opened)
            operations = await _fill(stub, size)
            await stub.Resync(pb.ResyncRequest(session="bench"))
    assert operations <= 2, operations
    return Result(size, programmer, noop, raw, stock, followed, time.monotonic() - started)


def _gateway(number: int, generation: int = 1, replicas: int = 2) -> pb.Intent:
    nexthops = [f"10.{number >> 8 & 255}.{number & 255}.{n + 1}" for n in range(replicas)]
    source = f"{16 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.0/24"
    family = pb.GatewayFamily(family=types_pb2.IP_FAMILY_IPV4, sources=[source], nexthops=nexthops)
    key = types_pb2.ObjectKey(namespace="default", name=f"gateway{number}")
    return pb.Intent(
        generation=generation,
        gateway=pb.Gateway(key=key, vpc=ROUTER, default_vpc=True, families=[family]),
    )


async def _apply(stub: pb_grpc.ProgrammerServiceAsyncStub, *intents: pb.Intent) -> int:
    reply = await stub.Apply(
        pb.ApplyRequest(session="bench", intents=intents), wait_for_ready=True, timeout=300
    )
    for outcome in reply.outcomes:
        assert outcome.state == pb.OUTCOME_STATE_COMMITTED, outcome
    return sum(outcome.operations for outcome in reply.outcomes)


async def _fill(stub: pb_grpc.ProgrammerServiceAsyncStub, size: int) -> int:
    while not (await stub.List(pb.ListRequest(), wait_for_ready=True)).connected:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    operations = await _apply(stub, pb.Intent(generation=1, vpc=pb.Vpc(name=ROUTER, default_vpc=True)))
    for first in range(0, size, FILL):
        some = [_gateway(number) for number in range(first, min(first + FILL, size))]
        operations += await _apply(stub, *some)
    return operations


async def _changes(stub: pb_grpc.ProgrammerServiceAsyncStub, pid: int, size: int, changes: int) -> Figures:
    """Make a gateway, change its replicas, and so on; every call is one transaction."""
    times = []
    cpu = _cpu_of(pid)
    for turn in range(changes):
        intent = _gateway(turn % size if turn % 2 else size + turn, generation=turn + 2, replicas=3)
        started = time.perf_counter()
        await _apply(stub, intent)
        times.append(time.perf_counter() - started)
    cpu = _cpu_of(pid) - cpu
    keys = [
        pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name=f"default/gateway{size + turn}")
        for turn in range(0, changes, 2)
    ]
    await stub.Delete(pb.DeleteRequest(session="bench", keys=keys))
    for turn in range(1, changes, 2):
        await _apply(stub, _gateway(turn % size, generation=turn + changes))
    return _figures(times, cpu)


async def _noops(stub: pb_grpc.ProgrammerServiceAsyncStub, pid: int, changes: int) -> Figures:
    """Apply what is there already."""
    times = []
    cpu = _cpu_of(pid)
    for turn in range(changes):
        started = time.perf_counter()
        await _apply(stub, _gateway(0, generation=10 * changes + turn))
        times.append(time.perf_counter() - started)
    return _figures(times, _cpu_of(pid) - cpu)


async def _followed(stub: pb_grpc.ProgrammerServiceAsyncStub, pid: int, nb: Path, changes: int) -> Figures:
    """Write the status of a BFD row, as northd does, and wait until the programmer tells of the commit."""
    with_port = pb.Vpc(name=ROUTER, default_vpc=True)
    with_port.bfd_port.addresses.append("192.0.2.1")
    with_port.bfd_port.nodes.append("node1")
    gateways = [_gateway((1 << 17) + number) for number in range(BFD_GATEWAYS)]
    for intent in gateways:
        timers = bfd_pb2.Timers(min_rx_ms=100, min_tx_ms=100, multiplier=3)
        intent.gateway.bfd.CopyFrom(pb.BfdIntent(timers=timers, logical_port=f"bfd@{ROUTER}"))
    await _apply(stub, pb.Intent(generation=2, vpc=with_port), *gateways)
    heard: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    async def listen() -> None:
        async for event in stub.Watch(pb.WatchRequest()):
            if event.HasField("bfd"):
                heard.put_nowait((event.bfd.peer, event.bfd.serving))

    listening = asyncio.create_task(listen())
    peers = [intent.gateway.families[0].nexthops[0] for intent in gateways]
    times = []
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(nb))

        async def say(peer: str, status: str) -> None:
            where = [["dst_ip", "==", peer]]
            row = {"status": status}
            started = time.perf_counter()
            _call(client, {"op": "update", "table": "BFD", "where": where, "row": row})
            while await asyncio.wait_for(heard.get(), 10) != (peer, status == "up"):
                pass
            times.append(time.perf_counter() - started)

        for intent in gateways:
            for peer in intent.gateway.families[0].nexthops:
                await say(peer, "up")
        times.clear()
        cpu = _cpu_of(pid)
        for turn in range(changes):
            await say(peers[turn // 2 % len(peers)], "up" if turn % 2 else "down")
        cpu = _cpu_of(pid) - cpu
    listening.cancel()
    keys = [
        pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name=f"default/{intent.gateway.key.name}")
        for intent in gateways
    ]
    await stub.Delete(pb.DeleteRequest(session="bench", keys=keys))
    await _apply(stub, pb.Intent(generation=3, vpc=pb.Vpc(name=ROUTER, default_vpc=True)))
    return _figures(times, cpu)


def _raw(nb: Path, changes: int) -> Figures:
    """The same rows by hand: one insert and one mutate a transaction."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(nb))
        router = _call(
            client,
            {
                "op": "select",
                "table": "Logical_Router",
                "where": [["name", "==", ROUTER]],
                "columns": ["_uuid"],
            },
        )[0]["rows"][0]["_uuid"]
        mine = []

        def add(turn: int) -> None:
            row = {
                "priority": 100, "match": f"ip4.src == 9.9.{turn}.0/24", "action": "reroute",
                "nexthops": ["set", ["10.0.0.1", "10.0.0.2"]],
                "external_ids": ["map", [["vendor", "bench"], ["n", str(turn)]]],
            }  # fmt: skip
            mine.append(
                _call(
                    client,
                    {"op": "insert", "table": "Logical_Router_Policy", "row": row, "uuid-name": "p"},
                    _mutate(router, "insert", ["named-uuid", "p"]),
                )[0]["uuid"]
            )

        figures = _timed(add, changes)
        _call(client, *(_mutate(router, "delete", uuid) for uuid in mine))
    return figures


def _mutate(router: Any, mutator: str, uuid: Any) -> dict[str, Any]:
    return {
        "op": "mutate",
        "table": "Logical_Router",
        "where": [["_uuid", "==", router]],
        "mutations": [["policies", mutator, uuid]],
    }


def _call(client: socket.socket, *operations: dict[str, Any]) -> Any:
    client.sendall(
        json.dumps({"method": "transact", "params": ["OVN_Northbound", *operations], "id": 0}).encode()
    )
    data = b""
    while True:
        data += client.recv(1 << 20)
        try:
            reply = json.loads(data)
        except json.JSONDecodeError:
            continue
        assert reply["error"] is None, reply
        return reply["result"]


def _stock(nb: Path, changes: int) -> Figures:
    """ovsdbapp as it comes."""
    from ovsdbapp.backend.ovs_idl import connection
    from ovsdbapp.schema.ovn_northbound import impl_idl

    idl = connection.OvsdbIdl.from_server(f"unix:{nb}", "OVN_Northbound")
    opened = connection.Connection(idl, 300)
    impl_idl.OvnNbApiIdlImpl._ovsdb_connection = None  # it keeps one a class, for ever
    api = impl_idl.OvnNbApiIdlImpl(opened)
    try:
        return _timed(
            lambda turn: api.lr_policy_add(
                ROUTER, 100, f"ip4.src == 9.8.{turn}.0/24", "reroute", nexthops=["10.0.0.1", "10.0.0.2"]
            ).execute(check_error=True),
            changes,
            lambda turn: api.lr_policy_del(ROUTER, 100, f"ip4.src == 9.8.{turn}.0/24").execute(
                check_error=True
            ),
        )
    finally:
        opened.stop(5)


def _timed(
    change: Callable[[int], object], changes: int, undo: Callable[[int], object] | None = None
) -> Figures:
    times = []
    cpu = _own_cpu()
    for turn in range(changes):
        started = time.perf_counter()
        change(turn)
        times.append(time.perf_counter() - started)
    cpu = _own_cpu() - cpu
    for turn in range(changes if undo else 0):
        assert undo is not None
        undo(turn)
    return _figures(times, cpu)


def _figures(times: Sequence[float], cpu: float) -> Figures:
    ordered = sorted(times)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return Figures(statistics.median(ordered) * 1e3, p99 * 1e3, cpu / len(ordered) * 1e3)


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cpu_of(pid: int) -> float:
    """CPU seconds of a process so far, from proc(5): utime and stime."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("did not become true")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
