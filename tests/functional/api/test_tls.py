"""mTLS of the api process: towards ovn-programmer and towards its callers, over a change of all certificates."""

import asyncio
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from veg.api.v1 import api_pb2, api_pb2_grpc
from veg_common import server
from veg_common.server import TlsFiles

from tests.functional.api.conftest import CLUSTER, FakeProgrammer, Lab, gateway
from tests.functional.common.test_server import certificates, take_over


def flags(tls: TlsFiles) -> list[str]:
    """The flags that name certificates."""
    return ["--tls-cert", str(tls.certificate), "--tls-key", str(tls.key), "--tls-ca", str(tls.authority)]


async def check(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `veg-api check`."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "veg_api", "check", "--timeout", "3", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
async def secured(
    tmp_path: Path, unused_tcp_port_factory: object
) -> AsyncIterator[tuple[Lab, dict[str, TlsFiles]]]:
    """An api and a programmer with certificates of one authority, and the files of another."""
    assert callable(unused_tcp_port_factory)
    tls = certificates(tmp_path, "ours", "next", "theirs")
    lab = Lab(tmp_path)
    lab.programmer = FakeProgrammer(f"localhost:{unused_tcp_port_factory()}", tls["ours"])
    lab.listen = f"localhost:{unused_tcp_port_factory()}"
    lab.metrics = f"127.0.0.1:{unused_tcp_port_factory()}"
    lab.flags = (*flags(tls["ours"]), "--metrics", lab.metrics)
    await lab.apply(CLUSTER)
    await lab.programmer.start()
    lab.start_api()
    kubelet = asyncio.create_task(lab.kubelet())
    yield lab, tls
    kubelet.cancel()
    await asyncio.gather(kubelet, return_exceptions=True)
    lab.stop_api()
    await lab.programmer.stop()


async def test_only_the_authoritys_clients_get_through(secured: tuple[Lab, dict[str, TlsFiles]]) -> None:
    """A gateway is programmed over mTLS; who has no certificate, or a stranger's, gets no call through."""
    lab, tls = secured
    await lab.apply(gateway())
    await lab.ready()
    assert await check("--target", lab.listen, *flags(tls["ours"])) == (0, f"{lab.listen}: SERVING\n")
    url = f"http://{lab.metrics}/readyz"
    answer = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read())
    assert answer == b"ok\n"
    mixed = TlsFiles(tls["theirs"].certificate, tls["theirs"].key, tls["ours"].authority)
    for stranger in (mixed, None):
        async with server.channel(lab.listen, stranger) as channel:
            stub = api_pb2_grpc.EgressGatewayServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ListGateways(api_pb2.ListGatewaysRequest(), timeout=3)
    code, said = await check("--target", lab.listen)
    assert (code, "UNAVAILABLE" in said, said.count("\n")) == (1, True, 1)
    code, said = await check("--target", lab.listen, "--tls-cert", str(tls["ours"].certificate))
    assert (code, "given together" in said) == (2, True)


async def test_certificates_are_rotated_under_a_running_api(secured: tuple[Lab, dict[str, TlsFiles]]) -> None:
    """New certificates of a new authority in the old ones' place: both services take them up without a restart."""
    lab, tls = secured
    await lab.apply(gateway())
    await lab.ready()
    take_over(tls["ours"], tls["next"])
    assert (await check("--target", lab.listen, *flags(tls["next"])))[0] == 0
    # The connection in use lives on; the next one, after ovn-programmer's return, has to be made with the new ones.
    await lab.programmer.stop()
    await lab.programmer.start()
    await lab.apply(gateway(replicas=2))
    await lab.ready()
    assert lab.process is not None
    lab.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(lab.process.wait, 10) == 0
