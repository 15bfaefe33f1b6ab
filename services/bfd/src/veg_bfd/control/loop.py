"""The packet loop as the control process sees it: lines of `veg_bfd.wire` over a socket.

Requests end with `done N`; its answer comes behind everything that the request caused, so the mirror is up to date
when a request returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any

from veg_common import logs

from veg_bfd import wire
from veg_bfd.control.mirror import Mirror, Stats
from veg_bfd.core.model import Diagnostic, State, View
from veg_bfd.errors import BfdError, ConfigError, OwnerError, UnavailableError

_LIMIT = 1 << 20
_ERRORS: dict[str, type[BfdError]] = {
    kind.__name__: kind for kind in (ConfigError, OwnerError, UnavailableError)
}
_TIMEOUT = 10.0
_REFRESH_TIMEOUT = 3.0


class Loop:
    """Sends commands, keeps the mirror. `lost` is set when the socket closes: this process has to end then."""

    def __init__(self, mirror: Mirror, on_change: Callable[[], None]) -> None:
        self._mirror = mirror
        self._on_change = on_change
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._requests: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count(1)
        self._refresh: asyncio.Future[None] | None = None
        self._refreshed_at = self._heard_at = 0.0
        self._log = logs.get("sessions")
        self.synced = asyncio.Event()
        self.lost = asyncio.Event()
        self.restored = False
        self.alive: Callable[[], None] = lambda: None
        self.stopping: Callable[[], None] = lambda: None
        self.overshoot: Callable[[float], None] = lambda _seconds: None

    async def connect(self, sock: Any) -> None:
        """Take over the socket."""
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=_LIMIT)

    async def run(self) -> None:
        """Read until the loop is gone."""
        assert self._reader is not None  # noqa: S101 (connect comes first)
        with contextlib.suppress(OSError):
            while line := await self._reader.readline():
                self._take(wire.unpack(line))
        self.lost.set()

    async def request(self, *commands: bytes) -> None:
        """Have commands carried out. Raises what the loop raised, or UnavailableError when it is silent."""
        if self._writer is None or self.lost.is_set():
            raise UnavailableError("the packet loop is gone")
        number = next(self._numbers)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests[number] = future
        try:
            self._writer.writelines([*commands, wire.pack("done", number)])
            async with asyncio.timeout(_TIMEOUT):
                await self._writer.drain()
            await self._answer(future)
        except TimeoutError:
            raise UnavailableError("the packet loop does not read") from None
        except OSError:
            raise UnavailableError("the packet loop is gone") from None
        finally:
            del self._requests[number]

    async def _answer(self, future: asyncio.Future[None]) -> None:
        """Wait as long as the loop says anything: thousands of sessions take their time on a busy machine."""
        clock = asyncio.get_running_loop().time
        asked = clock()
        while not future.done():
            await asyncio.wait([future], timeout=1.0)
            if not future.done() and clock() - max(self._heard_at, asked) > _TIMEOUT:
                raise UnavailableError("the packet loop does not answer")
        future.result()

    async def refresh(self) -> None:
        """Have the counters of packets told anew, unless that was just done.

        Raises UnavailableError when the loop says nothing at all: what it told last may be wrong by now.
        """
        loop = asyncio.get_running_loop()
        spacing = max(0.1, len(self._mirror.sessions) / 2000)
        if self._refresh is None:
            if loop.time() < self._refreshed_at + spacing or self._writer is None:
                return
            self._refresh = loop.create_future()
            self._writer.write(wire.pack("refresh"))
        try:
            await asyncio.wait_for(asyncio.shield(self._refresh), _REFRESH_TIMEOUT)
        except TimeoutError:
            if loop.time() - self._heard_at > _REFRESH_TIMEOUT:
                raise UnavailableError("the packet loop does not answer") from None

    def tell(self, *fields: Any) -> None:
        """Send a line that needs no answer."""
        if self._writer is not None:
            self._writer.write(wire.pack(*fields))

    def _take(self, fields: wire.Line) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        name, *rest = fields
        getattr(self, f"_on_{name}")(*rest)

    def _on_hello(self, policy: str, problem: str, restored: bool) -> None:  # noqa: FBT001 (a line's field)
        self._mirror.policy, self._mirror.problem, self.restored = policy, problem, restored

    def _on_view(self, fields: wire.Line) -> None:
        self._mirror.show(View(*fields))
        self._on_change()

    def _on_beat(self) -> None:
        self.alive()

    def _on_stopping(self) -> None:
        self.stopping()

    def _on_ended(self, number: int) -> None:
        self._mirror.end(number)
        self._log.info("session ended", id=number)
        self._on_change()

    def _on_done(self, number: int, error: str, kind: str) -> None:
        future = self._requests.get(number)
        if future is None or future.done():
            return
        if error:
            future.set_exception(_ERRORS.get(kind, ConfigError)(error))
        else:
            future.set_result(None)

    def _on_refreshed(self) -> None:
        self._refreshed_at = asyncio.get_running_loop().time()
        if self._refresh is not None:
            self._refresh.set_result(None)
        self._refresh = None

    def _on_stats(self, stats: dict[str, Any]) -> None:
        self._mirror.stats = Stats(**stats)

    def _on_log(self, level: str, text: str, fields: dict[str, Any]) -> None:
        getattr(self._log, level)(text, **fields)

    def _on_synced(self) -> None:
        self.synced.set()

    def _on_session(self, fields: wire.Line, previous: int | None, late_us: int) -> None:
        view = View(*fields)
        known = view.id in self._mirror.sessions
        self._mirror.change(view)
        if self.synced.is_set() or not self.restored:
            self._tell(view, previous, late_us, known=known)
        self._on_change()

    def _tell(self, view: View, previous: int | None, late_us: int, *, known: bool) -> None:
        fields: dict[str, Any] = {"id": view.id, "local": view.local, "peer": view.peer}
        if not known:
            self._log.info("session made", owner=view.owner, role=view.role, **fields)
            return
        if previous is None:
            return
        if view.diagnostic:
            fields["diagnostic"] = diagnostic_name(view.diagnostic)
        if view.admin_reason:
            fields["reason"] = view.admin_reason
        if view.diagnostic == Diagnostic.CONTROL_DETECTION_TIME_EXPIRED and view.state == State.DOWN:
            fields["late_us"] = late_us
            self.overshoot(late_us / 1_000_000)
        level = self._log.warning if previous == State.UP else self._log.info
        level("state", state=State(view.state).name, was=State(previous).name, **fields)


def diagnostic_name(value: int) -> str:
    """`path_down` and the like; the number for values without a name."""
    try:
        return Diagnostic(value).name.lower()
    except ValueError:
        return str(value)
