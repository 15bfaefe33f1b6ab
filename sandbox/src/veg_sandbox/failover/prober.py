"""Many UDP flows to the echo server from one process, recorded packet by packet and asked for afterwards.

    python -m veg_sandbox.failover.prober --target 172.17.0.1 [--target fd17::1] --flows 16 --interval-ms 10

Runs inside a client pod. Packets leave at absolute times, the flows spread over the interval; answers are taken
by the kernel's own receive timestamps (SO_TIMESTAMPNS), so that this process being late does not look like the
network being late. Commands are JSON lines on standard input, each answered by one line; the end of input ends it.

    {"peek": true}                      -> {"now": …, "silent_ms": {flow: …}}
    {"from": T, "to": T}                -> {"flows": [{"source", "gap_ms", "gap_at", "lost", "sent"}, …], "paused_ms"}
    {"renew": true}                     -> {}: every flow starts again from another source port

Times are seconds of CLOCK_REALTIME. Only the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from veg_sandbox.failover.gaps import Answer, FlowLog
from veg_sandbox.failover.pauses import Watch
from veg_sandbox.net.echo import ECHO_PORT

# Not in Python's socket module: asm-generic/socket.h.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_PAYLOAD = struct.Struct("!Qd")
# The flows of an interval leave in so many portions.
_PORTIONS = 4
# Older records are of no use to anyone.
_KEPT_SECONDS = 60.0


@dataclass
class Flow:
    """One connected socket and what happened on it."""

    sock: socket.socket
    log: FlowLog = field(default_factory=FlowLog)

    def send(self) -> None:
        """One packet, numbered."""
        now = time.time()
        number = self.log.sending(now)
        with contextlib.suppress(OSError):  # an ICMP error of an earlier one; counted as lost
            self.sock.send(_PAYLOAD.pack(number, now))

    def renew(self) -> None:
        """Another source port, nothing remembered. Raises OSError."""
        target, port, *_ = self.sock.getpeername()
        self.sock.close()
        fresh = open_flow(target, port)
        self.sock, self.log = fresh.sock, fresh.log

    def drain(self) -> None:
        """Take the answers that wait."""
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(512, 64)
            except BlockingIOError:
                return
            except OSError:
                continue
            seen, _, payload = data.partition(b"\n")
            if len(payload) == _PAYLOAD.size:
                number, _ = _PAYLOAD.unpack(payload)
                source = seen.partition(b" ")[0].decode()
                self.log.answered(Answer(number, _received_at(ancillary), source))


def _received_at(ancillary: list[tuple[int, int, bytes]]) -> float:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            return float(seconds) + float(nanoseconds) / 1e9
    return time.time()


def open_flow(target: str, port: int) -> Flow:
    """A flow with a source port of its own. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.setblocking(False)
    sock.connect((target, port))
    return Flow(sock)


class Prober:
    """Sends, receives and answers commands until its input ends."""

    def __init__(self, flows: list[Flow], interval: float, watch: Watch) -> None:
        self._flows = flows
        self._watch = watch
        self._interval = interval
        self._input = b""

    def run(self) -> None:
        """Until the end of standard input."""
        os.set_blocking(0, False)
        begun, tick = time.monotonic(), 0
        while self._commands():
            pause = begun + tick * self._interval / _PORTIONS - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            elif pause < -self._interval:
                # The machine stood still. Catching up would be a burst that no application sends, and lose packets
                # in queues that hold a few dozen.
                begun -= pause
            for flow in self._flows[tick % _PORTIONS :: _PORTIONS]:
                flow.drain()
                flow.send()
            tick += 1

    def _commands(self) -> bool:
        try:
            data = os.read(0, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            _print(self._answer(json.loads(line)))
        return True

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        for flow in self._flows:
            flow.drain()
            flow.log.forget(time.time() - _KEPT_SECONDS)
        if "peek" in command:
            now = time.time()
            return {"now": now, "flows": [flow.log.peek(now) for flow in self._flows]}
        if "renew" in command:
            for flow in self._flows:
                flow.renew()
            return {}
        begin, end = command["from"], command["to"]
        return {
            "flows": [flow.log.report(begin, end) for flow in self._flows],
            "paused_ms": round(self._watch.longest_ms(begin, end), 1),
        }


def _print(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Open the flows and run."""
    parser = argparse.ArgumentParser(prog="prober", description="many UDP flows to the echo server")
    parser.add_argument("--target", action="append", required=True, help="IPv4 or IPv6 address")
    parser.add_argument("--port", type=int, default=ECHO_PORT)
    parser.add_argument("--flows", type=int, default=16, help="in all, shared among the targets")
    parser.add_argument("--interval-ms", type=float, default=10, help="between two packets of a flow")
    options = parser.parse_args()
    targets: list[str] = options.target
    flows = [open_flow(targets[number % len(targets)], options.port) for number in range(options.flows)]
    with contextlib.suppress(OSError):
        # A measurement must not wait for what it measures: this takes a few per cent of a core at most.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    with Watch() as watch:
        Prober(flows, options.interval_ms / 1000, watch).run()


if __name__ == "__main__":
    main()
