"""The sandbox as a person drives it, for programs: every call runs the `veg-sandbox` command.

The demo and the topology tests use it, so that what they prove holds for the commands that people type.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from veg_sandbox.net.echo import ECHO_PORT

__all__ = ["CLI", "ECHO_PORT", "CommandError", "Sandbox", "eventually"]

T = TypeVar("T")

CLI = str(Path(sys.prefix) / "bin" / "veg-sandbox")
POLL_SECONDS = 0.1


class CommandError(RuntimeError):
    """A command failed; the text holds the command, its exit code and what it said."""

    def __init__(self, args: tuple[str, ...], code: int, output: str) -> None:
        """Keep the exit code beside the text."""
        super().__init__(f"veg-sandbox {' '.join(args)}: exit {code}: {output.strip()}")
        self.code = code
        self.output = output


@dataclass(frozen=True)
class Sandbox:
    """The sandbox called `name`."""

    name: str

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "VEG_SANDBOX": self.name}

    def run(
        self, *args: str, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `veg-sandbox ARGS…` and wait at most `timeout` s; the caller looks at the exit code."""
        return subprocess.run(
            [CLI, *args],
            env=self._environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def __call__(self, *args: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Standard output of `veg-sandbox ARGS…`. Raises CommandError when it fails."""
        done = self.run(*args, stdin=stdin, timeout=timeout)
        if done.returncode:
            raise CommandError(args, done.returncode, done.stderr or done.stdout)
        return done.stdout

    def live(self, *args: str, timeout: float = 60) -> None:
        """Run `veg-sandbox ARGS…` with its output going where this process's own goes, as it comes.

        Raises CommandError when it fails.
        """
        done = subprocess.run(
            [CLI, *args],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise CommandError(args, done.returncode, "see above")

    def apply(self, manifests: str) -> str:
        """Apply YAML."""
        return self("apply", "-f", "-", stdin=manifests)

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object. Raises CommandError when there is none."""
        found: dict[str, Any] = json.loads(self("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def items(self, kind: str, *args: str) -> list[dict[str, Any]]:
        """All objects of a kind in all namespaces."""
        found: list[dict[str, Any]] = json.loads(self("get", kind, "-A", "-o", "json", *args))["items"]
        return found

    def gateway_pods(self, gateway: str, namespace: str = "default") -> list[str]:
        """Names of a gateway's pods, sorted."""
        pods = self.items("pod", "-l", f"ovn.kubernetes.io/vpc-egress-gateway={gateway}")
        return sorted(p["metadata"]["name"] for p in pods if p["metadata"]["namespace"] == namespace)

    def probe_command(self, *args: str) -> list[str]:
        """The command line of a traffic probe, to be run in a pod or on the outside host."""
        return [sys.executable, "-m", "veg_sandbox.net.probe", *args]

    def probe(self, pod: str, *args: str, namespace: str = "default", timeout: float = 60) -> dict[str, Any]:
        """Run a traffic probe in a pod and return what it measured."""
        output = self("exec", pod, "-n", namespace, "--", *self.probe_command(*args), timeout=timeout)
        result: dict[str, Any] = json.loads(output)
        return result

    @contextmanager
    def background(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        """`veg-sandbox ARGS…` running while the block runs; it is ended, and waited for, with the block."""
        process = subprocess.Popen(
            [CLI, *args],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=15)


def eventually(check: Callable[[], T], timeout: float = 30, what: str = "") -> T:
    """Call `check` until it returns something true and return that; AssertionError with the last failure after `timeout` s.

    A CommandError or AssertionError of `check` counts as "not yet", and so does a LookupError: a field that nobody has
    written so far.
    """
    deadline = time.monotonic() + timeout
    last = "nothing true"
    while True:
        try:
            if result := check():
                return result
        except (CommandError, AssertionError) as error:
            last = str(error)
        except LookupError as error:
            last = repr(error)
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or 'condition'}: {last}")
        time.sleep(POLL_SECONDS)
