"""veg-bfd as a process in a network namespace, and its gRPC seen from a test."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import grpc
from veg.bfd.v1 import bfd_pb2 as pb
from veg.bfd.v1 import bfd_pb2_grpc as pb_grpc

VEG_BFD = str(Path(sys.executable).with_name("veg-bfd"))
ACTIVE = pb.SESSION_ROLE_ACTIVE
PASSIVE = pb.SESSION_ROLE_PASSIVE


def session(
    local: str,
    peer: str,
    *,
    tx: int = 100,
    rx: int = 100,
    mult: int = 3,
    role: pb.SessionRole.ValueType = ACTIVE,
    min_ttl: int = 255,
) -> pb.SessionConfig:
    """A session to ask for; tx and rx in ms."""
    return pb.SessionConfig(
        local=local,
        peer=peer,
        timers=pb.Timers(min_tx_ms=tx, min_rx_ms=rx, multiplier=mult),
        role=role,
        min_ttl=min_ttl,
    )


class Speaker:
    """`veg-bfd run` in the namespace `netns` with its run folder `folder`."""

    def __init__(self, netns: str, folder: Path, *, linger: float = 2, prefix: Iterable[str] = ()) -> None:
        """`linger`: seconds that it answers for after SIGTERM; `prefix`: a command to run it under."""
        self._netns = netns
        self.folder = folder
        self.linger = linger
        self._prefix = list(prefix)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        argv = ["ip", "netns", "exec", self._netns, "setpriv", "--pdeathsig", "KILL", *self._prefix]
        argv += [VEG_BFD, "run", "--run-dir", str(self.folder), "--linger", f"{self.linger:g}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._answers():
            said = (self.folder / "log").read_text()
            assert self._process.poll() is None, f"veg-bfd ended: {said}"
            assert time.monotonic() < deadline, f"veg-bfd does not answer: {said}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self.list(timeout=1)
        except grpc.RpcError:
            return False
        return True

    @property
    def stub(self) -> pb_grpc.BfdServiceStub:
        """The service; the channel is made when first asked for."""
        if self._channel is None:
            options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
            self._channel = grpc.insecure_channel(f"unix:{self.folder}/bfd.sock", options=options)
        return pb_grpc.BfdServiceStub(self._channel)

    def set(self, *sessions: pb.SessionConfig, owner: str = "test") -> None:
        """These, and no others of this owner."""
        self.stub.SetSessions(pb.SetSessionsRequest(owner=owner, sessions=sessions), timeout=120)

    def list(self, *, timeout: float = 10) -> list[pb.Session]:
        """Every session."""
        return list(self.stub.ListSessions(pb.ListSessionsRequest(), timeout=timeout).sessions)

    def scheduling(self) -> pb.Scheduling:
        """How the packet loop runs."""
        return self.stub.ListSessions(pb.ListSessionsRequest(), timeout=10).scheduling

    def unknown(self) -> int:
        """Packets that belonged to no session."""
        return self.stub.ListSessions(pb.ListSessionsRequest(), timeout=10).rx_unknown

    def admin_down(self, *, down: bool, peers: Iterable[str] = (), reason: str = "test") -> None:
        """Take sessions down, or let them up."""
        self.stub.SetAdminDown(pb.SetAdminDownRequest(peers=peers, down=down, reason=reason), timeout=10)

    def pid(self) -> int:
        """The packet loop's process id."""
        assert self._process is not None, "veg-bfd does not run"
        return self._process.pid

    def kill(self) -> None:
        """kill -9 of the packet loop; its gRPC child has to end by itself, and is not taken for its successor."""
        assert self._process is not None, "veg-bfd does not run"
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._process.kill()
        self._process.wait(timeout=10)
        self._process = None
        deadline = time.monotonic() + 10
        while any(Path("/proc", child, "exe").exists() for child in children):
            assert time.monotonic() < deadline, f"still there: {children}"
            time.sleep(0.01)

    def terminate(self) -> None:
        """SIGTERM, and no waiting."""
        assert self._process is not None, "veg-bfd does not run"
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float) -> int:
        """Its exit code, when it has ended."""
        assert self._process is not None, "veg-bfd does not run"
        code = self._process.wait(timeout=timeout)
        self._process = None
        return code

    def close(self) -> None:
        """End it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=self.linger + 3)
            self._process.kill()
            self._process.wait(timeout=5)
            self._process = None
