"""A gateway pod, its VPC and the outside as network namespaces, with the real agent in the pod.

client (VPC)                 gateway pod                    outside
eth0 10.16.0.9   ── veth ──  eth0 10.16.0.12
     fd00:10:16::9                fd00:10:16::c
                             net1 172.17.0.11  ── macvlan on eth1 of a node ──  out0 172.17.0.1
                                  fd17::b                                            fd17::1
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

AGENT = str(Path(sys.executable).with_name("veg-node-agent"))
CLONE_NEWNET = 0x40000000
_RCVBUFFORCE = 33  # SO_RCVBUFFORCE of asm-generic/socket.h
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()

Family = dict[str, Any]


def v4(
    *sources: tuple[str, bool], external: str = "172.17.0.1", vpc: tuple[str, ...] = ("10.16.0.0/16",)
) -> Family:
    """The IPv4 part of a configuration; sources are (prefix, snat), the specification's example by default."""
    return _family("IP_FAMILY_IPV4", "10.16.0.1", external, vpc, sources or (("10.16.0.0/16", True),))


def v6(
    *sources: tuple[str, bool], external: str = "fd17::1", vpc: tuple[str, ...] = ("fd00:10:16::/112",)
) -> Family:
    """The IPv6 part of a configuration; sources are (prefix, snat)."""
    return _family("IP_FAMILY_IPV6", "fd00:10:16::1", external, vpc, sources or (("fd00:10:16::/112", True),))


def _family(
    family: str, internal: str, external: str, vpc: tuple[str, ...], sources: tuple[tuple[str, bool], ...]
) -> Family:
    return {
        "family": family,
        "internalGateway": internal,
        "externalGateway": external,
        "vpcCidrs": list(vpc),
        "sources": [{"cidr": cidr, "snat": snat} for cidr, snat in sources],
    }


def agent_config(*families: Family) -> dict[str, Any]:
    """An AgentConfig of these families."""
    return {
        "gateway": "default/gateway1",
        "internalInterface": "eth0",
        "externalInterface": "net1",
        "families": list(families),
    }


class Namespace:
    """A network namespace: commands in it, sockets of it, calls from a thread in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        subprocess.run(["ip", "netns", "add", name], check=True, timeout=10)
        self._pool: ThreadPoolExecutor | None = None
        self("ip", "link", "set", "lo", "up")
        # Nobody else is on these links: do not wait for duplicate address detection.
        self("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")

    def __call__(self, *command: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a command in it; its standard output."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The value of a function called in a thread that is in this namespace."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, initializer=self._enter)
        return self._pool.submit(function, *arguments).result(timeout=60)

    def socket(self, family: int, kind: int) -> socket.socket:
        """A socket of this namespace, with a timeout of 5 s."""
        made: socket.socket = self.call(socket.socket, family, kind)
        made.settimeout(5)
        return made

    def _enter(self) -> None:
        with Path(f"/run/netns/{self.name}").open() as handle:
            assert _libc.setns(handle.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def close(self) -> None:
        """Take it down."""
        if self._pool is not None:
            self._pool.shutdown()
        subprocess.run(["ip", "netns", "del", self.name], check=True, timeout=10)


class EchoServer:
    """Outside: answers over TCP and UDP, both families, with the address it saw; TCP then echoes lines."""

    PORT = 7777

    def __init__(self, namespace: Namespace) -> None:
        self._sockets = []
        for kind, serve in ((socket.SOCK_STREAM, self._tcp), (socket.SOCK_DGRAM, self._udp)):
            listener = namespace.socket(socket.AF_INET6, kind)
            listener.settimeout(None)
            listener.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 4 << 20)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("::", self.PORT))
            if kind == socket.SOCK_STREAM:
                listener.listen()
            self._sockets.append(listener)
            threading.Thread(target=serve, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        for listener in self._sockets:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    @staticmethod
    def _seen(address: tuple[Any, ...]) -> bytes:
        return str(address[0]).removeprefix("::ffff:").encode()

    def _tcp(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, address = listener.accept()
                threading.Thread(target=self._serve, args=(connection, address), daemon=True).start()

    def _serve(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(self._seen(address) + b"\n")
            while data := connection.recv(4096):
                connection.sendall(data)

    def _udp(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, address = listener.recvfrom(4096)
                if address is None:  # shut down
                    return
                listener.sendto(data + b" " + self._seen(address), address)


def _ready(namespace: Namespace, link: str) -> bool:
    """Whether the kernel has noticed that a link is up, which it looks at once a second only."""
    shown = namespace("ip", "-6", "address", "show", "dev", link, "scope", "link")
    return "fe80" in shown and "tentative" not in shown


class Lab:
    """The pod and its neighbours."""

    def __init__(self, folder: Path) -> None:
        prefix = f"na{os.getpid()}-{next(_numbers)}"
        self.folder = folder
        self.pod, self.vpc, self.outside, self.node = (
            Namespace(f"{prefix}{part}") for part in ("gw", "vpc", "out", "node")
        )
        self.agent: subprocess.Popen[bytes] | None = None
        self.mount = folder / "etc"
        self.run_dir = folder / "run"
        self.mount.mkdir()
        self._wire()
        self.echo = EchoServer(self.outside)

    def _wire(self) -> None:
        vpc, outside, node = self.vpc, self.outside, self.node
        vpc("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.pod.name)
        outside("ip", "link", "add", "out0", "type", "veth", "peer", "name", "eth1", "netns", node.name)
        node("ip", "link", "set", "eth1", "up")
        for address in ("10.16.0.1/16", "10.16.0.9/16", "10.16.1.7/16", "10.99.0.9/32"):
            vpc("ip", "address", "add", address, "dev", "eth0")
        for address in ("fd00:10:16::1/112", "fd00:10:16::9/112", "fd99::9/128"):
            vpc("ip", "address", "add", address, "dev", "eth0", "nodad")
        outside("ip", "address", "add", "172.17.0.1/16", "dev", "out0")
        outside("ip", "address", "add", "fd17::1/64", "dev", "out0", "nodad")
        vpc("ip", "link", "set", "eth0", "up")
        outside("ip", "link", "set", "out0", "up")
        self.plug_eth0()
        self.plug_net1()
        vpc("ip", "route", "add", "default", "via", "10.16.0.12")
        vpc("ip", "-6", "route", "add", "default", "via", "fd00:10:16::c")
        outside("ip", "route", "add", "10.0.0.0/8", "via", "172.17.0.11")
        outside("ip", "-6", "route", "add", "fd00::/16", "via", "fd17::b")
        outside("ip", "-6", "route", "add", "fd99::/16", "via", "fd17::b")
        for namespace, link in ((vpc, "eth0"), (outside, "out0"), (self.pod, "eth0"), (self.pod, "net1")):
            eventually(lambda where=(namespace, link): _ready(*where), 30)  # type: ignore[misc]

    def plug_eth0(self) -> None:
        """What the CNI does to eth0: addresses and a first default route into the VPC."""
        pod = self.pod
        pod("ip", "address", "add", "10.16.0.12/16", "brd", "+", "dev", "eth0")
        pod("ip", "address", "add", "fd00:10:16::c/112", "dev", "eth0", "nodad")
        pod("ip", "link", "set", "eth0", "up")
        pod("ip", "route", "add", "default", "via", "10.16.0.1", "dev", "eth0")
        pod("ip", "-6", "route", "add", "default", "via", "fd00:10:16::1", "dev", "eth0")

    def plug_net1(self) -> None:
        """What the macvlan CNI plugin does."""
        self.node(
            "ip", "link", "add", "link", "eth1", "name", "net1", "netns", self.pod.name, "type", "macvlan",
            "mode", "bridge",
        )  # fmt: skip
        self.pod("ip", "address", "add", "172.17.0.11/16", "brd", "+", "dev", "net1")
        self.pod("ip", "address", "add", "fd17::b/64", "dev", "net1", "nodad")
        self.pod("ip", "link", "set", "net1", "up")

    @property
    def config_file(self) -> Path:
        """The mounted file."""
        return self.mount / "agent.json"

    def configure(self, *families: Family, text: str | None = None) -> None:
        """Replace the mounted file atomically."""
        temporary = self.folder / "next.json"
        temporary.write_text(json.dumps(agent_config(*families)) if text is None else text)
        temporary.rename(self.config_file)

    def start(self, *flags: str, wait: bool = True) -> None:
        """Start the agent in the pod, and wait until it says that all is well."""
        with (self.folder / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.pod.name, AGENT, "run", "--config", str(self.config_file)),
                    *("--run-dir", str(self.run_dir), "--drain-seconds", "1", *flags),
                ],
                stdout=log,
                stderr=log,
            )
        if wait:
            started = time.time()
            eventually(lambda: self.healthy_since() >= started - 0.01, 60, self.log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the agent; its exit code."""
        assert self.agent is not None
        self.agent.send_signal(number)
        code = self.agent.wait(10)
        self.agent = None
        return code

    def healthy_since(self) -> float:
        """When the health file was last refreshed; 0 when there is none."""
        try:
            return (self.run_dir / "healthy").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def log(self) -> str:
        """What the agent logged."""
        return (self.folder / "agent.log").read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log entries of one kind."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the agent in the pod."""
        return subprocess.run(
            ["ip", "netns", "exec", self.pod.name, AGENT, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def connect(self, source: str, target: str) -> tuple[socket.socket, str]:
        """A TCP connection from an address in the VPC to the echo server, and the address that it saw."""
        connection = self.vpc.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.bind((source, 0))
            connection.connect((target, EchoServer.PORT))
            return connection, connection.recv(100).decode().strip()
        except BaseException:
            connection.close()
            raise

    def seen(self, source: str, target: str) -> str:
        """The source address that the outside sees of a TCP connection; "" when there is no answer in a second."""
        try:
            connection, address = self.connect(source, target)
        except OSError:
            return ""
        connection.close()
        return address

    def udp(self, source: str, target: str, timeout: float = 5.0) -> str:
        """The source address that the outside sees of a datagram; "" when there is no answer."""
        with self.vpc.socket(
            socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM
        ) as client:
            client.settimeout(timeout)
            client.bind((source, 0))
            client.sendto(b"x", (target, EchoServer.PORT))
            try:
                return client.recv(4096).decode().split()[1]
            except OSError:
                return ""

    def close(self) -> None:
        """Take everything down."""
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait(10)
        self.echo.close()
        for namespace in (self.pod, self.vpc, self.outside, self.node):
            namespace.close()


def eventually(condition: Callable[[], object], seconds: float, explain: Callable[[], str] = str) -> float:
    """Poll until a condition holds, at most this long; how long it took in seconds."""
    started = time.monotonic()
    while True:
        if condition():
            return time.monotonic() - started
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {explain()}"
        threading.Event().wait(0.02)


@contextlib.contextmanager
def steady_stream(namespace: Namespace, source: str, target: str) -> Iterator[list[int]]:
    """A datagram each 2 ms from a source through a gateway and back; yields the numbers that did not come back, counted
    from the first one that did.
    """
    lost: list[int] = []
    answered: set[int] = set()
    done = threading.Event()
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    client = namespace.socket(family, socket.SOCK_DGRAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
    client.bind((source, 0))
    client.connect((target, EchoServer.PORT))
    sent = [0]

    def receive() -> None:
        while True:
            try:
                answered.add(int(client.recv(4096).split()[0]))
            except (TimeoutError, OSError):
                return

    def send() -> None:
        while not done.wait(0.002):
            client.send(str(sent[0]).encode())
            sent[0] += 1

    threads = [threading.Thread(target=receive, daemon=True), threading.Thread(target=send, daemon=True)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(answered) > 20, 10)
    try:
        yield lost
    finally:
        done.set()
        threads[1].join(10)
        eventually(lambda: len(answered) == sent[0] or not threads[0].is_alive(), 15)
        lost += sorted(set(range(min(answered), sent[0])) - answered)
        client.close()
        threads[0].join(10)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A fresh pod with its neighbours; no agent yet."""
    folder = Path(tempfile.mkdtemp(prefix="veg-na-"))
    made = Lab(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)


@pytest.fixture
def pair() -> Iterator[Any]:
    """Two replicas and their router; nothing runs yet."""
    from tests.functional.node_agent.pair import Pair

    folder = Path(tempfile.mkdtemp(prefix="veg-nap-"))
    made = Pair(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)
