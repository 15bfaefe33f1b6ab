"""A real Northbound database a test, and a programmer in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from veg.programmer.v1 import programmer_pb2 as pb
from veg.programmer.v1 import programmer_pb2_grpc as pb_grpc
from veg.types.v1 import types_pb2
from veg_common.server import channel, start_server
from veg_ovn_programmer import rpc
from veg_ovn_programmer.core import heal
from veg_ovn_programmer.core.view import Variant
from veg_ovn_programmer.io.northbound import Northbound
from veg_ovn_programmer.io.streams import Tls
from veg_ovn_programmer.worker import Worker
from veg_sandbox.ovn.root import OvnRoot, ovn_root

BOUND = 10.0
# Seconds that a process of Python and gRPC may take until it serves.
START_S = 60.0
# Every table that the programmer writes to.
TABLES = (
    "Logical_Router",
    "Logical_Switch",
    "Logical_Router_Port",
    "Logical_Switch_Port",
    "HA_Chassis_Group",
    "HA_Chassis",
    "BFD",
    "Logical_Router_Policy",
    "Logical_Router_Static_Route",
)


@pytest.fixture(scope="session")
def root() -> OvnRoot:
    """OVN's programs."""
    return ovn_root()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix=f"vegp{os.getpid()}-") as name:
        yield Path(name)


@dataclass
class Ovsdb:
    """An ovsdb-server of one database that can be killed and started again."""

    root: OvnRoot
    folder: Path
    name: str = "nb"
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.name}.sock"

    @property
    def remote(self) -> str:
        return f"unix:{self.socket}"

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.db"

    def environment(self) -> dict[str, str]:
        names = ("OVS_RUNDIR", "OVN_RUNDIR", "OVS_LOGDIR", "OVN_LOGDIR", "OVS_DBDIR", "OVN_DBDIR")
        return os.environ | dict.fromkeys(names, str(self.folder))

    def tool(self, name: str, *args: str) -> str:
        argv = [*self.root.command(name), *args]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=20, env=self.environment(), check=False
            )
        except subprocess.TimeoutExpired as error:
            raise AssertionError(str(error)) from error
        assert done.returncode == 0, f"{args}: {done.stderr}"
        return done.stdout

    def start(self) -> None:
        if not self.file.exists():
            self.tool("ovsdb-tool", "create", str(self.file), str(self.root.schema(f"ovn-{self.name}")))
        self.process = subprocess.Popen(
            [
                *self.root.command("ovsdb-server"),
                f"--remote=p{self.remote}",
                f"--unixctl={self.folder / self.name}.ctl",
                "--no-chdir",
                str(self.file),
            ],
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(self.socket))
            return True
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(5)
            self.process = None

    def nbctl(self, *args: str) -> str:
        return self.tool("ovn-nbctl", f"--db={self.remote}", *args)

    def transactions(self) -> int:
        """How many transactions the database's log holds."""
        return self.tool("ovsdb-tool", "show-log", str(self.file)).count("record ")

    def transact(self, *operations: dict[str, Any]) -> list[Any]:
        """Raw operations in one transaction, as somebody else would send them."""
        with Rpc(self.socket) as one:
            reply = one.call("transact", ["OVN_Northbound", *operations])
        for result in reply:
            assert not (isinstance(result, dict) and result.get("error")), result
        return list(reply)

    def select(self, table: str) -> dict[str, dict[str, Any]]:
        """All columns of all rows by UUID, `_version` too: it changes whenever anybody writes to the row."""
        reply = self.transact({"op": "select", "table": table, "where": []})
        return {row["_uuid"][1]: row for row in reply[0]["rows"]}

    def policies(self, router: str) -> list[str]:
        """`lr-policy-list` without the heading, spaces folded."""
        lines = self.nbctl("lr-policy-list", router).splitlines()
        return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("Routing")]

    def routes(self, router: str) -> list[str]:
        """`lr-route-list` without headings, spaces folded."""
        lines = self.nbctl("lr-route-list", router).splitlines()
        return [" ".join(line.split()) for line in lines if line.startswith(" ")]


class Rpc:
    """A bare JSON-RPC connection (RFC 7047 section 4), independent of what the programmer uses."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(BOUND)
        self._socket.connect(str(path))
        self._text = ""
        self._decoder = json.JSONDecoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, method: str, params: list[Any]) -> None:
        message = {"method": method, "params": params, "id": 1}
        self._socket.sendall(json.dumps(message).encode())

    def receive(self) -> dict[str, Any]:
        """The next message. Raises TimeoutError."""
        while True:
            with contextlib.suppress(json.JSONDecodeError):
                message, end = self._decoder.raw_decode(self._text)
                self._text = self._text[end:].lstrip()
                if message.get("method") != "echo":
                    return dict(message)
                continue
            data = self._socket.recv(65536)
            assert data, "closed by the server"
            self._text += data.decode()

    def call(self, method: str, params: list[Any]) -> Any:
        self.send(method, params)
        while "result" not in (reply := self.receive()):
            continue
        assert reply["error"] is None, reply
        return reply["result"]

    def updates(self, quiet: float) -> Iterator[dict[str, Any]]:
        """Updates of a monitor until none comes for `quiet` seconds."""
        self._socket.settimeout(quiet)
        with contextlib.suppress(TimeoutError):
            while True:
                message = self.receive()
                if message.get("method") == "update":
                    yield message["params"][1]


def until(true: Callable[[], object], seconds: float = BOUND) -> None:
    """Poll until it holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not become true"
        time.sleep(0.01)


async def eventually(true: Callable[[], object], seconds: float = BOUND) -> float:
    """Poll until it holds, beside other tasks; the seconds it took. Fails after `seconds`."""
    started = time.monotonic()
    while True:
        result = await asyncio.to_thread(true)
        if result:
            return time.monotonic() - started
        assert time.monotonic() < started + seconds, "did not become true"
        await asyncio.sleep(0.01)


@pytest.fixture
def nb(root: OvnRoot, folder: Path) -> Iterator[Ovsdb]:
    """A fresh Northbound database."""
    server = Ovsdb(root, folder)
    server.start()
    server.nbctl("init")
    yield server
    server.kill()


@pytest.fixture
def other(root: OvnRoot) -> Iterator[Ovsdb]:
    """A second Northbound database, to compare with."""
    with tempfile.TemporaryDirectory(prefix=f"vegq{os.getpid()}-") as name:
        server = Ovsdb(root, Path(name))
        server.start()
        server.nbctl("init")
        yield server
        server.kill()


@dataclass
class Northd:
    """A real ovn-northd between the test's Northbound database and a Southbound one."""

    nb: Ovsdb
    sb: Ovsdb
    process: subprocess.Popen[bytes]
    log: Path

    def flows(self, router: str) -> str:
        """The logical flows of a router, after northd has seen every change up to now."""
        self.nb.nbctl("--timeout=15", "--wait=sb", "sync")
        return self.sb.tool("ovn-sbctl", f"--db={self.sb.remote}", "lflow-list", router)

    def trace(self, flow: str) -> str:
        self.nb.nbctl("--timeout=15", "--wait=sb", "sync")
        return self.sb.tool("ovn-trace", f"--db={self.sb.remote}", "--minimal", flow)

    def complaints(self) -> list[str]:
        """Warnings and errors, but for those of a machine that was slow."""
        lines = [line for line in self.log.read_text().splitlines() if "|timeval|" not in line]
        return [line for line in lines if "|WARN|" in line or "|ERR|" in line]


@pytest.fixture
def northd(nb: Ovsdb) -> Iterator[Northd]:
    """northd on the test's database."""
    sb = Ovsdb(nb.root, nb.folder, "sb")
    sb.start()
    sb.tool("ovn-sbctl", f"--db={sb.remote}", "init")
    log = nb.folder / "northd.log"
    process = subprocess.Popen(
        [
            *nb.root.command("ovn-northd"),
            f"--ovnnb-db={nb.remote}",
            f"--ovnsb-db={sb.remote}",
            f"--log-file={log}",
            f"--unixctl={nb.folder / 'northd.ctl'}",
        ],
        env=nb.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield Northd(nb, sb, process, log)
    process.kill()
    process.wait(5)
    sb.kill()


class Make:
    """Intents in few words."""

    @staticmethod
    def gateway(
        name: str,
        vpc: str,
        sources: list[str],
        nexthops: list[str],
        *,
        default_vpc: bool = False,
        local: list[str] | None = None,
        generation: int = 1,
    ) -> pb.Intent:
        """A gateway's intent of the family of its sources."""
        families = []
        for number in (types_pb2.IP_FAMILY_IPV4, types_pb2.IP_FAMILY_IPV6):
            of = [
                [text for text in texts if (":" in text) == (number == types_pb2.IP_FAMILY_IPV6)]
                for texts in (sources, nexthops, local or [])
            ]
            if any(of):
                families.append(
                    pb.GatewayFamily(family=number, sources=of[0], nexthops=of[1], local_cidrs=of[2])
                )
        key = types_pb2.ObjectKey(namespace="default", name=name)
        value = pb.Gateway(key=key, vpc=vpc, default_vpc=default_vpc, families=families)
        return pb.Intent(generation=generation, gateway=value)

    @staticmethod
    def vpc(name: str, *, default_vpc: bool = False, generation: int = 1) -> pb.Intent:
        """A VPC's intent."""
        return pb.Intent(generation=generation, vpc=pb.Vpc(name=name, default_vpc=default_vpc))

    @staticmethod
    def subnet(
        name: str, of: str, cidrs: list[str], gateways: list[str], *, generation: int = 1
    ) -> pb.Intent:
        """A Subnet's intent."""
        value = pb.Subnet(name=name, vpc=of, cidrs=cidrs, gateways=gateways)
        return pb.Intent(generation=generation, subnet=value)

    @staticmethod
    def port(name: str, of: str, mac: str, addresses: list[str], *, generation: int = 1) -> pb.Intent:
        """A Port's intent."""
        value = pb.Port(name=name, subnet=of, mac=mac, addresses=addresses)
        return pb.Intent(generation=generation, port=value)

    @staticmethod
    def gateway_key(name: str) -> pb.IntentKey:
        """Key of a gateway in the namespace default."""
        return pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name=f"default/{name}")


@pytest.fixture
def make() -> Make:
    """Makes intents."""
    return Make()


@dataclass
class Client:
    """A sender with a session."""

    stub: pb_grpc.ProgrammerServiceAsyncStub
    session: str = "one"
    events: list[pb.WatchResponse] = field(default_factory=list)

    async def apply(self, *intents: pb.Intent) -> list[pb.Outcome]:
        request = pb.ApplyRequest(session=self.session, intents=intents)
        return list((await self.stub.Apply(request, timeout=BOUND)).outcomes)

    async def commit(self, *intents: pb.Intent) -> list[int]:
        """Apply what must succeed; how many rows each changed."""
        outcomes = await self.apply(*intents)
        for outcome in outcomes:
            assert outcome.state == pb.OUTCOME_STATE_COMMITTED, outcome
        return [outcome.operations for outcome in outcomes]

    async def delete(self, *keys: pb.IntentKey) -> list[pb.Outcome]:
        request = pb.DeleteRequest(session=self.session, keys=keys)
        return list((await self.stub.Delete(request, timeout=BOUND)).outcomes)

    async def resync(self) -> list[str]:
        reply = await self.stub.Resync(pb.ResyncRequest(session=self.session), timeout=BOUND)
        return [key.name for key in reply.removed]

    async def plan(self, *intents: pb.Intent, deletes: list[pb.IntentKey] | None = None) -> list[str]:
        request = pb.PlanRequest(intents=intents, deletes=deletes or [])
        reply = await self.stub.Plan(request, timeout=BOUND)
        return [f"{op.action} {op.kind} {op.name}" for op in reply.operations]

    async def outcomes(self) -> dict[str, pb.Outcome]:
        reply = await self.stub.List(pb.ListRequest(), timeout=BOUND)
        return {outcome.key.name: outcome for outcome in reply.outcomes}

    async def connected(self) -> bool:
        return (await self.stub.List(pb.ListRequest(), timeout=START_S, wait_for_ready=True)).connected

    async def until_connected(self) -> None:
        deadline = time.monotonic() + START_S
        while not await self.connected():
            assert time.monotonic() < deadline, "not connected"
            await asyncio.sleep(0.01)

    async def watch(self) -> None:
        """Collect events for ever."""
        async for event in self.stub.Watch(pb.WatchRequest(), wait_for_ready=True):
            self.events.append(event)


Start = Callable[..., contextlib.AbstractAsyncContextManager[Client]]


@contextlib.asynccontextmanager
async def programmer(
    nb: Ovsdb,
    managed: bool = True,  # noqa: FBT002
    variant: Variant = Variant.S3,
    tls: Tls | None = None,
) -> AsyncIterator[Client]:
    """A programmer in this process, behind real gRPC."""
    address = f"unix:{nb.folder / 'programmer.sock'}"
    stop = asyncio.Event()
    worker = Worker(lambda wake: Northbound(nb.remote, managed=managed, wake=wake, variant=variant, tls=tls))
    server = await start_server(address, rpc.adder(worker), [rpc.SERVICE])
    running = asyncio.create_task(worker.run(stop))
    try:
        async with channel(address) as opened:
            client = Client(pb_grpc.ProgrammerServiceStub(opened))
            watching = asyncio.create_task(client.watch())
            if nb.process is not None:
                await client.until_connected()
            yield client
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
    finally:
        stop.set()
        await asyncio.wait_for(running, BOUND)
        await server.stop(1)


@pytest.fixture
def start() -> Start:
    """Programmers in this process, on demand."""
    return programmer


@pytest.fixture
def sender() -> Callable[[str], contextlib.AbstractAsyncContextManager[Client]]:
    """Senders to a programmer that runs elsewhere, by its address."""

    @contextlib.asynccontextmanager
    async def to(address: str) -> AsyncIterator[Client]:
        async with channel(address) as opened:
            client = Client(pb_grpc.ProgrammerServiceStub(opened))
            await client.until_connected()
            yield client

    return to


@pytest.fixture
def wait() -> Callable[..., Awaitable[float]]:
    """Polling with a bound."""
    return eventually


@pytest.fixture
def no_healing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no OVN speaks, no session is to be helped: on a slow machine the healer's rows would come between."""
    monkeypatch.setattr(heal, "NUDGES_S", ())
    monkeypatch.setattr(heal, "PATIENCE_S", (3600.0,))
    monkeypatch.setattr(heal, "HOLD_S", 3600.0)


@pytest.fixture
def rpc_to() -> type[Rpc]:
    """Bare JSON-RPC connections."""
    return Rpc


@pytest.fixture
async def client(nb: Ovsdb) -> AsyncIterator[Client]:
    """A sender, connected to a programmer of the managed topology."""
    async with programmer(nb) as one:
        yield one
