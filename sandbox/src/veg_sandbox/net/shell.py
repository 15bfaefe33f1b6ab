"""Running `ip` and friends: bounded, with errors that name the command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from veg_sandbox.net.errors import LabError

NETNS_DIR = Path("/run/netns")


def complete(
    argv: Sequence[str],
    *,
    timeout: float = 30,
    input_text: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command and capture both outputs; any exit code is the caller's business.

    Raises LabError when it cannot be run or takes longer than `timeout` s.
    """
    try:
        return subprocess.run(
            list(argv),
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=None if env is None else dict(env),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"took longer than {timeout:g} s: {_short(argv)}") from None
    except OSError as error:
        raise LabError(f"cannot run {_short(argv)}: {error}") from error


def run(argv: Sequence[str], *, timeout: float = 30, input_text: str | None = None) -> str:
    """Run a command that must succeed and return its standard output. Raises LabError."""
    done = complete(argv, timeout=timeout, input_text=input_text)
    if done.returncode:
        message = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise LabError(f"{_short(argv)}: {message or f'exit {done.returncode}'}")
    return done.stdout


def ip(netns: str | None, commands: Iterable[str], *, force: bool = False) -> None:
    """Run `ip` commands in a namespace with one fork: `link set lo up`, … Raises LabError.

    `force` goes on after a command that fails, and does not fail.
    """
    lines = list(commands)
    if not lines:
        return
    argv = ["ip", *(["-n", netns] if netns else []), *(["-force"] if force else []), "-batch", "-"]
    done = complete(argv, input_text="\n".join(lines) + "\n")
    if done.returncode and not force:
        message = " | ".join(done.stderr.strip().splitlines())
        raise LabError(f"ip in {netns or 'the host'}: {message} (of: {'; '.join(lines)})")


def ip_json(netns: str, *args: str) -> list[dict[str, Any]]:
    """What `ip -j ARGS…` prints in a namespace; [] when it fails (no such link or namespace)."""
    done = complete(["ip", "-n", netns, "-j", "-d", *args])
    if done.returncode or not done.stdout.strip():
        return []
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return [entry for entry in found if entry]


def netns_names(prefix: str) -> list[str]:
    """Namespaces whose name begins with `prefix`."""
    try:
        return sorted(name for name in os.listdir(NETNS_DIR) if name.startswith(prefix))  # noqa: PTH208
    except FileNotFoundError:
        return []


def netns_exists(name: str) -> bool:
    """Whether the namespace is there: its file is a mount point, not the empty file of a half-made one."""
    return os.path.ismount(NETNS_DIR / name)


def netns_enter(netns: str, argv: Sequence[str]) -> list[str]:
    """Argv that runs `argv` in a namespace, in the caller's mounts. The process keeps its pid."""
    return ["nsenter", f"--net={NETNS_DIR / netns}", "--", *argv]


def sysctl(netns: str, values: Mapping[str, str]) -> None:
    """Write sysctls, named by their path below /proc/sys, in a namespace. Raises LabError."""
    script = "".join(f"echo {value} > /proc/sys/{name}\n" for name, value in values.items())
    run(netns_enter(netns, ["sh", "-e", "-c", script]))


def _short(argv: Sequence[str]) -> str:
    """The command for a message, without the dynamic loader's prefix of a private root."""
    words = list(argv)
    if "--library-path" in words[:2]:
        words = words[3:]
    words = [Path(words[0]).name, *words[1:]]
    text = " ".join(words)
    return text if len(text) <= 200 else text[:200] + "…"
