"""EgressGatewayService: what people and tools ask of a running api."""

import asyncio

import grpc
import pytest
from veg.api.v1 import api_pb2 as pb
from veg.types.v1 import types_pb2

from tests.functional.api.conftest import Lab, gateway

KEY = types_pb2.ObjectKey(namespace="default", name="gateway1")


async def test_get_and_list(lab: Lab) -> None:
    """Defaults are filled in, the status is the resource's; an unknown name is NOT_FOUND."""
    await lab.apply(gateway())
    status = await lab.ready()
    async with lab.stub() as stub:

        async def shown() -> pb.Gateway | None:
            answer = await stub.GetGateway(pb.GetGatewayRequest(key=KEY))
            return answer.gateway if answer.gateway.status.ready else None

        found = await lab.until(shown)
        assert found.spec.internal_subnet == "ovn-default"
        assert (found.spec.replicas, found.spec.bfd.multiplier) == (1, 3)
        assert list(found.status.external_ips) == status["externalIPs"]
        assert {c.type: c.status for c in found.status.conditions}["Ready"] == "True"
        listed = await stub.ListGateways(pb.ListGatewaysRequest())
        assert [g.key.name for g in listed.gateways] == ["gateway1"]
        assert not (await stub.ListGateways(pb.ListGatewaysRequest(namespace="other"))).gateways
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.GetGateway(pb.GetGatewayRequest(key=types_pb2.ObjectKey(name="nope")))
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        assert "default/nope" in (error.value.details() or "")


async def test_watch(lab: Lab) -> None:
    """ADDED for what is there, SYNCED, then every change to the end."""
    await lab.apply(gateway())
    await lab.ready()
    async with lab.stub() as stub:
        call = stub.WatchGateways(pb.WatchGatewaysRequest())
        first = await asyncio.wait_for(call.read(), 5)
        second = await asyncio.wait_for(call.read(), 5)
        assert first.type == pb.WATCH_EVENT_TYPE_ADDED
        assert first.gateway.key == KEY
        assert second.type == pb.WATCH_EVENT_TYPE_SYNCED
        await lab.apply(gateway(replicas=2))
        while True:
            event = await asyncio.wait_for(call.read(), 10)
            assert event.type == pb.WATCH_EVENT_TYPE_MODIFIED
            if event.gateway.status.ready and len(event.gateway.status.external_ips) == 2:
                break
        from veg_common.objects import Ref

        await lab.store.delete(Ref("VpcEgressGateway", "default", "gateway1"))
        while event.type != pb.WATCH_EVENT_TYPE_DELETED:
            event = await asyncio.wait_for(call.read(), 10)
        call.cancel()


async def test_validate(lab: Lab) -> None:
    """All problems of a manifest against the present state; what is no gateway at all is INVALID_ARGUMENT."""
    async with lab.stub() as stub:

        async def known() -> bool:
            answer = await stub.ValidateGateway(pb.ValidateGatewayRequest(manifest=gateway()))
            return bool(answer.valid)

        await lab.until(known)
        manifest = gateway(vpc="nope", replicas="two", policies=[{"ipBlocks": ["10.200.0.0/24"]}])
        answer = await stub.ValidateGateway(pb.ValidateGatewayRequest(manifest=manifest))
        assert not answer.valid
        assert {"spec.vpc", "spec.replicas"} <= {p.field for p in answer.problems}
        for text, word in (
            ("a: [", "malformed"),
            ("", "nothing"),
            ("kind: Vpc\napiVersion: kubeovn.io/v1\nmetadata: {name: a}", "Vpc"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.ValidateGateway(pb.ValidateGatewayRequest(manifest=text))
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert word in (error.value.details() or "")
    assert await lab.store.list("VpcEgressGateway") == []


async def test_plan(lab: Lab) -> None:
    """Objects and rows that a manifest would change; nothing for what is there; nothing is written."""
    async with lab.stub() as stub:

        async def planned() -> pb.PlanGatewayResponse | None:
            answer = await stub.PlanGateway(pb.PlanGatewayRequest(manifest=gateway()))
            return answer if answer.operations else None

        answer = await lab.until(planned)
        kinds = [operation.kind for operation in answer.operations]
        assert kinds == ["VpcEgressGateway", "IP", "IP", "ConfigMap", "Deployment", "Row"]
        assert await lab.store.list("Deployment") == []
        await lab.apply(gateway())
        await lab.ready()

        async def settled() -> bool:
            answer = await stub.PlanGateway(pb.PlanGatewayRequest(key=KEY))
            return not answer.operations and not answer.problems

        await lab.until(settled)
        changed = gateway(policies=[{"ipBlocks": ["10.16.1.0/24"]}])
        answer = await stub.PlanGateway(pb.PlanGatewayRequest(manifest=changed))
        assert [operation.kind for operation in answer.operations] == ["ConfigMap", "Pod", "Row"]
        await lab.programmer.stop()
        answer = await stub.PlanGateway(pb.PlanGatewayRequest(manifest=changed))
        assert [p.warning for p in answer.problems] == [True]
        await lab.programmer.start()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.PlanGateway(pb.PlanGatewayRequest(key=types_pb2.ObjectKey(name="nope")))
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.PlanGateway(pb.PlanGatewayRequest())
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
