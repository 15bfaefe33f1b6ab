"""The Northbound server or the programmer dies and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from veg.programmer.v1 import programmer_pb2 as pb

BINARY = str(Path(sys.executable).with_name("veg-ovn-programmer"))


async def test_database_comes_later(nb: Any, start: Any, make: Any, wait: Any) -> None:
    """Without a database every call answers soon; the intents are applied by themselves when it is there."""
    nb.kill()
    nb.file.unlink()
    nb.socket.unlink(missing_ok=True)
    async with start(nb) as client:
        began = time.monotonic()
        (outcome,) = await client.apply(make.vpc("vpc1"))
        assert time.monotonic() - began < 4
        assert (outcome.state, outcome.reason) == (pb.OUTCOME_STATE_WAITING, "NorthboundUnavailable")
        with pytest.raises(Exception, match="UNAVAILABLE"):
            await client.resync()
        with pytest.raises(Exception, match="UNAVAILABLE"):
            await client.plan(make.vpc("vpc1"))
        nb.start()
        await wait(lambda: "vpc1" in nb.nbctl("lr-list"))
        await client.until_connected()
        await wait(lambda: client.events[-1].outcome.state == pb.OUTCOME_STATE_COMMITTED)


async def test_server_killed_and_restarted(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """What came during the outage is done after it, deletes too; what was there is neither doubled nor lost."""
    await client.commit(
        make.vpc("vpc1"),
        make.gateway("a", "vpc1", ["10.1.0.0/24"], ["192.168.0.2"]),
        make.gateway("b", "vpc1", ["10.2.0.0/24"], ["192.168.0.2"]),
    )
    await client.resync()
    nb.kill()
    began = time.monotonic()
    (changed,), (removed,) = await asyncio.gather(
        client.apply(make.gateway("a", "vpc1", ["10.3.0.0/24"], ["192.168.0.2"], generation=2)),
        client.delete(pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name="default/b")),
    )
    assert time.monotonic() - began < 4
    assert (changed.reason, removed.reason) == ("NorthboundUnavailable", "NorthboundUnavailable")
    nb.start()
    await wait(lambda: nb.routes("vpc1") == ["10.3.0.0/24 192.168.0.2 src-ip ecmp-symmetric-reply"])
    await client.commit(make.gateway("c", "vpc1", ["10.4.0.0/24"], ["192.168.0.2"]))
    assert set(await client.outcomes()) == {"vpc1", "default/a", "default/c"}


async def test_database_comes_back_empty(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """A database restored from nothing is filled again."""
    await client.commit(make.vpc("vpc1"), make.gateway("a", "vpc1", ["10.1.0.0/24"], ["192.168.0.2"]))
    nb.kill()
    nb.file.unlink()
    nb.start()
    await wait(lambda: "vpc1" in nb.nbctl("lr-list") and nb.routes("vpc1"))


async def test_server_that_hangs(nb: Any, client: Any, make: Any, wait: Any) -> None:
    """A stopped server: the caller is not kept for long, and the change arrives when it goes on."""
    await client.commit(make.vpc("vpc1"))
    nb.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        (outcome,) = await client.apply(make.gateway("a", "vpc1", ["10.1.0.0/24"], ["192.168.0.2"]))
        assert time.monotonic() - began < 4
        assert outcome.reason == "NorthboundUnavailable"
    finally:
        nb.process.send_signal(signal.SIGCONT)
    await wait(lambda: nb.routes("vpc1"))
    await wait(lambda: client.events[-1].outcome.state == pb.OUTCOME_STATE_COMMITTED)


@contextlib.asynccontextmanager
async def process(nb: Any, *flags: str) -> AsyncIterator[tuple[subprocess.Popen[bytes], str]]:
    """The console script, killed at the end."""
    listen = f"unix:{nb.folder / 'process.sock'}"
    one = subprocess.Popen(  # noqa: ASYNC220  # it returns at once
        [BINARY, "run", f"--nb={nb.remote}", f"--listen={listen}", "--topology=managed", *flags]
    )
    try:
        yield one, listen
    finally:
        one.kill()
        one.wait(20)


async def test_killed_in_the_middle(nb: Any, make: Any, sender: Any, wait: Any) -> None:
    """kill -9 while changes are under way leaves only whole changes; the next process converges and leaves nothing."""
    replicas = [f"192.168.0.{n}" for n in range(2, 12)]
    async with process(nb) as (one, listen), sender(listen) as client:
        await client.commit(make.vpc("vpc1"))
        calls = [
            asyncio.create_task(client.apply(make.gateway(f"g{n}", "vpc1", [f"10.{n}.0.0/16"], replicas)))
            for n in range(60)
        ]
        await wait(lambda: nb.routes("vpc1"))
        one.kill()
        await asyncio.gather(*calls, return_exceptions=True)
    routes = nb.routes("vpc1")
    prefixes = {route.split()[0] for route in routes}
    assert len(routes) == len(prefixes) * len(replicas)
    async with process(nb) as (one, listen), sender(listen) as client:
        client.session = "two"
        await client.commit(
            make.vpc("vpc1"), *(make.gateway(f"g{n}", "vpc1", [f"10.{n}.0.0/16"], replicas) for n in range(3))
        )
        await client.resync()
        assert {route.split()[0] for route in nb.routes("vpc1")} == {f"10.{n}.0.0/16" for n in range(3)}
        assert len(nb.routes("vpc1")) == 30
        one.terminate()
        assert one.wait(20) == 0


async def test_flags(nb: Any) -> None:
    """A wrong flag is exit code 2 and one line; metrics are served where asked for."""
    for flags in (
        ["--nb", "nonsense", "--listen", "x"],
        ["--nb", "unix:/x"],
        ["--nb", "ssl:1.2.3.4:6641", "--listen", "x"],
    ):
        done = await asyncio.to_thread(
            subprocess.run, [BINARY, "run", *flags], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 2
        assert "Error: " in done.stderr


async def test_metrics(nb: Any, make: Any, sender: Any) -> None:
    """Commits and repairs are counted where Prometheus can read them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    async with process(nb, f"--metrics-listen={address}") as (_, listen), sender(listen) as client:
        await client.commit(make.vpc("vpc1"))
        reply = await asyncio.to_thread(urllib.request.urlopen, f"http://{address}/metrics", timeout=5)
        with reply:
            text = reply.read().decode()
    assert 'veg_programmer_commits_total{result="done"} 1.0' in text
    assert 'veg_programmer_operations_total{action="create"} 1.0' in text
    assert "veg_programmer_northbound_connected 1.0" in text


async def test_stops_beside_a_hanging_server(nb: Any, make: Any, sender: Any) -> None:
    """SIGTERM ends the process in bounded time, also with a transaction under way that nobody answers."""
    async with process(nb) as (one, listen), sender(listen) as client:
        nb.process.send_signal(signal.SIGSTOP)
        try:
            (outcome,) = await client.apply(make.vpc("vpc1"))
            assert outcome.reason == "NorthboundUnavailable"
            one.terminate()
            assert await asyncio.to_thread(one.wait, 20) == 0
        finally:
            nb.process.send_signal(signal.SIGCONT)
