"""How ovn-programmer bears many gateways: real ovsdb-server, real process, real gRPC.

Every gateway is one of a custom VPC with two replicas, both families and BFD, as the specification's second example: ten
VPCs' worth of them share a router. Measured for each number of gateways:

* `apply`: from the first Apply to the last outcome, a hundred intents a call; `serving`: until a second reader of the
  database sees every session and route, and nothing closed any more (the bench says `up` in northd's place);
* `cpu` of the programmer for that, and its resident memory after it;
* `change`: one gateway changes its replicas among all the others (p50, p99);
* `restart`: from kill -9 to in sync, with the whole picture applied again and not one row changed.

    python -m tests.bench.scale [--sizes 100,1000]
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from veg.bfd.v1 import bfd_pb2
from veg.programmer.v1 import programmer_pb2 as pb
from veg.programmer.v1 import programmer_pb2_grpc as pb_grpc
from veg.types.v1 import types_pb2
from veg_common.server import channel
from veg_sandbox.ovn.root import ovn_root

from tests.bench import programmer as base

SIZES = (100, 1_000)
GATEWAYS_A_VPC = 10
REPLICAS = 2
CALL = 100
CHANGES = 50
TABLES = ("BFD", "Logical_Router_Policy", "Logical_Router_Static_Route")


@dataclass(frozen=True)
class Result:
    """One size."""

    gateways: int
    rows: int
    apply_s: float
    serving_s: float
    cpu_s: float
    memory_mib: float
    change_p50_ms: float
    change_p99_ms: float
    restart_s: float


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    sizes = [int(size) for size in parser.parse_args(argv).sizes.split(",")]
    base._say(" ".join(f"{field.name:>13}" for field in fields(Result)))
    for result in run(sizes):
        cells = (
            f"{value:13.2f}" if isinstance(value, float) else f"{value:13d}"
            for value in vars(result).values()
        )
        base._say(" ".join(cells))


def run(sizes: Sequence[int] = SIZES) -> list[Result]:
    """Measure every size on a database of its own."""
    root = ovn_root()
    results = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="vegscale") as name, base._ovsdb(root, Path(name)) as nb:
            results.append(asyncio.run(_measure(Path(name), nb, size)))
    return results


async def _measure(folder: Path, nb: Path, size: int) -> Result:
    vpcs, gateways = _vpcs(size), [_gateway(number) for number in range(size)]
    with base._programmer(folder, nb) as (listen, process):
        async with channel(listen) as opened:
            stub = pb_grpc.ProgrammerServiceStub(opened)
            await _connected(stub)
            await _apply(stub, *vpcs)
            northd = asyncio.create_task(_play_northd(nb))
            cpu, started = base._cpu_of(process.pid), time.monotonic()
            await _all(stub, gateways)
            applied = time.monotonic() - started
            rows = await _serving(nb, size)
            serving = time.monotonic() - started
            cpu = base._cpu_of(process.pid) - cpu
            memory = _memory_of(process.pid)
            await stub.Resync(pb.ResyncRequest(session="bench"))
            times = sorted([await _change(stub, turn, size) for turn in range(CHANGES)])
            await _all(stub, [_gateway(turn % size, generation=3) for turn in range(CHANGES)])
            await _serving(nb, size)
            northd.cancel()
    started = time.monotonic()
    with base._programmer(folder, nb) as (listen, _):
        async with channel(listen) as opened:
            stub = pb_grpc.ProgrammerServiceStub(opened)
            await _connected(stub)
            changed = await _apply(stub, *vpcs) + await _all(stub, gateways)
            removed = (await stub.Resync(pb.ResyncRequest(session="bench"), timeout=300)).removed
    restart = time.monotonic() - started
    assert (changed, len(removed)) == (0, 0), (changed, removed)
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    return Result(size, rows, applied, serving, cpu, memory, times[len(times) // 2] * 1e3, p99 * 1e3, restart)


async def _apply(stub: Any, *intents: pb.Intent) -> int:
    """Rows changed, once all are committed: on a machine without time a call is answered before."""
    reply = await stub.Apply(
        pb.ApplyRequest(session="bench", intents=intents), wait_for_ready=True, timeout=300
    )
    outcomes = list(reply.outcomes)
    names = {outcome.key.name for outcome in outcomes}
    while any(outcome.state != pb.OUTCOME_STATE_COMMITTED for outcome in outcomes):
        await asyncio.sleep(0.05)
        listed = (await stub.List(pb.ListRequest(), timeout=60)).outcomes
        outcomes = [outcome for outcome in listed if outcome.key.name in names]
    return sum(outcome.operations for outcome in outcomes)


async def _change(stub: Any, turn: int, size: int) -> float:
    started = time.perf_counter()
    await _apply(stub, _gateway(turn % size, generation=2, replicas=REPLICAS + 1))
    return time.perf_counter() - started


async def _all(stub: Any, gateways: Sequence[pb.Intent]) -> int:
    calls = [gateways[first : first + CALL] for first in range(0, len(gateways), CALL)]
    return sum([await _apply(stub, *some) for some in calls])


async def _connected(stub: Any) -> None:
    while not (await stub.List(pb.ListRequest(), wait_for_ready=True, timeout=60)).connected:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def _vpcs(size: int) -> list[pb.Intent]:
    intents = []
    for number in range(-(-size // GATEWAYS_A_VPC)):
        port = pb.BfdPort(addresses=["10.255.255.255", "fdff::1"], nodes=["node1", "node2", "node3"])
        intents.append(pb.Intent(generation=1, vpc=pb.Vpc(name=f"vpc{number}", bfd_port=port)))
    return intents


def _gateway(number: int, generation: int = 1, replicas: int = REPLICAS) -> pb.Intent:
    vpc, place = divmod(number, GATEWAYS_A_VPC)
    families = [
        pb.GatewayFamily(
            family=types_pb2.IP_FAMILY_IPV4,
            sources=[f"192.168.{place}.0/24"],
            nexthops=[f"192.168.{place}.{n + 2}" for n in range(replicas)],
            local_cidrs=[f"192.168.{place}.0/24"],
        ),
        pb.GatewayFamily(
            family=types_pb2.IP_FAMILY_IPV6,
            sources=[f"fd00:{place:x}::/64"],
            nexthops=[f"fd00:{place:x}::{n + 2:x}" for n in range(replicas)],
            local_cidrs=[f"fd00:{place:x}::/64"],
        ),
    ]
    timers = bfd_pb2.Timers(min_rx_ms=1000, min_tx_ms=1000, multiplier=3)
    gateway = pb.Gateway(
        key=types_pb2.ObjectKey(namespace="default", name=f"gateway{number}"),
        vpc=f"vpc{vpc}",
        families=families,
        bfd=pb.BfdIntent(timers=timers, logical_port=f"bfd@vpc{vpc}"),
    )
    return pb.Intent(generation=generation, gateway=gateway)


async def _play_northd(nb: Path) -> None:
    """Say of every session that it is up, soon after it was made."""
    up = {"op": "update", "table": "BFD", "where": [["status", "!=", "up"]], "row": {"status": "up"}}
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(nb))
        while True:
            await asyncio.to_thread(base._call, client, up)
            await asyncio.sleep(0.1)


async def _serving(nb: Path, size: int) -> int:
    """Wait until every gateway serves; returns how many rows the gateways have then."""
    wanted = size * 2 * REPLICAS
    while (found := await asyncio.to_thread(_rows, nb)) != [wanted, 0, wanted]:  # noqa: ASYNC110
        await asyncio.sleep(0.25)
    return sum(found)


def _rows(nb: Path) -> list[int]:
    """Rows of gateways by table, as a second reader counts them."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(nb))
        selects = [
            {"op": "select", "table": table, "where": [], "columns": ["_uuid", "external_ids"]}
            for table in TABLES
        ]
        found = base._call(client, *selects)
    return [
        sum("vpc-egress-gateway" in dict(row["external_ids"][1]) for row in table["rows"]) for table in found
    ]


def _memory_of(pid: int) -> float:
    """Resident memory in MiB, from proc(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
