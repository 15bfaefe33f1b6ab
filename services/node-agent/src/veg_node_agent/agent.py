"""The running agent: file in, kernel out.

One reconcile at a time, in a thread of its own: read, diff, apply, read again until nothing differs. It is woken by
the file, by netlink, and by the clock. The event loop stays free for health and for questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from veg_common import logs

from veg_node_agent.availability import Availability
from veg_node_agent.config import Settings
from veg_node_agent.core import diff
from veg_node_agent.core.model import Config, Record, Snapshot
from veg_node_agent.core.operations import Operation
from veg_node_agent.core.report import applied_lines
from veg_node_agent.errors import AgentError, ConfigError, KernelError
from veg_node_agent.io.doorbell import doorbell
from veg_node_agent.io.files import Health, LastGood, RecordFile
from veg_node_agent.io.kernel import Kernel
from veg_node_agent.io.watch import read_config, watch_config

_ROUNDS = 4  # read-diff-apply until nothing differs; more means that somebody works against us
_SETTLE = 0.02  # s: a change of one thing sends several notifications
_SLOWEST = 0.5  # s between rounds while the kernel refuses, or somebody works against us
_ROUTING_TICKS = 5  # reads by the clock, of which one includes what the doorbell tells of anyway
_HEALTH_PERIOD = 1.0  # s
_LOGGED = 20  # operations of one round that are logged one by one


@dataclass(frozen=True)
class Status:
    """Where the agent stands; see veg.agent.v1.GetStateResponse."""

    config_text: str = ""
    config_error: str = ""
    in_sync: bool = False
    apply_error: str = ""
    nat_backend: str = ""
    applied: tuple[str, ...] = ()
    repairs: int = 0


@dataclass(frozen=True)
class _Result:
    """What one reconcile found and did."""

    snapshot: Snapshot
    plan: diff.Plan
    done: tuple[Operation, ...]
    errors: tuple[str, ...]


class Agent:
    """Keeps one network namespace as the configuration wants it."""

    def __init__(self, settings: Settings, parse: Callable[[str], Config], kernel: Kernel) -> None:
        self._settings = settings
        self._parse = parse
        self._kernel = kernel
        self._log = logs.get("agent")
        self._record_file = RecordFile(settings.run_dir)
        self._last_good = LastGood(settings.run_dir)
        self._health = Health(settings.run_dir)
        self._record = self._record_file.load()
        self._config: Config | None = None
        self._seen: str | None = None
        self._status = Status()
        self._wake = asyncio.Event()
        self._file_changed = True
        self._verified = float("-inf")
        self._unrest = 0
        self._ticks = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self._done = asyncio.Event()
        self.availability = Availability(settings, self._tell)

    @property
    def status(self) -> Status:
        """Where it stands."""
        return self._status

    async def plan(self) -> diff.Plan:
        """What it would do now. Raises AgentError."""
        if self._config is None:
            raise AgentError(self._status.config_error or "no configuration yet")
        config = self._config

        def look() -> diff.Plan:
            return diff.plan(config, self._kernel.read(config, self._record), self._record)

        return await asyncio.get_running_loop().run_in_executor(self._pool, look)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and the traffic has gone elsewhere; the kernel is left as it is then."""
        self._tell()
        async with self._helpers(stop):
            while not self._done.is_set():
                # The doorbell tells of every change in links, addresses, routes and rules; they are read back now and
                # then all the same.
                self._ticks = 0 if self._wake.is_set() or not self._status.in_sync else self._ticks + 1
                self._wake.clear()
                if self._file_changed:
                    self._file_changed = False
                    self._load()
                await self._reconcile(routing=self._ticks % _ROUTING_TICKS == 0)
                await self._rest()

    async def _leave(self, stop: asyncio.Event) -> None:
        """Once `stop` is set: drain, while the kernel is still looked after, then be done whatever happened."""
        await stop.wait()
        try:
            await self.availability.drain(self._settings.drain_seconds)
        except Exception:  # noqa: BLE001  (the process must end, whatever it was)
            self._log.exception("drain failed")
        finally:
            self._done.set()
            self._wake.set()

    @contextlib.asynccontextmanager
    async def _helpers(self, stop: asyncio.Event) -> AsyncIterator[None]:
        with doorbell(self._wake.set):
            jobs = [
                asyncio.create_task(watch_config(self._settings.config, self._on_file)),
                asyncio.create_task(self._keep_healthy()),
                asyncio.create_task(self._leave(stop)),
            ]
            try:
                async with self.availability.running():
                    yield
            finally:
                for job in jobs:
                    job.cancel()
                await asyncio.gather(*jobs, return_exceptions=True)
                self._pool.submit(self._kernel.close)
                self._pool.shutdown(wait=True)

    def _on_file(self) -> None:
        self._file_changed = True
        self._wake.set()

    async def _rest(self) -> None:
        """Wait for the next reason to look; the clock is one, because NAT and sysctls send no notification."""
        restless = bool(self._status.apply_error) and self._config is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SLOWEST if restless else self._settings.read_interval):
                await self._wake.wait()
        if not self._wake.is_set():
            self._file_changed = True  # a file that is swapped where no event tells is found by reading it
        elif not (self._file_changed or self._done.is_set()):
            await asyncio.sleep(min(_SETTLE * 2**self._unrest, _SLOWEST))

    def _load(self) -> None:
        """Take the file into force, or say why not; at the start the last good one steps in for a broken file."""
        try:
            text = read_config(self._settings.config)
            if text == self._seen:
                return
            config = self._parse(text)
        except ConfigError as error:
            self._refuse(str(error))
            return
        self._seen = text
        self._take(text, config)
        with contextlib.suppress(OSError):
            self._last_good.save(text)

    def _refuse(self, reason: str) -> None:
        self._seen = None
        if reason != self._status.config_error:
            self._log.error(
                "configuration refused", error=reason, last_good_in_force=self._config is not None
            )
            self._status = replace(self._status, config_error=reason)
        if self._config is not None or (text := self._last_good.load()) is None:
            return
        with contextlib.suppress(ConfigError):
            self._take(text, self._parse(text))
            self._status = replace(self._status, config_error=reason)
            self._log.warning("last good configuration in force")

    def _take(self, text: str, config: Config) -> None:
        self._status = replace(self._status, config_text=text, config_error="")
        if config != self._config:
            self._config = config
            self._status = replace(self._status, in_sync=False)
            sources = sum(len(entry.sources) for entry in config.families)
            self._log.info("configuration in force", gateway=config.gateway, sources=sources)

    async def _reconcile(self, *, routing: bool) -> None:
        config = self._config
        if config is None:
            self._status = replace(self._status, in_sync=False, apply_error="")
            return
        was_in_sync = self._status.in_sync
        try:
            result = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._converge, config, routing or not was_in_sync
            )
        except (AgentError, OSError) as error:
            self._fail(str(error))
            return
        except Exception as error:  # noqa: BLE001  the loop's edge: whatever it was, the next round may be better
            self._log.exception("reconcile failed")
            self._fail(f"{type(error).__name__}: {error}")
            return
        self._conclude(config, result, was_in_sync=was_in_sync)

    def _converge(self, config: Config, routing: bool) -> _Result:  # noqa: FBT001 (an executor passes positions)
        """Read, diff, apply until nothing differs. Runs in the kernel thread. Raises KernelError, OSError."""
        done: list[Operation] = []
        for attempt in range(_ROUNDS):
            snapshot = self._kernel.read(config, self._record, routing=routing or attempt > 0)
            plan = diff.plan(config, snapshot, self._record)
            if not plan.operations:
                self._save(plan.after)
                return _Result(snapshot, plan, tuple(done), ())
            self._save(plan.before)
            outcome = self._kernel.apply(plan.operations)
            done += outcome.done
            if outcome.errors:
                return _Result(snapshot, plan, tuple(done), outcome.errors)
        raise KernelError(f"the kernel still differs after {_ROUNDS} rounds; first: {plan.operations[0]}")

    def _save(self, record: Record) -> None:
        if record != self._record:
            self._record_file.save(record)
            self._record = record

    def _conclude(self, config: Config, result: _Result, *, was_in_sync: bool) -> None:
        self.availability.update(config, result.snapshot.interfaces)
        for op in result.done[:_LOGGED]:
            self._log.info("applied", op=str(op))
        if len(result.done) > _LOGGED:
            self._log.info("applied more", operations=len(result.done) - _LOGGED)
        reasons = (*result.errors, *result.plan.problems, *(f"waiting: {w}" for w in result.plan.waiting))
        self._unrest = self._unrest + 1 if result.done or result.errors else 0
        self._status = replace(
            self._status,
            nat_backend=self._kernel.nat_backend,
            applied=applied_lines(config, result.snapshot, self._record),
            repairs=self._status.repairs + (len(result.done) if was_in_sync else 0),
        )
        if reasons:
            self._fail("; ".join(reasons), restless=False)
            return
        if not was_in_sync:
            self._log.info("in sync", gateway=config.gateway, operations=len(result.done))
        self._set_in_sync("")
        self._verified = time.monotonic()
        if not was_in_sync:
            self._refresh_health()

    def _set_in_sync(self, problem: str) -> None:
        self._status = replace(self._status, in_sync=not problem, apply_error=problem)
        self.availability.kernel_is(in_sync=not problem)
        self._tell()

    def _fail(self, reason: str, *, restless: bool = True) -> None:
        self._unrest += restless
        if reason != self._status.apply_error:
            self._log.warning("not in sync", reason=reason)
        self._set_in_sync(reason)

    async def _keep_healthy(self) -> None:
        """Say each second that all is well, as long as it was seen to be well lately."""
        while True:
            recent = time.monotonic() - self._verified < 2 * self._settings.read_interval + 1
            if recent:
                self._refresh_health()
            await asyncio.sleep(_HEALTH_PERIOD)

    def _refresh_health(self) -> None:
        if not self._status.in_sync or self.availability.unready:
            return
        try:
            self._health.refresh()
        except OSError as error:
            self._log.warning("health file can not be written", error=str(error))

    def _tell(self) -> None:
        """Write down why the pod is not ready, for the probe that finds no fresh health file."""
        status = self._status
        problem = self.availability.unready or status.apply_error
        if not problem and self._config is None:
            problem = status.config_error or "no configuration yet"
        try:
            self._health.tell(problem)
        except OSError as error:
            self._log.warning("problem file can not be written", error=str(error))
