"""Protobuf <-> core: serves BfdService. The only module that knows veg.bfd.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
from veg.bfd.v1 import bfd_pb2, bfd_pb2_grpc

from veg_bfd.control.mirror import Behind, Ended, Mirror
from veg_bfd.control.sessions import Sessions
from veg_bfd.core.model import Diagnostic, Role, SessionConfig, Timers, View
from veg_bfd.errors import BfdError, ConfigError, OwnerError

SERVICE = bfd_pb2.DESCRIPTOR.services_by_name["BfdService"].full_name
_ROLES = {
    bfd_pb2.SESSION_ROLE_UNSPECIFIED: Role.ACTIVE,
    bfd_pb2.SESSION_ROLE_ACTIVE: Role.ACTIVE,
    bfd_pb2.SESSION_ROLE_PASSIVE: Role.PASSIVE,
}


_Context = grpc.aio.ServicerContext[Any, Any]


def to_config(message: bfd_pb2.SessionConfig) -> SessionConfig:
    """A session as it is asked for, not yet checked. Raises ConfigError for an unknown role."""
    if message.role not in _ROLES:
        raise ConfigError(f"role {message.role} is unknown")
    return SessionConfig(
        local=message.local,
        peer=message.peer,
        timers=Timers(
            message.timers.min_rx_ms * 1000, message.timers.min_tx_ms * 1000, message.timers.multiplier
        ),
        interface=message.interface,
        min_ttl=message.min_ttl or 255,
        role=_ROLES[message.role],
    )


def to_message(view: View, since: str) -> bfd_pb2.Session:
    """A session as it is. The enums' values are the wire's values plus one."""
    role = bfd_pb2.SESSION_ROLE_PASSIVE if view.role == "passive" else bfd_pb2.SESSION_ROLE_ACTIVE
    return bfd_pb2.Session(
        id=view.id,
        config=bfd_pb2.SessionConfig(
            peer=view.peer,
            local=view.local,
            interface=view.interface,
            timers=bfd_pb2.Timers(
                min_rx_ms=view.min_rx_us // 1000,
                min_tx_ms=view.min_tx_us // 1000,
                multiplier=view.multiplier,
            ),
            min_ttl=view.min_ttl,
            role=role,
        ),
        state=view.state + 1,  # type: ignore[arg-type]
        remote_state=view.remote_state + 1,  # type: ignore[arg-type]
        diagnostic=view.diagnostic + 1,  # type: ignore[arg-type]
        remote_diagnostic=view.remote_diagnostic + 1,  # type: ignore[arg-type]
        local_discriminator=view.local_discriminator,
        remote_discriminator=view.remote_discriminator,
        tx_interval_us=view.tx_interval_us,
        detection_time_us=view.detection_time_us,
        since=since,
        downs=view.downs,
        tx_packets=view.tx_packets,
        rx_packets=view.rx_packets,
        rx_discarded=view.rx_discarded,
        admin_down=view.admin_down,
    )


class BfdService(bfd_pb2_grpc.BfdServiceServicer):
    """Serves the sessions of one packet loop."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    @property
    def _mirror(self) -> Mirror:
        return self._sessions.mirror

    def _messages(self, views: list[View]) -> list[bfd_pb2.Session]:
        return [
            to_message(view, self._mirror.since(view.id))
            for view in views
            if view.id in self._mirror.sessions
        ]

    async def SetSessions(  # noqa: N802
        self, request: bfd_pb2.SetSessionsRequest, context: _Context
    ) -> bfd_pb2.SetSessionsResponse:
        """See the contract."""
        try:
            views = await self._sessions.set(request.owner, [to_config(entry) for entry in request.sessions])
        except BfdError as error:
            await _abort(context, error)
        return bfd_pb2.SetSessionsResponse(sessions=self._messages(views))

    async def ListSessions(  # noqa: N802
        self, _request: bfd_pb2.ListSessionsRequest, context: _Context
    ) -> bfd_pb2.ListSessionsResponse:
        """See the contract."""
        try:
            views = await self._sessions.fresh()
        except BfdError as error:
            await _abort(context, error)
        mirror = self._mirror
        return bfd_pb2.ListSessionsResponse(
            sessions=self._messages(views),
            scheduling=bfd_pb2.Scheduling(policy=mirror.policy, problem=mirror.problem),
            rx_unknown=mirror.stats.unknown,
        )

    async def WatchSessions(  # noqa: N802
        self, _request: bfd_pb2.WatchSessionsRequest, context: _Context
    ) -> AsyncIterator[bfd_pb2.WatchSessionsResponse]:
        """See the contract."""
        sequence = 0
        with self._mirror.watching() as (views, queue):
            for message in self._messages(views):
                sequence += 1
                yield bfd_pb2.WatchSessionsResponse(sequence=sequence, session=message)
            sequence += 1
            yield bfd_pb2.WatchSessionsResponse(sequence=sequence, synced=bfd_pb2.WatchSynced())
            while True:
                update = await queue.get()
                sequence += 1
                if isinstance(update, Behind):
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the watcher does not keep up")
                elif isinstance(update, Ended):
                    yield bfd_pb2.WatchSessionsResponse(sequence=sequence, ended=update.id)
                else:
                    yield bfd_pb2.WatchSessionsResponse(
                        sequence=sequence, session=to_message(update, self._since(update))
                    )

    async def SetAdminDown(  # noqa: N802
        self, request: bfd_pb2.SetAdminDownRequest, context: _Context
    ) -> bfd_pb2.SetAdminDownResponse:
        """See the contract."""
        diagnostic = request.diagnostic - 1 if request.diagnostic else int(Diagnostic.ADMINISTRATIVELY_DOWN)
        try:
            if not 0 <= diagnostic < len(Diagnostic):
                raise ConfigError(f"diagnostic {request.diagnostic} is unknown")
            views = await self._sessions.admin(
                list(request.peers),
                down=request.down,
                reason=request.reason,
                diagnostic=diagnostic,
                silent_first=request.silent_first,
            )
        except BfdError as error:
            await _abort(context, error)
        return bfd_pb2.SetAdminDownResponse(sessions=self._messages(views))

    def _since(self, view: View) -> str:
        return self._mirror.since(view.id) if view.id in self._mirror.sessions else ""


async def _abort(context: _Context, error: BfdError) -> NoReturn:
    if isinstance(error, ConfigError):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    if isinstance(error, OwnerError):
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
    await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


def adder(sessions: Sessions) -> Callable[[Any], None]:
    """What `veg_common.server.start_server` calls to add the service."""
    return lambda target: bfd_pb2_grpc.add_BfdServiceServicer_to_server(BfdService(sessions), target)
