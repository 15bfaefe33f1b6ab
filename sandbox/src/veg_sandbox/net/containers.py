"""Processes in pods: each in its pod's network namespace and in mounts of its own.

A container sees the host's file system with three differences: its mounts, an /etc and a /run whose changes
stay with it (overlays), and the /sys of its network namespace. What it does not see is the host's list of
named network namespaces, so `ip address` prints `link-netnsid` as in any pod. One with a mount at a place
that the host does not have (`/tls`) gets a root of its own: an overlay over the host's.
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
from veg_sandbox.net.pods import record_of
from veg_sandbox.net.shell import netns_enter, netns_exists
from veg_sandbox.proc import ProcessTable, end, poll, tail

START_SECONDS = 10.0

_SETUP_NAME = "veg-container-setup"

# $1 a folder of the host for the container's own changes, $2 hostname or empty, $3 `root` for a root of its own,
# $4 number of mounts, then for each mount its source and target, then the command. The sources are bound before an
# overlay hides them (they may lie in /run) and reached by descriptor afterwards. A root of its own takes over what is
# mounted below the old one, which is let go; it is an overlay itself, so that /etc needs no other. Unmounting the
# host's namespaces leaves their mount points, plain files that `ip` would complain of: an empty folder covers them.
_SETUP = """
set -e
umount -l /run/netns 2>/dev/null || true
# In the host's own network the right one is there already.
mount -t sysfs sysfs /sys 2>/dev/null || true
[ -z "$2" ] || echo "$2" > /proc/sys/kernel/hostname
stage=$1; own=$3; count=$4; shift 4
mount -t tmpfs -o mode=0755 tmpfs "$stage"
i=0; targets=
while [ $i -lt $count ]; do
  if [ -d "$1" ]; then mkdir "$stage/m$i"; else : > "$stage/m$i"; fi
  mount --bind "$1" "$stage/m$i"
  targets="$targets $2"
  shift 2; i=$((i+1))
done
if [ -n "$own" ]; then
  mkdir "$stage/root" "$stage/changes" "$stage/work"
  points=$(cut -d' ' -f5 /proc/self/mountinfo)
  mount -t overlay -o "lowerdir=/,upperdir=$stage/changes,workdir=$stage/work" overlay "$stage/root"
  bound=
  for point in $points; do
    [ "$point" != / ] && [ -e "$stage/root$point" ] || continue
    for b in $bound; do case $point/ in "$b"/*) continue 2;; esac; done
    mount --rbind "$point" "$stage/root$point"
    bound="$bound $point"
  done
  cd "$stage/root"
  pivot_root . .
  umount -l .
  cd /
fi
exec 9<"$stage"
mkdir -p "$stage/up/run" "$stage/up/etc" "$stage/overlay/run" "$stage/overlay/etc"
i=0
for target in $targets; do
  case $own$target in
    /*|root/run/*) place=$stage/up$target;;
    *) place=$target;;
  esac
  mkdir -p "${place%/*}/"
  if [ -d "$stage/m$i" ]; then mkdir -p "$place"; else : >> "$place"; fi
  i=$((i+1))
done
if [ -n "$own" ]; then private=run; else private="etc run"; fi
for d in $private; do
  mount -t overlay -o "lowerdir=/$d,upperdir=$stage/up/$d,workdir=$stage/overlay/$d" overlay "/$d"
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
    """Directory or file of the host to absolute path in the pod."""
    env: dict[str, str]
    hostname: str | None


def spawn(layout: Layout, processes: ProcessTable, pod_id: str, container: Container, log: Path) -> int:
    """Start the container and return its pid once the program runs. Raises UnknownPodError, LabError."""
    netns = _netns_of(layout, pod_id)
    name = layout.container_name(pod_id, container.name)
    stage = layout.pod_dir(pod_id) / f"{container.name}.stage"
    stage.mkdir(parents=True, exist_ok=True)
    argv = ["unshare", "--mount", "--uts", "--propagation", "slave", "--"]
    argv += ["/bin/sh", "-c", _SETUP, _SETUP_NAME, str(stage), container.hostname or ""]
    mounts = {source: _checked(target) for source, target in container.mounts.items()}
    argv += ["root" if any(map(_needs_root, mounts.values())) else "", str(len(mounts))]
    for source, target in mounts.items():
        argv += [str(source), target]
    env = {"HOME": "/root", "LANG": "C.UTF-8", **container.env}
    env["PATH"] = _path(layout, env.get("PATH"))
    pid = processes.spawn_detached(name, [*argv, *map(str, container.argv)], netns=netns, env=env, log=log)

    def settled() -> bool:
        return processes.pid(name) is None or not _in_setup(pid)

    if not poll(settled, START_SECONDS):
        processes.kill(name, signal.SIGKILL)
        raise LabError(f"{container.name} of pod {pod_id!r} did not get its mounts: {tail(log)}")
    if processes.pid(name) is None and processes.exit_code(name) != 0:
        processes.kill(name)
        raise LabError(f"{container.name} of pod {pod_id!r} ended at once: {tail(log)}")
    return pid


def exec_argv(
    layout: Layout, processes: ProcessTable, pod_id: str, argv: Sequence[str], container: str | None
) -> list[str]:
    """Argv that runs `argv` in the pod, see `Lab.pod_argv`. Raises UnknownPodError."""
    netns = _netns_of(layout, pod_id)
    env = ["env", f"PATH={_path(layout, os.environ.get('PATH'))}"]
    pid = _live(layout, processes, pod_id, container)
    if pid is not None:
        return ["nsenter", f"--target={pid}", "--mount", "--net", "--uts", "--", *env, *argv]
    private = ["unshare", "--mount", "--propagation", "slave", "--"]
    if netns is None:
        return [*private, *env, *argv]
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


def _netns_of(layout: Layout, pod_id: str) -> str | None:
    """The pod's network namespace, None for a pod of the host's network. Raises UnknownPodError."""
    if record_of(layout, pod_id).get("host"):
        return None
    netns = layout.pod_netns(pod_id)
    if not netns_exists(netns):
        raise UnknownPodError(f"pod {pod_id!r} has no network namespace")
    return netns


def _checked(target: str) -> str:
    path = PurePosixPath(target)
    if not path.is_absolute() or ".." in path.parts or " " in target or len(path.parts) < 2:
        raise LabError(f"mount {target!r}: must be an absolute path")
    # /var/run is a link to /run on every Debian system, and a mount's place must not be looked for through a link.
    return str(path).replace("/var/run/", "/run/", 1) if str(path).startswith("/var/run/") else str(path)


def _needs_root(target: str) -> bool:
    """Whether the host has no such directory, and none of the overlays would take it."""
    return not target.startswith(("/etc/", "/run/")) and not Path(target).exists()


def _path(layout: Layout, path: str | None) -> str:
    # The environment's scripts first: an image would have them in its PATH.
    ours = f"{layout.bin}:{Path(sys.prefix) / 'bin'}"
    usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return f"{ours}:{path or usual}" if path is None or "sbin" in path else f"{ours}:{path}:{usual}"
