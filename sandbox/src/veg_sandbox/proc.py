"""Long-lived processes of a sandbox: started detached, found again by any later process, ended safely.

Each process has a name and a record file in one directory. The record holds the pid *and* the process's
start time and the machine's boot id, so that a recycled pid is never taken for ours: `kill` signals only
what it recognises. Used by the lab (OVN daemons, the echo server, containers of pods) and by the runtime
half (api, programmer, node runtime).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MARKER = "VEG_SANDBOX_PROCESS"
"""Environment variable of every process started here: `<table's directory>:<name>`. It finds the one that
was started by a program that died before it could write the record."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ProcessError(RuntimeError):
    """A process could not be started or did not end; one line for a user."""


@dataclass(frozen=True)
class Record:
    """What the record file of a process holds."""

    name: str
    pid: int
    start_ticks: int
    """Start time in clock ticks since boot: field 22 of proc_pid_stat(5)."""
    boot_id: str
    argv: list[str]
    log: str


class ProcessTable:
    """The processes whose records lie in `directory`. Safe for concurrent use from threads and processes
    as long as no two act on the same name at once.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def spawn_detached(
        self,
        name: str,
        argv: Sequence[str],
        *,
        netns: str | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> int:
        """Start `argv` as the process `name` in a session of its own and return its pid.

        It reads nothing, writes both outputs to `log` (appended; default `<directory>/<name>.log`), runs in
        network namespace `netns` (a name of ip-netns(8); default the caller's) and outlives the caller.
        `env` is the whole environment (default: the caller's). When a process of that name is alive, its
        pid is returned and nothing is started. Raises ProcessError when the program cannot be executed.
        """
        running = self.pid(name)
        if running is not None:
            return running
        self.directory.mkdir(parents=True, exist_ok=True)
        log = log or self.directory / f"{name}.log"
        command = list(argv)
        if netns is not None:
            # nsenter does not fork here, so the pid that is recorded is the program's own.
            command = ["nsenter", f"--net=/run/netns/{netns}", "--", *command]
        environment = {**(os.environ if env is None else env), MARKER: f"{self.directory}:{name}"}
        out = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            pid = os.posix_spawnp(
                command[0],
                command,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(log), out, 0o644),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
            )
        except OSError as error:
            raise ProcessError(f"cannot start {name}: {error}") from error
        _reap_later(pid)
        ticks = _start_ticks(pid)
        if ticks is None:
            raise ProcessError(f"{name} ended at once: {tail(log)}")
        record = Record(name, pid, ticks, _BOOT_ID.read_text().strip(), list(argv), str(log))
        _write_atomic(self._file(name), json.dumps(asdict(record)))
        return pid

    def record(self, name: str) -> Record | None:
        """The record of `name`, alive or not; None when there is none."""
        try:
            return Record(**json.loads(self._file(name).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def pid(self, name: str) -> int | None:
        """The pid of `name` while it is alive, else None."""
        record = self.record(name)
        return record.pid if record is not None and is_alive(record) else None

    def exit_code(self, name: str, *, wait: float = 1.0) -> int | None:
        """How `name` ended (negative: by that signal), None while it lives or when another process started it."""
        record = self.record(name)
        if record is None or is_alive(record):
            return None
        # Its end is seen a moment before it is collected.
        poll(lambda: record.pid in _exits or not _is_child(record.pid), wait)
        return _exits.get(record.pid)

    def names(self) -> list[str]:
        """Names of all recorded processes, alive or not, sorted."""
        return sorted(path.name.removesuffix(".pid") for path in self.directory.glob("*.pid"))

    def kill(self, name: str, sig: int = signal.SIGTERM, *, wait: float = 5.0, forget: bool = True) -> bool:
        """Signal `name`, wait until it has ended, and after `wait` s end it with SIGKILL.

        Returns whether it was alive. `forget` removes the record as well. Idempotent. Raises ProcessError
        when it is there even after SIGKILL (a process stuck in the kernel).
        """
        record = self.record(name)
        was_alive = record is not None and end([record], sig, wait=wait) > 0
        if forget:
            self._file(name).unlink(missing_ok=True)
        return was_alive

    def kill_all(self, sig: int = signal.SIGTERM, *, wait: float = 5.0) -> int:
        """End every recorded process at once (see `kill`) and what bears this table's marker without a
        record. Returns how many were alive.
        """
        records = [record for name in self.names() if (record := self.record(name)) is not None]
        ended = end(records, sig, wait=wait)
        for name in self.names():
            self._file(name).unlink(missing_ok=True)
        return ended + end(marked(self.directory), sig, wait=wait)

    def _file(self, name: str) -> Path:
        return self.directory / f"{name}.pid"


def is_alive(record: Record) -> bool:
    """Whether the very process of the record runs (a zombie does not)."""
    return _start_ticks(record.pid) == record.start_ticks and record.boot_id == _BOOT_ID.read_text().strip()


def signal_all(records: Iterable[Record], sig: int) -> None:
    """Signal the processes and wait for nothing."""
    for record in records:
        handle = _open(record)
        if handle is not None:
            _signal(handle, sig)
            os.close(handle)


def end(records: Iterable[Record], sig: int, *, wait: float) -> int:
    """Signal the processes, wait for all of them at most `wait` s, then SIGKILL. Returns how many lived."""
    handles: list[tuple[Record, int]] = []
    try:
        for record in records:
            handle = _open(record)
            if handle is not None:
                handles.append((record, handle))
                _signal(handle, sig)
        left = _wait([handle for _, handle in handles], wait)
        for handle in left:
            _signal(handle, signal.SIGKILL)
        stuck = _wait(left, 5.0)
        if stuck:
            names = ", ".join(record.name for record, handle in handles if handle in stuck)
            raise ProcessError(f"did not end after SIGKILL: {names}")
        return len(handles)
    finally:
        for _, handle in handles:
            os.close(handle)


def marked(directory: Path) -> list[Record]:
    """Live processes that bear the marker of the table in `directory`, this one and its parents excepted."""
    own = set(_ancestors(os.getpid()))
    wanted = f"{MARKER}={directory}:".encode()
    found = []
    for pid in all_pids():
        with contextlib.suppress(OSError):
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            name = next(
                (entry[len(wanted) :].decode() for entry in entries if entry.startswith(wanted)), None
            )
            if name is not None and pid not in own and (record := of_pid(pid, name)) is not None:
                found.append(record)
    return found


def pids_in_netns(files: Iterable[Path]) -> list[Record]:
    """Live processes in the network namespaces of these files, this one and its parents excepted."""
    wanted = set()
    for file in files:
        with contextlib.suppress(OSError):
            stat = file.stat()
            wanted.add((stat.st_dev, stat.st_ino))
    own = set(_ancestors(os.getpid()))
    found = []
    for pid in all_pids() if wanted else []:
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/ns/net").stat()
            if (stat.st_dev, stat.st_ino) in wanted and pid not in own:
                record = of_pid(pid, f"pid {pid}")
                found += [record] if record is not None else []
    return found


def of_pid(pid: int, name: str) -> Record | None:
    """A record of a running process that was not started here, so that `end` can be used on it."""
    ticks = _start_ticks(pid)
    return None if ticks is None else Record(name, pid, ticks, _BOOT_ID.read_text().strip(), [], "")


def all_pids() -> list[int]:
    """All process ids that this process can see."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def tail(log: Path, lines: int = 3) -> str:
    """The last lines of a log on one line, for an error message."""
    try:
        text = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        text = []
    return " | ".join(text[-lines:]) or "no output"


def poll(ready: Callable[[], bool], timeout: float, *, interval: float = 0.01) -> bool:
    """Call `ready` until it is true, at most `timeout` s; returns whether it became true."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def _open(record: Record) -> int | None:
    """A pidfd of the very process of the record. Checked after opening: from then on it cannot be recycled."""
    if not is_alive(record):
        return None
    try:
        handle = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    if is_alive(record):
        return handle
    os.close(handle)
    return None


def _signal(handle: int, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, sig)


def _wait(handles: Sequence[int], seconds: float) -> list[int]:
    """Wait until all have ended, at most `seconds`; returns those that have not."""
    deadline = time.monotonic() + seconds
    poller = select.poll()
    left = set(handles)
    for handle in left:
        poller.register(handle, select.POLLIN)
    while left:
        ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            break
        for handle, _ in ready:
            poller.unregister(handle)
            left.discard(handle)
    return [handle for handle in handles if handle in left]


def _start_ticks(pid: int) -> int | None:
    """Field 22 of proc_pid_stat(5); None for no process and for a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the program's name may hold spaces and parentheses
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            return


_exits: dict[int, int] = {}
"""Exit codes of children that have ended, by pid."""


def _is_child(pid: int) -> bool:
    """Whether the process is (or was a moment ago) a child that is not collected yet."""
    return any(thread.name == f"reap-{pid}" for thread in threading.enumerate())


def _reap_later(pid: int) -> None:
    """Collect the exit status of a child whenever it ends, so that it does not stay a zombie of ours."""
    _exits.pop(pid, None)

    def reap() -> None:
        with contextlib.suppress(ChildProcessError):
            _exits[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    threading.Thread(target=reap, name=f"reap-{pid}", daemon=True).start()


def _write_atomic(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    new.write_text(text)
    new.replace(path)
