"""`status`: every process of the sandbox, whether it is healthy, and what is broken on purpose."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from veg_common.objects import Object

from veg_sandbox.cli import context, fault, services
from veg_sandbox.cli.context import Paths
from veg_sandbox.cli.errors import FAILED
from veg_sandbox.cli.table import age, render
from veg_sandbox.faults.kinds import POD_SERVICES

if TYPE_CHECKING:
    from veg_sandbox.net.lab import Lab


@dataclass(frozen=True)
class Line:
    """One process."""

    name: str
    pid: int | None
    healthy: bool


@click.command()
@click.pass_obj
def status(name: str) -> int:
    """Services with pid, time since their start, and health; exit 1 when one is not healthy."""
    from veg_sandbox.faults.injector import Injector  # noqa: PLC0415

    where, lab = context.running(name), context.lab(name)
    lines = [*_daemons(lab), *_services(lab, where), *_containers(lab, name)]
    now = dt.datetime.now(dt.UTC)
    rows = [
        [line.name, str(line.pid or "-"), age(_since(line.pid), now) if line.pid else "-", _yes(line.healthy)]
        for line in lines
    ]
    click.echo(render(["SERVICE", "PID", "UP SINCE", "HEALTHY"], rows), nl=False)
    if faults := fault.table(Injector(lab, where).active()):
        click.echo(f"\n{faults}", nl=False)
    return 0 if all(line.healthy for line in lines) else FAILED


def _daemons(lab: Lab) -> Iterator[Line]:
    from veg_sandbox.net.outage import is_stopped  # noqa: PLC0415

    for daemon, pid in lab.daemons().items():
        yield Line(daemon, pid, pid is not None and not is_stopped(pid))


def _services(lab: Lab, where: Paths) -> Iterator[Line]:
    for service in services.services(lab, where).values():
        healthy = services.is_healthy(lab, where, service)
        yield Line(service.name, lab.processes.pid(service.name), healthy)


def _containers(lab: Lab, name: str) -> Iterator[Line]:
    """The containers of gateway pods, as services."""
    from veg_sandbox.runtime.core.pods import container_status  # noqa: PLC0415
    from veg_sandbox.runtime.core.returns import GATEWAY_LABEL  # noqa: PLC0415

    store = context.store(name)
    pods = context.run(lambda: store.list("Pod"))
    for pod in pods:
        if GATEWAY_LABEL not in (pod["metadata"].get("labels") or {}):
            continue
        for service, container in POD_SERVICES.items():
            found = container_status(pod, container)
            if found:
                pid = lab.pod_pid(pod["metadata"]["uid"], container)
                yield Line(f"{service}@{_shown(pod)}", pid, pid is not None and bool(found.get("ready")))


def _shown(pod: Object) -> str:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    return str(name) if namespace == "default" else f"{name} -n {namespace}"


def _since(pid: int | None) -> str:
    """When a process was started, RFC 3339."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, IndexError, ValueError):
        return ""
    started = time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    return dt.datetime.fromtimestamp(started, dt.UTC).isoformat()


def _yes(value: bool) -> str:  # noqa: FBT001
    return "true" if value else "false"
