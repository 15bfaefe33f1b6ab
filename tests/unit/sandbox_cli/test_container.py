"""A container is started, adopted, started again and probed; with real processes in place of a pod's."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from veg_common.objects import merge_patch
from veg_sandbox.runtime.container import ContainerRunner
from veg_sandbox.runtime.core.containers import Container, Probe
from veg_sandbox.runtime.core.events import PodEvent
from veg_sandbox.runtime.core.podstatus import ContainerFacts, PodFacts, running_status
from veg_sandbox.runtime.process import run_probe

POD: dict[str, Any] = {"metadata": {"name": "p", "namespace": "default"}}


class Processes:
    """Containers as child processes, killed with the test."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.all: list[subprocess.Popen[bytes]] = []
        self.started = 0
        self.refuse = False
        self.hold = False

    def held(self) -> bool:
        """Whether a fault keeps it down."""
        return self.hold

    async def spawn(self, container: Container) -> None:
        """Start it."""
        if self.refuse:
            raise RuntimeError("no such program")
        self.started += 1
        self.running[container.name] = subprocess.Popen(container.command)  # noqa: ASYNC220 - at once
        self.all.append(self.running[container.name])

    async def kill(self, container: str) -> None:
        """End it."""
        self.running[container].terminate()

    def pid(self, container: str) -> int | None:
        """Its pid while it lives."""
        process = self.running.get(container)
        return process.pid if process is not None and process.poll() is None else None

    async def exit_code(self, container: str) -> int | None:
        """How it ended."""
        return self.running[container].poll() if container in self.running else None

    def address(self) -> str:
        """It runs on this machine's loopback."""
        return "127.0.0.1"

    def exec_argv(self, container: str, command: tuple[str, ...]) -> list[str]:
        """A probe runs beside it."""
        if self.pid(container) is None:
            raise RuntimeError("it does not run")
        return list(command)


@pytest.fixture
def processes() -> Any:
    """The engine."""
    engine = Processes()
    yield engine
    for process in engine.all:
        process.kill()
        process.wait()


@asynccontextmanager
async def running(
    engine: Processes,
    container: Container,
    before: dict[str, Any] = POD,
    events: list[PodEvent] | None = None,
) -> AsyncIterator[Callable[[Callable[[ContainerFacts], bool]], Any]]:
    """A runner; yields `until(check)`, which waits until the facts are as wanted and returns them."""
    changed = asyncio.Event()
    runner = ContainerRunner(
        container, engine, before, changed.set, lambda event: None if events is None else events.append(event)
    )
    task = asyncio.ensure_future(runner.run())

    async def until(check: Callable[[ContainerFacts], bool]) -> ContainerFacts:
        async with asyncio.timeout(10):
            while not check(runner.facts()):
                changed.clear()
                await changed.wait()
        return runner.facts()

    try:
        yield until
    finally:
        runner.stop()
        await asyncio.wait_for(task, 10)


SLEEP = Container("c", "img", ("sleep", "60"))


async def test_starts_again_what_dies(processes: Processes) -> None:
    """A killed container is back at once, with one more restart; when the runner stops the process stays."""
    async with running(processes, SLEEP) as until:
        first = await until(lambda facts: facts.ready)
        assert (first.restarts, first.waiting) == (0, "")
        pid = processes.pid("c")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        second = await until(lambda facts: facts.restarts == 1 and facts.ready)
        assert second.last_finished_at
        assert processes.pid("c") != pid
    assert processes.pid("c") is not None


async def test_what_is_held_stays_down(processes: Processes) -> None:
    """A container that dies in a pod that a fault holds is not started before it is let go, and is then at once."""
    async with running(processes, SLEEP) as until:
        await until(lambda facts: facts.ready)
        processes.hold = True
        processes.running["c"].kill()
        await until(lambda facts: not facts.ready)
        await asyncio.sleep(0.2)
        assert processes.started == 1
        processes.hold = False
        await until(lambda facts: facts.ready)


async def test_adopts_what_runs(processes: Processes) -> None:
    """After a restart of the runtime the process goes on: not started again, ready all the time, same count."""
    async with running(processes, SLEEP) as until:
        facts = await until(lambda facts: facts.ready)
    status = running_status(
        POD, PodFacts("h", ("10.0.0.1",), "t", [replace(facts, restarts=3)]), dt.datetime.now(dt.UTC)
    )
    seen: list[bool] = []

    def ready(facts: ContainerFacts) -> bool:
        seen.append(facts.ready)
        return facts.ready

    before = {**POD, "status": merge_patch({}, status)}
    async with running(processes, replace(SLEEP, readiness=Probe(("true",))), before) as until:
        adopted = await until(ready)
        await asyncio.sleep(0)
    assert (processes.started, adopted.restarts, seen) == (1, 3, [True])
    assert adopted.started_at == facts.started_at


async def test_death_while_no_runtime_was_there_counts(processes: Processes) -> None:
    """What an earlier runtime left running and this one finds dead is started again and counted."""
    facts = ContainerFacts("c", "img", ready=True, restarts=0, started_at="2026-03-01T00:00:00Z")
    status = running_status(POD, PodFacts("h", ("10.0.0.1",), "t", [facts]), dt.datetime.now(dt.UTC))
    async with running(processes, SLEEP, {**POD, "status": status}) as until:
        await until(lambda facts: facts.ready and facts.restarts == 1)
    assert processes.started == 1


async def test_readiness_follows_the_probe(processes: Processes, tmp_path: Path) -> None:
    """Ready as soon as the probe succeeds, not ready after as many failures as the threshold says."""
    flag = tmp_path / "flag"
    probe = Probe(("test", "-e", str(flag)), period=0.05, failures=2)
    async with running(processes, replace(SLEEP, readiness=probe)) as until:
        assert not (await until(lambda facts: not facts.waiting)).ready
        flag.touch()
        await until(lambda facts: facts.ready)
        flag.unlink()
        await until(lambda facts: not facts.ready)


async def test_what_a_probe_says_is_told(processes: Processes, tmp_path: Path) -> None:
    """The output of a failing probe is in the facts and in one event however often it repeats; then it is gone."""
    flag, events = tmp_path / "flag", list[PodEvent]()
    script = f"test -e {flag} || {{ echo net1 has; echo no carrier; exit 3; }}"
    probe = Probe(("sh", "-c", script), period=0.05, failures=3)
    async with running(processes, replace(SLEEP, readiness=probe), events=events) as until:
        facts = await until(lambda facts: bool(facts.probe_output))
        assert facts.probe_output == "net1 has no carrier"
        status = running_status(POD, PodFacts("h", ("10.0.0.1",), "t", [facts]), dt.datetime.now(dt.UTC))
        ready = next(c for c in status["conditions"] if c["type"] == "Ready")
        assert ready["message"] == "containers with unready status: [c]; c: net1 has no carrier"
        flag.touch()
        assert (await until(lambda facts: facts.ready)).probe_output == ""
    told = [e.message for e in events if e.reason == "Unhealthy"]
    assert told == ["Readiness probe failed: net1 has no carrier"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("sleep", "60"), "timed out after 0.1 s"),
        (("false",), "exit code 1"),
        (("/nonexistent/probe",), "[Errno 2] No such file or directory: '/nonexistent/probe'"),
    ],
    ids=["slow", "silent", "absent"],
)
async def test_a_probe_without_words_is_told_too(command: tuple[str, ...], said: str) -> None:
    """A probe that hangs, says nothing or is not there fails with a reason."""
    result = await run_probe(command, 0.1)
    assert (result.passed, result.output) == (False, said)


async def test_liveness_ends_what_hangs(processes: Processes) -> None:
    """After as many failures as the threshold says the container is ended and started again."""
    probe = Probe(("false",), period=0.05, failures=2)
    async with running(processes, replace(SLEEP, liveness=probe)) as until:
        await until(lambda facts: facts.restarts >= 1)


async def test_what_can_not_start_is_told(processes: Processes) -> None:
    """A program that is not there shows as a waiting container with the reason, and runs once it is there."""
    processes.refuse = True
    events: list[PodEvent] = []
    async with running(processes, SLEEP, events=events) as until:
        facts = await until(lambda facts: facts.waiting == "CreateContainerError")
        assert (facts.waiting_message, facts.ready) == ("no such program", False)
        assert ("Failed", "Error: no such program", True) in [
            (e.reason, e.message, e.warning) for e in events
        ]
        processes.refuse = False
        await until(lambda facts: facts.ready)
    assert ("Started", "Started container c", False) in [(e.reason, e.message, e.warning) for e in events]


async def test_a_container_that_keeps_dying_backs_off(processes: Processes) -> None:
    """Quick deaths lead to CrashLoopBackOff with growing pauses."""
    events: list[PodEvent] = []
    async with running(processes, Container("c", "img", ("false",)), events=events) as until:
        facts = await until(lambda facts: facts.restarts >= 2 and "back-off" in facts.waiting_message)
        assert facts.waiting == "CrashLoopBackOff"
    told = [e.message for e in events if e.reason == "BackOff"]
    assert told[0] == "Back-off restarting failed container c in pod p_default"
    assert processes.started <= 4


async def test_a_pause_runs_nothing(processes: Processes) -> None:
    """A client pod without a program is ready and has no process."""
    async with running(processes, Container("c", "img")) as until:
        assert (await until(lambda facts: facts.ready)).started_at
    assert processes.started == 0


async def test_a_cancelled_probe_ends(processes: Processes) -> None:
    """Whenever a probe is cancelled, also at the very moment its program ends, it stays cancelled.

    `asyncio.wait_for` of Python 3.11 forgets a cancellation that meets the end of what it waits for; a pod's
    container could then never be taken down.
    """

    async def probing() -> None:
        while True:
            await run_probe(["true"], 5)

    for number in range(60):
        task = asyncio.ensure_future(probing())
        await asyncio.sleep(0.001 + number % 30 * 0.0002)
        task.cancel()
        _, pending = await asyncio.wait([task], timeout=5)
        assert not pending
