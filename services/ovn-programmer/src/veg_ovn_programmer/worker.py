"""The loop between the book of intents and the Northbound database.

One commit at a time; what arrives meanwhile shares the next one. It hears of every change to our rows and repairs what
others broke by the same path. Called by rpc.py, from one asyncio loop.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from veg_common import logs

from veg_ovn_programmer import metrics
from veg_ovn_programmer.agenda import Agenda
from veg_ovn_programmer.care import Care
from veg_ovn_programmer.committer import Committer
from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.book import Book, Job, Outcome, State
from veg_ovn_programmer.core.diff import Op
from veg_ovn_programmer.core.intents import DERIVED, Gateway, Intent, Key, Kind, Vpc
from veg_ovn_programmer.core.pace import Pace
from veg_ovn_programmer.core.validate import check
from veg_ovn_programmer.core.view import Scene, Variant
from veg_ovn_programmer.errors import (
    IntentError,
    NorthboundUnavailableError,
    RefusedError,
    WaitingError,
)
from veg_ovn_programmer.io.changes import Changes, News
from veg_ovn_programmer.io.commands import Result
from veg_ovn_programmer.listeners import Listeners
from veg_ovn_programmer.ticket import Repair, Ticket

# Seconds that a caller waits for a database that does not answer.
PATIENCE_S = 1.5
RETRY_S = 1.0
# Intents held: memory is bounded also when a sender is not.
HELD = 100_000


class Database(Protocol):
    """What the worker needs of io.northbound.Northbound."""

    managed: bool
    schema_version: str
    variant: Variant
    changes: Changes

    @property
    def connected(self) -> bool: ...  # noqa: D102
    @property
    def server(self) -> str: ...  # noqa: D102
    @property
    def trouble(self) -> str: ...  # noqa: D102
    def start(self) -> None: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102
    def abandon(self) -> None: ...  # noqa: D102
    def commit(self, jobs: Sequence[Job], scene: Scene) -> dict[Key, Result]: ...  # noqa: D102
    def plan(self, jobs: Sequence[Job], scene: Scene) -> dict[Key, Result]: ...  # noqa: D102
    def owners(self) -> set[Key]: ...  # noqa: D102


class Worker:
    """Holds the intents, commits them and keeps them true."""

    def __init__(self, connect: Callable[[Callable[[], None]], Database]) -> None:
        """`connect` makes the database from a function that wakes this worker from any thread."""
        self.instance = str(uuid.uuid4())
        self.book = Book()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self.database = connect(self._wake_from_thread)
        self._agenda = Agenda(self.book.rank, self._wake.set)
        self._tickets: defaultdict[Key, list[Ticket]] = defaultdict(list)
        self._standing: defaultdict[tuple[str, str], set[Key]] = defaultdict(set)
        self.listeners = Listeners()
        self._pace = Pace()
        self.care = Care(self._agenda.ask, self.listeners.publish)
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="northbound")
        self._committer = Committer(self.database.commit, lambda: self.care.scene(self.book), self._executor)
        self._away_since: float | None = self._loop.time()
        self._log = logs.get("worker")

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set."""
        self.database.start()
        stopping = asyncio.ensure_future(stop.wait())
        stopping.add_done_callback(lambda _: self._stop_soon())
        try:
            while not stop.is_set():
                await self._wake.wait()
                self._wake.clear()
                self._notice()
                while not stop.is_set() and self.database.connected and self._agenda:
                    if not await self._commit_some():
                        break
                    self._notice()
                metrics.PENDING.set(len(self._agenda))
        finally:
            stopping.cancel()
            self.care.stop()
            await self._loop.run_in_executor(None, self.database.stop)
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def apply(self, session: str, intents: Sequence[tuple[Intent, int]]) -> list[Outcome]:
        """Hold the intents and wait for what becomes of them; the answer's order is the request's."""
        self.book.begin(session)
        answers: dict[int, Outcome] = {}
        look: set[Key] = set()
        for place, (intent, generation) in enumerate(intents):
            if self.book.is_stale(intent.key, generation):
                current = self.book.outcome(intent.key)
                if current is not None and intent.key not in self._agenda:
                    answers[place] = current
                continue
            try:
                self._room(intent.key)
                good = check(intent, managed=self.database.managed)
                if isinstance(good, Vpc):
                    self.care.forget(self.book.readdressed(good))
                look |= self.book.put(good, generation)
                self._pace.forget(intent.key)
            except RefusedError as error:
                answers[place] = self._refuse(intent.key, generation, error)
        wanted = {intent.key for place, (intent, _) in enumerate(intents) if place not in answers}
        outcomes = await self._wait(look, wanted)
        return [
            answers[place] if place in answers else outcomes[i.key] for place, (i, _) in enumerate(intents)
        ]

    async def delete(self, session: str, keys: Sequence[Key]) -> list[Outcome]:
        """Forget the intents and wait until their rows are gone; the answer's order is the request's."""
        self.book.begin(session)
        refused = {}
        look: set[Key] = set()
        for key in keys:
            if not self.database.managed and key.kind not in (Kind.GATEWAY, Kind.VPC):
                refused[key] = Outcome(
                    key,
                    0,
                    State.REFUSED,
                    "TopologyNotManaged",
                    f"{key} is Kube-OVN's: this programmer only reads it",
                )
                continue
            self._pace.forget(key)
            look |= self.book.remove(key)
        outcomes = await self._wait(look, {key for key in keys if key not in refused})
        return [refused[key] if key in refused else outcomes[key] for key in keys]

    async def resync(self, session: str) -> list[Key]:
        """The session's picture is complete: remove what is not in it, and tell what that was.

        Raises NorthboundUnavailableError when it could not be done now.
        """
        await self._connection()
        self.book.begin(session)
        owners = await self._loop.run_in_executor(self._executor, self.database.owners)
        removed, look = self.book.resync(session, owners)
        outcomes = await self._wait(look, look)
        left = [
            key
            for key, outcome in outcomes.items()
            if outcome.state is not State.COMMITTED and key in removed
        ]
        if left:
            raise NorthboundUnavailableError(f"not removed yet: {', '.join(map(str, sorted(left)))}")
        self._log.info("in sync", session=session, removed=[str(key) for key in removed])
        return removed

    async def plan(self, intents: Sequence[Intent], deletes: Sequence[Key]) -> list[Op]:
        """What apply and delete would do now. Raises RefusedError, NorthboundUnavailableError."""
        await self._connection()
        book = self.book.fork()
        look: set[Key] = set()
        for intent in intents:
            look |= book.put(check(intent, managed=self.database.managed), 0)
        for key in deletes:
            look |= book.remove(key)
        jobs = book.jobs(look)
        results = await self._loop.run_in_executor(
            self._executor, self.database.plan, jobs, self.care.scene(book)
        )
        return [op for job in jobs for op in results[job.key].ops]

    async def reset_sessions(self, key: Key, peers: Sequence[str]) -> list[str]:
        """Start the BFD sessions of a gateway's replicas afresh, all when `peers` is empty; returns which.

        Those that are all that serves a family stay as they are, see core.bfd.spare.
        """
        entry = self.book.entries.get(key)
        if entry is None or not isinstance(entry.intent, Gateway):
            return []
        reset = self.care.reset(entry.intent, peers)
        if reset:
            await self._wait({key}, {key})
        return reset

    def outcomes(self) -> list[Outcome]:
        """The last outcomes of all intents held, sorted by kind and name."""
        held = (entry.outcome for entry in self.book.entries.values())
        return sorted((one for one in held if one is not None), key=lambda one: one.key)

    def _room(self, key: Key) -> None:
        if key not in self.book.entries and len(self.book.entries) >= HELD:
            raise RefusedError("TooMany", f"{HELD} intents are held, and no more can be")

    def _stop_soon(self) -> None:
        """Wake the loop; a transaction under way gets a moment to be answered."""
        self._wake.set()
        self._loop.call_later(RETRY_S, self.database.abandon)

    def _wake_from_thread(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            return  # the loop has ended: nobody is left to be woken

    async def _wait(self, look: set[Key], wanted: set[Key]) -> dict[Key, Outcome]:
        """Have `look` looked at and wait for the outcomes of `wanted`, or until the database seems away."""
        self._agenda.ask(look)
        ticket = Ticket(set(wanted))
        for key in wanted:
            self._tickets[key].append(ticket)
        if not wanted:
            return {}
        started = self._loop.time()
        while True:
            try:
                await asyncio.wait_for(ticket.done.wait(), 0.1)
            except TimeoutError:
                if not self._is_away(started):
                    continue
                self._give_up(ticket)
            return ticket.outcomes

    def _give_up(self, ticket: Ticket) -> None:
        trouble = self.database.trouble or "a transaction takes long"
        for key in list(ticket.missing):
            outcome = Outcome(
                key,
                self.book.generation(key),
                State.WAITING,
                "NorthboundUnavailable",
                f"the Northbound database does not answer ({trouble}); it is done as soon as it does",
            )
            ticket.answer(key, outcome)
            entry = self.book.entries.get(key)
            if self.book.settle(outcome, removal=entry is not None and entry.removed):
                self.listeners.publish(outcome)

    def _is_away(self, since: float) -> bool:
        """Whether the database has not answered for longer than a caller that came at `since` should wait."""
        now = self._loop.time()
        if self._away_since is not None:
            return now - min(self._away_since + PATIENCE_S, since + PATIENCE_S) >= 0
        committing = self._committer.since
        return committing is not None and now - max(committing, since) >= PATIENCE_S

    async def _connection(self) -> None:
        """Wait a little for the connection. Raises NorthboundUnavailableError."""
        started = self._loop.time()
        while not self.database.connected:
            if self._is_away(started):
                raise NorthboundUnavailableError(
                    f"the Northbound database is not connected: {self.database.trouble}"
                )
            await asyncio.sleep(0.05)

    def _notice(self) -> None:
        """Take in what happened in the database."""
        connected = self.database.connected
        metrics.CONNECTED.set(connected)
        if connected:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = self._loop.time()
        news = self.database.changes.take()
        if news:
            self._absorb(news)

    def _absorb(self, news: News) -> None:
        if news.reloaded:
            self._agenda.look(self.book.everything())
        for holder in news.holders:
            self._agenda.look(self._standing.pop(holder, ()))
            route = Key(Kind.DEFAULT_ROUTE, holder[1])
            if holder[0] == rows.ROUTER and self.book.knows(route):
                self._agenda.look([route])
        # OVN speaks of its sessions: no drift, but rows may follow from it.
        self._agenda.ask(news.sessions)
        now = self._loop.time()
        for key in news.owners - news.sessions:
            delay = self._pace.delay(key, now)
            if delay > 0:
                self._log.warning(
                    "rows keep being changed by somebody else", owner=str(key), repair_in_s=delay
                )
                self._loop.call_later(delay, self._agenda.look, [key])
            else:
                self._agenda.look([key])

    async def _commit_some(self) -> bool:
        """One transaction; False when the database is away."""
        batch, asked = self._agenda.take()
        jobs = self.book.jobs(batch)
        tickets = {key: self._tickets.pop(key) for key in batch if key in self._tickets}
        for key in set(tickets) - {job.key for job in jobs}:
            self._answer_idle(key, tickets.pop(key))
        generations = {job.key: self.book.generation(job.key) for job in jobs}
        try:
            results = await self._committer.commit(jobs)
        except NorthboundUnavailableError as error:
            self._log.warning("commit not answered", error=str(error), intents=len(jobs))
            self._agenda.put_back(batch, asked)
            for key, waiting in tickets.items():
                self._tickets[key] += [ticket for ticket in waiting if key in ticket.missing]
            self._loop.call_later(RETRY_S, self._wake.set)
            return False
        for job in jobs:
            outcome = self._settle(job, generations[job.key], results[job.key], repair=job.key not in asked)
            for ticket in tickets.get(job.key, ()):
                ticket.answer(job.key, outcome)
        return True

    def _answer_idle(self, key: Key, tickets: list[Ticket]) -> None:
        """Nothing is to be done about a key: the caller gets what is known."""
        outcome = self.book.outcome(key) or Outcome(key, self.book.generation(key), State.COMMITTED)
        for ticket in tickets:
            ticket.answer(key, outcome)

    def _settle(self, job: Job, generation: int, result: Result, *, repair: bool) -> Outcome:
        key, trouble = job.key, result.error or result.lack
        if trouble is None:
            outcome = Outcome(key, generation, State.COMMITTED, operations=len(result.ops))
        else:
            state = State.REFUSED if isinstance(trouble, RefusedError) else State.WAITING
            outcome = Outcome(key, generation, state, trouble.reason, trouble.message, len(result.ops))
            self._stand(key, trouble)
        if result.error is None:
            self.care.observe(key, result.sessions)
            if result.carrier:
                self.care.carried(key, result.carrier, self.book)
        for op in result.ops:
            metrics.OPERATIONS.labels(op.action.name.lower()).inc()
        before = self.book.outcome(key)
        repaired = repair and result.ops and (before is None or before.state is not State.WAITING)
        if repaired:
            self._repaired(key, result.ops)
        elif result.ops or trouble is not None:
            # The waker's row changes every few seconds.
            tell = self._log.info if key.kind is not Kind.WAKER else self._log.debug
            tell(
                "committed" if trouble is None else "waiting",
                owner=str(key),
                operations=len(result.ops),
                reason=outcome.reason,
            )
        if self.book.settle(outcome, removal=job.intent is None):
            self.listeners.publish(outcome)
        return outcome

    def _repaired(self, key: Key, ops: tuple[Op, ...]) -> None:
        self._pace.repaired(key, self._loop.time())
        metrics.REPAIRS.labels(key.kind.name.lower()).inc()
        self._log.warning(
            "repaired", owner=str(key), operations=[f"{op.action.name} {op.name}" for op in ops]
        )
        if key.kind not in DERIVED:
            self.listeners.publish(Repair(key, ops))

    def _stand(self, key: Key, error: IntentError) -> None:
        """Have a waiting key looked at again when that may help."""
        if isinstance(error, WaitingError) and error.until is not None:
            self._standing[error.until].add(key)
        elif error.reason in ("NameTaken", "CommitFailed"):
            self._loop.call_later(RETRY_S, self._agenda.look, [key])

    def _refuse(self, key: Key, generation: int, error: RefusedError) -> Outcome:
        outcome = Outcome(key, generation, State.REFUSED, error.reason, error.message)
        self._log.warning("refused", owner=str(key), reason=error.reason, message=error.message)
        if self.book.refuse(outcome):
            self.listeners.publish(outcome)
        return outcome
