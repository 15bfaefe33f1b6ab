"""Prometheus metrics of a process over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import start_http_server


@contextlib.contextmanager
def serving(listen: str) -> Iterator[None]:
    """Serve `/metrics` on `host:port` while the block runs; "" serves nothing. Raises OSError, ValueError."""
    if not listen:
        yield
        return
    host, _, port = listen.rpartition(":")
    server, thread = start_http_server(int(port), host.strip("[]") or "0.0.0.0")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
