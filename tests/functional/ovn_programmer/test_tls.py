"""Who may call: only those with a certificate of the authority; and what kubelet is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from veg.programmer.v1 import programmer_pb2 as pb
from veg.programmer.v1 import programmer_pb2_grpc as pb_grpc
from veg_common.server import channel
from veg_common.tls import TlsFiles
from veg_ovn_programmer.__main__ import cli

from tests.functional.ovn_programmer.certificates import Authority, Files

# A process needs a second to start, on a machine that has nothing else to do.
START_S = 60
BINARY = str(Path(sys.executable).with_name("veg-ovn-programmer"))


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def flags(files: Files) -> list[str]:
    return [f"--tls-cert={files.certificate}", f"--tls-key={files.key}", f"--tls-ca={files.authority}"]


def tls(files: Files) -> TlsFiles:
    return TlsFiles(files.certificate, files.key, files.authority)


@contextlib.asynccontextmanager
async def served(nb: Any, *more: str) -> AsyncIterator[str]:
    """The console script on a TCP port; its address."""
    listen = free_address()
    argv = [BINARY, "run", f"--nb={nb.remote}", f"--listen={listen}", "--topology=managed", *more]
    one = subprocess.Popen(argv)  # noqa: ASYNC220  # it returns at once
    try:
        yield listen
    finally:
        one.kill()
        one.wait(5)


@contextlib.asynccontextmanager
async def stranger(address: str, authority: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A client that trusts the server and shows no certificate."""
    credentials = grpc.ssl_channel_credentials(authority.read_bytes())
    async with grpc.aio.secure_channel(address, credentials) as opened:
        yield opened


async def connected(stub: Any) -> None:
    deadline = asyncio.get_running_loop().time() + START_S
    while not (await stub.List(pb.ListRequest(), wait_for_ready=True, timeout=START_S)).connected:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def refused(call: Any) -> None:
    """The connection does not come about."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_only_with_a_certificate(nb: Any, make: Any) -> None:
    """With a certificate of the authority every call works; without one, or with another's, none: not even health."""
    authority, other = Authority.make(nb.folder / "pki"), Authority.make(nb.folder / "other")
    server, client = authority.issue("server"), authority.issue("client")
    foreign = other.issue("client")
    wanted = pb.ApplyRequest(session="s", intents=[make.vpc("vpc1")])
    async with served(nb, *flags(server)) as address:
        async with channel(address, tls(client)) as opened:
            stub = pb_grpc.ProgrammerServiceStub(opened)
            await connected(stub)
            health = health_pb2_grpc.HealthStub(opened)
            reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
            asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
            reflected = reflection_pb2_grpc.ServerReflectionStub(opened).ServerReflectionInfo(
                iter(asked), timeout=5
            )
            names = [one.name async for answer in reflected for one in answer.list_services_response.service]
            assert "veg.programmer.v1.ProgrammerService" in names
            (outcome,) = (await stub.Apply(wanted, timeout=20)).outcomes
            assert outcome.state == pb.OUTCOME_STATE_COMMITTED
        posing = Files(foreign.key, foreign.certificate, server.authority)
        async with (
            stranger(address, server.authority) as nameless,
            channel(address, tls(posing)) as posed,
            grpc.aio.insecure_channel(address) as plain,
        ):
            for opened in (nameless, posed, plain):
                stub = pb_grpc.ProgrammerServiceStub(opened)
                key = pb.IntentKey(kind=pb.INTENT_KIND_VPC, name="vpc1")
                await refused(stub.Delete(pb.DeleteRequest(session="s", keys=[key]), timeout=20))
                await refused(stub.Apply(wanted, timeout=20))
                await refused(stub.Resync(pb.ResyncRequest(session="s"), timeout=20))
                await refused(stub.ResetSessions(pb.ResetSessionsRequest(), timeout=20))
                health = health_pb2_grpc.HealthStub(opened)
                await refused(health.Check(health_pb2.HealthCheckRequest(), timeout=20))
        assert "vpc1" in nb.nbctl("lr-list")


async def test_certificates_rotate(nb: Any, make: Any) -> None:
    """A new authority in the files is what the next client must have; the process goes on."""
    first, second = Authority.make(nb.folder / "first"), Authority.make(nb.folder / "second")
    server, old = first.issue("server"), first.issue("client")
    async with served(nb, *flags(server)) as address:
        async with channel(address, tls(old)) as opened:
            await connected(pb_grpc.ProgrammerServiceStub(opened))
            renewed, new = second.issue("server"), second.issue("client")
            for path, content in ((server.key, renewed.key), (server.certificate, renewed.certificate)):
                path.write_bytes(content.read_bytes())
            authority = server.authority.read_bytes()
            server.authority.write_bytes(renewed.authority.read_bytes())
            async with channel(address, tls(new)) as later:
                await connected(pb_grpc.ProgrammerServiceStub(later))
            # Who is connected stays so.
            await connected(pb_grpc.ProgrammerServiceStub(opened))
        stale = nb.folder / "stale.crt"
        stale.write_bytes(authority)
        async with channel(address, TlsFiles(old.certificate, old.key, stale)) as late:
            await refused(pb_grpc.ProgrammerServiceStub(late).List(pb.ListRequest(), timeout=20))


async def test_probes(nb: Any, wait: Any) -> None:
    """/healthz answers as long as the process lives; /readyz says why the database can not be used."""
    metrics = free_address()

    def ask(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{metrics}{path}", timeout=20) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except urllib.error.URLError:
            return 0, ""

    async with served(nb, f"--metrics-listen={metrics}"):
        await wait(lambda: ask("/readyz") == (200, "ok\n"), START_S)
        nb.kill()
        await wait(lambda: ask("/readyz")[0] == 503)
        await wait(lambda: f"{nb.remote}: " in ask("/readyz")[1])
        assert ask("/healthz") == (200, "ok\n")
        nb.start()
        await wait(lambda: ask("/readyz") == (200, "ok\n"))


def test_bad_settings(nb: Any) -> None:
    """Exit code 2 and one line that names the flag, for each kind of mistake."""
    authority = Authority.make(nb.folder / "pki")
    one, two = authority.issue("one"), authority.issue("two")
    listen = ["--listen", "127.0.0.1:1"]
    ssl_nb = ["--nb", "ssl:10.0.0.1:6641,ssl:10.0.0.2:6641", *listen]
    mixed = [f"--ovsdb-key={one.key}", f"--ovsdb-cert={two.certificate}", f"--ovsdb-ca={one.authority}"]
    cases = (
        (["--nb", "tcp:10.0.0.1:6641,udp:10.0.0.2:6641", *listen], "--nb: 'udp:10.0.0.2:6641' is not"),
        (["--nb", "tcp:10.0.0.1:70000", *listen], "--nb: 'tcp:10.0.0.1:70000' is not"),
        (["--nb", "", *listen], "--nb: '' is not"),
        (ssl_nb, "--nb: ssl: needs --ovsdb-key, --ovsdb-cert and --ovsdb-ca"),
        ([*ssl_nb, mixed[0]], "all three or none"),
        ([*ssl_nb, *mixed], "KEY_VALUES_MISMATCH"),
        ([*ssl_nb, *mixed[:2], f"--ovsdb-ca={one.key}"], "--ovsdb-ca"),
        ([*ssl_nb, *mixed[:2], "--ovsdb-ca=/nowhere"], "/nowhere"),
        (["--nb", nb.remote, *listen, *flags(one)[:2]], "--tls-cert: needs --tls-ca"),
        (["--nb", nb.remote, *listen, flags(one)[0]], "--tls-cert and --tls-key must be given together"),
        (["--nb", nb.remote, "--sb", "nonsense", *listen], "--sb: 'nonsense' is not"),
    )
    for words, message in cases:
        done = CliRunner().invoke(cli, ["run", *words])
        assert done.exit_code == 2, words
        assert message in " ".join(done.stderr.split()), done.stderr
        assert done.stderr.count("\n") == 1 or "/nowhere" in message
