"""gRPC bootstrap: one way to listen and one way to connect, with health, reflection and optional mTLS.

Addresses are gRPC's own: `unix:/path/to.sock` or `host:port`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

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


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one end of a mutual TLS connection."""

    certificate: Path
    key: Path
    authority: Path


async def start_server(
    listen: str,
    add: Callable[[grpc.aio.Server], None],
    service_names: Sequence[str],
    tls: TlsFiles | None = None,
) -> grpc.aio.Server:
    """Start a server on `listen` with the services that `add` registers, health and reflection.

    A stale unix socket of a killed predecessor is replaced; its folder must exist. Raises OSError or RuntimeError
    when the address can not be bound. With `tls`, clients must present a certificate of the authority.
    """
    server = grpc.aio.server(options=_KEEPALIVE)
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
        server.add_secure_port(
            listen,
            grpc.ssl_server_credentials(
                [(tls.key.read_bytes(), tls.certificate.read_bytes())],
                root_certificates=tls.authority.read_bytes(),
                require_client_auth=True,
            ),
        )
    await server.start()
    return server


def channel(target: str, tls: TlsFiles | None = None) -> grpc.aio.Channel:
    """A channel that reconnects within about a second of its peer's return."""
    options = (*_KEEPALIVE, *_RECONNECT)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(
        tls.authority.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes()
    )
    return grpc.aio.secure_channel(target, credentials, options=options)
