"""One fault after another on a gateway with traffic, and what the traffic saw of each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from veg_sandbox.cli.errors import FAILED, CliError
from veg_sandbox.failover.gateway import Gateway, Replica
from veg_sandbox.failover.results import Run, split
from veg_sandbox.faults.injector import Injector
from veg_sandbox.faults.kinds import Fault, Kind
from veg_sandbox.net.lab import Lab

DRAIN = "drain"
_FAULTS: dict[str, Callable[[Replica], Fault]] = {
    "kill-pod": lambda r: Fault(Kind.KILL_POD, r.name, uid=r.uid),
    "cut-internal": lambda r: Fault(Kind.CUT_INTERNAL, r.name, uid=r.uid),
    "cut-uplink": lambda r: Fault(Kind.CUT_UPLINK, r.name, uid=r.uid),
    "kill-chassis": lambda r: Fault(Kind.KILL_CHASSIS, r.node),
    "kill-bfdd": lambda r: Fault(Kind.KILL_SERVICE, f"bfdd@{r.name}", uid=r.uid),
    "pause-bfdd": lambda r: Fault(Kind.PAUSE_SERVICE, f"bfdd@{r.name}", uid=r.uid),
    "kill-node-agent": lambda r: Fault(Kind.KILL_SERVICE, f"node-agent@{r.name}", uid=r.uid),
}
FAULTS = (*_FAULTS, DRAIN)
# Beyond the detection time: what follows a fault at once, and what follows it later (the BFD port moves, the
# node becomes NotReady).
_AFTER_SECONDS = 0.5
_AFTER_CHASSIS_SECONDS = 8.0
_QUIET_SECONDS = 0.25
_OUTAGE_SECONDS = 15.0
_TRIES = 5
_STEADY_SECONDS = 120.0
# Flows that answer, but none by one of the replicas, start again from other ports so often.
_RENEW_SECONDS = 10.0


@dataclass(frozen=True)
class Plan:
    """What to measure. Times in ms."""

    interval_ms: int
    multiplier: int
    fault: str
    flows: int
    period_ms: float
    max_pause_ms: float | None = None

    @property
    def detection_s(self) -> float:
        """What BFD needs to see that the other end is gone."""
        return self.interval_ms * self.multiplier / 1000

    @property
    def longest_pause_ms(self) -> float:
        """A run in which the machine stood still for so long measured the machine: that ends sessions by itself."""
        return self.detection_s * 500 if self.max_pause_ms is None else self.max_pause_ms


class Prober:
    """The prober process in the client pod."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command, its answer. Raises CliError when the prober is gone."""
        if self._process.stdin is None or self._process.stdout is None:
            raise CliError("error: the prober has no pipes", FAILED)
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise CliError("error: the prober ended", FAILED)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def last_second(self) -> list[dict[str, Any]]:
        """The flows in the last second whose answers are in."""
        now = time.time()
        flows: list[dict[str, Any]] = self.ask({"from": now - 1.2, "to": now - 0.2})["flows"]
        return flows

    def silence_ms(self) -> float:
        """How long the most silent flow has been silent."""
        return max(flow["silent_ms"] or 1e6 for flow in self.ask({"peek": True})["flows"])


def prober_command(targets: list[str], flows: int, period_ms: float) -> list[str]:
    """The command line of the prober, to be run in a pod."""
    command = [sys.executable, "-m", "veg_sandbox.failover.prober", "--flows", str(flows)]
    command += ["--interval-ms", str(period_ms)]
    return command + [word for target in targets for word in ("--target", target)]


@contextmanager
def prober(lab: Lab, client: str, targets: list[str], plan: Plan) -> Iterator[Prober]:
    """Traffic from the client pod while the block runs."""
    command = prober_command(targets, plan.flows, plan.period_ms)
    with subprocess.Popen(
        lab.pod_argv(client, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Prober(process)
        finally:
            process.terminate()


class Measurement:
    """Runs on one gateway."""

    def __init__(self, gateway: Gateway, injector: Injector, probe: Prober, plan: Plan) -> None:
        self._gateway = gateway
        self._injector = injector
        self._probe = probe
        self._plan = plan
        self._renewed = time.monotonic()

    def until_steady(self) -> None:
        """Both ends of every session up, both replicas carrying flows, nothing lost for a second."""
        self._gateway.until(self._gateway.lacks, _STEADY_SECONDS)
        self._gateway.until(self._traffic_lacks, _STEADY_SECONDS)
        self._gateway.until(self._gateway.lacks, _STEADY_SECONDS)

    def run(self, number: int, on_repeat: Callable[[str], None]) -> Run:
        """One run; again, and `on_repeat` hears why, when it measured something else than the fault: no flow left by
        the victim, because a session had just gone down by itself, or the machine stood still. The last try counts.
        """
        for tries_left in reversed(range(_TRIES)):
            result = self._run(number)
            if not result.dying.flows:
                on_repeat("the replica that is to fail carries no flow: its session does not stay up")
            elif tries_left and result.paused_ms >= self._plan.longest_pause_ms:
                on_repeat(f"the machine stood still for {result.paused_ms:g} ms")
            else:
                return result
        raise CliError(
            "error: the replica that is to fail carries no flow: its session does not stay up", FAILED
        )

    def _run(self, number: int) -> Run:
        """Break one replica, watch, heal. The gateway is steady before and after. Raises CliError."""
        replicas = self._gateway.replicas()
        victim = replicas[number % len(replicas)]
        begin = time.time()
        fault = self._break(victim)
        try:
            self._watch(victim)
        finally:
            # What healing does to the flows is another matter: they go back to a replica that serves.
            end = time.time()
            if fault is not None:
                self._injector.heal(fault)
        healed = time.monotonic()
        time.sleep(_QUIET_SECONDS)
        seen = self._probe.ask({"from": begin, "to": end})
        dying, surviving = split(seen["flows"], victim.external, self._plan.period_ms)
        self.until_steady()
        told = f"{victim.name} on {victim.node}"
        return Run(told, dying, surviving, time.monotonic() - healed, seen["paused_ms"])

    def _break(self, victim: Replica) -> Fault | None:
        if self._plan.fault == DRAIN:
            self._gateway.delete_pod(victim)
            return None
        fault = _FAULTS[self._plan.fault](victim)
        self._injector.inject(fault)
        return fault

    def _watch(self, victim: Replica) -> None:
        """Until the flows flow again, and long enough to see what follows the fault."""
        begun = time.monotonic()
        chassis = self._plan.fault == "kill-chassis"
        shortest = self._plan.detection_s + (_AFTER_CHASSIS_SECONDS if chassis else _AFTER_SECONDS)
        flowing_since: float | None = None
        while (now := time.monotonic()) < begun + self._plan.detection_s + _OUTAGE_SECONDS:
            flows = self._probe.silence_ms() < self._plan.period_ms * 3 + 50
            flowing_since = (flowing_since or now) if flows else None
            over = self._plan.fault != DRAIN or self._gateway.is_gone(victim)
            long_enough = now >= begun + shortest
            if over and long_enough and flowing_since is not None and now - flowing_since >= _QUIET_SECONDS:
                return
            time.sleep(0.05)

    def _traffic_lacks(self) -> str:
        flows = self._probe.last_second()
        lost, sources = sum(flow["lost"] for flow in flows), {flow["source"] for flow in flows}
        wanted = {address for replica in self._gateway.replicas() for address in replica.external}
        if not lost and wanted <= sources:
            return ""
        if not lost and time.monotonic() > self._renewed + _RENEW_SECONDS:
            # A flow's ports decide where it goes: of a few flows all may go to one replica, and then they stay.
            self._probe.ask({"renew": True})
            self._renewed = time.monotonic()
        return f"{lost} packets lost within a second, outside sees {sorted(map(str, sources))}"
