"""protobuf <-> core, both ways: the client of ProgrammerService and the servicer of EgressGatewayService.

The only module that imports `*_pb2`. It decides nothing: the link drives the client, `Views` answers for the servicer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Literal, NoReturn, Protocol

import grpc
import grpc.aio
from veg.api.v1 import api_pb2, api_pb2_grpc
from veg.bfd.v1 import bfd_pb2
from veg.programmer.v1 import programmer_pb2, programmer_pb2_grpc
from veg.types.v1 import types_pb2
from veg_common.objects import Object

from veg_api.core.gateway import Gateway, GatewayKey
from veg_api.core.intents import (
    BfdIntent,
    BfdPortIntent,
    GatewayIntent,
    Intent,
    IntentKey,
    PortIntent,
    Session,
    SubnetIntent,
    VpcIntent,
)
from veg_api.core.operations import Operation
from veg_api.core.problems import Problem, errors
from veg_api.errors import InvalidManifestError, PermanentError, ProgrammerUnreachableError
from veg_api.link import BfdReport, Event, Hello, Repaired, Report

SERVICE_NAME = "veg.api.v1.EgressGatewayService"
_TIMEOUT_S = 30.0
# What a call means that failed although the programmer is there: the request is at fault.
_PERMANENT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)
WatchType = Literal["ADDED", "MODIFIED", "DELETED", "SYNCED"]


class ProgrammerClient:
    """The calls of ProgrammerService in the words of `core`; see `link.Client` for the errors."""

    def __init__(self, channel: Callable[[], grpc.aio.Channel]) -> None:
        self._channel = channel
        self._made: tuple[grpc.aio.Channel, Any] | None = None

    @property
    def _stub(self) -> Any:
        """The stub of the channel for the next call: new certificates bring a new one."""
        channel = self._channel()
        if self._made is None or self._made[0] is not channel:
            self._made = channel, programmer_pb2_grpc.ProgrammerServiceStub(channel)
        return self._made[1]

    async def watch(self) -> AsyncGenerator[Event, None]:
        """The stream, in order and without gaps."""
        call = self._stub.Watch(programmer_pb2.WatchRequest())
        expected = 0
        try:
            async for message in call:
                expected += 1
                if message.sequence != expected:
                    raise ProgrammerUnreachableError(f"event {expected} of the stream is missing")
                event = _event(message)
                if event is not None:
                    yield event
        except grpc.aio.AioRpcError as error:
            _raise(error)
        finally:
            call.cancel()

    async def apply(self, session: str, intents: Sequence[tuple[int, Intent]]) -> list[Report]:
        """Apply; one report an intent, in order."""
        try:
            request = programmer_pb2.ApplyRequest(
                session=session, intents=[_intent(intent, generation) for generation, intent in intents]
            )
        except (TypeError, ValueError) as error:
            raise PermanentError(f"can not be said in the contract's words: {error}") from error
        try:
            response = await self._stub.Apply(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            _raise(error)
        return [_report(outcome) for outcome in response.outcomes]

    async def delete(self, session: str, keys: Sequence[IntentKey]) -> list[Report]:
        """Delete; one report a key, in order."""
        request = programmer_pb2.DeleteRequest(session=session, keys=[_key(key) for key in keys])
        try:
            response = await self._stub.Delete(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            _raise(error)
        return [_report(outcome) for outcome in response.outcomes]

    async def resync(self, session: str) -> list[IntentKey]:
        """Resync; what was removed."""
        try:
            response = await self._stub.Resync(
                programmer_pb2.ResyncRequest(session=session), timeout=_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            _raise(error)
        return [_core_key(key) for key in response.removed]

    async def reset_sessions(self, gateway: str, peers: Sequence[str]) -> list[str]:
        """ResetSessions; the addresses whose rows were made anew."""
        namespace, _, name = gateway.partition("/")
        key = types_pb2.ObjectKey(namespace=namespace, name=name)
        request = programmer_pb2.ResetSessionsRequest(gateway=key, peers=peers)
        try:
            response = await self._stub.ResetSessions(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            _raise(error)
        return list(response.peers)

    async def plan(self, intents: Sequence[Intent], deletes: Sequence[IntentKey]) -> list[Operation]:
        """What applying and deleting would do."""
        request = programmer_pb2.PlanRequest(
            intents=[_intent(intent, 0) for intent in intents], deletes=[_key(key) for key in deletes]
        )
        try:
            response = await self._stub.Plan(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            _raise(error)
        return [_core_operation(operation) for operation in response.operations]


class Views(Protocol):
    """What the servicer asks of the rest of the process."""

    def gateways(self, namespace: str) -> list[tuple[Gateway, Object]]:
        """(gateway, its internal subnet's name and metadata), sorted; "" means all namespaces."""
        ...

    def find(self, key: GatewayKey) -> tuple[Gateway, Object] | None:
        """One gateway."""
        ...

    def watch(self, namespace: str) -> AsyncIterator[tuple[WatchType, tuple[Gateway, Object] | None]]:
        """Present gateways, SYNCED, changes."""
        ...

    def validate(self, manifest: str) -> tuple[Problem, ...]:
        """All problems of a manifest. Raises InvalidManifestError."""
        ...

    async def plan(self, subject: str | GatewayKey) -> tuple[list[Operation], tuple[Problem, ...]] | None:
        """What applying a manifest, or reconciling a gateway (None: there is none), would change."""
        ...


class GatewayService(api_pb2_grpc.EgressGatewayServiceServicer):
    """EgressGatewayService over `Views`."""

    def __init__(self, views: Views) -> None:
        self._views = views

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        api_pb2_grpc.add_EgressGatewayServiceServicer_to_server(self, server)

    async def GetGateway(self, request: Any, context: Any) -> api_pb2.GetGatewayResponse:  # noqa: N802
        """See the contract."""
        found = self._views.find((request.key.namespace or "default", request.key.name))
        if found is None:
            await _not_found(context, request.key)
        return api_pb2.GetGatewayResponse(gateway=_gateway(*found))

    async def ListGateways(self, request: Any, _context: Any) -> api_pb2.ListGatewaysResponse:  # noqa: N802
        """See the contract."""
        found = self._views.gateways(request.namespace)
        return api_pb2.ListGatewaysResponse(gateways=[_gateway(*one) for one in found])

    async def WatchGateways(  # noqa: N802
        self, request: Any, _context: Any
    ) -> AsyncIterator[api_pb2.WatchGatewaysResponse]:
        """See the contract."""
        async for kind, found in self._views.watch(request.namespace):
            number = api_pb2.WatchEventType.Value(f"WATCH_EVENT_TYPE_{kind}")
            gateway = _gateway(*found) if found is not None else None
            yield api_pb2.WatchGatewaysResponse(type=number, gateway=gateway)

    async def ValidateGateway(self, request: Any, context: Any) -> api_pb2.ValidateGatewayResponse:  # noqa: N802
        """See the contract."""
        try:
            problems = self._views.validate(request.manifest)
        except InvalidManifestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return api_pb2.ValidateGatewayResponse(valid=not errors(problems), problems=_problems(problems))

    async def PlanGateway(self, request: Any, context: Any) -> api_pb2.PlanGatewayResponse:  # noqa: N802
        """See the contract."""
        subject: str | GatewayKey = request.manifest
        if request.WhichOneof("subject") == "key":
            subject = (request.key.namespace or "default", request.key.name)
        elif not request.manifest:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "subject: a manifest or a key must be given"
            )
        try:
            found = await self._views.plan(subject)
        except InvalidManifestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if found is None:
            await _not_found(context, request.key)
        operations, problems = found
        return api_pb2.PlanGatewayResponse(
            operations=[_operation(operation) for operation in operations], problems=_problems(problems)
        )


async def _not_found(context: Any, key: Any) -> NoReturn:
    message = f"VpcEgressGateway {key.namespace or 'default'}/{key.name} not found"
    await context.abort(grpc.StatusCode.NOT_FOUND, message)
    raise AssertionError(message)  # abort raises


def _raise(error: grpc.aio.AioRpcError) -> NoReturn:
    text = f"{error.code().name}: {error.details()}"
    if error.code() in _PERMANENT:
        raise PermanentError(text) from error
    raise ProgrammerUnreachableError(text) from error


# -- to protobuf ---------------------------------------------------------------------------------------------------


def _intent(intent: Intent, generation: int) -> programmer_pb2.Intent:
    match intent:
        case GatewayIntent():
            families = [
                programmer_pb2.GatewayFamily(
                    family=_family(family.family),
                    sources=family.sources,
                    nexthops=family.nexthops,
                    local_cidrs=family.local_cidrs,
                )
                for family in intent.families
            ]
            gateway = programmer_pb2.Gateway(
                key=types_pb2.ObjectKey(namespace=intent.namespace, name=intent.name),
                vpc=intent.vpc,
                default_vpc=intent.default_vpc,
                families=families,
                bfd=_bfd(intent.bfd),
            )
            return programmer_pb2.Intent(generation=generation, gateway=gateway)
        case VpcIntent():
            vpc = programmer_pb2.Vpc(
                name=intent.name, default_vpc=intent.default_vpc, bfd_port=_bfd_port(intent.bfd_port)
            )
            return programmer_pb2.Intent(generation=generation, vpc=vpc)
        case SubnetIntent():
            subnet = programmer_pb2.Subnet(
                name=intent.name, vpc=intent.vpc, cidrs=intent.cidrs, gateways=intent.gateways
            )
            return programmer_pb2.Intent(generation=generation, subnet=subnet)
        case PortIntent():
            port = programmer_pb2.Port(
                name=intent.name, subnet=intent.subnet, mac=intent.mac, addresses=intent.addresses
            )
            return programmer_pb2.Intent(generation=generation, port=port)


def _bfd(bfd: BfdIntent | None) -> programmer_pb2.BfdIntent | None:
    if bfd is None:
        return None
    timers = bfd_pb2.Timers(min_rx_ms=bfd.min_rx, min_tx_ms=bfd.min_tx, multiplier=bfd.multiplier)
    return programmer_pb2.BfdIntent(
        timers=timers, logical_port=bfd.logical_port, silent=bfd.silent, chassis=dict(bfd.nodes)
    )


def _bfd_port(port: BfdPortIntent | None) -> programmer_pb2.BfdPort | None:
    return programmer_pb2.BfdPort(addresses=port.addresses, nodes=port.nodes) if port is not None else None


def _family(number: int) -> types_pb2.IpFamily.ValueType:
    return types_pb2.IP_FAMILY_IPV6 if number == 6 else types_pb2.IP_FAMILY_IPV4


def _key(key: IntentKey) -> programmer_pb2.IntentKey:
    return programmer_pb2.IntentKey(
        kind=programmer_pb2.IntentKind.Value(f"INTENT_KIND_{key.kind}"), name=key.name
    )


def _operation(operation: Operation) -> types_pb2.Operation:
    return types_pb2.Operation(
        action=types_pb2.Action.Value(f"ACTION_{operation.action}"),
        kind=operation.kind,
        name=operation.name,
        detail=operation.detail,
    )


def _problems(problems: Iterable[Problem]) -> list[api_pb2.Problem]:
    return [
        api_pb2.Problem(field=_text(p.field), message=_text(p.message), warning=p.warning) for p in problems
    ]


def _gateway(gateway: Gateway, extra: Object) -> api_pb2.Gateway:
    """`extra` has what the value leaves to its surroundings: internalSubnet by default."""
    spec = gateway.spec
    return api_pb2.Gateway(
        key=types_pb2.ObjectKey(namespace=gateway.namespace, name=gateway.name),
        generation=_number(gateway.generation),
        creation_time=_text(gateway.created),
        spec=api_pb2.GatewaySpec(
            vpc=_text(spec.vpc),
            replicas=_int32(spec.replicas),
            prefix=_text(spec.prefix),
            image=_text(spec.image),
            internal_subnet=_text(spec.internal_subnet or extra.get("internalSubnet", "")),
            external_subnet=_text(spec.external_subnet),
            internal_ips=_texts([*spec.internal_ips]),
            external_ips=_texts([*spec.external_ips]),
            bfd=api_pb2.GatewayBfd(
                enabled=spec.bfd.enabled,
                min_rx=_int32(spec.bfd.min_rx),
                min_tx=_int32(spec.bfd.min_tx),
                multiplier=_int32(spec.bfd.multiplier),
            ),
            policies=[
                api_pb2.GatewayPolicy(
                    snat=p.snat, ip_blocks=_texts([*p.ip_blocks]), subnets=_texts([*p.subnets])
                )
                for p in spec.policies
            ],
        ),
        status=_status(gateway.status),
    )


def _status(status: Object) -> api_pb2.GatewayStatus:
    workload = status.get("workload")
    workload = workload if isinstance(workload, dict) else {}
    return api_pb2.GatewayStatus(
        ready=bool(status.get("ready")),
        phase=_text(status.get("phase")) or "Pending",
        internal_ips=_texts(status.get("internalIPs")),
        external_ips=_texts(status.get("externalIPs")),
        workload=api_pb2.Workload(
            api_version=_text(workload.get("apiVersion")),
            kind=_text(workload.get("kind")),
            name=_text(workload.get("name")),
            nodes=_texts(workload.get("nodes")),
        ),
        conditions=[
            types_pb2.Condition(
                type=_text(c.get("type")),
                status=_text(c.get("status")),
                reason=_text(c.get("reason")),
                message=_text(c.get("message")),
                last_transition_time=_text(c.get("lastTransitionTime")),
                observed_generation=_number(c.get("observedGeneration")),
            )
            for c in _list(status.get("conditions"))
            if isinstance(c, dict)
        ],
        observed_generation=_number(status.get("observedGeneration")),
        nexthops=_texts(status.get("nexthops")),
        pods=[_replica(entry) for entry in _list(status.get("pods")) if isinstance(entry, dict)],
    )


def _replica(entry: Object) -> api_pb2.Replica:
    bfd = entry.get("bfd")
    session = None
    if isinstance(bfd, dict):
        session = api_pb2.ReplicaBfd(
            state=_text(bfd.get("state")), since=_text(bfd.get("since")), message=_text(bfd.get("message"))
        )
    return api_pb2.Replica(
        pod=_text(entry.get("pod")),
        node=_text(entry.get("node")),
        internal_ips=_text(entry.get("internalIPs")),
        external_ips=_text(entry.get("externalIPs")),
        ready=entry.get("ready") is True,
        nexthop=entry.get("nexthop") is True,
        serving=entry.get("serving") is True,
        reason=_text(entry.get("reason")),
        message=_text(entry.get("message")),
        since=_text(entry.get("since")),
        bfd=session,
    )


# A status is ours, but anybody may have written into it.


def _text(value: Any) -> str:
    """A string that protobuf can hold: JSON's escapes allow half a surrogate pair, UTF-8 does not."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [_text(item) for item in _list(value) if isinstance(item, str)]


def _number(value: Any) -> int:
    return value if isinstance(value, int) and abs(value) < 2**63 else 0


def _int32(value: int) -> int:
    """A number that a manifest may hold and int32 may not: shown at the limit (validation refuses it)."""
    return max(-(2**31), min(2**31 - 1, value))


# -- from protobuf -------------------------------------------------------------------------------------------------


_SESSION_STATES: dict[int, Literal["AdminDown", "Down", "Init", "Up"]] = {
    bfd_pb2.SESSION_STATE_ADMIN_DOWN: "AdminDown",
    bfd_pb2.SESSION_STATE_DOWN: "Down",
    bfd_pb2.SESSION_STATE_INIT: "Init",
    bfd_pb2.SESSION_STATE_UP: "Up",
}


def _event(message: programmer_pb2.WatchResponse) -> Event | None:
    match message.WhichOneof("event"):
        case "hello":
            return Hello(message.hello.instance, message.hello.nb_schema)
        case "outcome":
            return _report(message.outcome)
        case "repair":
            done = tuple(_core_operation(operation) for operation in message.repair.operations)
            return Repaired(_core_key(message.repair.key), done)
        case "bfd":
            key = message.bfd.gateway
            session = Session(_SESSION_STATES.get(message.bfd.state, "Down"), message.bfd.serving)
            return BfdReport(f"{key.namespace}/{key.name}", message.bfd.peer, session)
        case _:
            return None  # of a later version


def _report(outcome: programmer_pb2.Outcome) -> Report:
    name = programmer_pb2.OutcomeState.Name(outcome.state).removeprefix("OUTCOME_STATE_")
    state: Any = name if name in ("COMMITTED", "WAITING", "REFUSED") else "WAITING"
    return Report(_core_key(outcome.key), outcome.generation, state, outcome.reason, outcome.message)


def _core_key(key: programmer_pb2.IntentKey) -> IntentKey:
    kind: Any = programmer_pb2.IntentKind.Name(key.kind).removeprefix("INTENT_KIND_")
    return IntentKey(kind, key.name)


def _core_operation(operation: types_pb2.Operation) -> Operation:
    action: Any = types_pb2.Action.Name(operation.action).removeprefix("ACTION_")
    return Operation(action, operation.kind, operation.name, operation.detail)
