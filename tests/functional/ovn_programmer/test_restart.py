"""The process dies at the worst moments, and is asked for more than it should do."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
import pytest
from veg.programmer.v1 import programmer_pb2 as pb
from veg.programmer.v1 import programmer_pb2_grpc as pb_grpc

from tests.functional.ovn_programmer.test_outages import process

REPLICAS = [f"192.168.0.{n}" for n in range(2, 6)]


@pytest.mark.parametrize("resumed", ["before", "after"])
async def test_killed_between_receipt_and_commit(
    nb: Any, make: Any, sender: Any, wait: Any, resumed: str
) -> None:
    """kill -9 with transactions sent and not answered: whether they count or not, the next process ends in the same."""
    gateways = [make.gateway(f"g{n}", "vpc1", [f"10.{n}.0.0/16"], REPLICAS) for n in range(20)]
    async with process(nb) as (one, listen), sender(listen) as client:
        await client.commit(make.vpc("vpc1"))
        nb.process.send_signal(signal.SIGSTOP)
        try:
            outcomes = await client.apply(*gateways)
            assert {outcome.reason for outcome in outcomes} == {"NorthboundUnavailable"}
            one.kill()
            one.wait(5)
        finally:
            if resumed == "before":
                nb.process.send_signal(signal.SIGCONT)
    try:
        async with process(nb) as (_, listen):
            if resumed == "after":
                # The successor waits at the door when the server finds the transaction of the dead.
                await asyncio.sleep(0.5)
                nb.process.send_signal(signal.SIGCONT)
            async with sender(listen) as client:
                client.session = "two"
                await client.commit(make.vpc("vpc1"), *gateways)
                assert await client.resync() == []
                expected = sorted(
                    f"10.{n}.0.0/16 {replica} src-ip ecmp ecmp-symmetric-reply"
                    for n in range(20)
                    for replica in REPLICAS
                )
                await wait(lambda: sorted(nb.routes("vpc1")) == expected, 5)
                assert await client.plan(*gateways) == []
    finally:
        nb.process.send_signal(signal.SIGCONT)


async def test_too_much(nb: Any, client: Any, make: Any) -> None:
    """Too large a message, too many keys, too many prefixes: refused by name, and everything else goes on."""
    await client.commit(make.vpc("vpc1"))
    many = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(4097)]
    wide, fans = await client.apply(
        make.gateway("wide", "vpc1", many, REPLICAS),
        make.gateway("fans", "vpc1", ["10.1.0.0/16"], [f"10.9.0.{n}" for n in range(1, 66)]),
    )
    assert (wide.reason, fans.reason) == ("TooLarge", "TooLarge")
    assert "families[IPv4].sources: 4097 entries, 4096 at most" in wide.message
    keys = [pb.IntentKey(kind=pb.INTENT_KIND_GATEWAY, name=f"default/{n}") for n in range(20_001)]
    for call in (
        client.stub.Delete(pb.DeleteRequest(session="one", keys=keys)),
        client.stub.Plan(pb.PlanRequest(deletes=keys)),
        client.stub.Apply(pb.ApplyRequest(session="one", intents=[make.vpc("vpc1")] * 20_001)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"unix:{nb.folder / 'programmer.sock'}", options=options) as opened:
        stub = pb_grpc.ProgrammerServiceStub(opened)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Resync(pb.ResyncRequest(session="x" * (65 << 20)), timeout=20)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    await client.commit(make.gateway("a", "vpc1", ["10.1.0.0/16"], REPLICAS))
    assert len(nb.routes("vpc1")) == len(REPLICAS)
