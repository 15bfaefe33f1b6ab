"""FRR's bfdd with its zebra, in a network namespace: the BFD peer that we did not write.

`scripts/frr.sh` unpacks FRR into a cache; nothing is installed. The daemons want a group `frrvty` to exist, so each sees
an /etc/group of its own (`ip netns exec` gives it a mount namespace). They end with this process, whatever ends it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

FRR_SH = Path(__file__).parents[3] / "scripts" / "frr.sh"
# The mounts, then the daemon in the same process: its pid is the one that was started here.
_WRAPPER = (
    'ulimit -n 20000; mount --bind "$1" /etc/group && mount -t tmpfs none /var/tmp && shift && exec "$@"'
)


@cache
def frr_root() -> Path:
    """Where FRR is unpacked; fetches it (some seconds) on a machine that has it not."""
    done = subprocess.run([str(FRR_SH)], stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    return Path(done.stdout.strip())


class Frr:
    """zebra and bfdd in the namespace `netns`, with their sockets and files in `folder`."""

    def __init__(self, netns: str, folder: Path, *, priority: int = 0, config: Sequence[str] = ()) -> None:
        """`priority`: of SCHED_FIFO for bfdd, 0 for normal scheduling; `config`: what bfdd reads on start."""
        self._netns = netns
        self._folder = folder
        self._priority = priority
        self._root = frr_root()
        self._libraries = (self._root / "libraries").read_text().strip()
        self._zebra: subprocess.Popen[bytes] | None = None
        self._bfdd: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vtysh.conf").write_text("username root nopassword\n")
        (folder / "bfdd.conf").write_text("\n".join([*config, ""]))
        (folder / "zebra.conf").write_text("")
        groups = [line for line in Path("/etc/group").read_text().splitlines() if line[:7] != "frrvty:"]
        (folder / "group").write_text("\n".join([*groups, "frrvty:x:64999:root", ""]))

    def start(self, *, within: float = 60) -> None:
        """Start what does not run, and wait until it answers."""
        if self._zebra is None:
            self._zebra = self._daemon("zebra", within)
        if self._bfdd is None:
            self._bfdd = self._daemon("bfdd", within, "--bfdctl", str(self._folder / "bfdctl"))

    def configure(self, *lines: str, timeout: float = 30) -> None:
        """Lines of configuration below `bfd`, e.g. "peer 10.0.0.2 interface eth0", "detect-multiplier 5"."""
        self.vtysh("configure terminal", "bfd", *lines, "end", timeout=timeout)

    def peers(self) -> list[dict[str, Any]]:
        """`show bfd peers json`."""
        peers: list[dict[str, Any]] = json.loads(self.vtysh("show bfd peers json") or "[]")
        return peers

    def counters(self) -> list[dict[str, Any]]:
        """`show bfd peers counters json`."""
        counters: list[dict[str, Any]] = json.loads(self.vtysh("show bfd peers counters json") or "[]")
        return counters

    def vtysh(self, *commands: str, timeout: float = 30) -> str:
        """Run commands in order; what they print. A command that bfdd refuses is an AssertionError."""
        return self._run([word for command in commands for word in ("-c", command)], timeout=timeout)

    def pid(self) -> int:
        """The process id of bfdd."""
        assert self._bfdd is not None, "bfdd does not run"
        return self._bfdd.pid

    def pids(self) -> list[int]:
        """The process ids of bfdd and zebra."""
        return [process.pid for process in (self._bfdd, self._zebra) if process is not None]

    def kill(self) -> None:
        """kill -9 of bfdd: it says nothing to its peers, and forgets everything."""
        assert self._bfdd is not None, "bfdd does not run"
        self._bfdd.kill()
        self._bfdd.wait(timeout=10)
        self._bfdd = None

    def close(self) -> None:
        """End both."""
        for process in (self._bfdd, self._zebra):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
                process.kill()
                process.wait(timeout=5)
        self._bfdd = self._zebra = None

    def _run(self, arguments: Sequence[str], timeout: float) -> str:
        done = subprocess.run(
            [str(self._root / "usr/bin/vtysh"), *self._places(), *arguments],
            env={"LD_LIBRARY_PATH": self._libraries, "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        refused = "% " in done.stdout
        assert done.returncode == 0 and not refused, f"vtysh {arguments}: {done.stdout}{done.stderr}"  # noqa: PT018
        return done.stdout

    def _places(self) -> list[str]:
        return ["--config_dir", str(self._folder), "--vty_socket", str(self._folder)]

    def _daemon(self, name: str, within: float, *arguments: str) -> subprocess.Popen[bytes]:
        vty = self._folder / f"{name}.vty"
        vty.unlink(missing_ok=True)
        argv = [str(self._root / "usr/lib/frr" / name), "-u", "root", "-g", "root", "-P", "0"]
        argv += ["-z", str(self._folder / "zserv"), "--vty_socket", str(self._folder)]
        argv += [
            "-f",
            str(self._folder / f"{name}.conf"),
            "-i",
            str(self._folder / f"{name}.pid"),
            *arguments,
        ]
        argv += ["--log", f"file:{self._folder / name}.log", "--log-level", "warn"]
        if self._priority and name == "bfdd":
            argv = ["chrt", "-f", str(self._priority), *argv]
        enter = ["ip", "netns", "exec", self._netns, "setpriv", "--pdeathsig", "KILL"]
        enter += ["sh", "-c", _WRAPPER, name, str(self._folder / "group")]
        with (self._folder / f"{name}.out").open("wb") as output:
            process = subprocess.Popen(
                [*enter, *argv],
                env={"LD_LIBRARY_PATH": self._libraries, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + within
        while not vty.exists():
            said = (self._folder / f"{name}.out").read_text()
            assert process.poll() is None, f"{name} ended: {said}"
            assert time.monotonic() < deadline, f"{name} does not start: {said}"
            time.sleep(0.02)
        return process
