"""`kubectl port-forward`: connections to a pod's loopback, carried by SPDY streams in one WebSocket.

Each connection has two streams with one request id: one for data, one for an error's text.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from aiohttp import WSMsgType, web
from pyroute2 import netns
from veg_common.logs import get

from veg_sandbox.runtime.core import spdy

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
_CHUNK = 32768
_CONNECT_SECONDS = 5.0
log = get("portforward")


def connect(address: str, port: int, namespace: str | None = None) -> socket.socket:
    """A connection from inside a network namespace, where the calling thread stays. Raises OSError."""
    if namespace is not None:
        netns.setns(namespace)
    return socket.create_connection((address, port), _CONNECT_SECONDS)


class Forwarding:
    """One `kubectl port-forward`. `dial` connects to a port of the pod; it runs in a thread of its own."""

    def __init__(self, websocket: web.WebSocketResponse, dial: Callable[[int], socket.socket]) -> None:
        self._websocket = websocket
        self._dial = dial
        self._session = spdy.Session()
        self._errors: dict[str, int] = {}  # request id -> stream
        self._incoming: dict[int, asyncio.StreamReader] = {}  # by data stream
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the client goes; then all its connections end."""
        try:
            async for message in self._websocket:
                if message.type is WSMsgType.BINARY:
                    for frame in self._session.feed(message.data):
                        await self._take(frame)
        except spdy.SpdyError as error:
            log.warning("not understood", error=str(error))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, frame: spdy.Frame) -> None:
        match frame:
            case spdy.Opened(stream, headers):
                await self._websocket.send_bytes(self._session.accept(stream))
                self._opened(stream, headers)
            case spdy.Data(stream, content, last) if stream in self._incoming:
                self._incoming[stream].feed_data(content)
                if last:
                    self._incoming[stream].feed_eof()
            case spdy.Reset(stream) if stream in self._incoming:
                self._incoming[stream].feed_eof()
            case spdy.Ping():
                await self._websocket.send_bytes(spdy.pong(frame))
            case _:
                pass

    def _opened(self, stream: int, headers: Mapping[str, str]) -> None:
        request = headers.get("requestid", "")
        if headers.get("streamtype") == "error":
            self._errors[request] = stream
        elif request in self._errors:
            self._incoming[stream] = asyncio.StreamReader()
            errors = self._errors.pop(request)
            task = asyncio.create_task(self._carry(stream, errors, headers.get("port", "")))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, stream: int, errors: int, port: str) -> None:
        """One connection, until both directions have ended."""
        problem = ""
        try:
            with ThreadPoolExecutor(1) as thread:
                sock = await asyncio.get_running_loop().run_in_executor(thread, self._dial, int(port))
            reader, writer = await asyncio.open_connection(sock=sock)
            with contextlib.closing(writer):
                await asyncio.gather(
                    self._upwards(stream, reader), _downwards(self._incoming[stream], writer)
                )
        except (OSError, ValueError) as error:
            problem = f"port {port} of the pod: {getattr(error, 'strerror', None) or error}"
            await self._websocket.send_bytes(spdy.data(stream, b"", last=True))
        finally:
            del self._incoming[stream]
        await self._websocket.send_bytes(spdy.data(errors, problem.encode(), last=True))

    async def _upwards(self, stream: int, reader: asyncio.StreamReader) -> None:
        while content := await reader.read(_CHUNK):
            await self._websocket.send_bytes(spdy.data(stream, content))
        await self._websocket.send_bytes(spdy.data(stream, b"", last=True))


async def _downwards(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while content := await reader.read(_CHUNK):
        writer.write(content)
        await writer.drain()
    writer.write_eof()
