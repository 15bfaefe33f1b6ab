"""Prometheus metrics of a process over HTTP, and its health for those who can ask for nothing but HTTP (kubelet)."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

# Says why not; "" if all is well.
Check = Callable[[], str]


def well() -> str:
    """A check that is always content: whoever answers lives."""
    return ""


@contextlib.contextmanager
def serving(listen: str, *, healthy: Check = well, ready: Check = well) -> Iterator[None]:
    """Serve `/metrics`, `/healthz` and `/readyz` on `host:port` while the block runs; "" serves nothing.

    A health path answers 200 `ok`, or 503 and the reason. The checks run in threads of their own. Raises OSError,
    ValueError.
    """
    if not listen:
        yield
        return
    host, _, port = listen.rpartition(":")
    checks = {"/healthz": healthy, "/readyz": ready}
    prometheus = make_wsgi_app()

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        check = checks.get(environ.get("PATH_INFO", ""))
        if check is None:
            found: Iterable[bytes] = prometheus(environ, start_response)
            return found
        problem = check()
        start_response("503 Service Unavailable" if problem else "200 OK", [("Content-Type", "text/plain")])
        return [f"{problem or 'ok'}\n".encode()]

    kind = _Server6 if ":" in host else _Server
    server = make_server(host.strip("[]") or "0.0.0.0", int(port), answer, kind, _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Server(ThreadingMixIn, WSGIServer):
    """A probe must not wait for a scrape."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Without the library's question for our name, which waits for a resolver that may not be there."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Without a log line a request."""

    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""
