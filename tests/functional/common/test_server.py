"""The gRPC bootstrap on real sockets."""

import asyncio
import subprocess
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from veg_common import metrics
from veg_common.server import TlsFiles, channel, start_server


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


async def test_metrics_are_served_and_end(unused_tcp_port: int) -> None:
    """Metrics answer over HTTP while the block runs, and the port is free after it."""
    url = f"http://127.0.0.1:{unused_tcp_port}/metrics"
    for _ in range(2):
        with metrics.serving(f"127.0.0.1:{unused_tcp_port}"):
            body = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read())
        assert b"process_cpu_seconds_total" in body
    with metrics.serving(""):
        pass
