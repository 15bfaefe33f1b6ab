"""The reconcile loop: changes of the store and of the programmer in, plans out, differences applied.

All decisions are `core`'s. This module keeps the snapshot, knows which plans to make again, carries them out, and
backs off from what fails, gateway by gateway: one that can not be served never holds up another.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from veg_common import logs
from veg_common.objects import Ref
from veg_common.store import InvalidObjectError, ObjectStore, StoreError

from veg_api.core.affected import affected
from veg_api.core.change import Change, EventRecord, PatchStatus
from veg_api.core.gateway import GatewayKey
from veg_api.core.intents import Intent, IntentKey, VpcIntent, gateway_key
from veg_api.core.names import GATEWAY_KIND
from veg_api.core.planner import GatewayPlan, gateway_keys, plan_gateway
from veg_api.core.pools import Pools
from veg_api.core.recall import Recall
from veg_api.core.snapshot import COURTESY_KINDS, KINDS, Snapshot
from veg_api.core.topology import TopologyPlan, plan_topology
from veg_api.core.workload import DEFAULTS, Defaults
from veg_api.errors import RetryableError
from veg_api.fence import NotLeadingError
from veg_api.io.changes import StaleError, carry_out, record
from veg_api.io.feed import Feed
from veg_api.link import Link

# Changes that come together (a manifest of several documents, a pod and its status) are planned together.
DEBOUNCE_S = 0.015
# How long a status waits for the answer of OVN, so that a change does not show as "not ready" for a moment.
_STATUS_WAIT_S = 0.25
_BACKOFF_S = (0.2, 30.0)
_SLICE = 50
# How long the two ends of a session may disagree, and the pauses between attempts to put that right.
_SUSPECT_S = 3.0
_RESET_PAUSES_S = (5.0, 10.0, 20.0, 60.0)
# A pass writes for at most this long; what is left waits, so that a fresh change never queues behind a thousand others.
_WRITE_S = 0.25
_DOUBT_S = 0.1
# Gateways that are written side by side: an API server takes milliseconds for each change.
_AT_ONCE = 8


@dataclass
class _Retry:
    """When something that failed is tried again; `attempts` sets the pause."""

    attempts: int
    due: float


@dataclass
class _Suspicion:
    """When a stale session of a gateway is reset (again)."""

    resets: int
    due: float


class Controller:
    """See the module. Without leading (`lead`) it follows the store, so that others can read, and does nothing else.

    `may_write` is false already while it is only not certain any more that we lead.
    """

    def __init__(  # noqa: PLR0913 - its neighbours
        self,
        store: ObjectStore,
        link: Callable[[Callable[[frozenset[IntentKey] | None], None]], Link],
        *,
        defaults: Defaults = DEFAULTS,
        now: Callable[[], str] | None = None,
        leading: bool = True,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._defaults = defaults
        self._now = now or _utc_now
        self._log = logs.get("controller")
        self._wake = asyncio.Event()
        self.feed = Feed(store, KINDS, self._wake.set, COURTESY_KINDS)
        self._new_link = link
        self._leading = leading
        self._may_write = may_write
        self._linked: asyncio.Task[None] | None = None
        self._base = Snapshot()
        self.listeners: list[Callable[[frozenset[Ref]], None]] = []
        self._begin()

    def _begin(self) -> None:
        """Forget all that a leader knows of what it did: another may have led since."""
        self.link = self._new_link(self._outcomes_changed)
        self._intents: dict[IntentKey, Intent | None] = {}
        self._due: set[GatewayKey] = set()
        self._later: dict[GatewayKey, None] = {}
        self._topology_due = False
        self._all_due = True
        self._unsettled: set[GatewayKey] = set()
        self._retries: dict[GatewayKey | None, _Retry] = {}
        self._in_flight: dict[GatewayKey, float] = {}
        self._suspicions: dict[GatewayKey, _Suspicion] = {}
        self._hidden: frozenset[Ref] = frozenset()
        self._failed: set[GatewayKey] = set()
        self._topology_known = False
        self._refusals: list[EventRecord] = []
        self._recall = Recall()

    @property
    def snapshot(self) -> Snapshot:
        """All inputs as they are known now."""
        return replace(self._base, programmer=self.link.view, hidden=self._hidden, now=self._now())

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.feed.run())
                tasks.create_task(self._loop())
                self.lead(self._leading)
        finally:
            if self._linked is not None:
                self._linked.cancel()

    def lead(self, leading: bool) -> None:  # noqa: FBT001 - what an election tells
        """Begin to work, or stop at once."""
        self.link.close()
        if self._linked is not None:
            self._linked.cancel()
            self._linked = None
        self._leading = leading
        self._begin()
        if leading:
            self._linked = asyncio.ensure_future(self.link.run())
        self._wake.set()

    async def _loop(self) -> None:
        failures = 0
        while True:
            await self._wait()
            self._wake.clear()
            try:
                self._take()
                if self.feed.synced and self._leading:
                    await (self._pass() if self._may_write() else self._hold())
                failures = 0
                continue
            except (StoreError, OSError) as error:
                self._log.warning("pass failed", error=str(error))
            except Exception:  # noqa: BLE001
                # A fault of ours, met by whatever input: those who are well go on in the next pass.
                self._log.exception("pass failed")
            self._all_due = True
            await asyncio.sleep(min(_BACKOFF_S[0] * 2**failures, _BACKOFF_S[1]))
            failures = min(failures + 1, 10)
            self._wake.set()

    async def _hold(self) -> None:
        """A moment of doubt: the election will tell whether we still lead."""
        self._all_due = True
        await asyncio.sleep(_DOUBT_S)
        self._wake.set()

    async def _wait(self) -> None:
        """Until something changed (and a moment longer, for what comes with it) or a retry is due."""
        dues = [retry.due for retry in self._retries.values()] + list(self._in_flight.values())
        dues += [suspicion.due for suspicion in self._suspicions.values()]
        pause = max(0.0, min(dues) - _clock()) if dues else None
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(DEBOUNCE_S)

    def _take(self) -> None:
        """Bring the snapshot up to date and note what that makes due."""
        before = self._base
        taken = ((ref, self._recall.whole(ref, obj)) for ref, obj in self.feed.take().items())
        self._base, touched = before.with_objects(taken)
        self._tell_refused(before)
        hidden = self.feed.hidden | {ref for ref in self._base.refused if not _is_known(self._base, ref)}
        if hidden != self._hidden:
            self._hidden = hidden
            self._all_due = True
        if touched:
            found = affected(before, self._base, touched)
            self._due |= found.gateways
            self._topology_due |= found.topology
            if found.frees:
                self._due |= self._unsettled
            for listener in self.listeners:
                listener(touched)
        now = _clock()
        for key, retry in self._retries.items():
            if retry.due <= now:
                self._topology_due |= key is None
                self._due |= {key} if key is not None else set()
        self._due |= {key for key, due in self._in_flight.items() if due <= now}
        self._due |= {key for key, suspicion in self._suspicions.items() if suspicion.due <= now}

    def _tell_refused(self, before: Snapshot) -> None:
        """Events for objects that came in a form nobody can make sense of."""
        for ref, why in self._base.refused.items():
            if before.refused.get(ref) != why:
                good = _is_known(self._base, ref)
                self._log.error("object refused", object=str(ref), error=why, last_good_kept=good)
                self._refusals.append(EventRecord(ref, "", "Warning", "Unreadable", why))

    async def _pass(self) -> None:
        """Plan what is due, hand the programmer its part, write the rest."""
        refusals, self._refusals = self._refusals, []
        for event in [*self.feed.take_events(), *refusals]:
            await self._record(event)
        snapshot = self.snapshot
        fresh, with_topology, everything = self._due, self._topology_due or self._all_due, self._all_due
        self._due, self._topology_due, self._all_due = set(), False, False
        if everything:
            self._later |= dict.fromkeys(sorted(gateway_keys(snapshot)))
        waiting = list(self._later) if everything else list(self._later)[:_SLICE]
        keys = fresh.union(waiting)
        if not keys and not with_topology:
            return
        pools = Pools(snapshot)
        plans = {}
        for number, key in enumerate(sorted(keys, key=lambda k: _age(snapshot, k))):
            if number % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)  # the gRPC services want to answer too
            self._later.pop(key, None)
            if (plan := self._plan(snapshot, key, pools)) is not None:
                plans[key] = plan
        await self._reset_suspects(plans.values())
        topology = self._plan_topology(snapshot, pools) if with_topology else None
        self._ask_programmer(snapshot, plans.values(), topology, everything=everything)
        await self._write(snapshot, [*(plans[k] for k in plans if k in fresh), *plans.values()], topology)

    async def _write(
        self, snapshot: Snapshot, plans: Sequence[GatewayPlan], topology: TopologyPlan | None
    ) -> None:
        """Carry plans out, fresh ones first; those that time does not allow are made again in the next passes."""
        if topology is not None:
            await self._carry_out(None, topology.changes, topology.events)
        begun = _clock()
        done: set[GatewayKey] = set()
        places = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as running:
            for plan in plans:
                if plan.key in done or plan.key in self._later:
                    continue
                if not self._may_write():
                    self._all_due = True
                    break
                if plan.changes and _clock() - begun > _WRITE_S:
                    self._later[plan.key] = None
                    continue
                done.add(plan.key)
                await places.acquire()
                work = running.create_task(self._carry_out(plan.key, *self._unless_in_flight(snapshot, plan)))
                work.add_done_callback(lambda _: places.release())
                # A folder store never waits: let the watch and the programmer have their turn.
                await asyncio.sleep(0)
        if self._later:
            self._wake.set()

    def _plan(self, snapshot: Snapshot, key: GatewayKey, pools: Pools) -> GatewayPlan | None:
        try:
            plan = plan_gateway(snapshot, key, pools, self._defaults)
        except Exception:  # noqa: BLE001
            # A fault of ours with one gateway must not stop the others.
            self._log.exception("plan failed", gateway="/".join(key))
            self._failed.add(key)
            self._suspicions.pop(key, None)
            self._back_off(key)
            return None
        self._failed.discard(key)
        if plan.unsettled:
            self._unsettled.add(key)
        else:
            self._unsettled.discard(key)
        return plan

    async def _reset_suspects(self, plans: Iterable[GatewayPlan]) -> None:
        """Where OVN holds a session that its replica has not had for a while, have the row made anew.

        One replica at a time: should it be the kubelet that errs, the others serve on meanwhile.
        """
        now = _clock()
        for plan in plans:
            if not plan.suspects:
                self._suspicions.pop(plan.key, None)
                continue
            suspicion = self._suspicions.setdefault(plan.key, _Suspicion(0, now + _SUSPECT_S))
            if suspicion.due > now:
                continue
            peers = plan.suspects[suspicion.resets % len(plan.suspects)]
            pause = _RESET_PAUSES_S[min(suspicion.resets, len(_RESET_PAUSES_S) - 1)]
            suspicion.resets += 1
            suspicion.due = now + pause
            await self.link.reset(_name(plan.key), peers)

    def _plan_topology(self, snapshot: Snapshot, pools: Pools) -> TopologyPlan | None:
        try:
            plan = TopologyPlan() if self._defaults.kube_ovn else plan_topology(snapshot, pools)
        except Exception:  # noqa: BLE001
            # As above: gateways do not wait for it, and their intents are asked for without it.
            self._log.exception("plan failed", gateway="topology")
            self._back_off(None)
            return None
        self._topology_known = True
        return plan

    def _unless_in_flight(
        self, snapshot: Snapshot, plan: GatewayPlan
    ) -> tuple[Sequence[Change], Sequence[EventRecord]]:
        """Changes and events of a plan; those of the status wait a moment for the programmer's answer."""
        asked = plan.intent is not None and snapshot.programmer.link == "connected"
        outcome = snapshot.programmer.outcomes.get(plan.intent_key)
        if not asked or (outcome is not None and outcome.intent == plan.intent):
            self._in_flight.pop(plan.key, None)
            return plan.changes, plan.events
        due = self._in_flight.setdefault(plan.key, _clock() + _STATUS_WAIT_S)
        if due <= _clock():
            # Said once that it takes longer; the answer, whenever it comes, wakes us.
            self._in_flight.pop(plan.key)
            return plan.changes, plan.events
        return [change for change in plan.changes if not isinstance(change, PatchStatus)], ()

    def _ask_programmer(
        self,
        snapshot: Snapshot,
        plans: Iterable[GatewayPlan],
        topology: TopologyPlan | None,
        *,
        everything: bool,
    ) -> None:
        changes: dict[IntentKey, Intent | None] = {}
        for plan in plans:
            if plan.intent is not None or (plan.withdraw and self._is_known(snapshot, plan)):
                changes[plan.intent_key] = plan.intent
        if topology is not None:
            changes |= topology.intents
            gone = [
                key
                for key, intent in self._intents.items()
                if key.kind != "GATEWAY" and intent is not None and key not in topology.intents
            ]
            changes |= {key: None for key in gone if not _is_hidden(key, snapshot.hidden)}
        done = [
            key for key, intent in self._intents.items() if intent is None and self._is_done(snapshot, key)
        ]
        for key in done:
            if changes.get(key) is None:
                changes.pop(key, None)
                self._intents.pop(key)
                self.link.forget([key])
        self._intents |= changes
        if everything or changes:
            # What could not be planned has not been asked for, unless it was before.
            missing = any(gateway_key(*key) not in self._intents for key in self._failed)
            whole = self._topology_known and not missing and not snapshot.hidden
            self.link.want(changes.items(), complete=whole)

    def _is_known(self, snapshot: Snapshot, plan: GatewayPlan) -> bool:
        """Whether a withdrawal is worth asking for: the gateway is there, or its rows may be."""
        return snapshot.gateways.get(plan.key[1], plan.key[0]) is not None or plan.intent_key in self._intents

    def _is_done(self, snapshot: Snapshot, key: IntentKey) -> bool:
        """Whether a withdrawal was committed and nobody waits to see that."""
        outcome = snapshot.programmer.outcomes.get(key)
        if outcome is None or outcome.intent is not None or outcome.state != "COMMITTED":
            return False
        if key.kind != "GATEWAY":
            return True
        namespace, _, name = key.name.partition("/")
        return snapshot.gateways.get(name, namespace) is None

    async def _carry_out(
        self, key: GatewayKey | None, changes: Sequence[Change], events: Sequence[EventRecord]
    ) -> None:
        """One plan's changes in order; the first that fails ends it, and the plan is made again after a pause."""
        try:
            for event in events:
                await self._record(event)
            for change in changes:
                stored = await carry_out(self._store, change)
                self._recall.note(change, stored)
                self.feed.put(change.ref, stored)
        except NotLeadingError:
            self._all_due = True
        except StaleError as error:
            self.feed.put(error.ref, error.object, read=True)
            self._back_off(key, str(error))
        except (RetryableError, StoreError, OSError) as error:
            fatal = isinstance(error, InvalidObjectError)
            (self._log.error if fatal else self._log.warning)(
                "change failed", plan=_name(key), error=str(error)
            )
            self._back_off(key)
        except Exception:  # noqa: BLE001
            self._log.exception("change failed", plan=_name(key))
            self._back_off(key)
        else:
            self._retries.pop(key, None)

    async def _record(self, event: EventRecord) -> None:
        try:
            await record(self._store, event, self._now())
        except Exception as error:  # noqa: BLE001
            # An event is a courtesy: losing one is no reason to stop.
            self._log.warning("event lost", reason=event.reason, error=str(error))

    def _back_off(self, key: GatewayKey | None, why: str = "") -> None:
        retry = self._retries.get(key)
        attempts = retry.attempts + 1 if retry else 0
        pause = min(_BACKOFF_S[0] * 2**attempts, _BACKOFF_S[1])
        self._retries[key] = _Retry(attempts, _clock() + pause)
        self._log.debug("try again", plan=_name(key), why=why, pause_s=pause)

    def _outcomes_changed(self, keys: frozenset[IntentKey] | None) -> None:
        """Told by the link: outcomes of some intents, or (None) its own state."""
        if keys is None:
            self._all_due = True
        else:
            for key in keys:
                if key.kind == "GATEWAY":
                    namespace, _, name = key.name.partition("/")
                    self._due.add((namespace, name))
                else:
                    intent = self._intents.get(key, key)
                    self._topology_due |= intent is None or (
                        isinstance(intent, VpcIntent) and intent.bfd_port is not None
                    )
        self._wake.set()


def _age(snapshot: Snapshot, key: GatewayKey) -> tuple[str, GatewayKey]:
    """Who came first chooses its addresses first."""
    gateway = snapshot.gateways.get(key[1], key[0])
    return (gateway.created if gateway else "", key)


def _is_known(snapshot: Snapshot, ref: Ref) -> bool:
    """Whether some good version of an object is known."""
    return snapshot.tables[ref.kind].get(ref.name, ref.namespace) is not None


def _is_hidden(key: IntentKey, hidden: frozenset[Ref]) -> bool:
    """Whether an intent's object may exist although nothing is known of it."""
    if key.kind == "PORT":
        return any(ref.kind == "Pod" and key.name == f"{ref.name}.{ref.namespace}" for ref in hidden)
    kind = {"VPC": "Vpc", "SUBNET": "Subnet"}.get(key.kind, GATEWAY_KIND)
    return Ref(kind, "", key.name) in hidden


def _name(key: GatewayKey | None) -> str:
    return "topology" if key is None else gateway_key(*key).name


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
