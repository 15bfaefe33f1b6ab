"""veg-bfd beside FRR's bfdd: CPU, lateness, false alarms, memory. `make bench-bfd`.

    python -m tests.bench.bfd [--quick] [--cases 100@10,500@50,2000@300] [--systems veg-bfd,frr] [--loads idle,saturated]

Each line of the table is one speaker in a namespace of its own against the same peer, a veg-bfd in another. Phases:

1. *steady*: nothing happens for --seconds; CPU of all the speaker's processes, downs (every one is false), memory.
2. *cuts*: the peer's packets of single sessions are lost, one session after the other; how long after the end of its
   detection time each session said Down, by the kernel's timestamps on the wire.
3. *all at once*: the peer's process is stopped; the same for every session together.
4. *list* (veg-bfd only): how late packets leave, without and with a client that calls ListSessions all the time.

"saturated" adds an endless loop per core under normal scheduling. The last column is the longest time for which a
process above all of them could not run, in phases 1, 2 and 3: what that covers is the machine's doing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
from veg.bfd.v1 import bfd_pb2 as pb
from veg.bfd.v1 import bfd_pb2_grpc as pb_grpc

from tests.bench.bfd_ends import (
    Case,
    End,
    VegEnd,
    Watch,
    busy,
    cpu_seconds,
    link,
    make,
    rss_mb,
    silence,
    wait,
)
from tests.bench.bfd_wire import Cut, capture, delays, overshoots, percentile, read
from tests.functional.bfd_interop.lab import DEVICE, Pair

CASES = "100@10,500@50,2000@300"
SYSTEMS = "veg-bfd,frr,frr (no FIFO)"
LOADS = "idle,saturated"
# What tells lateness: everything that came from the peer, and of what left only what says Down.
_CUTS = "src net 10.9.128.0/17 or udp[9] & 0xc0 = 0x40"


@dataclass
class Row:
    """What was measured of one speaker in one case under one load; times in ms."""

    case: Case
    load: str
    system: str
    cpu_percent: float = 0.0
    """Of one core, all processes."""
    false_downs: int = 0
    rss_mb: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    """The longest pause of the machine in the phases steady, cuts and all at once."""
    late: list[float] = field(default_factory=list)
    late_together: list[float] = field(default_factory=list)
    missed: int = 0
    quiet_delays: list[float] = field(default_factory=list)
    list_delays: list[float] = field(default_factory=list)
    lists: int = 0
    list_downs: int = 0
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
            wait(lambda: end.states()[0] == case.sessions, 180, f"{system}: {case} up")
            time.sleep(3)  # the last poll sequences
            cores = os.cpu_count() or 1
            with busy(cores) if load == "saturated" else nullcontext(), Watch() as watch:
                time.sleep(1)
                watch.longest_ms()
                _steady(row, end, seconds)
                row.pauses.append(watch.longest_ms())
                _all_up(end, case)
                _cut_singly(row, pair, end, folder, cuts)
                row.pauses.append(watch.longest_ms())
                if isinstance(end, VegEnd):
                    _list(row, pair, end, folder, min(seconds, 15))
                _all_up(end, case)
                watch.longest_ms()
                _cut_together(row, pair, peer, folder)
                row.pauses.append(watch.longest_ms())
        except (TimeoutError, AssertionError) as error:
            row.problem = str(error).splitlines()[0]
            _say(f"  {error}")
        finally:
            end.close()
            peer.close()
            pair.close()
    return row


def _all_up(end: End, case: Case) -> None:
    wait(lambda: end.states()[0] == case.sessions, 30, "every session up")


def _steady(row: Row, end: End, seconds: float) -> None:
    pids = end.pids()
    _, downs = end.states()
    begun, before = time.monotonic(), sum(cpu_seconds(pids))
    time.sleep(seconds)
    row.cpu_percent = 100 * (sum(cpu_seconds(pids)) - before) / (time.monotonic() - begun)
    row.rss_mb = rss_mb(pids)
    row.false_downs = end.states()[1] - downs


def _cut_singly(row: Row, pair: Pair, end: End, folder: Path, count: int) -> None:
    """Sessions in turn, so far apart that few are down at a time and each is long up again at its next turn."""
    case = row.case
    keys = case.pairs()
    gap = max(0.02, 20 / case.sessions)
    lasts = case.detection_us / 1e6 + 0.5
    done: list[Cut] = []
    with capture(pair.ours, DEVICE, folder / "cuts.pcap", _CUTS):
        time.sleep(0.5)
        for number in range(count):
            key = keys[number % len(keys)]
            done.append(Cut(key, silence(pair, key, lasts)))
            time.sleep(gap)
        time.sleep(lasts + 0.5)
    row.late, row.missed = overshoots(read(folder / "cuts.pcap"), done, case.detection_us)


def _cut_together(row: Row, pair: Pair, peer: VegEnd, folder: Path) -> None:
    case, pid = row.case, peer.speaker.pid()
    with capture(pair.ours, DEVICE, folder / "all.pcap", _CUTS):
        time.sleep(0.5 + case.interval_ms / 1000)
        begun = time.time_ns()
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(case.detection_us / 1e6 + 1)
        finally:
            os.kill(pid, signal.SIGCONT)
    cuts = [Cut(key, begun) for key in case.pairs()]
    row.late_together, missed = overshoots(read(folder / "all.pcap"), cuts, case.detection_us)
    row.missed += missed


def _list(row: Row, pair: Pair, end: VegEnd, folder: Path, seconds: float) -> None:
    _all_up(end, row.case)
    time.sleep(2)
    # Windows without and with the client in turn, so that what else happens on the machine falls on both.
    _, downs = end.states()
    for part in range(4):
        listing = part % 2 == 1
        file = folder / f"list{part}.pcap"
        with _listing(end) if listing else nullcontext([0]) as calls:
            with capture(pair.ours, DEVICE, file, "src host 10.9.0.1"):
                time.sleep(seconds / 2)
            row.lists += calls[0]
        found = delays(read(file), row.case.interval_ms * 1000)
        (row.list_delays if listing else row.quiet_delays).extend(found)
    row.list_downs = end.states()[1] - downs


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
        f"| sessions @ interval | load | speaker | CPU % of a core | µs a session and s | downs in {seconds:g} s |"
        " overshoot p50 / p99 / max ms | all at once p50 / p99 / max ms | RSS MB | pauses of the machine ms |"
    )
    _out("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        _out(_cells(row))
    listed = [row for row in rows if row.list_delays]
    if not listed:
        return
    _out("")
    _out(
        "| veg-bfd | load | packet leaves after its interval, p99.9 / max ms | the same while a client lists | lists/s"
        " | downs |"
    )
    _out("| --- | --- | ---: | ---: | ---: | ---: |")
    for row in listed:
        _out(
            f"| {row.case.sessions} @ {row.case.interval_ms} ms | {row.load} | {_tail(row.quiet_delays)} |"
            f" {_tail(row.list_delays)} | {row.lists / min(seconds, 15):.0f} | {row.list_downs} |"
        )


def _cells(row: Row) -> str:
    memory = " + ".join(f"{part:.0f}" for part in row.rss_mb)
    cells = [
        f"{row.case.sessions} @ {row.case.interval_ms} ms",
        row.load,
        row.system,
        f"{row.cpu_percent:.1f}",
        f"{row.cpu_a_session:.0f}",
        f"{row.false_downs}",
        _spread(row.late, row.missed),
        _spread(row.late_together, 0),
        memory,
        " / ".join(f"{pause:.0f}" for pause in row.pauses),
    ]
    return "| " + " | ".join(cells) + " |" + (f" ({row.problem})" if row.problem else "")


def _spread(values: Sequence[float], missed: int) -> str:
    if not values:
        return "-"
    text = f"{percentile(values, 0.5):.2f} / {percentile(values, 0.99):.2f} / {max(values):.2f}"
    return text + (f" ({missed} unseen)" if missed else "")


def _tail(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.999):.2f} / {max(values, default=float('nan')):.2f}"


def _out(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
