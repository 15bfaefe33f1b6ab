"""The services that the sandbox runs beside OVN: how each is started, and whether it answers."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from veg_sandbox.cli.context import Paths
from veg_sandbox.cli.errors import FAILED, CliError

if TYPE_CHECKING:
    from veg_sandbox.net.lab import Lab

PROGRAMMER, API, RUNTIME = "ovn-programmer", "api", "runtime"
# In the order of starting: each one's neighbours come first.
NAMES = (PROGRAMMER, API, RUNTIME)
# The runtime writes its file every second; a busy machine may delay that.
_HEARTBEAT_SECONDS = 5.0
HEALTH_SECONDS = 30.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Service:
    """One process: its command line, and its gRPC address if it has one."""

    name: str
    argv: list[str]
    target: str = ""


def script(name: str) -> str:
    """The console script of this environment, as an image would run it."""
    return str(Path(sys.prefix) / "bin" / name)


def services(lab: Lab, where: Paths) -> dict[str, Service]:
    """The services that this sandbox brings, by name, in the order of starting."""
    backing, store = where.backing, where.store
    programmer, api = f"unix:{where.programmer_socket}", f"unix:{where.api_socket}"
    # A real cluster has its own controllers and its own scheduler.
    roles = ["--roles", "kubelet"] if backing.on_cluster else []
    listed = (
        Service(
            PROGRAMMER,
            [
                *(script("veg-ovn-programmer"), "run", "--nb", lab.nb_remote),
                *("--listen", programmer, "--topology", "managed"),
            ],
            programmer,
        ),
        Service(
            API,
            [script("veg-api"), "run", "--store", store, "--programmer", programmer, "--listen", api],
            api,
        ),
        Service(
            RUNTIME,
            [script("veg-sandbox"), "runtime", "--lab", str(lab.directory), "--store", store, *roles],
        ),
    )
    return {service.name: service for service in listed if service.name not in backing.without}


def start(lab: Lab, service: Service) -> int:
    """Start the service unless it runs; returns its pid."""
    env = {**os.environ, "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}"}
    return lab.processes.spawn_detached(service.name, service.argv, env=env, log=lab.log(service.name))


def is_healthy(lab: Lab, where: Paths, service: Service) -> bool:
    """Whether the process is there and answers."""
    pid = lab.processes.pid(service.name)
    if pid is None:
        return False
    return answers(service.target) if service.target else beats(where.heartbeat, pid)


def until_healthy(lab: Lab, where: Paths, service: Service) -> None:
    """Wait until it answers. Raises CliError with the end of its log."""
    from veg_sandbox.proc import tail  # noqa: PLC0415

    deadline = time.monotonic() + HEALTH_SECONDS
    while not is_healthy(lab, where, service):
        died = lab.processes.pid(service.name) is None
        if died or time.monotonic() > deadline:
            verb = "ended" if died else f"is not healthy after {HEALTH_SECONDS:g} s"
            raise CliError(f"error: {service.name} {verb}: {tail(lab.log(service.name))}", FAILED)
        time.sleep(_POLL_SECONDS)


def answers(target: str, timeout: float = 1.0) -> bool:
    """Whether a gRPC server at the address says that it serves."""
    import grpc  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    with grpc.insecure_channel(target) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def beats(heartbeat: Path, pid: int) -> bool:
    """Whether the process wrote the file lately (a killed predecessor's file does not count)."""
    try:
        fresh = time.time() - heartbeat.stat().st_mtime < _HEARTBEAT_SECONDS
        return fresh and heartbeat.read_text() == str(pid)
    except FileNotFoundError:
        return False
