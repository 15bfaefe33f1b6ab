"""Two replicas of a gateway, each with the real agent and the real BFD speaker, and the router that they talk to.

router (VPC)                     replica 0 and 1                outside
br0   10.16.0.1    ── veth ──    eth0 10.16.0.12, .13
      fd00:10:16::1                   fd00:10:16::c, ::d
lo    10.255.255.255             net1 172.17.0.11, .12  ── veth ── out0 172.17.0.1, fd17::1
      fd00:255::1                     fd17::b, ::c
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from veg.agent.v1 import agent_pb2, agent_pb2_grpc
from veg.bfd.v1 import bfd_pb2, bfd_pb2_grpc
from veg_node_agent.rpc import describe

from tests.functional.node_agent.conftest import (
    AGENT,
    EchoServer,
    Family,
    Namespace,
    agent_config,
    eventually,
    v4,
    v6,
)

SPEAKER = str(Path(sys.executable).with_name("veg-bfd"))
PEER_V4, PEER_V6 = "10.255.255.255", "fd00:255::1"
OUTSIDE_V4, OUTSIDE_V6 = "172.17.0.1", "fd17::1"
UP, DOWN, ADMIN_DOWN = (
    bfd_pb2.SESSION_STATE_UP,
    bfd_pb2.SESSION_STATE_DOWN,
    bfd_pb2.SESSION_STATE_ADMIN_DOWN,
)


class Process:
    """A program in a namespace."""

    def __init__(self, namespace: Namespace, log: Path, *command: str) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", namespace.name, *command], stdout=output, stderr=output
            )
        self.pid = self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float = 10) -> int:
        """Its exit code."""
        return self._process.wait(seconds)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait(10)


class Speaker:
    """A veg-bfd in a namespace, and a client of it."""

    def __init__(self, namespace: Namespace, run_dir: Path) -> None:
        self.namespace, self.run_dir = namespace, run_dir
        self.process: Process | None = None

    @property
    def log(self) -> Path:
        """Where it logs."""
        return self.run_dir.with_name(f"{self.run_dir.name}-bfd.log")

    def start(self, *flags: str, wait: bool = False) -> None:
        """Start it; waiting until it listens is up to the caller."""
        self.process = Process(
            self.namespace, self.log, SPEAKER, "run", "--run-dir", str(self.run_dir), *flags
        )
        if wait:
            eventually(self.listens, 60)

    def listens(self) -> bool:
        """Whether somebody listens at its socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(f"{self.run_dir}/bfd.sock") == 0

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def call(self, method: str, request: Any) -> Any:
        """A call of its service."""
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(f"unix:{self.run_dir}/bfd.sock", options=options) as channel:
            stub = bfd_pb2_grpc.BfdServiceStub(channel)
            return getattr(stub, method)(request, timeout=5, wait_for_ready=True)

    def sessions(self) -> dict[str, bfd_pb2.Session]:
        """Its sessions by peer; none while it does not answer."""
        try:
            listed = self.call("ListSessions", bfd_pb2.ListSessionsRequest())
        except grpc.RpcError:
            return {}
        return {session.config.peer: session for session in listed.sessions}

    def state(self, peer: str) -> int:
        """The state of a session; 0 when there is none."""
        session = self.sessions().get(peer)
        return session.state if session else 0


class Replica:
    """One gateway pod."""

    def __init__(self, pair: Pair, number: int) -> None:
        self.number = number
        self.pair = pair
        self.folder = pair.folder / f"replica{number}"
        self.run_dir = self.folder / "run"
        self.run_dir.mkdir(parents=True)
        self.pod = Namespace(f"{pair.prefix}gw{number}")
        self.v4, self.v6 = f"10.16.0.{12 + number}", f"fd00:10:16::{12 + number:x}"
        self.outer_v4, self.outer_v6 = f"172.17.0.{11 + number}", f"fd17::{11 + number:x}"
        self.speaker = Speaker(self.pod, self.run_dir)
        self.agent: Process | None = None
        self.uplink = f"net1-{number}"
        self._wire()

    def _wire(self) -> None:
        pod, router, outside = self.pod, self.pair.router, self.pair.outside
        for name, other, peer, bridge in (
            ("eth0", router, f"eth0-{self.number}", "br0"),
            ("net1", outside, self.uplink, "out0"),
        ):
            pod("ip", "link", "add", name, "type", "veth", "peer", "name", peer, "netns", other.name)
            other("ip", "link", "set", peer, "master", bridge, "up")
        pod("ip", "address", "add", f"{self.v4}/16", "dev", "eth0")
        pod("ip", "address", "add", f"{self.v6}/112", "dev", "eth0", "nodad")
        pod("ip", "address", "add", f"{self.outer_v4}/16", "dev", "net1")
        pod("ip", "address", "add", f"{self.outer_v6}/64", "dev", "net1", "nodad")
        pod("ip", "link", "set", "eth0", "up")
        pod("ip", "link", "set", "net1", "up")
        pod("ip", "route", "add", "default", "via", "10.16.0.1", "dev", "eth0")
        pod("ip", "-6", "route", "add", "default", "via", "fd00:10:16::1", "dev", "eth0")

    @property
    def config_file(self) -> Path:
        """The mounted file."""
        return self.folder / "agent.json"

    @property
    def log(self) -> str:
        """What agent and speaker logged."""
        return "".join(
            f"--- {path.name}\n{path.read_text()}"
            for path in (self.folder / "agent.log", self.speaker.log)
            if path.exists()
        )

    def configure(self, config: dict[str, Any]) -> None:
        """Replace the mounted file atomically."""
        temporary = self.folder / "next.json"
        temporary.write_text(json.dumps(config))
        temporary.rename(self.config_file)

    def start_agent(self, *flags: str, wait: bool = True) -> None:
        """Start the agent and wait until all is well."""
        self.agent = Process(
            self.pod,
            self.folder / "agent.log",
            *(AGENT, "run", "--config", str(self.config_file), "--run-dir", str(self.run_dir), *flags),
        )
        started = time.time()
        if not wait:
            return
        eventually(lambda: self.healthy_since() >= started - 0.01, 90, lambda: self.log)

    def start(self, *flags: str) -> None:
        """Start the speaker and the agent."""
        self.speaker.start()
        self.start_agent(*flags)

    def state(self) -> str:
        """What `veg-node-agent state` prints; empty while the agent does not answer."""
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(f"unix:{self.run_dir}/agent.sock", options=options) as channel:
            stub = agent_pb2_grpc.AgentServiceStub(channel)
            try:
                return describe(stub.GetState(agent_pb2.GetStateRequest(), timeout=10))
            except grpc.RpcError:
                return ""

    def healthy_since(self) -> float:
        """When the health file was last refreshed; 0 when there is none."""
        with contextlib.suppress(FileNotFoundError):
            return (self.run_dir / "healthy").stat().st_mtime
        return 0.0

    def probe(self) -> tuple[bool, str]:
        """The readiness probe: whether it is good, and what it prints."""
        command = f"find {self.run_dir}/healthy -newermt '-5 seconds' | grep -q . || {{ cat {self.run_dir}/problem; exit 1; }}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=10, check=False)
        return done.returncode == 0, done.stdout.strip()

    def cut(self, how: str) -> None:
        """Cut the uplink: "carrier", or "silent", which leaves carrier."""
        change = ["down"] if how == "carrier" else ["nomaster"]
        self.pair.outside("ip", "link", "set", self.uplink, *change)

    def mend(self) -> None:
        """Undo every cut."""
        self.pair.outside("ip", "link", "set", self.uplink, "master", "out0", "up")

    def close(self) -> None:
        """Take it down."""
        for process in (self.agent, self.speaker.process):
            if process is not None:
                process.kill()
        self.pod.close()


class Pair:
    """The two replicas, the router of the VPC with its own speaker, and the outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"nap{os.getpid()}-{len(list(folder.parent.glob('veg-nap-*')))}"
        self.router, self.outside = (Namespace(f"{self.prefix}{part}") for part in ("vpc", "out"))
        for namespace, bridge, addresses in (
            (self.router, "br0", ("10.16.0.1/16", "10.16.0.9/16", "fd00:10:16::1/112", "fd00:10:16::9/112")),
            (self.outside, "out0", (f"{OUTSIDE_V4}/16", f"{OUTSIDE_V6}/64")),
        ):
            namespace("ip", "link", "add", bridge, "type", "bridge")
            namespace("ip", "link", "set", bridge, "up")
            for address in addresses:
                nodad = ["nodad"] if ":" in address else []
                namespace("ip", "address", "add", address, "dev", bridge, *nodad)
        # A port that is taken from the bridge would answer for the bridge's address.
        self.outside("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1")
        self.router("ip", "address", "add", f"{PEER_V4}/32", "dev", "lo")
        self.router("ip", "address", "add", f"{PEER_V6}/128", "dev", "lo", "nodad")
        (folder / "router").mkdir()
        self.speaker = Speaker(self.router, folder / "router")
        self.replicas = [Replica(self, 0), Replica(self, 1)]
        self.echo = EchoServer(self.outside)

    def config(
        self,
        *families: Family,
        interval: int = 100,
        bfd: bool = True,
        uplink: bool = True,
        multiplier: int = 3,
    ) -> dict[str, Any]:
        """An AgentConfig with BFD and the uplink probe at one interval (ms); both families by default."""
        wanted = families or (
            v4(vpc=("10.16.0.0/16", f"{PEER_V4}/32")),
            v6(vpc=("fd00:10:16::/112", f"{PEER_V6}/128")),
        )
        config = agent_config(*wanted)
        names = {family["family"] for family in wanted}
        peers = [
            peer for peer, name in ((PEER_V4, "IP_FAMILY_IPV4"), (PEER_V6, "IP_FAMILY_IPV6")) if name in names
        ]
        if bfd:
            timers = {"minRxMs": interval, "minTxMs": interval, "multiplier": multiplier}
            config["bfd"] = {"peers": peers, "timers": timers, "minTtl": 253}
        if uplink:
            replicas = [replica.v4 for replica in self.replicas]
            config["uplink"] = {"intervalMs": interval, "multiplier": multiplier, "replicas": replicas}
        return config

    def listen(self, interval: int = 100, peers: list[str] | None = None) -> None:
        """Start the router's speaker and its sessions with the replicas, which speak first."""
        if self.speaker.process is None:
            self.speaker.start(wait=True)
        wanted = peers or [address for replica in self.replicas for address in (replica.v4, replica.v6)]
        timers = bfd_pb2.Timers(min_rx_ms=interval, min_tx_ms=interval, multiplier=3)
        self.speaker.call(
            "SetSessions",
            bfd_pb2.SetSessionsRequest(
                owner="test",
                sessions=[
                    bfd_pb2.SessionConfig(
                        peer=peer, local=PEER_V6 if ":" in peer else PEER_V4, timers=timers, min_ttl=253
                    )
                    for peer in wanted
                ],
            ),
        )

    def up(self, *addresses: str, seconds: float = 20) -> None:
        """Wait until the router sees the sessions with these addresses Up (all replicas by default)."""
        wanted = addresses or tuple(a for replica in self.replicas for a in (replica.v4, replica.v6))
        eventually(lambda: all(self.states().get(address) == UP for address in wanted), seconds, self.explain)

    def states(self) -> dict[str, int]:
        """What the router sees: state by address of a replica."""
        return {peer: session.state for peer, session in self.speaker.sessions().items()}

    def explain(self) -> str:
        """All logs."""
        return f"{self.states()}\n" + "".join(
            f"===== replica {replica.number}\n{replica.log}" for replica in self.replicas
        )

    def close(self) -> None:
        """Take everything down."""
        self.speaker.kill()
        for replica in self.replicas:
            replica.close()
        self.echo.close()
        for namespace in (self.router, self.outside):
            namespace.close()


@contextlib.contextmanager
def watching(speaker: Speaker, seen: Callable[[float, str, int], None]) -> Iterator[None]:
    """While the block runs, call `seen` (monotonic s, peer, state) for each event of a speaker."""
    channel = grpc.insecure_channel(f"unix:{speaker.run_dir}/bfd.sock")
    stream = bfd_pb2_grpc.BfdServiceStub(channel).WatchSessions(bfd_pb2.WatchSessionsRequest())
    synced = threading.Event()

    def read() -> None:
        with contextlib.suppress(grpc.RpcError):
            for event in stream:
                if event.HasField("session"):
                    seen(time.monotonic(), event.session.config.peer, event.session.state)
                else:
                    synced.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert synced.wait(5)
    try:
        yield
    finally:
        stream.cancel()
        channel.close()
        thread.join(5)


def line(text: str, name: str) -> str:
    """The value of a line of `veg-node-agent state`."""
    found = re.search(rf"^{name}: +(.*)$", text, re.MULTILINE)
    return found[1] if found else ""
