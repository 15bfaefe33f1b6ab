"""The loop's end of the conversation in `veg_bfd.wire`: carries out commands, tells what happened, a little at a time.

`work` does a slice and says whether there is more, so that a list of thousands of sessions never holds a packet up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from veg_bfd import wire
from veg_bfd.core.engine import Engine
from veg_bfd.core.model import Changed, Event
from veg_bfd.core.session import Session
from veg_bfd.errors import BfdError, ConfigError, UnavailableError
from veg_bfd.io.child import Child
from veg_bfd.io.priority import Scheduling
from veg_bfd.io.udp import Transmitter


@dataclass
class LoopStats:
    """Counters of the packet loop. `stalls`: times that packets had to wait for 10 ms or more."""

    stalls: int = 0


_COMMANDS = 8  # carried out in one slice
_TOLD = 16  # events told in one slice
_VIEWS = 16  # sessions told in one slice of a refresh


class Link:
    """Between engine and control process. `stopping` refuses to let sessions come up; `drained` is its word."""

    def __init__(
        self, engine: Engine, child: Child, transmitter: Transmitter, scheduling: Scheduling
    ) -> None:
        self._engine = engine
        self._child = child
        self._transmitter = transmitter
        self._scheduling = scheduling
        self._events: deque[Event | bytes] = deque()
        self._dump: Iterator[bytes] | None = None
        self._error: BfdError | None = None
        self.stats = LoopStats()
        self.stopping = False
        self.drained = False
        self._commands: dict[str, Callable[..., None]] = {
            "put": self._put,
            "keep": self._keep,
            "end": self._engine.end,
            "admin": self._admin,
            "session": self._session,
            "allow": self._allow,
            "block": self._block,
            "beat": self._beat,
            "refresh": self._refresh,
            "done": self._done,
            "drained": self._drained,
        }

    def greet(self) -> None:
        """Tell a new control process everything."""
        self._events.clear()
        self._dump = None
        self._error = None
        scheduling = self._scheduling
        self._child.send(wire.pack("hello", scheduling.policy, scheduling.problem, self._child.starts > 1))
        self._dump = self._everything()
        if self.stopping:
            self._child.send(wire.pack("stopping"))

    def stop(self) -> None:
        """From now on no session comes up, and what a drain said before does not count."""
        self.stopping, self.drained = True, False
        self._take_events()
        self._events.append(wire.pack("stopping"))

    def log(self, level: str, text: str, **fields: Any) -> None:
        """Have a line logged by the control process, whose stderr may block."""
        self._events.append(wire.pack("log", level, text, fields))

    @property
    def waiting(self) -> bool:
        """Whether `work` has something to do."""
        return bool(self._events or self._child.lines or self._dump) or self._child.waiting

    def work(self, now: int) -> bool:
        """Do a slice. True when there is more to do now."""
        child = self._child
        self._take_events()
        if child.socket is None:
            self._events.clear()  # its successor is told everything
            return False
        lines = child.lines
        for _ in range(min(_COMMANDS, len(lines))):
            self._command(now, lines.popleft())
        if child.socket is not None and child.writable:
            self._tell()
        child.flush()
        if len(self._events) > wire.BACKLOG:
            child.drop()
        return bool(lines) or (child.writable and bool(self._events or self._dump))

    def _tell(self) -> None:
        """A dump goes on only while no event waits: events stay in order, and a view is never older than one."""
        send, events = self._child.send, self._events
        for _ in range(min(_TOLD, len(events))):
            event = events.popleft()
            if isinstance(event, bytes):
                send(event)
            elif isinstance(event, Changed):
                send(wire.pack("session", event.view, event.previous, event.late_us))
            else:
                send(wire.pack("ended", event.id))
        if self._dump is not None and not events:
            for _ in range(_VIEWS):
                line = next(self._dump, None)
                if line is None:
                    self._dump = None
                    break
                send(line)

    def _everything(self) -> Iterator[bytes]:
        for session in list(self._engine.sessions()):
            if session.leaves_at is None:
                yield wire.pack("session", session.view(), None, 0)
        yield self._stats()
        yield wire.pack("synced")

    def _refreshed(self) -> Iterator[bytes]:
        for session in list(self._engine.sessions()):
            if session.leaves_at is None:
                yield wire.pack("view", session.view())
        yield self._stats()
        yield wire.pack("refreshed")

    def _stats(self) -> bytes:
        engine = self._engine
        return wire.pack(
            "stats",
            {
                "discards": {reason.value: count for reason, count in engine.discards.items()},
                "unknown": engine.unknown,
                "send_errors": self._transmitter.errors,
                "stalls": self.stats.stalls,
            },
        )

    # Commands -----------------------------------------------------------------------------------------------

    def _take_events(self) -> None:
        if self._engine.events:
            self._events.extend(self._engine.events)
            self._engine.events.clear()

    def _show(self, session: Session) -> None:
        """Tell what a command changed without changing the state."""
        self._take_events()
        self._events.append(wire.pack("view", session.view()))

    def _command(self, now: int, line: bytes) -> None:
        try:
            name, *arguments = wire.unpack(line)
            self._commands[name](now, *arguments)
        except BfdError as error:
            self._error = self._error or error
        except (ValueError, KeyError, TypeError) as error:
            self._error = self._error or ConfigError(f"bad command: {error!r}")

    def _put(self, now: int, owner: str, fields: list[Any], discriminator: int) -> None:
        config = wire.unpack_config(fields)
        session = self._engine.find(config.local, config.peer)
        if session is not None and session.config.interface != config.interface:
            self._transmitter.reopen(session)
        self._show(self._engine.put(now, owner, config, discriminator))

    def _keep(self, now: int, owner: str, keys: Iterable[list[str]]) -> None:
        self._engine.keep(now, owner, {(local, peer) for local, peer in keys})

    def _admin(  # noqa: PLR0913, PLR0917 (a line's fields)
        self,
        now: int,
        peers: list[str],
        down: bool,  # noqa: FBT001
        reason: str,
        diagnostic: int,
        silent_first: bool,  # noqa: FBT001
    ) -> None:
        self._require_not_stopping(down=down)
        concerned = self._engine.set_admin_down(
            now, set(peers), down=down, reason=reason, diagnostic=diagnostic, silent_first=silent_first
        )
        for session in concerned:
            self._show(session)

    def _session(self, now: int, number: int, down: bool, reason: str, diagnostic: int) -> None:  # noqa: FBT001 (a line's field)
        self._require_not_stopping(down=down)
        session = self._engine.get(number)
        if session is None:
            raise ConfigError(f"there is no session {number}")
        self._engine.set_session_admin(now, session, down=down, reason=reason, diagnostic=diagnostic)
        self._show(session)

    def _require_not_stopping(self, *, down: bool) -> None:
        if self.stopping and not down:
            raise UnavailableError("the speaker is stopping")

    def _allow(self, _now: int, peer: str, owner: str, fields: list[Any]) -> None:
        self._engine.allow(peer, owner, wire.unpack_config(fields))

    def _block(self, _now: int, peer: str) -> None:
        self._engine.block(peer)

    def _beat(self, _now: int) -> None:
        self._events.append(wire.pack("beat"))

    def _refresh(self, _now: int) -> None:
        self._dump = self._dump or self._refreshed()

    def _done(self, now: int, number: int) -> None:
        del now
        self._take_events()  # those of the commands that this answers
        error = self._error
        self._events.append(wire.pack("done", number, str(error or ""), type(error).__name__))
        self._error = None

    def _drained(self, _now: int) -> None:
        self.drained = True
