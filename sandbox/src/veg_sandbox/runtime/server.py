"""What an API server asks of kubelets: `kubectl exec`, `logs` and `port-forward` of pods of this sandbox.

One HTTPS server on an address of loopback stands for the kubelets of all nodes, whose Node objects name it. Streams are
WebSockets with the subprotocol v5.channel.k8s.io: the first byte of a message tells its channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from aiohttp import WSMsgType, web
from veg_common.logs import get
from veg_common.objects import Object, Ref

from veg_sandbox.net import shell
from veg_sandbox.net.errors import LabError
from veg_sandbox.runtime import portforward
from veg_sandbox.runtime.core.pods import container_specs
from veg_sandbox.runtime.host import Host

KUBELET_PORT = 10250
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_CHUNK = 32768
_FOLLOW_SECONDS = 0.2
log = get("server")


class KubeletServer:
    """Serves until cancelled. `folder` keeps its certificate, which nobody checks: it never leaves this machine."""

    def __init__(self, host: Host, folder: Path) -> None:
        self._host = host
        self._folder = folder

    async def run(self) -> None:
        """Serve; a port that is taken is told once and leaves the sandbox without this."""
        app = web.Application()
        app.router.add_route("*", "/exec/{namespace}/{pod}/{container}", self._exec)
        app.router.add_route("*", "/portForward/{namespace}/{pod}", self._forward)
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        address = self._host.lab.nb_address
        try:
            context = await self._host.call(_context, self._folder, address)
            await web.TCPSite(runner, address, KUBELET_PORT, ssl_context=context).start()
            log.info("serving exec, logs and port-forward", address=f"{address}:{KUBELET_PORT}")
        except (OSError, LabError) as error:
            log.warning("no kubectl exec, logs and port-forward", error=str(error))
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def _pod(self, request: web.Request) -> Object:
        """The pod of a request. Raises HTTPNotFound."""
        where = request.match_info
        pod = self._host.cache.get(Ref("Pod", where["namespace"], where["pod"]))
        if pod is None:
            raise web.HTTPNotFound(text=f"no pod {where['pod']} here")
        return pod

    def _find(self, request: web.Request) -> tuple[Object, str]:
        """The pod and container of a request. Raises HTTPNotFound."""
        pod, container = self._pod(request), request.match_info["container"]
        if container not in [spec["name"] for spec in container_specs(pod)]:
            raise web.HTTPNotFound(text=f"no container {container} in pod {request.match_info['pod']} here")
        return pod, container

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        uid = self._pod(request)["metadata"]["uid"]
        # Pods on the host's network have an address of loopback of their own.
        address = self._host.addresses.get(uid)
        namespace = None if address else self._host.lab.pod_netns(uid)
        socket = web.WebSocketResponse(protocols=(portforward.PROTOCOL,))
        await socket.prepare(request)
        dial = partial(portforward.connect, address or "127.0.0.1", namespace=namespace)
        await portforward.Forwarding(socket, dial).run()
        return socket

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        pod, container = self._find(request)
        command = request.query.getall("command", [])
        try:
            argv = self._host.lab.pod_argv(pod["metadata"]["uid"], command, container=container)
        except LabError as error:
            raise web.HTTPInternalServerError(text=str(error)) from error
        socket = web.WebSocketResponse(protocols=_PROTOCOLS)
        await socket.prepare(request)
        stdin = request.query.get("input") in ("1", "true")
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe if stdin else asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        feeding = asyncio.ensure_future(_feed(socket, process))
        try:
            await asyncio.gather(
                _pump(process.stdout, socket, _STDOUT), _pump(process.stderr, socket, _STDERR)
            )
            code = await process.wait()
            await socket.send_bytes(bytes([_STATUS]) + json.dumps(status_of_exit(code)).encode())
            await socket.close()
        finally:
            feeding.cancel()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return socket

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        pod, container = self._find(request)
        file = self._host.lab.pod_log(pod["metadata"]["uid"], container)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        lines = request.query.get("tailLines")
        place = 0
        for data in _tail(file, int(lines) if lines else None):
            await response.write(data)
            place = file.stat().st_size
        while request.query.get("follow") in ("1", "true") and file.exists():
            await asyncio.sleep(_FOLLOW_SECONDS)
            if file.exists() and file.stat().st_size > place:
                data = file.read_bytes()[place:]
                place += len(data)
                await response.write(data)
        return response


def status_of_exit(code: int) -> Object:
    """How a command ended, as the API tells it (meta/v1 Status)."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    shown = 128 - code if code < 0 else code
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {shown}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(shown)}]},
    }


async def _pump(stream: asyncio.StreamReader | None, socket: web.WebSocketResponse, channel: int) -> None:
    while stream is not None and (data := await stream.read(_CHUNK)):
        await socket.send_bytes(bytes([channel]) + data)


async def _feed(socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    """The client's messages to the command; the end of either ends the other."""
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data or process.stdin is None:
            continue
        channel, data = message.data[0], message.data[1:]
        with contextlib.suppress(ConnectionError):
            if channel == _STDIN:
                process.stdin.write(data)
                await process.stdin.drain()
            elif channel == _CLOSE and data[:1] == bytes([_STDIN]):
                process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _tail(file: Path, lines: int | None) -> Iterator[bytes]:
    if not file.is_file():
        return
    listed = file.read_bytes().splitlines(keepends=True)
    yield b"".join(listed if lines is None else listed[max(0, len(listed) - lines) :])


def _context(folder: Path, address: str) -> ssl.SSLContext:
    """TLS with a certificate of our own making. Raises LabError."""
    certificate, key = folder / "kubelet.crt", folder / "kubelet.key"
    if not certificate.exists():
        shell.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"),
                *("-subj", "/CN=sandbox", "-addext", f"subjectAltName=IP:{address}"),
                *("-keyout", str(key), "-out", str(certificate)),
            ]
        )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context
