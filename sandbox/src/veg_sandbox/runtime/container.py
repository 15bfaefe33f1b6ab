"""One container of a pod: started or adopted, watched, started again, probed.

It runs detached from the runtime: when the runtime ends, the container goes on, and the next runtime adopts it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from veg_common.logs import get
from veg_common.objects import Object

from veg_sandbox.runtime.core import podstatus
from veg_sandbox.runtime.core.containers import Container, Probe
from veg_sandbox.runtime.core.events import PodEvent
from veg_sandbox.runtime.core.pods import status_of, timestamp
from veg_sandbox.runtime.core.podstatus import ContainerFacts
from veg_sandbox.runtime.process import ProbeResult, ended, get_page, run_probe, wait_any
from veg_sandbox.runtime.recorder import KUBELET

# Until a container is ready for the first time it is asked often, but not for ever.
_EAGER_PERIOD = 0.2
_EAGER_SECONDS = 15.0
_HELD_POLL_SECONDS = 0.05
_CANNOT_START = "CreateContainerError"
# How often a probe that keeps failing with the same words is told again.
_REPEAT_SECONDS = 10.0
Tell = Callable[[PodEvent], None]
log = get("container")


class Engine(Protocol):
    """What starts and finds the processes of one pod's containers."""

    def held(self) -> bool:
        """Whether nothing of the pod may be started at the moment."""
        ...

    async def spawn(self, container: Container) -> None:
        """Start it unless it lives. Raises RuntimeError with one line."""
        ...

    async def kill(self, container: str) -> None:
        """End it, gracefully first. Raises RuntimeError."""
        ...

    def pid(self, container: str) -> int | None:
        """Its pid while it lives."""
        ...

    async def exit_code(self, container: str) -> int | None:
        """How it ended; None when nobody knows."""
        ...

    def address(self) -> str:
        """The pod's address when it can be reached from here, "" when it is in a network of its own."""
        ...

    def exec_argv(self, container: str, command: tuple[str, ...]) -> list[str]:
        """What runs a command in it. Raises RuntimeError."""
        ...


@dataclass
class _State:
    ready: bool = False
    restarts: int = 0
    started_at: str = ""
    waiting: str = "ContainerCreating"
    message: str = ""
    last_finished_at: str = ""
    probe_output: str = ""
    quick_deaths: int = 0
    exit_code: int | None = None
    ended: bool = False


class ContainerRunner:
    """Runs one container until `stop`; `changed` is called after every change of its facts, `tell` with events."""

    def __init__(
        self,
        container: Container,
        engine: Engine,
        before: Object,
        changed: Callable[[], None],
        tell: Tell = lambda _event: None,
    ) -> None:
        self.container = container
        self._pod = f"{before['metadata']['name']}_{before['metadata'].get('namespace')}"
        self._tell = tell
        self._told, self._told_at = "", 0.0
        self._engine = engine
        self._changed = changed
        self._stopping = asyncio.Event()
        self._started = asyncio.Event()
        self._state, self._was_running = _recall(before, container.name)
        self._log = log.bind(pod=before["metadata"]["name"], container=container.name)

    def facts(self) -> ContainerFacts:
        """How it is now."""
        state = self._state
        return ContainerFacts(
            name=self.container.name,
            image=self.container.image,
            ready=state.ready,
            restarts=state.restarts,
            started_at=state.started_at,
            waiting=state.waiting,
            waiting_message=state.message,
            last_finished_at=state.last_finished_at,
            last_exit_code=state.exit_code,
            ended=state.ended,
            probe_output="" if state.ready else state.probe_output,
        )

    def stop(self) -> None:
        """Have `run` return soon; the process itself is left alone."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep the container running until `stop`."""
        if not self.container.command:
            self._set(ready=True, waiting="", started_at=self._state.started_at or _stamp())
            return
        alive = self._engine.pid(self.container.name) is not None
        if self._was_running and not alive:
            await self._died()  # while no runtime was there
        elif not alive:
            self._state.ready = False
        while not self._stopping.is_set() and not self._state.ended:
            if await self._start(adopt=alive):
                await self._watch()
            alive = False

    async def _start(self, *, adopt: bool) -> bool:
        """Get the process running, after a pause when it died quickly. False when that failed."""
        if adopt:
            self._log.info("container adopted", pid=self._engine.pid(self.container.name))
            self._set(waiting="", started_at=self._state.started_at or _stamp())
            return True
        if self._state.quick_deaths:
            pause = podstatus.backoff_ms(self._state.quick_deaths)
            if pause and self._state.waiting != _CANNOT_START:
                told = f"back-off {pause} ms restarting failed container"
                self._set(waiting="CrashLoopBackOff", message=told)
                name = self.container.name
                self._event("BackOff", f"Back-off restarting failed container {name} in pod {self._pod}")
            await wait_any(self._stopping, seconds=pause / 1000)
        while self._engine.held() and not self._stopping.is_set():
            await wait_any(self._stopping, seconds=_HELD_POLL_SECONDS)
        if self._stopping.is_set():
            return False
        try:
            await self._engine.spawn(self.container)
        except RuntimeError as error:
            self._log.warning("container did not start", error=str(error))
            self._state.quick_deaths = min(self._state.quick_deaths + 2, len(podstatus.BACKOFF_MS))
            self._set(ready=False, waiting=_CANNOT_START, message=str(error))
            self._event("Failed", f"Error: {error}")
            return False
        self._started.clear()
        self._log.info("container started", pid=self._engine.pid(self.container.name))
        self._set(waiting="", message="", started_at=_stamp())
        self._event("Started", f"Started container {self.container.name}", warning=False)
        return True

    async def _watch(self) -> None:
        """Probe it until it ends or `stop`."""
        begun = time.monotonic()
        name = self.container.name
        tasks: list[asyncio.Task[Any]] = [
            asyncio.ensure_future(work)
            for work in _coroutines(
                ended(lambda: self._engine.pid(name)),
                self._stopping.wait(),
                self._startup(),
                self._readiness(),
                self._liveness(),
            )
        ]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._stopping.is_set():
            return
        if time.monotonic() - begun > podstatus.RECOVERED_AFTER_S:
            self._state.quick_deaths = 0
        await self._died()

    async def _died(self) -> None:
        self._state.exit_code = await self._engine.exit_code(self.container.name)
        if not self.container.starts_again(self._state.exit_code):
            self._log.info("container has ended", exit_code=self._state.exit_code)
            self._set(ready=False, waiting="", last_finished_at=_stamp(), ended=True)
            return
        self._log.warning("container died, starting it again", restarts=self._state.restarts + 1)
        self._state.quick_deaths += 1
        self._set(
            ready=False,
            restarts=self._state.restarts + 1,
            last_finished_at=_stamp(),
            waiting="CrashLoopBackOff",
        )

    async def _startup(self) -> None:
        """Return when the startup probe has passed once; end a container that does not get there."""
        probe, failures = self.container.startup, 0
        while probe is not None and not self._started.is_set():
            await asyncio.sleep(probe.delay if not failures else min(probe.period, _EAGER_PERIOD * 2))
            result = await self._probe(probe)
            if result.passed:
                break
            failures += 1
            if failures * _EAGER_PERIOD * 2 >= probe.failures * probe.period:
                self._unhealthy("Startup", result.output)
                await self._engine.kill(self.container.name)
                return
        self._started.set()

    async def _readiness(self) -> None:
        await self._started.wait()
        probe = self.container.readiness
        if probe is None:
            self._set(ready=True)
            return
        await asyncio.sleep(probe.delay)
        failures, begun = 0, time.monotonic()
        while True:
            result = await self._probe(probe)
            failures = 0 if result.passed else failures + 1
            if result.passed or failures >= probe.failures:
                self._set(ready=result.passed, probe_output=result.output)
            if not result.passed:
                self._unhealthy("Readiness", result.output)
            eager = not self._state.ready and time.monotonic() - begun < _EAGER_SECONDS
            await asyncio.sleep(_EAGER_PERIOD if eager else probe.period)

    async def _liveness(self) -> None:
        """End the container when it hangs; whoever watches it starts it again."""
        await self._started.wait()
        probe = self.container.liveness
        if probe is None:
            return
        await asyncio.sleep(probe.delay)
        failures = 0
        while failures < probe.failures:
            await asyncio.sleep(probe.period)
            result = await self._probe(probe)
            failures = 0 if result.passed else failures + 1
            if not result.passed:
                self._unhealthy("Liveness", result.output)
        self._log.warning("liveness probe failed, ending the container", failures=failures)
        await self._engine.kill(self.container.name)

    async def _probe(self, probe: Probe) -> ProbeResult:
        if probe.http is not None:
            host = probe.http.host or self._engine.address()
            if not host:
                return ProbeResult(passed=False, output="httpGet: only for pods on the host's network")
            return await get_page(host, probe.http.port, probe.http.path, probe.timeout)
        try:
            argv = self._engine.exec_argv(self.container.name, probe.command)
        except RuntimeError as error:
            return ProbeResult(passed=False, output=str(error))
        return await run_probe(argv, probe.timeout)

    def _unhealthy(self, kind: str, output: str) -> None:
        now, told = time.monotonic(), f"{kind} probe failed: {output}"
        if told != self._told or now - self._told_at >= _REPEAT_SECONDS:
            self._told, self._told_at = told, now
            self._event("Unhealthy", told)

    def _event(self, reason: str, message: str, *, warning: bool = True) -> None:
        self._tell(PodEvent(KUBELET, reason, message, warning, self.container.name))

    def _set(self, **values: Any) -> None:
        before = self.facts()
        for key, value in values.items():
            setattr(self._state, key, value)
        if self.facts() != before:
            self._changed()


def _recall(pod: Object, name: str) -> tuple[_State, bool]:
    """What an earlier runtime wrote about the container, and whether it ran then.

    Readiness is taken over as well: a gateway whose runtime restarts must not lose its nexthop.
    """
    found: Object = next(
        (s for s in status_of(pod).get("containerStatuses") or [] if s.get("name") == name), {}
    )
    running = (found.get("state") or {}).get("running") or {}
    ended_before = (found.get("lastState") or {}).get("terminated") or {}
    state = _State(
        ready=bool(found.get("ready")),
        restarts=int(found.get("restartCount") or 0),
        started_at=str(running.get("startedAt") or ""),
        last_finished_at=str(ended_before.get("finishedAt") or ""),
        exit_code=ended_before.get("exitCode"),
    )
    if running:
        state.waiting = ""
    return state, bool(running)


def _coroutines(*works: Coroutine[Any, Any, Any]) -> tuple[Coroutine[Any, Any, Any], ...]:
    return works


def _stamp() -> str:
    import datetime as dt  # noqa: PLC0415

    return timestamp(dt.datetime.now(dt.UTC))
