"""ProgrammerService: protobuf to core and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sized
from typing import Any

import grpc.aio
from veg.bfd.v1 import bfd_pb2
from veg.programmer.v1 import programmer_pb2 as pb
from veg.programmer.v1 import programmer_pb2_grpc as pb_grpc
from veg.types.v1 import types_pb2

from veg_ovn_programmer.core import bfd, intents
from veg_ovn_programmer.core.book import Outcome
from veg_ovn_programmer.core.diff import Op
from veg_ovn_programmer.core.intents import Intent, Key, Kind
from veg_ovn_programmer.errors import NorthboundUnavailableError, RefusedError
from veg_ovn_programmer.ticket import Event
from veg_ovn_programmer.worker import Worker

# A message of 64 MiB could hold a million keys, each of which is a job.
MAX_ITEMS = 20_000

_KINDS = frozenset({Kind.GATEWAY, Kind.VPC, Kind.SUBNET, Kind.PORT})

# Of a BFD row; a row that OVN has not looked at yet is down.
_STATES = {
    bfd.ADMIN_DOWN: bfd_pb2.SESSION_STATE_ADMIN_DOWN,
    bfd.DOWN: bfd_pb2.SESSION_STATE_DOWN,
    bfd.INIT: bfd_pb2.SESSION_STATE_INIT,
    bfd.UP: bfd_pb2.SESSION_STATE_UP,
}

SERVICE = pb.DESCRIPTOR.services_by_name["ProgrammerService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class BadRequestError(Exception):
    """A request that says nothing that could be refused by name; the message names the field."""


class TooManyError(Exception):
    """A request with more intents or keys than one may have."""


class Programmer(pb_grpc.ProgrammerServiceServicer):
    """See the contract's comments for what every call promises."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def Apply(self, request: pb.ApplyRequest, context: Context) -> pb.ApplyResponse:  # noqa: N802, D102
        try:
            _check_session(request.session)
            _check_count("intents", request.intents)
            items = [(_intent(f"intents[{i}]", one), one.generation) for i, one in enumerate(request.intents)]
        except BadRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except TooManyError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        outcomes = await self._worker.apply(request.session, items)
        return pb.ApplyResponse(outcomes=map(_outcome, outcomes))

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:  # noqa: N802, D102
        try:
            _check_session(request.session)
            _check_count("keys", request.keys)
            keys = [_key(f"keys[{i}]", one) for i, one in enumerate(request.keys)]
        except BadRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except TooManyError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        outcomes = await self._worker.delete(request.session, keys)
        return pb.DeleteResponse(outcomes=map(_outcome, outcomes))

    async def Resync(self, request: pb.ResyncRequest, context: Context) -> pb.ResyncResponse:  # noqa: N802, D102
        try:
            _check_session(request.session)
            removed = await self._worker.resync(request.session)
        except BadRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except NorthboundUnavailableError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return pb.ResyncResponse(removed=map(_key_out, removed))

    async def Plan(self, request: pb.PlanRequest, context: Context) -> pb.PlanResponse:  # noqa: N802, D102
        try:
            _check_count("intents", request.intents)
            _check_count("deletes", request.deletes)
            items = [_intent(f"intents[{i}]", one) for i, one in enumerate(request.intents)]
            deletes = [_key(f"deletes[{i}]", one) for i, one in enumerate(request.deletes)]
            ops = await self._worker.plan(items, deletes)
        except (BadRequestError, RefusedError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except TooManyError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except NorthboundUnavailableError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return pb.PlanResponse(operations=map(_operation, ops))

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:  # noqa: ARG002, N802, D102
        return pb.ListResponse(
            outcomes=map(_outcome, self._worker.outcomes()),
            in_sync=self._worker.book.in_sync,
            connected=self._worker.database.connected,
            northbound=self._worker.database.server or self._worker.database.trouble,
        )

    async def ResetSessions(  # noqa: N802, D102
        self,
        request: pb.ResetSessionsRequest,
        context: Context,
    ) -> pb.ResetSessionsResponse:
        if not request.gateway.namespace or not request.gateway.name:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "gateway: must have a namespace and a name")
        key = Key(Kind.GATEWAY, f"{request.gateway.namespace}/{request.gateway.name}")
        return pb.ResetSessionsResponse(peers=await self._worker.reset_sessions(key, request.peers))

    async def Watch(  # noqa: N802, D102
        self,
        request: pb.WatchRequest,  # noqa: ARG002
        context: Context,
    ) -> AsyncIterator[pb.WatchResponse]:
        worker = self._worker
        queue = worker.listeners.listen()
        try:
            hello = pb.Hello(instance=worker.instance)
            if worker.database.connected:
                hello.nb_schema = worker.database.schema_version
                hello.bfd_variant = pb.BfdVariant.ValueType(int(worker.database.variant))
            sequence = 1
            # What is known now is taken before the first await, so nothing is missed between it and the queue.
            current: list[Event] = [*worker.outcomes(), *worker.care.sessions()]
            yield pb.WatchResponse(sequence=sequence, hello=hello)
            for known in current:
                sequence += 1
                yield _event(sequence, known)
            while (event := await queue.get()) is not None:
                sequence += 1
                yield _event(sequence, event)
        finally:
            worker.listeners.unlisten(queue)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too slow: call Watch again")


def adder(worker: Worker) -> Callable[[grpc.aio.Server], None]:
    """A function that registers the service on a server."""

    def add(server: grpc.aio.Server) -> None:
        pb_grpc.add_ProgrammerServiceServicer_to_server(Programmer(worker), server)

    return add


def _check_session(session: str) -> None:
    if not session:
        raise BadRequestError("session: must not be empty")


def _check_count(field: str, items: Sized) -> None:
    if len(items) > MAX_ITEMS:
        raise TooManyError(f"{field}: {len(items)} in one call, {MAX_ITEMS} at most")


def _intent(where: str, message: pb.Intent) -> Intent:
    match message.WhichOneof("object"):
        case "gateway":
            return _gateway(message.gateway)
        case "vpc":
            vpc = message.vpc
            port = None
            if vpc.HasField("bfd_port"):
                port = intents.BfdPort(tuple(vpc.bfd_port.addresses), tuple(vpc.bfd_port.nodes))
            return intents.Vpc(vpc.name, vpc.default_vpc, port)
        case "subnet":
            subnet = message.subnet
            return intents.Subnet(subnet.name, subnet.vpc, tuple(subnet.cidrs), tuple(subnet.gateways))
        case "port":
            pod = message.port
            return intents.Port(pod.name, pod.subnet, pod.mac, tuple(pod.addresses))
        case _:
            raise BadRequestError(f"{where}.object: must be set to an object that this version knows")


def _gateway(message: pb.Gateway) -> intents.Gateway:
    families = tuple(
        intents.GatewayFamily(
            int(one.family), tuple(one.sources), tuple(one.nexthops), tuple(one.local_cidrs)
        )
        for one in message.families
    )
    return intents.Gateway(
        namespace=message.key.namespace,
        name=message.key.name,
        vpc=message.vpc,
        default_vpc=message.default_vpc,
        families=families,
        bfd=_bfd(message.bfd) if message.HasField("bfd") else None,
    )


def _bfd(message: pb.BfdIntent) -> intents.Bfd:
    timers = message.timers
    return intents.Bfd(
        message.logical_port,
        timers.min_rx_ms,
        timers.min_tx_ms,
        timers.multiplier,
        tuple(message.silent),
        tuple(sorted(message.chassis.items())),
    )


def _key(where: str, message: pb.IntentKey) -> Key:
    if int(message.kind) not in _KINDS:
        raise BadRequestError(f"{where}.kind: {message.kind} is not a kind that this version knows")
    if not message.name:
        raise BadRequestError(f"{where}.name: must not be empty")
    return Key(Kind(int(message.kind)), message.name)


def _key_out(key: Key) -> pb.IntentKey:
    return pb.IntentKey(kind=pb.IntentKind.ValueType(int(key.kind)), name=key.name)


def _outcome(outcome: Outcome) -> pb.Outcome:
    return pb.Outcome(
        key=_key_out(outcome.key),
        generation=outcome.generation,
        state=pb.OutcomeState.ValueType(int(outcome.state)),
        reason=outcome.reason,
        message=outcome.message,
        operations=outcome.operations,
    )


def _operation(op: Op) -> types_pb2.Operation:
    return types_pb2.Operation(
        action=types_pb2.Action.ValueType(int(op.action)), kind=op.row.table, name=op.name, detail=op.detail
    )


def _event(sequence: int, event: Event) -> pb.WatchResponse:
    if isinstance(event, Outcome):
        return pb.WatchResponse(sequence=sequence, outcome=_outcome(event))
    if isinstance(event, bfd.Session):
        return pb.WatchResponse(sequence=sequence, bfd=_session_state(event))
    return pb.WatchResponse(
        sequence=sequence, repair=pb.Repair(key=_key_out(event.key), operations=map(_operation, event.ops))
    )


def _session_state(session: bfd.Session) -> pb.BfdState:
    namespace, _, name = session.gateway.name.partition("/")
    return pb.BfdState(
        gateway=types_pb2.ObjectKey(namespace=namespace, name=name),
        peer=session.peer,
        state=_STATES.get(session.status, bfd_pb2.SESSION_STATE_DOWN),
        serving=session.serving,
    )
