"""Commands about the sandbox itself: up, down, restart, stop."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from veg_common.store import AlreadyExistsError, StoreError

from veg_sandbox.cli import backing as backings
from veg_sandbox.cli import context, seed, services
from veg_sandbox.cli.backing import Backing
from veg_sandbox.cli.context import Paths, Settings
from veg_sandbox.cli.errors import FAILED, CliError
from veg_sandbox.cli.objects import namespace_object
from veg_sandbox.faults.kinds import pod_service

if TYPE_CHECKING:
    from veg_sandbox.net.lab import Lab

_POLL_SECONDS = 0.05
_DEREGISTER_SECONDS = 30


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
@click.option(
    "--store",
    default="",
    metavar="kube:KUBECONFIG[#CONTEXT]",
    help="Objects are on this API server, whose controllers and scheduler act; the sandbox is its nodes.",
)
@click.option(
    "--without",
    default="",
    metavar="api,ovn-programmer",
    help="Services that somebody else brings (pods of the chart).",
)
@click.pass_obj
def up(name: str, /, nodes: int, ip_family: str, namespaces: tuple[str, ...], **where_from: str) -> None:
    """Build the sandbox and start every service; when it is up, start again what is dead."""
    where, progress = context.paths(name), Progress()
    wanted = Settings(nodes, ip_family, list(namespaces))
    backing = _backing(where_from["store"], where_from["without"])
    with context.exclusive(where):
        _up(name, where, wanted, backing, progress)


def _backing(store: str, without: str) -> Backing:
    """What the flags say. Raises CliError."""
    absent = [part.strip() for part in without.split(",") if part.strip()]
    known = (services.API, services.PROGRAMMER)
    if store and not store.startswith("kube:"):
        raise CliError(f"error: --store {store!r}: only kube:KUBECONFIG is something that another keeps")
    if unknown := [part for part in absent if part not in known]:
        raise CliError(f"error: --without {unknown[0]!r}: choose from {', '.join(known)}")
    if absent and not store:
        raise CliError("error: --without needs --store: nobody else would act on this sandbox's objects")
    return Backing(_absolute(store), absent)


def _absolute(store: str) -> str:
    """With the path of the kubeconfig made absolute: services run elsewhere. Raises CliError."""
    if not store:
        return ""
    path, hash_, rest = store.removeprefix("kube:").partition("#")
    if not Path(path).is_file():
        raise CliError(f"error: --store: no kubeconfig {path!r}")
    return f"kube:{Path(path).resolve()}{hash_}{rest}"


def _up(name: str, where: Paths, wanted: Settings, backing: Backing, progress: Progress) -> None:
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
        backings.write(where.backing_file, backing)
        default = _fill(lab, where, wanted)
        told = f", Vpc ovn-cluster, Subnet ovn-default ({wanted.ip_family})" if default else ""
        progress(f"objects: {wanted.nodes} nodes{told}")
        if services.PROGRAMMER in backing.without:
            progress(f"Northbound database: {lab.listen_northbound()}")
        _start_services(lab, where, progress)
    except BaseException:
        progress("start failed; the logs tell more: " + ", ".join(str(lab.log(n)) for n in services.NAMES))
        raise
    context.write_settings(where, wanted)
    progress(f"sandbox {name} is up")


def _fill(lab: Lab, where: Paths, settings: Settings) -> bool:
    """Put what a fresh cluster has into the store; False when that did not take the default VPC yet."""
    store = context.store_of(where)
    where.runtime.mkdir(exist_ok=True)
    on_cluster = where.backing.on_cluster
    kubelet = lab.nb_address if on_cluster else ""
    facts = [seed.NodeFacts(node.name, node.underlay_ip, kubelet) for node in lab.nodes]
    if on_cluster:
        from veg_sandbox.cli.registration import register  # noqa: PLC0415

        return context.run(lambda: register(store, facts, settings.ip_family, settings.namespaces))
    wanted = seed.objects(facts, settings.ip_family, settings.namespaces, dt.datetime.now(dt.UTC))

    async def fill() -> None:
        for obj in wanted:
            await store.create(obj)

    context.run(fill)
    return True


def _start_services(lab: Lab, where: Paths, progress: Callable[[str], None]) -> None:
    """Start what does not run and wait until everything answers. Raises CliError that names who does not."""
    listed = services.services(lab, where)
    for service in listed.values():
        services.start(lab, service)
    for service in listed.values():
        services.until_healthy(lab, where, service)
        progress(f"{service.name} is healthy")


def _repair(name: str, where: Paths, wanted: Settings, progress: Progress) -> None:
    """Start again what is dead in a sandbox that is up."""
    lab, present = context.lab(name), context.read_settings(where)
    if (wanted.nodes, wanted.ip_family) != (present.nodes, present.ip_family) and wanted != Settings(
        namespaces=wanted.namespaces
    ):
        told = f"{present.nodes} nodes, {present.ip_family}"
        raise CliError(f"error: sandbox {name} is up already with {told}: run veg-sandbox down first")
    _add_namespaces(name, wanted.namespaces)
    if where.backing.on_cluster:
        _fill(lab, where, present)  # a node that was deleted is registered again, as by a kubelet's start
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
    if where.backing.on_cluster and lab.layout.state_file.is_file():
        _deregister(lab, where)
    lab.down()
    click.echo(f"sandbox {name} is down" if there else f"sandbox {name} was not up")


def _deregister(lab: Lab, where: Paths) -> None:
    from veg_sandbox.cli.registration import deregister  # noqa: PLC0415

    store, names = context.store_of(where), [node.name for node in lab.nodes]

    async def work() -> None:
        async with asyncio.timeout(_DEREGISTER_SECONDS):
            await deregister(store, names)

    try:
        context.run(work)
    except (StoreError, TimeoutError) as error:
        click.echo(f"warning: the nodes stay registered: {error or 'no answer'}", err=True)


# restart --------------------------------------------------------------------------------------------------------

_KILL = click.option("--kill", is_flag=True, help="End it with SIGKILL instead of SIGTERM.")


@click.command()
@click.argument("service")
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of the pod.")
@_KILL
@click.pass_obj
def restart(name: str, /, service: str, namespace: str, *, kill: bool) -> None:
    """Restart one service: api, ovn-programmer, runtime, an OVN daemon (see status), node-agent@POD or bfdd@POD."""
    where, lab = context.running(name), context.lab(name)
    sig = signal.SIGKILL if kill else signal.SIGTERM
    if pod_service(service):
        _restart_inside(name, lab, service, namespace, sig)
    else:
        listed = services.services(lab, where)
        _end(lab, listed, service, sig)
        if service in listed:
            services.start(lab, listed[service])
            services.until_healthy(lab, where, listed[service])
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
        known = ", ".join([*listed, *lab.daemons(), "node-agent@POD", "bfdd@POD"])
        raise CliError(f'error: no service "{service}"; there are: {known}')


def _restart_inside(name: str, lab: Lab, service: str, namespace: str, sig: signal.Signals) -> None:
    """End a pod's container; the runtime starts it again, and this waits until it is ready."""
    from veg_sandbox.cli.inside import pod_object  # noqa: PLC0415
    from veg_sandbox.runtime.core.pods import container_status  # noqa: PLC0415

    pod, container = pod_service(service) or ("", "")
    found = pod_object(name, pod, namespace)
    before = container_status(found, container).get("restartCount", 0)
    died = lab.pod_kill(found["metadata"]["uid"], container, sig)
    deadline = time.monotonic() + services.HEALTH_SECONDS
    while True:
        now = container_status(pod_object(name, pod, namespace), container)
        if now.get("ready") and (not died or now.get("restartCount", 0) > before):
            return
        if time.monotonic() > deadline:
            seconds = f"{services.HEALTH_SECONDS:g} s"
            raise CliError(f"error: {service} is not ready {seconds} after its end", FAILED)
        time.sleep(_POLL_SECONDS)
