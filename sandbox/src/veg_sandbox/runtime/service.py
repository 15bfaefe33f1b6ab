"""The runtime process: `veg-sandbox runtime`. Wires the store, the cache and the chosen roles."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from veg_common.logs import get
from veg_common.process import run_service
from veg_common.stores import check_store, open_store

from veg_sandbox.net.lab import Lab
from veg_sandbox.runtime.cache import Cache
from veg_sandbox.runtime.clusterapi import cluster_api
from veg_sandbox.runtime.controller import DeploymentController, Scheduler
from veg_sandbox.runtime.host import Host
from veg_sandbox.runtime.kubelet import Kubelet, ReturnRoutes
from veg_sandbox.runtime.loop import Loop
from veg_sandbox.runtime.names import ServiceNames
from veg_sandbox.runtime.nodes import NodeKeeper
from veg_sandbox.runtime.recorder import Recorder

ROLES = ("controller", "scheduler", "kubelet")
_KINDS = (
    *("Node", "NetworkAttachmentDefinition", "ConfigMap", "Deployment", "Pod"),
    *("VpcEgressGateway", "Subnet"),
)
# The lab's calls wait for the kernel and for OVN, not for the processor.
_THREADS = 32
_HEARTBEAT_SECONDS = 1.0
Work = Callable[[], Coroutine[None, None, None]]
log = get("runtime")


@dataclass(frozen=True)
class RuntimeConfig:
    """What the flags say."""

    lab: Path
    store: str
    roles: tuple[str, ...]


def _roles(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    roles = tuple(part.strip() for part in value.split(",") if part.strip())
    unknown = [role for role in roles if role not in ROLES]
    if unknown or not roles:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}: choose from {', '.join(ROLES)}")
    return roles


def _store(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if problem := check_store(value):
        raise click.BadParameter(problem)
    return value


@click.command(hidden=True)
@click.option(
    "--lab", type=click.Path(file_okay=False, path_type=Path), required=True, help="The lab's directory."
)
@click.option(
    "--store",
    required=True,
    metavar="STORE",
    callback=_store,
    help="The object store: folder:DIR or kube[:KUBECONFIG[#CONTEXT]].",
)
@click.option(
    "--roles", default=",".join(ROLES), show_default=True, callback=_roles, help="Which parts to play."
)
@click.option("--log-level", default="info", show_default=True, help="debug, info, warning or error.")
def command(lab: Path, store: str, roles: tuple[str, ...], log_level: str) -> None:
    """Play Kubernetes' controllers and kubelets for a lab (started by `up`)."""
    config = RuntimeConfig(lab.absolute(), store, roles)
    run_service(lambda stop: serve(config, stop), service="runtime", log_level=log_level)


async def serve(config: RuntimeConfig, stop: asyncio.Event) -> None:
    """Run the roles until `stop`; pods and their containers are left as they are."""
    lab, store, cache = Lab.attach(config.lab), open_store(config.store), Cache(_KINDS)
    api = cluster_api(config.store)
    folder = config.lab / "runtime"
    folder.mkdir(exist_ok=True)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="lab") as threads:
        recorder, loops = Recorder(store), list[Loop]()
        works: list[Work] = [recorder.run]
        if "controller" in config.roles:
            loops.append(DeploymentController(store, cache).loop)
        if "scheduler" in config.roles:
            loops.append(Scheduler(store, cache, recorder).loop)
        if "kubelet" in config.roles:
            names = ServiceNames(folder / "hosts", api, cache) if api else None
            host = Host(lab, store, cache, threads, folder / "volumes", recorder, api, names)
            works += [names.run, _kubelet_server(host, folder)] if names else []
            kubelet = Kubelet(host)
            loops += [kubelet.loop, ReturnRoutes(host).loop]
            works.append(NodeKeeper(host, kubelet.wake).run)
        works += [loop.run for loop in loops]
        follow = partial(cache.follow, store, separately=api is not None)
        await _run(follow, cache, works, folder / "heartbeat", stop)


async def _run(
    follow: Work,
    cache: Cache,
    works: Sequence[Work],
    heartbeat: Path,
    stop: asyncio.Event,
) -> None:
    tasks = [asyncio.ensure_future(follow())]
    ending = asyncio.ensure_future(stop.wait())
    try:
        # Nothing is decided, and above all nothing deleted, before the picture is whole.
        await asyncio.wait(
            (asyncio.ensure_future(cache.synced.wait()), ending), return_when=asyncio.FIRST_COMPLETED
        )
        log.info("in sync")
        tasks += [asyncio.ensure_future(work()) for work in works]
        tasks.append(asyncio.ensure_future(_beat(heartbeat)))
        await asyncio.wait((*tasks, ending), return_when=asyncio.FIRST_COMPLETED)
    finally:
        heartbeat.unlink(missing_ok=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _kubelet_server(host: Host, folder: Path) -> Work:
    # An HTTP server that a sandbox without an API server does without.
    from veg_sandbox.runtime.server import KubeletServer  # noqa: PLC0415

    return KubeletServer(host, folder).run


async def _beat(heartbeat: Path) -> None:
    while True:
        heartbeat.write_text(str(os.getpid()))
        await asyncio.sleep(_HEARTBEAT_SECONDS)
