"""gRPC bootstrap: one way to listen and one way to connect, with health, reflection and optional mTLS.

Addresses are gRPC's own: `unix:/path/to.sock` or `host:port`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from veg_common.tls import Certificates, Pems, TlsFiles, channel_credentials, server_credentials

__all__ = ["Dialer", "TlsFiles", "channel", "start_server"]

# A silent peer (a paused process, a dead node) is noticed within half a minute.
_KEEPALIVE = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # A whole picture of ten thousand objects goes in one message.
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)
# A neighbour that restarts is back within a second or two; the default backoff grows to two minutes.
_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
# What methods that change nothing are called: of ours, of health and of reflection.
_READING = ("Get", "List", "Watch", "Plan", "Validate", "Check", "ServerReflectionInfo")


class _ReadOnly(grpc.aio.ServerInterceptor):
    """Lets calls through that only read."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """See grpc.aio.ServerInterceptor."""
        method = handler_call_details.method.rpartition("/")[2]
        if method.startswith(_READING):
            return await continuation(handler_call_details)

        async def refuse(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"{method}: this address is for reading only"
            )

        return grpc.unary_unary_rpc_method_handler(refuse)


async def start_server(
    listen: str,
    add: Callable[[grpc.aio.Server], None],
    service_names: Sequence[str],
    tls: TlsFiles | None = None,
    *,
    read_only: bool = False,
) -> grpc.aio.Server:
    """Start a server on `listen` with the services that `add` registers, health and reflection.

    `read_only`: calls that may change something are refused (PERMISSION_DENIED). A stale unix socket of a killed predecessor is replaced; its folder must exist. Raises OSError or RuntimeError
    when the address can not be bound, TlsError for unusable certificates. With `tls`, clients must present a
    certificate of the authority if there is one; new connections get what the files hold then.
    """
    server = grpc.aio.server(options=_KEEPALIVE, interceptors=[_ReadOnly()] if read_only else [])
    add(server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", *service_names):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    if listen.startswith("unix:"):
        Path(listen.removeprefix("unix:")).unlink(missing_ok=True)
    if tls is None:
        server.add_insecure_port(listen)
    else:
        server.add_secure_port(listen, server_credentials(tls))
    await server.start()
    return server


def channel(target: str, tls: TlsFiles | None = None) -> grpc.aio.Channel:
    """A channel that reconnects within about a second of its peer's return.

    It keeps the certificates that it began with: who lives longer than them uses a `Dialer`. Raises TlsError.
    """
    return Dialer(target, tls).channel()


class Dialer:
    """Channels to one target that follow the certificates' files: `channel` gives a new one when they have changed.

    What runs on the old one goes on: its connection is not affected by new certificates.
    """

    def __init__(self, target: str, tls: TlsFiles | None = None) -> None:
        self._target = target
        self._certificates = Certificates(tls) if tls is not None else None
        self._pems: Pems | None = None
        self._channels: list[grpc.aio.Channel] = []
        self._closing: set[asyncio.Task[None]] = set()

    def channel(self) -> grpc.aio.Channel:
        """The channel for the next call."""
        pems = self._certificates.current() if self._certificates is not None else None
        if not self._channels or pems is not self._pems:
            self._pems = pems
            self._channels.append(self._open(pems))
            if len(self._channels) > 2:
                closing = asyncio.ensure_future(self._channels.pop(0).close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        return self._channels[-1]

    async def close(self) -> None:
        """Close all channels."""
        channels, self._channels = self._channels, []
        await asyncio.gather(*(one.close() for one in channels), *self._closing)

    def _open(self, pems: Pems | None) -> grpc.aio.Channel:
        options = (*_KEEPALIVE, *_RECONNECT)
        if pems is None:
            return grpc.aio.insecure_channel(self._target, options=options)
        return grpc.aio.secure_channel(self._target, channel_credentials(pems), options=options)
