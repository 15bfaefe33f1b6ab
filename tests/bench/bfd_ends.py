"""The two speakers that `make bench-bfd` compares, behind one face, and the peer that both are measured against.

The measured end has one address, its peer one a session: FRR knows single-hop sessions by the peer alone.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
from veg.bfd.v1 import bfd_pb2 as pb

from tests.bench.bfd_wire import Key
from tests.functional.bfd_interop.frr import Frr
from tests.functional.bfd_interop.lab import DEVICE, Pair
from tests.functional.bfd_interop.speaker import ACTIVE, Speaker, session

PRIORITY = 20
MULT = 3
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Case:
    """So many sessions at this interval (ms), multiplier 3."""

    sessions: int
    interval_ms: int

    @property
    def detection_us(self) -> int:
        """The detection time that both ends agree on."""
        return MULT * self.interval_ms * 1000

    def pairs(self) -> list[Key]:
        """(local, peer) of every session, seen from the measured end."""
        return [
            ("10.9.0.1", f"10.9.{128 + number // 250}.{1 + number % 250}") for number in range(self.sessions)
        ]


class End(Protocol):
    """A speaker that is measured."""

    def start(self) -> None:
        """Start it with its sessions."""

    def pids(self) -> list[int]:
        """Its processes."""

    def close(self) -> None:
        """End it."""


class VegEnd:
    """veg-bfd; SCHED_FIFO is its own choice, `fifo=False` takes it away."""

    def __init__(
        self, netns: str, folder: Path, case: Case, *, swapped: bool = False, fifo: bool = True
    ) -> None:
        prefix = () if fifo else ("env", "VEG_BFD_PRIORITY=0")
        self.speaker = Speaker(netns, folder, linger=0, prefix=prefix)
        keys = [(peer, local) if swapped else (local, peer) for local, peer in case.pairs()]
        ms = case.interval_ms
        self._sessions = [session(a, b, tx=ms, rx=ms, mult=MULT, role=ACTIVE) for a, b in keys]

    def start(self) -> None:
        self.speaker.start()
        self.speaker.set(*self._sessions)

    def up(self) -> int:
        """Sessions that are up at both ends: what this one knows of the other."""
        # The packet loop starts a new gRPC process when the old one can not keep up with the news.
        for _ in range(20):
            try:
                listed = self.speaker.list(timeout=60)
            except grpc.RpcError:
                time.sleep(0.5)
            else:
                return sum(s.state == s.remote_state == pb.SESSION_STATE_UP for s in listed)
        raise TimeoutError("veg-bfd does not list its sessions")

    def pids(self) -> list[int]:
        return tree(self.speaker.pid())

    def close(self) -> None:
        self.speaker.close()


class FrrEnd:
    """FRR's bfdd, configured by a file; zebra is counted with it."""

    def __init__(self, netns: str, folder: Path, case: Case, *, fifo: bool) -> None:
        ms = case.interval_ms
        lines = ["bfd", " profile bench", f"  transmit-interval {ms}", f"  receive-interval {ms}"]
        lines += [f"  detect-multiplier {MULT}", " exit"]
        for local, peer in case.pairs():
            lines += [f" peer {peer} local-address {local} interface {DEVICE}", "  profile bench", " exit"]
        self.frr = Frr(netns, folder, priority=PRIORITY if fifo else 0, config=[*lines, "exit"])

    def start(self) -> None:
        self.frr.start(within=180)

    def pids(self) -> list[int]:
        return self.frr.pids()

    def close(self) -> None:
        self.frr.close()


def make(system: str, netns: str, folder: Path, case: Case) -> End:
    """The end called `system`: "veg-bfd", "frr", or one of them with " (no FIFO)" behind."""
    fifo = "no FIFO" not in system
    if system.startswith("veg-bfd"):
        return VegEnd(netns, folder, case, fifo=fifo)
    return FrrEnd(netns, folder, case, fifo=fifo)


def link(case: Case) -> Pair:
    """Two namespaces with the sessions' addresses, and at the peer's end a way to silence single sessions."""
    pair = Pair()
    try:
        peers = [peer for _, peer in case.pairs()]
        pair.addresses(pair.theirs, peers)
        # The kernel keeps no more than 1024 neighbours that it learnt by itself.
        (device,) = json.loads(pair.enter(pair.theirs, "ip", "-j", "link", "show", "dev", DEVICE))
        neighbour = f"neigh replace {{}} lladdr {device['address']} dev {DEVICE} nud permanent"
        pair.batch(pair.ours, [neighbour.format(peer) for peer in peers])
        silence = "table inet bench { set gone { type ipv4_addr . ipv4_addr; flags timeout; }; "
        silence += "chain out { type filter hook output priority 0; ip saddr . ip daddr @gone drop; }; }"
        pair.enter(pair.theirs, "nft", "-f", "-", text=silence)
    except BaseException:
        pair.close()
        raise
    return pair


def silence(pair: Pair, key: Key, seconds: float) -> int:
    """Lose what the peer says in one session for some seconds; CLOCK_REALTIME in ns before it began."""
    local, peer = key
    begun = time.time_ns()
    element = f"{{ {peer} . {local} timeout {int(seconds * 1000)}ms }}"
    pair.enter(pair.theirs, "nft", "add", "element", "inet", "bench", "gone", element)
    return begun


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """So many endless loops under normal scheduling while the block runs."""
    pids = []
    try:
        for _ in range(cores):
            pid = os.fork()
            if pid == 0:
                try:
                    _spin(os.getppid())
                finally:
                    os._exit(0)
            pids.append(pid)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _spin(parent: int) -> None:
    while os.getppid() == parent:
        for _ in range(1_000_000):
            pass


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in tree(int(child)))]


def cpu_seconds(pids: Sequence[int]) -> list[float]:
    """Utime + stime of each process so far, s."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return [(int(field[11]) + int(field[12])) / _TICK for field in fields]


def rss_mb(pids: Sequence[int]) -> list[float]:
    """Resident memory of each process, MB (shared pages count in each)."""
    return [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6 for pid in pids]


def wait(probe: Callable[[], bool], within: float, what: str) -> None:
    """Until the probe says True. TimeoutError."""
    deadline = time.monotonic() + within
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within:g} s")
        time.sleep(0.25)
