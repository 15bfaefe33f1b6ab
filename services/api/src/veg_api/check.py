"""`veg-api check`: the standard gRPC health question, for people and for `helm test`."""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from veg_common import server
from veg_common.tls import TlsFiles


async def ask(target: str, service: str, timeout_s: float, tls: TlsFiles | None) -> str:
    """What keeps a service from serving, in one line; "" if it serves."""
    async with server.channel(target, tls) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    found: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return "" if found == "SERVING" else found
