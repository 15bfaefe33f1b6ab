"""Protobuf <-> core: parses AgentConfig, serves AgentService, and is its client.

The only module that knows veg.agent.v1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import grpc
from google.protobuf import json_format
from veg.agent.v1 import agent_pb2, agent_pb2_grpc
from veg.bfd.v1 import bfd_pb2
from veg.types.v1 import types_pb2
from veg_common import logs, server

from veg_node_agent.core.check import RawBfd, RawConfig, RawFamily, RawUplink, checked
from veg_node_agent.core.operations import Operation, detail
from veg_node_agent.errors import AgentError, ConfigError

if TYPE_CHECKING:
    from veg_node_agent.agent import Status
    from veg_node_agent.availability import Availability
    from veg_node_agent.core.diff import Plan
    from veg_node_agent.core.model import Config
    from veg_node_agent.io.uplink import UplinkView

SERVICE = agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name
_ACTIONS = {
    "create": types_pb2.ACTION_CREATE,
    "update": types_pb2.ACTION_UPDATE,
    "delete": types_pb2.ACTION_DELETE,
}


def parse_config(text: str) -> Config:
    """A valid configuration from the file's text. Raises ConfigError.

    Fields that this version does not know are logged and ignored, so that a newer api can talk to an older agent.
    """
    message = _parse(text)
    return checked(
        RawConfig(
            message.gateway,
            message.internal_interface,
            message.external_interface,
            [_raw_family(entry) for entry in message.families],
            _raw_bfd(message.bfd) if message.HasField("bfd") else None,
            _raw_uplink(message.uplink) if message.HasField("uplink") else None,
        )
    )


def _raw_family(entry: agent_pb2.AgentFamily) -> RawFamily:
    return RawFamily(
        family=entry.family,
        internal_gateway=entry.internal_gateway,
        external_gateway=entry.external_gateway,
        vpc_cidrs=list(entry.vpc_cidrs),
        sources=[(source.cidr, source.snat) for source in entry.sources],
    )


def _raw_bfd(message: agent_pb2.AgentBfd) -> RawBfd:
    timers = message.timers
    return RawBfd(
        peers=list(message.peers),
        timers=(timers.min_rx_ms, timers.min_tx_ms, timers.multiplier),
        min_ttl=message.min_ttl,
        nudge_ms=message.nudge_ms,
    )


def _raw_uplink(message: agent_pb2.UplinkProbe) -> RawUplink:
    return RawUplink(message.interval_ms, message.multiplier, list(message.replicas))


def _parse(text: str) -> agent_pb2.AgentConfig:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ConfigError("not a JSON object")
    try:
        return json_format.Parse(text, agent_pb2.AgentConfig())
    except json_format.ParseError as strict:
        try:
            message = json_format.Parse(text, agent_pb2.AgentConfig(), ignore_unknown_fields=True)
        except json_format.ParseError as error:
            raise ConfigError(_one_line(error)) from None
        logs.get("config").warning("unknown field ignored", error=_one_line(strict))
        return message


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def operations(steps: Iterable[Operation]) -> list[types_pb2.Operation]:
    """A plan's operations as the contract has them."""
    return [
        types_pb2.Operation(
            action=_ACTIONS[step.action], kind=step.target[0], name=step.target[1], detail=detail(step)
        )
        for step in steps
    ]


def _uplink_state(view: UplinkView) -> agent_pb2.UplinkState:
    return agent_pb2.UplinkState(
        alive=view.alive, problem=view.problem, withdrawn=bool(view.withdrawn), since=view.since
    )


class Inspected(Protocol):
    """What the service shows: the agent."""

    @property
    def status(self) -> Status:
        """Where it stands."""

    @property
    def availability(self) -> Availability:
        """BFD, the uplink, the drain."""

    async def plan(self) -> Plan:
        """What it would do now. Raises AgentError."""


class AgentService(agent_pb2_grpc.AgentServiceServicer):
    """Answers questions about an agent; changes nothing."""

    def __init__(self, agent: Inspected) -> None:
        self._agent = agent

    async def GetState(  # noqa: N802
        self, _request: agent_pb2.GetStateRequest, _context: object
    ) -> agent_pb2.GetStateResponse:
        """See the contract."""
        status = self._agent.status
        view = self._agent.availability.view
        return agent_pb2.GetStateResponse(
            config=_parse(status.config_text) if status.config_text else None,
            config_error=status.config_error,
            in_sync=status.in_sync,
            apply_error=status.apply_error,
            nat_backend=status.nat_backend,
            applied=status.applied,
            repairs=status.repairs,
            sessions=await self._agent.availability.link.fresh(),
            bfd_error=view.bfd_error,
            uplink=_uplink_state(view.uplink) if view.uplink else None,
            draining=view.draining,
        )

    async def Plan(  # noqa: N802
        self,
        _request: agent_pb2.PlanRequest,
        context: grpc.aio.ServicerContext[agent_pb2.PlanRequest, agent_pb2.PlanResponse],
    ) -> agent_pb2.PlanResponse:
        """See the contract."""
        try:
            plan = await self._agent.plan()
        except AgentError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return agent_pb2.PlanResponse(operations=operations(plan.operations))


def adder(agent: Inspected) -> Callable[[grpc.aio.Server], None]:
    """What `veg_common.server.start_server` calls to add the service."""
    return lambda target: agent_pb2_grpc.add_AgentServiceServicer_to_server(AgentService(agent), target)


async def fetch_state(target: str, timeout: float = 5.0) -> str:  # noqa: ASYNC109 (gRPC's own deadline)
    """Ask a running agent and tell its state as text. Raises AgentError when it does not answer."""
    async with server.channel(target) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        try:
            state = await stub.GetState(agent_pb2.GetStateRequest(), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise AgentError(f"{target} does not answer: {error.details()}") from None
    return describe(state)


def describe(state: agent_pb2.GetStateResponse) -> str:
    """An agent's state for people."""
    lines = [
        f"gateway:     {state.config.gateway or '-'}",
        f"config:      {'none yet' if not state.HasField('config') else state.config_error or 'in force'}",
        f"in sync:     {'yes' if state.in_sync else 'no'}",
        f"nat backend: {state.nat_backend or '-'}",
        f"repairs:     {state.repairs}",
    ]
    if state.config_error:
        lines.insert(2, f"error:       {state.config_error}")
        lines[1] = f"config:      {'the last good one' if state.HasField('config') else 'none yet'}"
    if state.draining:
        lines.append("draining:    yes")
    if state.apply_error:
        lines.append(f"problem:     {state.apply_error}")
    lines += _availability_lines(state)
    if state.applied:
        lines.append("applied:")
        lines += [f"  {line}" for line in state.applied]
    return "\n".join(lines)


def _availability_lines(state: agent_pb2.GetStateResponse) -> list[str]:
    lines = []
    if state.HasField("uplink"):
        uplink = state.uplink
        words = "alive" if uplink.alive else "dead"
        words += ", withdrawn" if uplink.withdrawn else ""
        lines.append(f"uplink:      {words} since {uplink.since}")
        lines += [f"             {uplink.problem}"] if uplink.problem else []
    if state.bfd_error:
        lines.append(f"bfd:         {state.bfd_error}")
    if state.sessions:
        lines.append("sessions:")
    for session in state.sessions:
        name = bfd_pb2.SessionState.Name(session.state).removeprefix("SESSION_STATE_")
        lines.append(
            f"  {session.config.local} -> {session.config.peer} {name} since {session.since}"
            f" (every {session.tx_interval_us / 1000:g} ms, detects in {session.detection_time_us / 1000:g} ms,"
            f" downs {session.downs})"
        )
    return lines
