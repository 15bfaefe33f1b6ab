"""Traffic probes against the echo server, to be run inside a pod: what a client of a gateway would see.

    python -m veg_sandbox.net.probe connect --target 172.17.0.1 --count 400 --proto tcp
    python -m veg_sandbox.net.probe stream --target 172.17.0.1 --interval-ms 10 --duration 5
    python -m veg_sandbox.net.probe hold --target 172.17.0.1

Each prints one JSON object and ends within a bound, whatever the network does. Exit code 0 means that the
probe ran, not that traffic passed: that is for the reader of the JSON. Only the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import socket
import statistics
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from veg_sandbox.net.echo import ECHO_PORT

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True)
class Target:
    """Whom to ask: an address, never a name."""

    address: str
    port: int

    def open(self, proto: str, timeout: float) -> socket.socket:
        """A connected socket whose operations take at most `timeout` s. Raises OSError."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        sock = socket.socket(family, _KINDS[proto])
        sock.settimeout(timeout)
        try:
            sock.connect((self.address, self.port))
        except OSError:
            sock.close()
            raise
        return sock


def connect(target: Target, *, proto: str, count: int, timeout: float, parallel: int) -> dict[str, Any]:
    """Ask `count` times, each on a new socket (a new source port), which source address was seen.

    Result: `sources` (address -> times), `failed`, `errors` (message -> times), `latency_ms_p50` of those
    that succeeded (null without any), `seconds`.
    """

    def ask(_: int) -> tuple[str, float] | OSError:
        started = time.monotonic()
        try:
            with target.open(proto, timeout) as sock:
                if proto == "udp":
                    sock.send(b"?")
                seen = _first_line(sock)
        except OSError as error:
            return error
        return seen.split()[0], time.monotonic() - started

    started = time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        answers = list(pool.map(ask, range(count)))
    errors = Counter(_reason(answer) for answer in answers if isinstance(answer, OSError))
    good = [answer for answer in answers if not isinstance(answer, OSError)]
    sources = Counter(address for address, _ in good)
    return {
        "count": count,
        "sources": dict(sorted(sources.items())),
        "failed": count - len(good),
        "errors": dict(errors),
        "latency_ms_p50": _ms(statistics.median(latency for _, latency in good)) if good else None,
        "seconds": round(time.monotonic() - started, 3),
    }


def stream(  # noqa: PLR0913 - keywords, named at every call
    target: Target,
    *,
    interval: float,
    duration: float,
    flows: int,
    grace: float,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Send a UDP request every `interval` s in each of `flows` flows for `duration` s; count the answers.

    With `stop` it ends when that is set, if it comes first.

    Result: `sent`, `received`, `lost` (no answer `grace` s after the end), `largest_gap_ms` (between two
    answers that follow each other in one flow, or from an end of the run; the worst flow),
    `latency_ms_p50`, `sources`.
    """
    told = _Stream(target, flows)
    started = time.monotonic()
    rounds, end = 0, started + duration
    while (now := time.monotonic()) < end + grace and not (now >= end and told.complete):
        if stop is not None and stop.is_set():
            end, stop = min(end, now), None
        due = started + rounds * interval
        if now - due > interval:
            # After a pause of the machine the schedule moves: a burst would be lost in queues, by nobody's fault.
            started += now - due
            due = now
        if now < end and now >= due:
            told.send(rounds)
            rounds += 1
        else:
            told.listen((due if due < end else end + grace) - now)
    told.listen(0)  # what came in while the machine stood still
    return told.close(end)


class _Stream:
    """The flows of a stream and what became of them."""

    def __init__(self, target: Target, flows: int) -> None:
        self._sockets = [target.open("udp", 0) for _ in range(flows)]
        self._selector = selectors.DefaultSelector()
        for flow, sock in enumerate(self._sockets):
            self._selector.register(sock, selectors.EVENT_READ, flow)
        self._last, self._gaps = [time.monotonic()] * flows, [0.0] * flows
        self._seen: set[tuple[int, int]] = set()
        self._latencies: list[float] = []
        self._sources: Counter[str] = Counter()
        self._sent = 0

    @property
    def complete(self) -> bool:
        """Whether every request has been answered."""
        return len(self._seen) == self._sent

    def send(self, number: int) -> None:
        """A request in each flow."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # an ICMP error of an earlier request; counted as lost
                sock.send(struct.pack("!Qd", number, time.monotonic()))
            self._sent += 1

    def listen(self, pause: float) -> None:
        """Take the answers that are there, or the first that come within `pause` s."""
        for key, _ in self._selector.select(max(0.0, pause)):
            flow = key.data
            for source, number, sent_at in _answers(self._sockets[flow]):
                now = time.monotonic()
                if (flow, number) not in self._seen:
                    self._seen.add((flow, number))
                    self._latencies.append(now - sent_at)
                    self._sources[source] += 1
                    self._gaps[flow] = max(self._gaps[flow], now - self._last[flow])
                    self._last[flow] = now

    def close(self, end: float) -> dict[str, Any]:
        """The result, when requests ended at `end`."""
        for flow, sock in enumerate(self._sockets):
            self._gaps[flow] = max(self._gaps[flow], end - self._last[flow])
            sock.close()
        return {
            "sent": self._sent,
            "received": len(self._seen),
            "lost": self._sent - len(self._seen),
            "largest_gap_ms": _ms(max(self._gaps)),
            "latency_ms_p50": _ms(statistics.median(self._latencies)) if self._latencies else None,
            "sources": dict(sorted(self._sources.items())),
        }


def hold(target: Target, *, interval: float, duration: float, timeout: float) -> dict[str, Any]:
    """Keep one TCP connection, sending a byte every `interval` s and reading its echo, until told to stop.

    Told by SIGTERM, SIGINT, the end of standard input or a line on it; at the latest after `duration` s.
    Prints `{"connected": true, "source": …, "port": …}` as soon as the connection stands. Result: `alive` (open, and what was
    sent came back within `timeout` s of the end), `resets`, `sent`, `echoed`, `largest_gap_ms`, `source`.
    """
    with _stopping() as stop, target.open("tcp", timeout) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        source, port = _first_line(sock).split()
        _print({"connected": True, "source": source, "port": int(port)})
        sock.setblocking(False)
        started = last = time.monotonic()
        sent = echoed = resets = 0
        gap = 0.0
        error = ""
        while not stop.wait(interval) and time.monotonic() < started + duration and not error:
            error = _send_byte(sock)
            sent += not error
            came, error = _receive(sock, error)
            if came:
                gap, last = max(gap, time.monotonic() - last), time.monotonic()
            echoed += came
        deadline = time.monotonic() + timeout
        while echoed < sent and not error and time.monotonic() < deadline:
            came, error = _receive(sock, error)
            echoed += came
            time.sleep(0.005)
    resets += bool(error)
    return {
        "alive": not error and echoed == sent,
        "resets": resets,
        "error": error,
        "sent": sent,
        "echoed": echoed,
        "largest_gap_ms": _ms(max(gap, 0.0)),
        "source": source,
        "seconds": round(time.monotonic() - started, 3),
    }


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that is set by SIGTERM, SIGINT or anything (also the end) on standard input."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def listen() -> None:
        with contextlib.suppress(OSError):
            os.read(0, 1)
        stop.set()

    # /dev/null is what a command without a standard input has: it says nothing about stopping.
    if not os.path.samestat(os.fstat(0), os.stat(os.devnull)):  # noqa: PTH116
        threading.Thread(target=listen, daemon=True).start()
    yield stop


def _send_byte(sock: socket.socket) -> str:
    try:
        sock.send(b".")
    except BlockingIOError:
        return ""  # the buffer is full of what was not acknowledged yet
    except OSError as error:
        return _reason(error)
    return ""


def _receive(sock: socket.socket, error: str) -> tuple[int, str]:
    if error:
        return 0, error
    try:
        data = sock.recv(65536)
    except BlockingIOError:
        return 0, ""
    except OSError as failure:
        return 0, _reason(failure)
    return len(data), "" if data else "closed by the other end"


def _answers(sock: socket.socket) -> Iterator[tuple[str, int, float]]:
    """(source seen, number, sent at) of each answer that waits in the socket."""
    while True:
        try:
            data = sock.recv(2048)
        except OSError:  # none left, or an ICMP error
            return
        seen, _, payload = data.partition(b"\n")
        if len(payload) == 16:
            number, sent_at = struct.unpack("!Qd", payload)
            yield seen.split()[0].decode(), number, sent_at


def _first_line(sock: socket.socket) -> str:
    received = b""
    while b"\n" not in received:
        data = sock.recv(2048)
        if not data:
            raise ConnectionError("closed before it answered")
        received += data
    return received.partition(b"\n")[0].decode()


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _print(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="probe", description="traffic probes against the echo server")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("connect", help="many short connections: which source addresses are seen")
    one.add_argument("--count", type=int, default=400)
    one.add_argument("--proto", choices=sorted(_KINDS), default="tcp")
    one.add_argument("--parallel", type=int, default=8)
    two = commands.add_parser("stream", help="UDP at an interval: loss and the largest gap")
    two.add_argument("--interval-ms", type=float, default=10)
    two.add_argument("--duration", type=float, default=5, help="seconds")
    two.add_argument("--flows", type=int, default=1)
    two.add_argument("--until-told", action="store_true", help="end on a line, or the end, of standard input")
    three = commands.add_parser("hold", help="one TCP connection kept alive until told to stop")
    three.add_argument("--interval-ms", type=float, default=50)
    three.add_argument("--duration", type=float, default=300, help="at most, seconds")
    for command in (one, two, three):
        command.add_argument("--target", required=True, help="IPv4 or IPv6 address")
        command.add_argument("--port", type=int, default=ECHO_PORT)
        command.add_argument("--timeout", type=float, default=3, help="seconds for an answer")
    return parser


def main() -> None:
    """Run a probe and print what it measured."""
    options = _parser().parse_args()
    target = Target(options.target, options.port)
    if options.command == "connect":
        result = connect(
            target,
            proto=options.proto,
            count=options.count,
            timeout=options.timeout,
            parallel=options.parallel,
        )
    elif options.command == "stream":
        with _stopping() if options.until_told else contextlib.nullcontext() as stop:
            result = stream(
                target,
                interval=options.interval_ms / 1000,
                duration=options.duration,
                flows=options.flows,
                grace=min(options.timeout, 1.0),
                stop=stop,
            )
    else:
        interval = options.interval_ms / 1000
        try:
            result = hold(target, interval=interval, duration=options.duration, timeout=options.timeout)
        except OSError as error:
            result = {"alive": False, "resets": 0, "error": _reason(error), "sent": 0, "echoed": 0}
    _print(result)


if __name__ == "__main__":
    main()
