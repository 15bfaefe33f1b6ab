"""Commands that become another program: exec, host, nbctl, sbctl, logs. They replace this process, so that exit
code, signals and terminal are the program's own.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from veg_common.objects import Object, Ref, kind_of
from veg_common.store import NotFoundError

from veg_sandbox.cli import context
from veg_sandbox.cli.errors import CliError, not_found
from veg_sandbox.faults.kinds import pod_service

_PASS_THROUGH = {"ignore_unknown_options": True, "allow_interspersed_args": False}
_COMMAND = click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="CMD...")
_ARGS = click.argument("args", nargs=-1, type=click.UNPROCESSED)


@click.command("exec")
@click.argument("pod")
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of the pod.")
@click.option("-c", "--container", help="Container; the first one when not given.")
@click.option("-i", "--stdin", is_flag=True, help="Accepted: stdin is always passed.")
@click.option("-t", "--tty", is_flag=True, help="Accepted: the terminal is always passed.")
@_COMMAND
@click.pass_obj
def exec_(
    name: str, /, pod: str, namespace: str, container: str | None, command: tuple[str, ...], **_: bool
) -> None:
    """Run a command in a pod: veg-sandbox exec POD -c CONTAINER -- CMD…"""
    lab, pod = context.lab(name), pod.removeprefix("pod/")
    found = pod_object(name, pod, namespace)
    names = [c.get("name") for c in found.get("spec", {}).get("containers") or []]
    if container is not None and container not in names:
        raise CliError(f"error: container {container} not found in pod {pod}_{namespace}")
    uid = found["metadata"]["uid"]
    if container and _ran(found, container) and lab.pod_pid(uid, container) is None:
        raise CliError(f'error: unable to upgrade connection: container not found ("{container}")', 1)
    from veg_sandbox.net.errors import LabError  # noqa: PLC0415

    try:
        argv = lab.pod_argv(uid, command, container=container)
    except LabError as error:
        raise CliError(f"error: pod {pod} does not run yet: {error}", 1) from error
    become(argv)


@click.command(context_settings=_PASS_THROUGH)
@_COMMAND
@click.pass_obj
def host(name: str, /, command: tuple[str, ...]) -> None:
    """Run a command on the outside host: veg-sandbox host -- CMD…"""
    become(context.lab(name).netns_argv("outside", command))


@click.command(context_settings=_PASS_THROUGH, add_help_option=False)
@_ARGS
@click.pass_obj
def nbctl(name: str, /, args: tuple[str, ...]) -> None:
    """Run ovn-nbctl on the sandbox's Northbound database."""
    become(context.lab(name).nbctl_argv(*args))


@click.command(context_settings=_PASS_THROUGH, add_help_option=False)
@_ARGS
@click.pass_obj
def sbctl(name: str, /, args: tuple[str, ...]) -> None:
    """Run ovn-sbctl on the sandbox's Southbound database."""
    lab = context.lab(name)
    become([*lab.ovn.command("ovn-sbctl"), f"--db={lab.sb_remote}", *args])


@click.command()
@click.argument("target", metavar="SERVICE|POD")
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of the pod.")
@click.option("-c", "--container", help="Container of the pod.")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is added.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last lines.")
@click.pass_obj
def logs(name: str, /, target: str, namespace: str, container: str | None, **how: Any) -> None:
    """Print the log of a service, a daemon (ovn-controller@NODE) or a pod."""
    file = log_file(name, target, namespace, container)
    lines = "+1" if how["tail"] is None else str(how["tail"])
    become(["tail", "-n", lines, *(["-F"] if how["follow"] else []), str(file)])


def log_file(name: str, target: str, namespace: str, container: str | None) -> Path:
    """The log of a service, else of a pod's container. Raises CliError."""
    lab = context.lab(name)
    file = lab.log(target)
    if "/" not in target and file.is_file():
        return file
    inside = pod_service(target)
    pod, container = inside or (target, container)
    try:
        found = pod_object(name, pod, namespace)
    except CliError:
        known = ", ".join(sorted(path.stem for path in lab.log("x").parent.glob("*.log")))
        raise CliError(f'error: no service and no pod "{target}"; services: {known}') from None
    names = [str(c.get("name")) for c in found.get("spec", {}).get("containers") or []]
    if container is not None and container not in names:
        raise CliError(f"error: container {container} is not valid for pod {pod}")
    file = lab.pod_log(found["metadata"]["uid"], container or (names[0] if names else ""))
    if not file.is_file():
        raise CliError(f"error: pod {pod} has written no log")
    return file


def pod_object(name: str, pod: str, namespace: str) -> Object:
    """A pod of the sandbox; `pod/NAME` is understood as well. Raises CliError."""
    store = context.store(name)
    pod = pod.removeprefix("pod/")
    try:
        return context.run(lambda: store.get(Ref("Pod", namespace, pod)))
    except NotFoundError:
        raise not_found(kind_of("Pod"), pod) from None


def _ran(pod: Object, container: str) -> bool:
    """Whether the container is a process: one that died, or waits for its next start."""
    from veg_sandbox.runtime.core.pods import container_status  # noqa: PLC0415

    found = container_status(pod, container)
    return bool(found.get("restartCount") or (found.get("state") or {}).get("waiting"))


def become(argv: list[str]) -> NoReturn:
    """Replace this process. Raises CliError when the program is not there."""
    if not shutil.which(argv[0]):
        raise CliError(f"error: {argv[0]}: command not found", 127)
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606
