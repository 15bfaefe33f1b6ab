"""Processes in pods: each in its pod's network namespace and in mounts of its own.

A container sees the host's file system with three differences: its mounts, an /etc and a /run whose changes
stay with it (overlays), and the /sys of its network namespace. What it does not see is the host's list of
named network namespaces, so `ip address` prints `link-netnsid` as in any pod.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from veg_sandbox.net.errors import LabError, UnknownPodError
from veg_sandbox.net.model import Layout
from veg_sandbox.net.shell import netns_enter, netns_exists
from veg_sandbox.proc import ProcessTable, end, poll, tail

START_SECONDS = 10.0

_SETUP_NAME = "veg-container-setup"

# $1 a folder of the host for the container's own changes, $2 hostname or empty, $3 number of mounts, then
# for each mount its source and target, then the command. The sources are bound before the overlay hides
# /run (they may lie there) and reached by descriptor afterwards. Unmounting the host's namespaces leaves their
# mount points, plain files that `ip` would complain of: an empty folder covers them.
_SETUP = """
set -e
umount -l /run/netns 2>/dev/null || true
mount -t sysfs sysfs /sys
[ -z "$2" ] || echo "$2" > /proc/sys/kernel/hostname
stage=$1; count=$3; shift 3
mount -t tmpfs -o mode=0755 tmpfs "$stage"
exec 9<"$stage"
i=0; targets=
while [ $i -lt $count ]; do
  mkdir "$stage/m$i"
  mount --bind "$1" "$stage/m$i"
  mkdir -p "$stage/up$2"
  targets="$targets $2"
  shift 2; i=$((i+1))
done
for d in etc run; do
  mkdir -p "$stage/up/$d" "$stage/work/$d"
  mount -t overlay -o "lowerdir=/$d,upperdir=$stage/up/$d,workdir=$stage/work/$d" overlay "/$d"
done
mkdir -p /run/netns
mount -t tmpfs -o mode=0755 tmpfs /run/netns
i=0
for target in $targets; do
  mount --no-canonicalize --bind "/proc/self/fd/9/m$i" "$target"
  i=$((i+1))
done
exec 9<&-
cd /
exec "$@"
"""

_EXEC = """
umount -l /run/netns 2>/dev/null || true
mount -t tmpfs -o mode=0755 tmpfs /run/netns 2>/dev/null || true
mount -t sysfs sysfs /sys || true
cd /
exec "$@"
"""


@dataclass(frozen=True)
class Container:
    """A process of a pod as it is to be started."""

    name: str
    argv: Sequence[str]
    mounts: dict[Path, str]
    """Host directory to absolute path in the pod, below /etc or /run (made there) or an existing directory."""
    env: dict[str, str]
    hostname: str | None


def spawn(layout: Layout, processes: ProcessTable, pod_id: str, container: Container, log: Path) -> int:
    """Start the container and return its pid once the program runs. Raises UnknownPodError, LabError."""
    netns = _need_netns(layout, pod_id)
    name = layout.container_name(pod_id, container.name)
    stage = layout.pod_dir(pod_id) / f"{container.name}.stage"
    stage.mkdir(parents=True, exist_ok=True)
    argv = ["unshare", "--mount", "--uts", "--propagation", "slave", "--"]
    argv += ["/bin/sh", "-c", _SETUP, _SETUP_NAME, str(stage), container.hostname or ""]
    argv += [str(len(container.mounts))]
    for source, target in container.mounts.items():
        argv += [str(source), _checked(target)]
    env = {"HOME": "/root", "LANG": "C.UTF-8", **container.env}
    env["PATH"] = _path(layout, env.get("PATH"))
    pid = processes.spawn_detached(name, [*argv, *map(str, container.argv)], netns=netns, env=env, log=log)

    def settled() -> bool:
        return processes.pid(name) is None or not _in_setup(pid)

    if not poll(settled, START_SECONDS):
        processes.kill(name, signal.SIGKILL)
        raise LabError(f"{container.name} of pod {pod_id!r} did not get its mounts: {tail(log)}")
    if processes.pid(name) is None:
        processes.kill(name)
        raise LabError(f"{container.name} of pod {pod_id!r} ended at once: {tail(log)}")
    return pid


def exec_argv(
    layout: Layout, processes: ProcessTable, pod_id: str, argv: Sequence[str], container: str | None
) -> list[str]:
    """Argv that runs `argv` in the pod, see `Lab.pod_argv`. Raises UnknownPodError."""
    netns = _need_netns(layout, pod_id)
    env = ["env", f"PATH={_path(layout, os.environ.get('PATH'))}"]
    pid = _live(layout, processes, pod_id, container)
    if pid is not None:
        return ["nsenter", f"--target={pid}", "--mount", "--net", "--uts", "--", *env, *argv]
    private = ["unshare", "--mount", "--propagation", "slave", "--"]
    return netns_enter(netns, [*private, "/bin/sh", "-c", _EXEC, "veg-pod-exec", *env, *argv])


def end_all(layout: Layout, processes: ProcessTable, pod_id: str) -> None:
    """End all containers of the pod at once, without grace, and forget them."""
    names = _names(layout, processes, pod_id)
    records = [record for name in names if (record := processes.record(name)) is not None]
    end(records, signal.SIGKILL, wait=5)
    for name in names:
        processes.kill(name)


def _live(layout: Layout, processes: ProcessTable, pod_id: str, container: str | None) -> int | None:
    if container is not None:
        return processes.pid(layout.container_name(pod_id, container))
    return next((pid for name in _names(layout, processes, pod_id) if (pid := processes.pid(name))), None)


def _names(layout: Layout, processes: ProcessTable, pod_id: str) -> list[str]:
    prefix = layout.container_prefix(pod_id)
    return [name for name in processes.names() if name.startswith(prefix)]


def _in_setup(pid: int) -> bool:
    """Whether the process still prepares its mounts: the program's own command line comes with its exec.

    One without a command line is about to end (its memory goes before it does): it never got there.
    """
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return not command or f"\0{_SETUP_NAME}\0".encode() in command


def _need_netns(layout: Layout, pod_id: str) -> str:
    netns = layout.pod_netns(pod_id)
    if not netns_exists(netns):
        raise UnknownPodError(f"pod {pod_id!r} has no network namespace")
    return netns


def _checked(target: str) -> str:
    path = PurePosixPath(target)
    below = len(path.parts) > 2 and path.parts[1] in ("etc", "run")
    if not path.is_absolute() or ".." in path.parts or " " in target or not (below or Path(target).is_dir()):
        raise LabError(f"mount {target!r}: must lie below /etc or /run, or be an existing directory")
    return str(path)


def _path(layout: Layout, path: str | None) -> str:
    # The environment's scripts first: an image would have them in its PATH.
    ours = f"{layout.bin}:{Path(sys.prefix) / 'bin'}"
    usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return f"{ours}:{path or usual}" if path is None or "sbin" in path else f"{ours}:{path}:{usual}"
