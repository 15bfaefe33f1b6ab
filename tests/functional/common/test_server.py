"""The gRPC bootstrap on real sockets."""

import asyncio
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from veg_common import metrics
from veg_common.server import Dialer, TlsFiles, channel, start_server
from veg_common.tls import TlsError, tls_files


async def healthy(connection: grpc.aio.Channel) -> bool:
    stub = health_pb2_grpc.HealthStub(connection)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_health_and_reflection_on_a_unix_socket(tmp_path: Path) -> None:
    """Health answers and reflection lists the service, also over a socket file that a killed process left."""
    (tmp_path / "s").touch()
    server = await start_server(f"unix:{tmp_path}/s", lambda _: None, ["veg.x.v1.X"])
    async with channel(f"unix:{tmp_path}/s") as connection:
        assert await healthy(connection)
        stub = reflection_pb2_grpc.ServerReflectionStub(connection)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]), timeout=5)
        names = [s.name async for answer in call for s in answer.list_services_response.service]
    await server.stop(0)
    assert "veg.x.v1.X" in names


async def test_a_channel_outlives_its_server(tmp_path: Path) -> None:
    """A client needs no new channel when its server returns."""
    target = f"unix:{tmp_path}/s"
    async with channel(target) as connection:
        for _ in range(2):
            server = await start_server(target, lambda _: None, [])
            assert await healthy(connection)
            await server.stop(0)


def certificates(folder: Path, *names: str) -> dict[str, TlsFiles]:
    """One authority for each name, and a certificate for localhost signed by it."""
    made = {}
    for name in names:
        ca, key, csr, crt = (folder / f"{name}.{suffix}" for suffix in ("ca", "key", "csr", "crt"))
        base = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
        sign = ["openssl", "x509", "-req", "-days", "1", "-CAcreateserial"]
        extension = folder / "extension"
        extension.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
        for command in (
            [*base, "-x509", "-days", "1", "-keyout", f"{ca}.key", "-out", ca],
            [*base, "-keyout", key, "-out", csr],
            [*sign, "-in", csr, "-CA", ca, "-CAkey", f"{ca}.key", "-extfile", extension, "-out", crt],
        ):
            subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=30)
        made[name] = TlsFiles(certificate=crt, key=key, authority=ca)
    return made


async def test_mutual_tls_refuses_strangers(tmp_path: Path, unused_tcp_port: int) -> None:
    """A client of the same authority gets through; one of another authority or without TLS does not."""
    tls = certificates(tmp_path, "ours", "theirs")
    address = f"127.0.0.1:{unused_tcp_port}"
    server = await start_server(address, lambda _: None, [], tls["ours"])
    async with channel(f"localhost:{unused_tcp_port}", tls["ours"]) as connection:
        assert await healthy(connection)
    mixed = TlsFiles(tls["theirs"].certificate, tls["theirs"].key, tls["ours"].authority)
    for stranger in (channel(address, mixed), channel(address)):
        async with stranger as connection:
            with pytest.raises(grpc.aio.AioRpcError):
                await health_pb2_grpc.HealthStub(connection).Check(health_pb2.HealthCheckRequest(), timeout=3)
    await server.stop(0)


def take_over(old: TlsFiles, new: TlsFiles) -> None:
    """Put other certificates in the place of some, one file after the other."""
    for before, after in (
        (old.certificate, new.certificate),
        (old.key, new.key),
        (old.authority, new.authority),
    ):
        assert before is not None
        assert after is not None
        before.write_bytes(after.read_bytes())


async def test_new_certificates_are_taken_up(tmp_path: Path, unused_tcp_port: int) -> None:
    """When both ends get certificates of another authority, neither needs a restart, and streams in progress go on."""
    tls = certificates(tmp_path, "server", "client", "new")
    shared = tls["server"].authority
    assert shared is not None
    client = TlsFiles(tls["client"].certificate, tls["client"].key, tls["client"].authority)
    take_over(client, tls["server"])
    server = await start_server(f"127.0.0.1:{unused_tcp_port}", lambda _: None, [], tls["server"])
    dialer = Dialer(f"localhost:{unused_tcp_port}", client)
    old = dialer.channel()
    watch = health_pb2_grpc.HealthStub(old).Watch(health_pb2.HealthCheckRequest(), timeout=30)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    assert dialer.channel() is old

    (tmp_path / "server.crt").write_text("half a certificate")
    async with channel(f"localhost:{unused_tcp_port}", client) as connection:
        assert await healthy(connection)
    take_over(tls["server"], tls["new"])
    async with channel(f"localhost:{unused_tcp_port}", client) as connection:
        with pytest.raises(grpc.aio.AioRpcError):
            await health_pb2_grpc.HealthStub(connection).Check(health_pb2.HealthCheckRequest(), timeout=3)
    take_over(client, tls["new"])
    assert dialer.channel() is not old
    assert await healthy(dialer.channel())
    assert await healthy(old)
    watch.cancel()
    await dialer.close()
    await server.stop(0)


def test_unusable_certificates_are_named(tmp_path: Path) -> None:
    """A missing file, and a key that does not belong to its certificate, are told in one line."""
    tls = certificates(tmp_path, "one", "two")
    for files in (
        TlsFiles(tmp_path / "missing", tls["one"].key),
        TlsFiles(tls["one"].certificate, tls["two"].key),
    ):
        with pytest.raises(TlsError, match=files.certificate.name):
            tls_files(files.certificate, files.key, None)
    with pytest.raises(TlsError, match="together"):
        tls_files(tls["one"].certificate, None, None)


async def test_health_is_told_over_http(unused_tcp_port: int) -> None:
    """A probe hears 200, or 503 and why."""
    told = {"ready": "not in sync"}
    base = f"http://127.0.0.1:{unused_tcp_port}"

    def ask(path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"{base}{path}", timeout=5) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    with metrics.serving(f"127.0.0.1:{unused_tcp_port}", ready=lambda: told["ready"]):
        assert await asyncio.to_thread(ask, "/healthz") == (200, b"ok\n")
        assert await asyncio.to_thread(ask, "/readyz") == (503, b"not in sync\n")
        told["ready"] = ""
        assert await asyncio.to_thread(ask, "/readyz") == (200, b"ok\n")


async def test_metrics_are_served_and_end(unused_tcp_port: int) -> None:
    """Metrics answer over HTTP while the block runs, and the port is free after it."""
    url = f"http://127.0.0.1:{unused_tcp_port}/metrics"
    for _ in range(2):
        with metrics.serving(f"127.0.0.1:{unused_tcp_port}"):
            body = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read())
        assert b"process_cpu_seconds_total" in body
    with metrics.serving(""):
        pass


async def test_an_address_for_reading_only(tmp_path: Path) -> None:
    """What changes something is refused there by name; what reads, health and reflection are answered."""

    async def echo(request: bytes, _context: object) -> bytes:
        return request

    def add(server: grpc.aio.Server) -> None:
        handler: Any = grpc.unary_unary_rpc_method_handler(echo)
        methods = {"GetThing": handler, "SetThing": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Things", methods),))

    address = f"unix:{tmp_path}/read.sock"
    server = await start_server(address, add, [], read_only=True)
    async with channel(address) as connection:
        assert await healthy(connection)
        calls: Any = connection
        assert await calls.unary_unary("/test.Things/GetThing")(b"x", timeout=5) == b"x"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await calls.unary_unary("/test.Things/SetThing")(b"x", timeout=5)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert refused.value.details() == "SetThing: this address is for reading only"
    await server.stop(0)
