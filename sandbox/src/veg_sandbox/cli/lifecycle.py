"""Commands about the sandbox itself: up, down, status, restart."""

from __future__ import annotations

import datetime as dt
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from veg_common.objects import Object
from veg_common.store import AlreadyExistsError

from veg_sandbox.cli import context, seed, services
from veg_sandbox.cli.context import Paths, Settings
from veg_sandbox.cli.errors import FAILED, CliError
from veg_sandbox.cli.objects import namespace_object
from veg_sandbox.cli.table import age, render

if TYPE_CHECKING:
    from veg_sandbox.net.lab import Lab

_HEALTH_SECONDS = 30.0
_POLL_SECONDS = 0.05


class Progress:
    """Lines on stdout with the time since the start."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __call__(self, text: str) -> None:
        """Print one line."""
        click.echo(f"[{time.monotonic() - self._begun:5.1f}s] {text}")


# up -------------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--nodes", type=click.IntRange(1, 16), default=3, show_default=True, help="Chassis.")
@click.option(
    "--ip-family",
    type=click.Choice(seed.IP_FAMILIES),
    default="ipv4",
    show_default=True,
    help="Families of the default subnet.",
)
@click.option(
    "-n", "--namespace", "namespaces", multiple=True, help="A namespace to create; may be given again."
)
@click.pass_obj
def up(name: str, /, nodes: int, ip_family: str, namespaces: tuple[str, ...]) -> None:
    """Build the sandbox and start every service; when it is up, start again what is dead."""
    where, progress = context.paths(name), Progress()
    wanted = Settings(nodes, ip_family, list(namespaces))
    with context.exclusive(where):
        _up(name, where, wanted, progress)


def _up(name: str, where: Paths, wanted: Settings, progress: Progress) -> None:
    from veg_sandbox.net.lab import Lab, LabSpec  # noqa: PLC0415

    if where.settings.is_file():
        _repair(name, where, wanted, progress)
        return
    lab = Lab(where.directory)
    if where.directory.exists():
        progress("removing what an interrupted run left")
        lab.down()
    lab.up(LabSpec(nodes=wanted.nodes), progress)
    try:
        _fill(lab, where, wanted)
        progress(f"objects: {wanted.nodes} nodes, Vpc ovn-cluster, Subnet ovn-default ({wanted.ip_family})")
        _start_services(lab, where, progress)
    except BaseException:
        progress("start failed; the logs tell more: " + ", ".join(str(lab.log(n)) for n in services.NAMES))
        raise
    context.write_settings(where, wanted)
    progress(f"sandbox {name} is up")


def _fill(lab: Lab, where: Paths, settings: Settings) -> None:
    """Put what a fresh cluster has into the store."""
    from veg_common.folder import FolderStore  # noqa: PLC0415

    store = FolderStore(where.objects)
    where.runtime.mkdir(exist_ok=True)
    facts = [seed.NodeFacts(node.name, node.underlay_ip) for node in lab.nodes]
    wanted = seed.objects(facts, settings.ip_family, settings.namespaces, dt.datetime.now(dt.UTC))

    async def fill() -> None:
        for obj in wanted:
            await store.create(obj)

    context.run(fill)


def _start_services(lab: Lab, where: Paths, progress: Callable[[str], None]) -> None:
    """Start what does not run and wait until everything answers. Raises CliError that names who does not."""
    listed = services.services(lab, where)
    for service in listed.values():
        services.start(lab, service)
    for service in listed.values():
        _until_healthy(lab, where, service)
        progress(f"{service.name} is healthy")


def _until_healthy(lab: Lab, where: Paths, service: services.Service) -> None:
    from veg_sandbox.proc import tail  # noqa: PLC0415

    deadline = time.monotonic() + _HEALTH_SECONDS
    while not services.is_healthy(lab, where, service):
        died = lab.processes.pid(service.name) is None
        if died or time.monotonic() > deadline:
            verb = "ended" if died else f"is not healthy after {_HEALTH_SECONDS:g} s"
            raise CliError(f"error: {service.name} {verb}: {tail(lab.log(service.name))}", FAILED)
        time.sleep(_POLL_SECONDS)


def _repair(name: str, where: Paths, wanted: Settings, progress: Progress) -> None:
    """Start again what is dead in a sandbox that is up."""
    lab, present = context.lab(name), context.read_settings(where)
    if (wanted.nodes, wanted.ip_family) != (present.nodes, present.ip_family) and wanted != Settings(
        namespaces=wanted.namespaces
    ):
        told = f"{present.nodes} nodes, {present.ip_family}"
        raise CliError(f"error: sandbox {name} is up already with {told}: run veg-sandbox down first")
    _add_namespaces(name, wanted.namespaces)
    dead = [daemon for daemon, pid in lab.daemons().items() if pid is None]
    listed = services.services(lab, where)
    dead += [service.name for service in listed.values() if lab.processes.pid(service.name) is None]
    if not dead:
        click.echo(f"sandbox {name} is up already")
        return
    progress(f"sandbox {name} is up, starting again: {', '.join(dead)}")
    for daemon in dead:
        if daemon not in listed:
            lab.start_daemon(daemon)
    _start_services(lab, where, progress)


def _add_namespaces(name: str, namespaces: list[str]) -> None:
    store = context.store(name)

    async def add() -> None:
        for namespace in namespaces:
            try:
                await store.create(namespace_object(namespace))
            except AlreadyExistsError:
                continue

    context.run(add)


# down -----------------------------------------------------------------------------------------------------------


@click.command()
@click.pass_obj
def down(name: str) -> None:
    """Take the sandbox down: processes, namespaces, files. Nothing of it is left."""
    where = context.paths(name)
    with context.exclusive(where):
        _down(name, where)


def _down(name: str, where: Paths) -> None:
    from veg_sandbox.net.lab import Lab  # noqa: PLC0415

    there = where.directory.exists()
    where.settings.unlink(missing_ok=True)
    lab = Lab(where.directory)
    # The runtime first: it would start again the containers that go down.
    for service in reversed(services.NAMES):
        lab.processes.kill(service)
    lab.down()
    click.echo(f"sandbox {name} is down" if there else f"sandbox {name} was not up")


# status ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One service of `status`; `since` is RFC 3339 or ""."""

    name: str
    pid: int | None
    healthy: bool


@click.command()
@click.pass_obj
def status(name: str) -> int:
    """Services with pid, time since their start, and health; exit 1 when one is not healthy."""
    where, lab = context.running(name), context.lab(name)
    lines = [Line(daemon, pid, pid is not None) for daemon, pid in lab.daemons().items()]
    lines += [
        Line(service.name, lab.processes.pid(service.name), services.is_healthy(lab, where, service))
        for service in services.services(lab, where).values()
    ]
    lines += [
        Line(f"{_AGENT}{_agent_name(pod)}", lab.pod_pid(pod["metadata"]["uid"], _GATEWAY), _is_ready(pod))
        for pod in _gateway_pods(name)
    ]
    now = dt.datetime.now(dt.UTC)
    rows = [
        [line.name, str(line.pid or "-"), age(_since(line.pid), now) if line.pid else "-", _yes(line.healthy)]
        for line in lines
    ]
    click.echo(render(["SERVICE", "PID", "UP SINCE", "HEALTHY"], rows), nl=False)
    return 0 if all(line.healthy for line in lines) else FAILED


def _since(pid: int | None) -> str:
    """When a process was started, RFC 3339."""
    import os  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, IndexError, ValueError):
        return ""
    started = time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    return dt.datetime.fromtimestamp(started, dt.UTC).isoformat()


def _yes(value: bool) -> str:  # noqa: FBT001
    return "true" if value else "false"


# restart --------------------------------------------------------------------------------------------------------

_AGENT, _GATEWAY = "node-agent@", "gateway"


_KILL = click.option("--kill", is_flag=True, help="End it with SIGKILL instead of SIGTERM.")


@click.command()
@click.argument("service")
@click.option(
    "-n", "--namespace", default="default", show_default=True, help="Namespace of a node-agent's pod."
)
@_KILL
@click.pass_obj
def restart(name: str, /, service: str, namespace: str, *, kill: bool) -> None:
    """Restart one service: api, ovn-programmer, runtime, an OVN daemon (see status), or node-agent@POD."""
    where, lab = context.running(name), context.lab(name)
    sig = signal.SIGKILL if kill else signal.SIGTERM
    if service.startswith(_AGENT):
        _restart_agent(name, lab, service.removeprefix(_AGENT), namespace, sig)
    else:
        listed = services.services(lab, where)
        _end(lab, listed, service, sig)
        if service in listed:
            services.start(lab, listed[service])
            _until_healthy(lab, where, listed[service])
        else:
            lab.start_daemon(service)
    click.echo(f"{service} restarted")


@click.command()
@click.argument("service")
@_KILL
@click.pass_obj
def stop(name: str, /, service: str, *, kill: bool) -> None:
    """Stop one service or OVN daemon; `restart` (or `up`) starts it again."""
    where, lab = context.running(name), context.lab(name)
    _end(lab, services.services(lab, where), service, signal.SIGKILL if kill else signal.SIGTERM)
    click.echo(f"{service} stopped")


def _end(lab: Lab, listed: Mapping[str, services.Service], service: str, sig: signal.Signals) -> None:
    """End a service or daemon, which may be dead already. Raises CliError for an unknown name."""
    if service in listed:
        lab.processes.kill(service, sig)
    elif service in lab.daemons():
        lab.kill_daemon(service, sig)
    else:
        known = ", ".join([*listed, *lab.daemons(), f"{_AGENT}POD"])
        raise CliError(f'error: no service "{service}"; there are: {known}')


def _restart_agent(name: str, lab: Lab, pod: str, namespace: str, sig: signal.Signals) -> None:
    """End the agent; the runtime starts it again, and this waits until the pod is ready."""
    from veg_sandbox.cli.inside import pod_object  # noqa: PLC0415
    from veg_sandbox.runtime.core.pods import restarts  # noqa: PLC0415

    found = pod_object(name, pod, namespace)
    before, uid = restarts(found), found["metadata"]["uid"]
    died = lab.pod_kill(uid, _GATEWAY, sig)
    deadline = time.monotonic() + _HEALTH_SECONDS
    while (died and restarts(found) <= before) or not _is_ready(found):
        if time.monotonic() > deadline:
            raise CliError(f"error: {_AGENT}{pod} is not ready {_HEALTH_SECONDS:g} s after its end", FAILED)
        time.sleep(_POLL_SECONDS)
        found = pod_object(name, pod, namespace)


def _gateway_pods(name: str) -> list[Object]:
    from veg_sandbox.runtime.core.returns import GATEWAY_LABEL  # noqa: PLC0415

    store = context.store(name)
    pods = context.run(lambda: store.list("Pod"))
    return [pod for pod in pods if GATEWAY_LABEL in (pod["metadata"].get("labels") or {})]


def _agent_name(pod: Object) -> str:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    return str(name) if namespace == "default" else f"{name} -n {namespace}"


def _is_ready(pod: Object) -> bool:
    from veg_sandbox.runtime.core.pods import is_ready  # noqa: PLC0415

    return is_ready(pod)
