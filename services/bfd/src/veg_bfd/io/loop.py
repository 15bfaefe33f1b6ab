"""The packet loop: one epoll, sockets first, then timers, then a slice of talk with the control process.

The rule that prevents false alarms under load: when a detection time has ended, every packet that has arrived is
handed over before a session is declared down.
"""

from __future__ import annotations

import contextlib
import math
import select
import signal
import socket
import time

from veg_bfd.core.engine import Engine
from veg_bfd.core.model import Diagnostic
from veg_bfd.core.session import Session
from veg_bfd.io.child import Child
from veg_bfd.io.link import Link
from veg_bfd.io.priority import Scheduling
from veg_bfd.io.udp import Receiver, Transmitter

_BATCH = 256  # packets read from a socket before timers are looked at
_FLOOD = 16384  # more than a receive buffer holds: what is behind them came after the detection time's end
_STALL_US = 10_000
_TELL_STALL_US = 10_000_000
_OWN_WORK_US = 50_000
_GRACE_US = 10_000
_GRACE_SESSION_US = 50  # every session of a peer that was paused too sends at the same moment
_GRACE_MAX_US = 100_000
_GRACE_SPACING_US = 200_000  # an ever late machine must not keep dead sessions up
# From so many packets a second on, packets are gathered for half a millisecond: a wake-up costs more than a packet.
_BUSY = 2000
_GATHER_S = 0.0005
_HOUSEKEEPING_US = 200_000
_FORGET_US = 5_000_000
_MIN_STOP_US = 1_000_000  # so long AdminDown is said even when nobody waits for it


def clock() -> int:
    """Microseconds of the monotonic clock."""
    return time.monotonic_ns() // 1000


class PacketLoop:
    """Owns the sockets and the clock; `run` returns when the process has to end."""

    def __init__(
        self, engine: Engine, receivers: list[Receiver], child: Child, scheduling: Scheduling, linger: float
    ) -> None:
        self._engine = engine
        self._receivers = receivers
        self._child = child
        self._linger_us = int(linger * 1_000_000)
        self._transmitter = Transmitter(self._tell_send_problem)
        self._link = Link(engine, child, self._transmitter, scheduling)
        self._epoll = select.epoll()
        self._child_fd = -1
        self._child_events = 0
        self._housekeeping_at = 0
        self._forget_at = 0
        self._stop_at: int | None = None
        self._stopped_at = 0
        self._signalled = False
        self._over = False
        self._awake_at = clock()
        self._grace_until = 0
        self._worst_stall = 0
        self._tell_stall_at = 0
        self._busy = False
        self._packets = 0

    def run(self) -> None:
        """Run until a TERM or INT has been answered; a second one ends at once."""
        waker = _signals(self._on_signal)
        self._epoll.register(waker.fileno(), select.EPOLLIN)
        by_fd = {receiver.socket.fileno(): receiver for receiver in self._receivers}
        for fd in by_fd:
            self._epoll.register(fd, select.EPOLLIN)
        link, engine, poll = self._link, self._engine, self._epoll.poll
        more = False
        while not self._over:
            if self._busy:
                time.sleep(_GATHER_S)
            timeout = 0 if more else self._timeout()
            before = clock()
            ready = poll(timeout)
            now = clock()
            if now - self._awake_at > _STALL_US:
                self._note_stall(before, timeout, now)
            self._awake_at = now
            for fd, _ in ready:
                receiver = by_fd.get(fd)
                if receiver is not None:
                    self._packets += receiver.drain(now, _BATCH)
                else:
                    self._hear(fd, waker)
            self._run_timers(now)
            if more or engine.events or link.waiting:
                more = link.work(now)
                self._transmitter.flush(now, engine)
                self._watch_child()
            if now >= self._housekeeping_at or (self._signalled and self._stop_at is None):
                self._keep_house(now)
        self._child.close()
        self._epoll.close()

    def _hear(self, fd: int, waker: socket.socket) -> None:
        """A descriptor other than the receivers' is ready."""
        if fd == self._child_fd:
            self._child.read()
        else:
            with contextlib.suppress(BlockingIOError):
                waker.recv(64)

    def _note_stall(self, before: int, timeout: float, now: int) -> None:
        """Notice when packets had to wait: for the loop's own work, or for the machine to let it run.

        What the peer sent during a pause of the machine may still be on its way through the kernel or the host: right
        after one, silence is not believed for a moment.
        """
        work, sleep = before - self._awake_at, now - before - int(timeout * 1_000_000)
        if work > _STALL_US or sleep > _STALL_US:
            if now >= self._grace_until + _GRACE_SPACING_US:
                self._grace_until = now + self._grace(work, sleep)
            self._link.stats.stalls += 1
            self._worst_stall = max(self._worst_stall, work, sleep)

    def _grace(self, work: int, sleep: int) -> int:
        """How long after a stall silence is not believed, µs.

        The processors of a paused machine come back one after the other, over a part of the pause's length. Work of up
        to 50 ms is the loop's own (many sessions that end at once), and no reason to wait longer than necessary.
        """
        pause = max(sleep, work if work > _OWN_WORK_US else 0)
        if pause <= _STALL_US:
            return _GRACE_US
        return min(
            max(_GRACE_US + _GRACE_SESSION_US * len(self._engine.sessions()), pause // 2), _GRACE_MAX_US
        )

    # Time ---------------------------------------------------------------------------------------------------

    def _timeout(self) -> float:
        """Seconds until something is due; epoll counts in milliseconds and rounds up."""
        due = self._engine.next_deadline(self._grace_until)
        due = self._housekeeping_at if due is None else min(due, self._housekeeping_at)
        return max(0.0, math.ceil((due - clock()) / 1000) / 1000)

    def _run_timers(self, now: int) -> None:
        engine = self._engine
        believed = now >= self._grace_until
        if believed and engine.overdue(now):
            for receiver in self._receivers:
                read = 0
                while read < _FLOOD:
                    count = receiver.drain(now, _BATCH)
                    read += count
                    if count < _BATCH:
                        break
        engine.advance(now, expire=believed)
        if engine.outbox:
            self._transmitter.flush(now, engine)
        if engine.gone:
            for session in engine.gone:
                self._transmitter.release(session)
            engine.gone.clear()

    def _keep_house(self, now: int) -> None:
        self._housekeeping_at = now + _HOUSEKEEPING_US
        self._busy = self._packets * 1_000_000 > _BUSY * _HOUSEKEEPING_US
        self._packets = 0
        if self._worst_stall and now >= self._tell_stall_at:
            self._link.log("warning", "stall", worst_ms=self._worst_stall // 1000)
            self._worst_stall, self._tell_stall_at = 0, now + _TELL_STALL_US
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_US
            for receiver in self._receivers:
                receiver.forget()
        self._child.reap(now)
        self._watch_child()
        if self._child.start(now):
            self._link.greet()
        self._watch_child()
        if self._signalled and self._stop_at is None:
            self._begin_stop(now)
        if self._stop_at is not None:
            quiet = self._link.drained and now >= self._stopped_at + _MIN_STOP_US
            self._over = self._over or quiet or now >= self._stop_at

    def _begin_stop(self, now: int) -> None:
        """Tell every peer, and stay to answer: traffic needs time to go elsewhere."""
        engine = self._engine
        self._link.stop()
        engine.set_admin_down(
            now, (), down=True, reason="stopping", diagnostic=Diagnostic.ADMINISTRATIVELY_DOWN
        )
        self._transmitter.flush(now, engine)
        heard = any(session.remote_discriminator for session in engine.sessions())
        self._stopped_at = now
        self._stop_at = now + (self._linger_us if heard else 0)

    # Neighbours ---------------------------------------------------------------------------------------------

    def _on_signal(self) -> None:
        if self._signalled:
            self._over = True
        self._signalled = True

    def _watch_child(self) -> None:
        """Keep the epoll set in step with the control process's socket."""
        child = self._child
        if child.socket is None:
            self._child_fd = -1  # a closed descriptor has left the set by itself
            return
        wanted = select.EPOLLIN | (select.EPOLLOUT if child.waiting else 0)
        fd = child.socket.fileno()
        if fd != self._child_fd:
            self._epoll.register(fd, wanted)
        elif wanted != self._child_events:
            self._epoll.modify(fd, wanted)
        self._child_fd, self._child_events = fd, wanted

    def _tell_send_problem(self, session: Session, problem: str) -> None:
        config = session.config
        if problem:
            self._link.log("warning", "can not send", local=config.local, peer=config.peer, error=problem)
        else:
            self._link.log("info", "can send again", local=config.local, peer=config.peer)


def _signals(on_signal: object) -> socket.socket:
    """Have TERM and INT wake the loop through a socket."""
    waker, writer = socket.socketpair()
    waker.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: on_signal())  # type: ignore[operator]
    return waker
