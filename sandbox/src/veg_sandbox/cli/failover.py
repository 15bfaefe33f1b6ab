"""`veg-sandbox failover`: build a gateway, break a replica again and again, tell how long traffic was away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from veg_sandbox.cli import context, seed
from veg_sandbox.cli.errors import CliError
from veg_sandbox.cli.table import render
from veg_sandbox.failover.results import Run, summary

if TYPE_CHECKING:
    from veg_sandbox.failover.measure import Measurement, Plan

_FAULTS = (
    *("kill-pod", "cut-internal", "cut-uplink", "kill-chassis"),
    *("kill-bfdd", "pause-bfdd", "kill-node-agent", "drain"),
)
# A shorter pause of the machine is not worth a word.
_TOLD_PAUSE_MS = 20
_HELP = """Measure how long traffic is away when a replica fails.

Builds a VPC with a BFD port, a gateway of two replicas and a client pod, removes them at the end. The client sends
UDP packets to the echo server in many flows. In each run the replicas take turns to fail; then the fault is healed
and both must carry traffic again before the next run.

\b
dying      flows whose packets left by the failing replica just before the fault
surviving  the other flows
gap        of a run: the largest time between two answers in any flow of the group, by the kernel's receive
           timestamps, minus the sending period (so an undisturbed flow has about 0)
lost       packets sent after the fault began that were not answered within a second, all flows and runs
p50, p99   of the runs' gaps, nearest rank

A run is told and measured again when it measured something else: a core of the machine stood still for too long
(virtual machines do that, see --max-pause), or no flow left by the replica that was to fail. The fifth try counts.

The last line with --json is one object: interval_ms, runs, for dying and surviving p50_ms, p99_ms, max_ms, lost, and
how many runs were repeated.
"""


@click.command(help=_HELP)
@click.option(
    "--interval",
    type=click.IntRange(10, 10_000),
    default=100,
    show_default=True,
    help="BFD minRX and minTX, ms.",
)
@click.option(
    "--multiplier", type=click.IntRange(1, 50), default=3, show_default=True, help="BFD multiplier."
)
@click.option("--runs", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many.")
@click.option(
    "--fault", type=click.Choice(_FAULTS), default="kill-pod", show_default=True, help="What fails."
)
@click.option("--ip-family", type=click.Choice(seed.IP_FAMILIES), default="ipv4", show_default=True)
@click.option("--flows", type=click.IntRange(2, 256), default=16, show_default=True, help="UDP flows.")
@click.option(
    "--period", type=click.FloatRange(2, 1000), default=10, show_default=True, help="Between packets, ms."
)
@click.option(
    "--max-pause",
    type=click.FloatRange(1, 10_000),
    help="Repeat a run in which the machine stood still for so long, ms.  [default: half the detection time]",
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on a line.")
@click.option("--keep", is_flag=True, help="Leave the gateway there.")
@click.pass_obj
def failover(name: str, /, interval: int, multiplier: int, fault: str, **how: Any) -> None:
    """See _HELP."""
    from veg_sandbox.failover.measure import Plan  # noqa: PLC0415

    plan = Plan(interval, multiplier, fault, how["flows"], how["period"], how["max_pause"])
    runs, repeats = [], list[str]()
    with _measurement(name, plan, how["ip_family"], keep=how["keep"]) as measurement:
        for number in range(how["runs"]):

            def again(reason: str, number: int = number) -> None:
                click.echo(f"run {number + 1}/{how['runs']} again: {reason}")
                repeats.append(reason)

            runs.append(measurement.run(number, again))
            click.echo(_told(number, how["runs"], runs[-1]))
    result = summary(interval, runs, len(repeats))
    click.echo(f"\n{fault}, BFD {interval} ms x {multiplier}, {len(runs)} runs, {len(repeats)} repeated")
    click.echo(_table(result), nl=False)
    if how["as_json"]:
        click.echo(json.dumps(result))


@contextmanager
def _measurement(name: str, plan: Plan, ip_family: str, *, keep: bool) -> Iterator[Measurement]:
    from veg_sandbox.failover import manifests, measure  # noqa: PLC0415
    from veg_sandbox.failover.gateway import Gateway  # noqa: PLC0415
    from veg_sandbox.faults.injector import Injector  # noqa: PLC0415

    where, lab = context.running(name), context.lab(name)
    injector = Injector(lab, where)
    if active := injector.active():
        raise CliError(f"error: {active[0].shown} is active: run veg-sandbox fault --heal first")
    gateway = Gateway(lab, where, ip_family)
    try:
        client = gateway.build(plan.interval_ms, plan.multiplier)
        with measure.prober(lab, client, manifests.targets(ip_family), plan) as probe:
            measurement = measure.Measurement(gateway, injector, probe, plan)
            measurement.until_steady()
            nodes = ", ".join(replica.node for replica in gateway.replicas())
            click.echo(f"steady: replicas on {nodes}, BFD port on {gateway.active_chassis() or 'no node'}")
            yield measurement
    finally:
        for item in injector.active():
            injector.heal(item)
        if not keep:
            gateway.remove()


def _told(number: int, runs: int, run: Run) -> str:
    parts = [
        f"{word} {share.flows} flows {share.gap_ms:g} ms {share.lost} lost"
        for word, share in (("dying", run.dying), ("surviving", run.surviving))
    ]
    paused = f"; a core stood still for {run.paused_ms:g} ms" if run.paused_ms >= _TOLD_PAUSE_MS else ""
    return f"run {number + 1}/{runs}: {run.victim}: {', '.join(parts)}; whole again after {run.recovery_s:.1f} s{paused}"


def _table(result: dict[str, Any]) -> str:
    rows = [
        [group, *(f"{result[group][key]:g}" for key in ("p50_ms", "p99_ms", "max_ms", "lost"))]
        for group in ("dying", "surviving")
    ]
    return render(["FLOWS", "P50 MS", "P99 MS", "MAX MS", "LOST"], rows)
