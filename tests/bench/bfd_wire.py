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


def overshoots(packets: Iterable[Seen], cuts: Sequence[Cut], detection_us: int) -> tuple[list[float], int]:
    """How long after the end of its detection time each cut session said Down, ms; and how many never did.

    The detection time starts with the last packet that came in; the first packet that says Down ends it.
    """
    arrivals: dict[tuple[int, int], list[int]] = defaultdict(list)
    downs: dict[tuple[int, int], list[int]] = defaultdict(list)
    for packet in packets:
        if packet.state == _DOWN:
            downs[packet.source, packet.destination].append(packet.at)
        arrivals[packet.destination, packet.source].append(packet.at)
    late: list[float] = []
    missed = 0
    for cut in cuts:
        local, peer = (int(IPv4Address(address)) for address in cut.key)
        down = next((at for at in downs[local, peer] if at > cut.begun), None)
        last = max((at for at in arrivals[local, peer] if down is not None and at < down), default=None)
        # A packet that left before the cut and a session that was not up before it tell nothing.
        if down is None or last is None or down > cut.begun + 2_000 * detection_us + 10**9:
            missed += 1
            continue
        late.append((down - last - detection_us * 1000) / 1e6)
    return late, missed


def delays(packets: Iterable[Seen], interval_us: int) -> list[float]:
    """How long after the negotiated interval each packet followed the session's one before, ms; negative: earlier.

    RFC 5880 section 6.8.7 has a sender take 75 % to 100 % of the interval.
    """
    by_session: dict[tuple[int, int], list[int]] = defaultdict(list)
    for packet in packets:
        by_session[packet.source, packet.destination].append(packet.at)
    return [
        (after - before - interval_us * 1000) / 1e6
        for times in by_session.values()
        for before, after in itertools.pairwise(times)
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of all do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
