"""What BFD packets on a link tell of a speaker: when it noticed silence, and how late it sent.

tcpdump writes them with the kernel's timestamps, so that what is measured does not share a clock or a process with what
measures. Only IPv4 over Ethernet.
"""

from __future__ import annotations

import itertools
import signal
import struct
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from veg_sandbox.failover.pauses import SHORTEST_PAUSE_NS, Pause

_NANO = 0xA1B23C4D
_RECORD = struct.Struct("<IIII")
_ADDRESSES = struct.Struct("!II")
_DOWN = 1
Key = tuple[str, str]
"""(local, peer) of a session, seen from the measured end."""


class Seen(NamedTuple):
    """A packet: CLOCK_REALTIME in ns, addresses as numbers, the state that it tells."""

    at: int
    source: int
    destination: int
    state: int


class Late(NamedTuple):
    """Something that happened `ms` after it was due; `due` (or a moment before) and `at` in CLOCK_REALTIME ns."""

    ms: float
    due: int
    at: int


class Cut(NamedTuple):
    """A session whose peer's packets were lost from some moment in [`begun`, …) on; CLOCK_REALTIME in ns."""

    key: Key
    begun: int


@contextmanager
def capture(netns: str, device: str, file: Path, expression: str) -> Iterator[None]:
    """Write BFD packets that match to a file while the block runs."""
    argv = [
        "ip",
        "netns",
        "exec",
        netns,
        "setpriv",
        "--pdeathsig",
        "KILL",
        "tcpdump",
        "-i",
        device,
        "-n",
        "-p",
        "-Z",
    ]
    argv += ["root", "-s", "72", "-B", "8192", "--time-stamp-precision=nano", "-w", str(file)]
    with subprocess.Popen(
        [*argv, f"udp dst port 3784 and ({expression})"], stderr=subprocess.PIPE, text=True
    ) as dump:
        try:
            assert dump.stderr is not None
            said = dump.stderr.readline()
            assert "listening on" in said, f"tcpdump: {said}"
            yield
            time.sleep(0.2)
        finally:
            dump.send_signal(signal.SIGINT)
            try:
                _, said = dump.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                dump.kill()
                raise
    assert "\n0 packets dropped by kernel" in said, f"tcpdump lost packets: {said}"


def read(file: Path) -> Iterator[Seen]:
    """The packets of a file that `capture` wrote, in order of time."""
    data = file.read_bytes()
    assert struct.unpack_from("<I", data)[0] == _NANO, "not a little-endian pcap file with nanoseconds"
    at = 24
    while at + _RECORD.size <= len(data):
        seconds, nanoseconds, length, _ = _RECORD.unpack_from(data, at)
        packet = at + _RECORD.size
        source, destination = _ADDRESSES.unpack_from(data, packet + 14 + 12)
        yield Seen(seconds * 10**9 + nanoseconds, source, destination, data[packet + 14 + 20 + 8 + 1] >> 6)
        at = packet + length


def overshoots(packets: Iterable[Seen], cuts: Sequence[Cut], detection_us: int) -> tuple[list[Late], int]:
    """How long after the end of its detection time each cut session said Down; and how many were not seen to.

    The detection time starts with the last packet that came in; the first packet that says Down ends it.
    """
    arrivals: dict[tuple[int, int], list[int]] = defaultdict(list)
    downs: dict[tuple[int, int], list[int]] = defaultdict(list)
    for packet in packets:
        if packet.state == _DOWN:
            downs[packet.source, packet.destination].append(packet.at)
        arrivals[packet.destination, packet.source].append(packet.at)
    late: list[Late] = []
    missed = 0
    for cut in cuts:
        local, peer = (int(IPv4Address(address)) for address in cut.key)
        down = next((at for at in downs[local, peer] if at > cut.begun), None)
        last = max((at for at in arrivals[local, peer] if down is not None and at < down), default=None)
        if down is None or last is None or down > cut.begun + 2_000 * detection_us + 10**9:
            missed += 1
            continue
        due = last + detection_us * 1000
        # veg-bfd does not believe in silence for up to 100 ms after a pause: what a pause did then is its doing too.
        late.append(Late((down - due) / 1e6, max(last, due - 100_000_000), down))
    return late, missed


def delays(packets: Iterable[Seen], interval_us: int) -> list[Late]:
    """How long after the negotiated interval each packet followed the session's one before; negative: earlier.

    RFC 5880 section 6.8.7 has a sender take 75 % to 100 % of the interval.
    """
    by_session: dict[tuple[int, int], list[int]] = defaultdict(list)
    for packet in packets:
        by_session[packet.source, packet.destination].append(packet.at)
    return [
        Late((after - before - interval_us * 1000) / 1e6, before, after)
        for times in by_session.values()
        for before, after in itertools.pairwise(times)
    ]


def falls(packets: Iterable[Seen]) -> list[int]:
    """When sessions went down, ns: the first packet of either end that says Down, after none for five seconds."""
    last: dict[frozenset[int], int] = {}
    found = []
    for packet in packets:
        session = frozenset((packet.source, packet.destination))
        if packet.at - last.get(session, 0) > 5 * 10**9:
            found.append(packet.at)
        last[session] = packet.at
    return found


class Paused:
    """Which moments a pause of the machine covers."""

    def __init__(self, pauses: Iterable[Pause]) -> None:
        self.pauses = sorted(pauses)

    def covers(self, begin: int, end: int) -> bool:
        """Whether a pause overlaps a time."""
        return any(pause.begin < end and pause.end > begin for pause in self.pauses)

    def split(self, found: Iterable[Late]) -> tuple[list[float], list[float]]:
        """The ms of those outside every pause, and of those within one."""
        free: list[float] = []
        held: list[float] = []
        for late in found:
            (held if self.covers(late.due, late.at + SHORTEST_PAUSE_NS) else free).append(late.ms)
        return free, held


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of all do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
