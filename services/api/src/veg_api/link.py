"""The session with ovn-programmer: whole picture on connect, differences afterwards, outcomes back.

Owned by the controller, which says what is wanted; `client` does the talking. Nothing is sent before the controller
has given its first complete picture, and Resync, which lets the programmer delete what is missing from the picture,
only while the controller vouches for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from veg_common import logs

from veg_api.core.intents import (
    KIND_ORDER,
    GatewayIntent,
    Intent,
    IntentKey,
    Outcome,
    ProgrammerView,
    Session,
)
from veg_api.core.operations import Operation
from veg_api.errors import PermanentError, ProgrammerUnreachableError

_BATCH = 500
_BACKOFF_S = (0.05, 1.0)
_RETRY_S = 0.5
# After a connection began: what the programmer has not told by then, it does not have.
_SETTLE_S = 2.0
# A programmer that restarts is back within this time: nothing is said of it in any status.
GRACE_S = 3.0


@dataclass(frozen=True)
class Report:
    """An outcome as the programmer tells it."""

    key: IntentKey
    generation: int
    state: Literal["COMMITTED", "WAITING", "REFUSED"]
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Hello:
    """First of a stream."""

    instance: str
    nb_schema: str


@dataclass(frozen=True)
class BfdReport:
    """OVN's view of a session with one address of a gateway ("<namespace>/<name>")."""

    gateway: str
    peer: str
    session: Session


@dataclass(frozen=True)
class Repaired:
    """Rows that others broke were put right."""

    key: IntentKey
    operations: tuple[Operation, ...]


Event = Hello | Report | BfdReport | Repaired


class Client(Protocol):
    """The calls of ProgrammerService. All raise ProgrammerUnreachableError; those with intents PermanentError too."""

    def watch(self) -> AsyncGenerator[Event, None]:
        """The stream of events; raises when it breaks or skips a number."""
        ...

    async def apply(self, session: str, intents: Sequence[tuple[int, Intent]]) -> list[Report]:
        """Send intents with their generations."""
        ...

    async def delete(self, session: str, keys: Sequence[IntentKey]) -> list[Report]:
        """Withdraw intents."""
        ...

    async def resync(self, session: str) -> list[IntentKey]:
        """Say that the picture is complete; what was removed."""
        ...

    async def reset_sessions(self, gateway: str, peers: Sequence[str]) -> list[str]:
        """Have a gateway's BFD rows made anew; the addresses whose rows were."""
        ...

    async def plan(self, intents: Sequence[Intent], deletes: Sequence[IntentKey]) -> list[Operation]:
        """What applying would do."""
        ...


class Link:
    """See the module. `on_change` is told which keys' outcomes changed; None means the state of the link itself."""

    def __init__(
        self,
        client: Client,
        on_change: Callable[[frozenset[IntentKey] | None], None],
        grace_s: float = GRACE_S,
    ) -> None:
        self.client = client
        self._on_change = on_change
        self._grace_s = grace_s
        self._log = logs.get("link")
        self._session = uuid.uuid4().hex
        self._closed = False
        self._wanted: dict[IntentKey, Intent | None] = {}
        # One counter for all keys: a key that is forgotten and asked for again still grows.
        self._counter = 0
        self._generations: dict[IntentKey, int] = {}
        self._outcomes: dict[IntentKey, Outcome] = {}
        self._sessions: dict[str, dict[str, Session]] = {}
        self._settling = False
        self._dirty: set[IntentKey] = set()
        self._resync_due = True
        self._complete = False
        self._picture = asyncio.Event()
        self._greeted = asyncio.Event()
        self._wake = asyncio.Event()
        self._state: Literal["connecting", "connected", "unreachable"] = "connecting"
        self._error = ""
        self._view: ProgrammerView | None = None

    @property
    def view(self) -> ProgrammerView:
        """What is known now, as a value."""
        if self._view is None:
            sessions = {gateway: dict(found) for gateway, found in self._sessions.items()}
            self._view = ProgrammerView(
                self._state, self._error, dict(self._outcomes), sessions, settling=self._settling
            )
        return self._view

    def want(self, changes: Iterable[tuple[IntentKey, Intent | None]], *, complete: bool) -> None:
        """Ask for intents, or (None) for their removal. `complete`: all that exists has been asked for by now."""
        for key, intent in changes:
            if key in self._wanted and self._wanted[key] == intent:
                continue
            self._wanted[key] = intent
            self._counter += 1
            self._generations[key] = self._counter
            self._dirty.add(key)
        self._complete = complete
        self._picture.set()
        self._wake.set()

    def forget(self, keys: Iterable[IntentKey]) -> None:
        """Drop what is known of intents whose removal was committed."""
        for key in keys:
            if self._wanted.get(key, key) is None:
                self._wanted.pop(key)
                self._generations.pop(key)
                self._outcomes.pop(key, None)
                self._sessions.pop(key.name, None)
                self._dirty.discard(key)
                self._view = None

    async def reset(self, gateway: str, peers: Sequence[str]) -> None:
        """Have BFD rows made anew; whether it was done shows in the sessions."""
        try:
            done = await self.client.reset_sessions(gateway, peers)
        except (ProgrammerUnreachableError, PermanentError) as error:
            self._log.warning("sessions not reset", gateway=gateway, peers=list(peers), error=str(error))
        else:
            self._log.warning("sessions reset", gateway=gateway, peers=done)

    def close(self) -> None:
        """Say nothing more, to nobody. Cancelling alone is lost when a task of the connection fails at that moment."""
        self._closed = True
        self._on_change = _nobody

    async def run(self) -> None:
        """Keep the session alive until cancelled, or closed."""
        await self._picture.wait()
        delay, lost_since = _BACKOFF_S[0], asyncio.get_running_loop().time()
        while not self._closed:
            try:
                await self._connected()
            except* ProgrammerUnreachableError as group:
                self._error = str(group.exceptions[0])
            except* PermanentError as group:
                self._error = str(group.exceptions[0])
                self._log.error("protocol fault", error=self._error)
            except* Exception as group:  # noqa: BLE001
                # Whatever it is, the next connection may do without it.
                self._error = str(group.exceptions[0])
                self._log.exception("session failed")
            now = asyncio.get_running_loop().time()
            if self._state == "connected":
                self._log.warning("lost", error=self._error)
                self._set_state("connecting")
                delay, lost_since = _BACKOFF_S[0], now
            if self._state == "connecting" and now - lost_since >= self._grace_s:
                self._log.warning("unreachable", error=self._error)
                self._set_state("unreachable")
            await asyncio.sleep(delay)
            delay = min(delay * 2, _BACKOFF_S[1])

    async def _connected(self) -> None:
        """One connection, from Hello until it breaks."""
        if self._closed:
            return
        stream = self.client.watch()
        try:
            hello = await anext(stream)
        except StopAsyncIteration:
            raise ProgrammerUnreachableError("the stream ended before it began") from None
        if not isinstance(hello, Hello):
            raise PermanentError("the stream does not begin with Hello")
        self._log.info("connected", instance=hello.instance, nb_schema=hello.nb_schema)
        self._dirty = set(self._wanted)
        self._resync_due = True
        # Rows may have gone while nobody listened; those that are there are told again.
        self._sessions, self._settling, self._view = {}, True, None
        self._wake.set()
        async with contextlib.aclosing(stream), asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(stream))
            tasks.create_task(self._send())
            tasks.create_task(self._settle())

    async def _settle(self) -> None:
        """What is not told some time after the connection began is not there."""
        await self._greeted.wait()
        await asyncio.sleep(_SETTLE_S)
        self._settling, self._view = False, None
        if any(isinstance(i, GatewayIntent) and i.bfd for i in self._wanted.values()):
            self._on_change(None)

    def _take_session(self, event: BfdReport) -> None:
        sessions = self._sessions.setdefault(event.gateway, {})
        if sessions.get(event.peer) != event.session:
            sessions[event.peer] = event.session
            self._tell({IntentKey("GATEWAY", event.gateway)})

    async def _listen(self, stream: AsyncGenerator[Event, None]) -> None:
        async for event in stream:
            if isinstance(event, Report):
                self._take([event])
            elif isinstance(event, BfdReport):
                self._take_session(event)
            elif isinstance(event, Repaired):
                shown = [f"{o.action.lower()} {o.kind} {o.name}" for o in event.operations]
                self._log.warning("repaired", intent=event.key.name, operations=shown)
        raise ProgrammerUnreachableError("the stream ended")

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty and not self._closed:
                await self._send_batch()
            if self._state != "connected":
                self._set_state("connected")
            if self._resync_due and self._complete:
                removed = await self.client.resync(self._session)
                self._resync_due = False
                self._log.info("in sync", intents=len(self._wanted), removed=[k.name for k in removed])

    async def _send_batch(self) -> None:
        """The next few intents, withdrawals first; what fails for want of a connection stays dirty."""
        batch = sorted(
            self._dirty, key=lambda k: (self._wanted[k] is not None, KIND_ORDER.index(k.kind), k.name)
        )
        batch = batch[:_BATCH]
        deletes = [key for key in batch if self._wanted[key] is None]
        intents = [
            (self._generations[key], intent) for key in batch if (intent := self._wanted[key]) is not None
        ]
        generations = {key: self._generations[key] for key in batch}
        if deletes:
            answers = await self.client.delete(self._session, sorted(deletes, key=_from_the_top))
            self._take_deleted(answers)
        if intents:
            self._take(await self._apply(intents))
        # What was asked for anew in the meantime is still to be sent.
        self._dirty -= {key for key, sent in generations.items() if self._generations.get(key) == sent}

    async def _apply(self, intents: Sequence[tuple[int, Intent]]) -> list[Report]:
        """Apply; should the request be refused as a whole, one by one, so that one bad intent holds up no other."""
        try:
            return await self.client.apply(self._session, intents)
        except PermanentError as error:
            if len(intents) == 1:
                generation, intent = intents[0]
                self._log.error("refused", intent=intent.key.name, error=str(error))
                return [Report(intent.key, generation, "REFUSED", "Rejected", str(error))]
        return [report for one in intents for report in await self._apply([one])]

    def _take(self, reports: Iterable[Report]) -> None:
        changed = set()
        for report in reports:
            intent = self._wanted.get(report.key)
            if intent is None or report.generation != self._generations[report.key]:
                continue  # of something that is not wanted any more
            outcome = Outcome(intent, report.state, report.reason, report.message)
            if isinstance(intent, GatewayIntent) and report.state == "COMMITTED":
                self._forget_sessions(intent)
            if self._outcomes.get(report.key) != outcome:
                self._outcomes[report.key] = outcome
                changed.add(report.key)
        self._tell(changed)

    def _forget_sessions(self, intent: GatewayIntent) -> None:
        """Sessions of nexthops that are none any more: whoever gets the address next begins with nothing."""
        sessions = self._sessions.get(intent.key.name)
        if sessions:
            present = {hop for family in intent.families for hop in family.nexthops}
            for peer in sessions.keys() - present:
                del sessions[peer]
                self._view = None

    def _take_deleted(self, reports: Iterable[Report]) -> None:
        changed = set()
        for report in reports:
            if report.key in self._wanted and self._wanted[report.key] is None:
                self._outcomes[report.key] = Outcome(None, report.state, report.reason, report.message)
                changed.add(report.key)
                if report.state != "COMMITTED":
                    asyncio.get_running_loop().call_later(_RETRY_S, self._again, report.key)
        self._tell(changed)

    def _again(self, key: IntentKey) -> None:
        """Withdraw once more what could not be withdrawn."""
        if self._wanted.get(key, key) is None:
            self._dirty.add(key)
            self._wake.set()

    def _tell(self, changed: set[IntentKey]) -> None:
        if changed:
            self._view = None
            self._on_change(frozenset(changed))

    def _set_state(self, state: Literal["connecting", "connected", "unreachable"]) -> None:
        self._state = state
        self._greeted.clear()
        if state == "connected":
            self._error = ""
            self._greeted.set()
        self._view = None
        self._on_change(None)


def _nobody(_keys: frozenset[IntentKey] | None) -> None:
    """Who listens to a link that is closed."""


def _from_the_top(key: IntentKey) -> tuple[int, str]:
    """What stands on others goes before them."""
    return -KIND_ORDER.index(key.kind), key.name
