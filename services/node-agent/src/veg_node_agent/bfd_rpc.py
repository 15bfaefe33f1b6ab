"""Protobuf <-> core: the client of the BFD speaker beside this container.

The only module that knows veg.bfd.v1 beside `rpc`, which passes its sessions on. Keeps a stream open that tells of
every change, and that ends at once when the speaker does; says what is wished as soon as there is somebody to say it
to. The speaker may be away, hang, or come back as another process at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from veg.bfd.v1 import bfd_pb2, bfd_pb2_grpc
from veg_common import logs

from veg_node_agent.core.sessions import (
    Hold,
    Session,
    SetHold,
    SetSessions,
    Step,
    Told,
    Wish,
    after,
    before,
    next_step,
)

OWNER = "node-agent"
_CALL = 2.0  # s until a call counts as unanswered
_LOOK, _LOOK_SLOWLY = 0.02, 0.1  # s between looks at the socket of a speaker that is away
_PATIENCE = 10.0  # s after which it is looked for slowly
_REFUSED = 1.0  # s until a refused wish is tried again
# A channel of its own for each attempt: no backoff that another attempt left behind.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


@dataclass(frozen=True)
class SessionView:
    """What the rest of the agent needs to know of a session."""

    peer: str
    up: bool


class BfdLink:
    """The speaker at a unix socket."""

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        """`changed` is called after each change of the sessions or of the error."""
        self._path = path
        self._changed = changed
        self._log = logs.get("bfd")
        self._wish: Wish | None = None
        self._told = Told()
        self._new_wish = asyncio.Event()
        self._all_held = asyncio.Event()
        self._sessions: dict[int, bfd_pb2.Session] = {}
        self._error = ""
        self._vain = 0

    @property
    def error(self) -> str:
        """Why the speaker can not be told what to do; empty when it can, or when nothing is wished."""
        return self._error

    @property
    def sessions(self) -> tuple[SessionView, ...]:
        """Ours, as the speaker last told them; none while it is away."""
        return tuple(
            SessionView(session.config.peer, session.state == bfd_pb2.SESSION_STATE_UP)
            for session in self._ours()
        )

    @property
    def wished(self) -> bool:
        """Whether the speaker was ever asked for anything."""
        return self._wish is not None

    async def all_held(self, patience: float) -> bool:
        """Wait at most this long (s) until the speaker has confirmed that everything is down; whether it has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._all_held.wait()
        return self._all_held.is_set()

    def wish(self, wish: Wish) -> None:
        """From now on this is what the speaker should do."""
        if wish != self._wish:
            self._wish = wish
            self._new_wish.set()

    async def fresh(self) -> Sequence[bfd_pb2.Session]:
        """Our sessions with their counters of now; as they were last told when the speaker does not answer."""
        if self._sessions:
            with contextlib.suppress(grpc.aio.AioRpcError, OSError):
                async with self._channel() as channel:
                    listed = await bfd_pb2_grpc.BfdServiceStub(channel).ListSessions(
                        bfd_pb2.ListSessionsRequest(), timeout=_CALL
                    )
                return [session for session in listed.sessions if session.id in self._sessions]
        return self._ours()

    async def run(self) -> None:
        """Work until cancelled. Nothing is asked of the speaker before the first wish."""
        while self._wish is None:
            await self._new_wish.wait()
        while True:
            await self._until_there()
            try:
                async with self._channel() as channel:
                    await self._converse(bfd_pb2_grpc.BfdServiceStub(channel))
                reason = "the speaker has ended its stream"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except (OSError, TimeoutError) as error:
                reason = str(error) or "no answer in time"
            self._lose(reason)
            # Slower with each attempt that came to nothing, so that one who hangs up on everybody costs little.
            self._vain += 1
            await asyncio.sleep(min(_LOOK * 2 ** (self._vain - 1), _REFUSED))

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"unix:{self._path.absolute()}", options=_OPTIONS)

    async def _until_there(self) -> None:
        """Wait for somebody who listens: connecting to a unix socket answers at once, whoever is there."""
        started = asyncio.get_running_loop().time()
        while problem := _nobody(self._path):
            self._tell(f"no BFD speaker at {self._path}: {problem}")
            waited = asyncio.get_running_loop().time() - started
            await asyncio.sleep(_LOOK if waited < _PATIENCE else _LOOK_SLOWLY)

    async def _converse(self, stub: bfd_pb2_grpc.BfdServiceAsyncStub) -> None:
        """Listen and talk until either fails. Raises AioRpcError, TimeoutError."""
        stream = stub.WatchSessions(bfd_pb2.WatchSessionsRequest())
        jobs = {asyncio.create_task(self._listen(stream)), asyncio.create_task(self._talk(stub))}
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            stream.cancel()

    async def _listen(
        self, stream: grpc.aio.UnaryStreamCall[bfd_pb2.WatchSessionsRequest, bfd_pb2.WatchSessionsResponse]
    ) -> None:
        seen: dict[int, bfd_pb2.Session] = {}
        synced = False
        while True:
            async with asyncio.timeout(None if synced else _CALL):
                event = await stream.read()
            if event is grpc.aio.EOF:
                return
            assert isinstance(event, bfd_pb2.WatchSessionsResponse)  # noqa: S101  (for the type checker)
            kind = event.WhichOneof("event")
            if kind == "session":
                seen[event.session.id] = event.session
            elif kind == "ended":
                seen.pop(event.ended, None)
            else:
                synced = True
            if synced:
                self._sessions = seen
                self._changed()

    async def _talk(self, stub: bfd_pb2_grpc.BfdServiceAsyncStub) -> None:
        while True:
            self._new_wish.clear()
            step = next_step(self._wish, self._told) if self._wish is not None else None
            if step is None:
                self._tell("")
                self._vain = 0
                await self._new_wish.wait()
                continue
            self._told = before(self._told, step)
            try:
                await _say(stub, step)
            except grpc.aio.AioRpcError as error:
                if error.code() not in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS}:
                    raise
                self._tell(f"the BFD speaker refuses: {error.details()}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REFUSED):
                        await self._new_wish.wait()
                continue
            self._told = after(self._told, step)
            if self._told.all_held:
                self._all_held.set()
            self._log.info("told", step=str(step))
            self._changed()

    def _lose(self, reason: str) -> None:
        self._told = self._told.lost()
        self._sessions = {}
        self._tell(f"the BFD speaker does not answer: {reason}")

    def _tell(self, error: str) -> None:
        if error != self._error:
            self._error = error
            if error:
                self._log.warning("speaker", error=error)
            else:
                self._log.info("speaker knows all")
            self._changed()

    def _ours(self) -> list[bfd_pb2.Session]:
        names = {(s.peer, s.local) for s in self._wish.sessions} if self._wish else set()
        return [
            session
            for _, session in sorted(self._sessions.items())
            if (session.config.peer, session.config.local) in names
        ]


def _nobody(path: Path) -> str:
    """Why nobody listens at a unix socket; empty when somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.strerror or str(error)
    return ""


async def _say(stub: bfd_pb2_grpc.BfdServiceAsyncStub, step: Step) -> None:
    if isinstance(step, SetSessions):
        request = bfd_pb2.SetSessionsRequest(owner=OWNER, sessions=[_config(s) for s in step.sessions])
        await stub.SetSessions(request, timeout=_CALL)
    else:
        await stub.SetAdminDown(_hold_request(step), timeout=_CALL)


def _config(session: Session) -> bfd_pb2.SessionConfig:
    timers = session.timers
    return bfd_pb2.SessionConfig(
        peer=session.peer,
        local=session.local,
        interface=session.interface,
        timers=bfd_pb2.Timers(
            min_rx_ms=timers.min_rx_ms, min_tx_ms=timers.min_tx_ms, multiplier=timers.multiplier
        ),
        min_ttl=session.min_ttl,
        role=bfd_pb2.SESSION_ROLE_PASSIVE,
    )


def _hold_request(step: SetHold) -> bfd_pb2.SetAdminDownRequest:
    hold = step.hold or Hold("")
    diagnostic = bfd_pb2.DIAGNOSTIC_PATH_DOWN if hold.path_down else bfd_pb2.DIAGNOSTIC_UNSPECIFIED
    return bfd_pb2.SetAdminDownRequest(
        peers=list(step.peers),
        down=step.hold is not None,
        reason=hold.reason,
        diagnostic=diagnostic,
        # Traffic that goes to a dead uplink is lost: silence makes OVN move it soonest. A drain may take its time.
        silent_first=hold.path_down,
    )
