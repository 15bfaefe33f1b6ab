"""veg-bfd beside FRR's bfdd: CPU, lateness, false alarms, memory. `make bench-bfd`.

    python -m tests.bench.bfd [--quick] [--cases 100@10,500@50,2000@300] [--systems veg-bfd,frr] [--loads idle,saturated]

Each line of the table is one speaker in a namespace of its own against the same peer, a veg-bfd in another. Phases:

1. *steady*: nothing happens for --seconds; CPU of all the speaker's processes, downs (every one is false), memory.
2. *cuts*: the peer's packets of single sessions are lost, one session after the other; how long after the end of its
   detection time each session said Down, by the kernel's timestamps on the wire.
3. *all at once*: the peer's process is stopped; the same for every session together.
4. *list* (veg-bfd only): how late packets leave, without and with a client that calls ListSessions all the time.

"saturated" adds an endless loop per core under normal scheduling. A process above all speakers watches every core: what
happened in a pause of the machine (of its hypervisor, of kernel code that does not yield) is counted apart.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
from veg.bfd.v1 import bfd_pb2 as pb
from veg.bfd.v1 import bfd_pb2_grpc as pb_grpc
from veg_sandbox.failover.pauses import Watch

from tests.bench.bfd_ends import (
    Case,
    End,
    VegEnd,
    busy,
    cpu_seconds,
    link,
    make,
    rss_mb,
    silence,
    wait,
)
from tests.bench.bfd_wire import Cut, Late, Paused, capture, delays, falls, overshoots, percentile, read
from tests.functional.bfd_interop.lab import DEVICE, Pair

CASES = "100@10,500@50,2000@300"
SYSTEMS = "veg-bfd,frr,frr (no FIFO)"
LOADS = "idle,saturated"
# What tells lateness: everything that came from the peer, and of what left only what says Down.
_CUTS = "src net 10.9.128.0/17 or udp[9] & 0xc0 = 0x40"


@dataclass
class Lateness:
    """Times after which something happened that was due, ms: while the machine ran, and across its pauses."""

    free: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    missed: int = 0


@dataclass
class Row:
    """What was measured of one speaker in one case under one load; times in ms."""

    case: Case
    load: str
    system: str
    cpu_percent: float = 0.0
    """Of one core, all processes."""
    downs: int = 0
    """Sessions that went down in phase 1 while the machine ran: false alarms."""
    paused_downs: int = 0
    """Those that went down in or just after a pause of the machine."""
    rss_mb: list[float] = field(default_factory=list)
    pauses: int = 0
    longest_pause_ms: float = 0.0
    """In phase 1."""
    late: Lateness = field(default_factory=Lateness)
    late_together: Lateness = field(default_factory=Lateness)
    quiet_delays: Lateness = field(default_factory=Lateness)
    list_delays: Lateness = field(default_factory=Lateness)
    lists: int = 0
    problem: str = ""

    @property
    def cpu_a_session(self) -> float:
        """µs of CPU a session and second."""
        return self.cpu_percent * 1e4 / self.case.sessions


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 s a phase, fewer cuts, no FRR without FIFO")
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--systems", default=None)
    parser.add_argument("--loads", default=LOADS)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--cuts", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="the table as JSON lines too")
    flags = parser.parse_args(argv)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # namespaces and processes end with the blocks they are in
    systems = flags.systems or ("veg-bfd,frr" if flags.quick else SYSTEMS)
    seconds = flags.seconds or (8 if flags.quick else 60)
    cuts = flags.cuts or (60 if flags.quick else 200)
    rows = []
    for text in flags.cases.split(","):
        sessions, interval = text.split("@")
        case = Case(int(sessions), int(interval))
        for load in flags.loads.split(","):
            for system in systems.split(","):
                _say(f"{text} ms, {load}: {system}")
                rows.append(measure(case, load, system, seconds, cuts))
                _say("  " + _cells(rows[-1]))
    print_table(rows, seconds)
    if flags.json:
        for row in rows:
            print(json.dumps(asdict(row)))  # noqa: T201


def measure(case: Case, load: str, system: str, seconds: float, cuts: int) -> Row:
    """One line of the table."""
    row = Row(case, load, system)
    with tempfile.TemporaryDirectory(prefix=f"vbb{os.getpid()}-") as name:
        folder = Path(name)
        pair = link(case)
        peer = VegEnd(pair.theirs, folder / "peer", case, swapped=True)
        end = make(system, pair.ours, folder / "end", case)
        try:
            peer.start()
            end.start()
            # The peer is asked: a bfdd that is busy with its sessions does not answer its command line in time.
            _all_up(peer, case, 300)
            time.sleep(3)  # the last poll sequences
            cores = os.cpu_count() or 1
            with busy(cores) if load == "saturated" else nullcontext(), Watch() as watch:
                time.sleep(1)
                phase = Phase(row, pair, watch, folder / "packets.pcap")
                _steady(phase, end, seconds)
                _all_up(peer, case)
                _cut_singly(phase, cuts)
                if isinstance(end, VegEnd):
                    _all_up(peer, case)
                    time.sleep(2)
                    _list(phase, end, min(seconds, 15))
                _all_up(peer, case)
                _cut_together(phase, peer)
        except (TimeoutError, AssertionError, grpc.RpcError, subprocess.TimeoutExpired) as error:
            row.problem = (str(error).splitlines() or [repr(error)])[0]
            _say(f"  {error}")
        finally:
            end.close()
            peer.close()
            pair.close()
    return row


def _all_up(peer: VegEnd, case: Case, within: float = 60) -> None:
    wait(lambda: peer.up() == case.sessions, within, f"all of {case} up")


@dataclass
class Phase:
    """What the phases share."""

    row: Row
    pair: Pair
    watch: Watch
    file: Path

    @property
    def case(self) -> Case:
        return self.row.case

    @contextmanager
    def packets(self, expression: str) -> Iterator[None]:
        """Write packets to the file while the block runs."""
        with capture(self.pair.ours, DEVICE, self.file, expression):
            time.sleep(0.5)
            yield

    def lateness(self, found: Iterable[Late], begun: int) -> Lateness:
        """Those that happened after `begun`, by whether the machine ran."""
        free, held = Paused(self.watch.pauses(begun)).split(late for late in found if late.due > begun)
        return Lateness(free, held)


def _steady(phase: Phase, end: End, seconds: float) -> None:
    row, pids = phase.row, end.pids()
    with phase.packets("udp[9] & 0xc0 = 0x40"):
        begun, before, clock = time.monotonic(), sum(cpu_seconds(pids)), time.time_ns()
        time.sleep(seconds)
        row.cpu_percent = 100 * (sum(cpu_seconds(pids)) - before) / (time.monotonic() - begun)
        row.rss_mb = rss_mb(pids)
    paused = Paused(phase.watch.pauses(clock))
    # A session that falls in a pause, or a detection time after one: packets of either end were not sent meanwhile.
    reach = row.case.detection_us * 1000 + 10 * 10**6
    fell = [at for at in falls(read(phase.file)) if at > clock]
    row.paused_downs = sum(paused.covers(at - reach, at) for at in fell)
    row.downs = len(fell) - row.paused_downs
    row.pauses = len(paused.pauses)
    row.longest_pause_ms = max(((p.end - p.begin) / 1e6 for p in paused.pauses), default=0.0)


def _cut_singly(phase: Phase, count: int) -> None:
    """Sessions in turn, so far apart that few are down at a time and each is long up again at its next turn."""
    case, keys = phase.case, phase.case.pairs()
    gap = max(0.02, 20 / case.sessions)
    lasts = case.detection_us / 1e6 + 0.5
    done: list[Cut] = []
    with phase.packets(_CUTS):
        begun = time.time_ns()
        for number in range(count):
            key = keys[number % len(keys)]
            done.append(Cut(key, silence(phase.pair, key, lasts)))
            time.sleep(gap)
        time.sleep(lasts + 0.5)
    late, missed = overshoots(read(phase.file), done, case.detection_us)
    phase.row.late = phase.lateness(late, begun)
    phase.row.late.missed = missed


def _cut_together(phase: Phase, peer: VegEnd) -> None:
    case, pid = phase.case, peer.speaker.pid()
    with phase.packets(_CUTS):
        time.sleep(case.interval_ms / 1000)
        begun = time.time_ns()
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(case.detection_us / 1e6 + 1)
        finally:
            os.kill(pid, signal.SIGCONT)
    late, missed = overshoots(read(phase.file), [Cut(key, begun) for key in case.pairs()], case.detection_us)
    phase.row.late_together = phase.lateness(late, begun)
    phase.row.late_together.missed = missed


def _list(phase: Phase, end: VegEnd, seconds: float) -> None:
    """Windows without and with the client in turn, so that what else happens on the machine falls on both."""
    row = phase.row
    for part in range(4):
        listing = part % 2 == 1
        with _listing(end) if listing else nullcontext([0]) as calls:
            with phase.packets("src host 10.9.0.1"):
                begun = time.time_ns()
                time.sleep(seconds / 2)
            row.lists += calls[0]
        found = phase.lateness(delays(read(phase.file), row.case.interval_ms * 1000), begun)
        total = row.list_delays if listing else row.quiet_delays
        total.free += found.free
        total.held += found.held


@contextmanager
def _listing(end: VegEnd) -> Iterator[list[int]]:
    """A client that lists as fast as it is answered; counts its calls."""
    calls, over = [0], threading.Event()

    def client() -> None:
        with grpc.insecure_channel(f"unix:{end.speaker.folder}/bfd.sock") as channel:
            stub = pb_grpc.BfdServiceStub(channel)
            while not over.is_set():
                stub.ListSessions(pb.ListSessionsRequest(), timeout=60)
                calls[0] += 1

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield calls
    finally:
        over.set()
        thread.join(timeout=90)


def print_table(rows: Sequence[Row], seconds: float) -> None:
    """The figures as the Markdown of docs/benchmarks.md."""
    _out(
        f"| sessions @ interval | load | speaker | CPU % of a core | µs a session and s | false downs in {seconds:g} s"
        " | overshoot p50 / p99 / max ms | all at once p50 / p99 / max ms | RSS MB | pauses: number, longest ms |"
    )
    _out("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        _out(_cells(row))
    listed = [row for row in rows if row.list_delays.free]
    if not listed:
        return
    _out("")
    _out(
        "| veg-bfd | load | packet after its interval p99 / p99.9 / max ms | while a client lists | lists a second |"
    )
    _out("| --- | --- | ---: | ---: | ---: |")
    for row in listed:
        _out(
            f"| {row.case.sessions} @ {row.case.interval_ms} ms | {row.load} | {_tail(row.quiet_delays)} |"
            f" {_tail(row.list_delays)} | {row.lists / min(seconds, 15):.0f} |"
        )


def _cells(row: Row) -> str:
    paused = f" (+{row.paused_downs} in pauses)" if row.paused_downs else ""
    cells = [
        f"{row.case.sessions} @ {row.case.interval_ms} ms",
        row.load,
        row.system,
        f"{row.cpu_percent:.1f}",
        f"{row.cpu_a_session:.0f}",
        f"{row.downs}{paused}",
        _spread(row.late),
        _spread(row.late_together),
        " + ".join(f"{part:.0f}" for part in row.rss_mb),
        f"{row.pauses}, {row.longest_pause_ms:.0f}",
    ]
    return "| " + " | ".join(cells) + " |" + (f" ({row.problem})" if row.problem else "")


def _spread(late: Lateness) -> str:
    notes = [f"+{len(late.held)} in pauses"] * bool(late.held) + [f"{late.missed} unseen"] * bool(late.missed)
    text = (
        " / ".join(f"{percentile(late.free, share):.2f}" for share in (0.5, 0.99, 1.0)) if late.free else "-"
    )
    return text + (f" ({', '.join(notes)})" if notes else "")


def _tail(late: Lateness) -> str:
    text = " / ".join(f"{percentile(late.free, share):.2f}" for share in (0.99, 0.999, 1.0))
    return text + (f" (+{len(late.held)} in pauses)" if late.held else "")


def _out(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
