"""Detached processes: found again, never confused with another, ended within a bound."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from veg_sandbox.proc import ProcessError, ProcessTable, marked, poll

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ProcessTable]:
    """A table whose processes are ended with the test."""
    table = ProcessTable(tmp_path / "proc")
    yield table
    table.kill_all(signal.SIGKILL)


def test_spawn_find_and_kill(table: ProcessTable) -> None:
    """Another table of the same folder finds it; killing it ends it and forgets it; twice is once."""
    pid = table.spawn_detached("a", ["sleep", "60"])
    other = ProcessTable(table.directory)
    assert other.pid("a") == pid
    assert other.names() == ["a"]
    assert table.spawn_detached("a", ["sleep", "61"]) == pid
    assert os.getsid(pid) == pid
    assert other.kill("a")
    assert other.pid("a") is None
    assert other.names() == []
    assert not other.kill("a")


def test_output_goes_to_the_log(table: ProcessTable, tmp_path: Path) -> None:
    """Both outputs, appended; the environment is the one given."""
    log = tmp_path / "a.log"
    log.write_text("before\n")
    table.spawn_detached(
        "a", ["/bin/sh", "-c", "echo $X; echo err >&2; read y; sleep 60"], env={"X": "1"}, log=log
    )
    assert poll(lambda: log.read_text() == "before\n1\nerr\n", 5)


def test_a_process_outlives_its_creator(table: ProcessTable) -> None:
    """The program that started it is gone; it runs on and is found."""
    script = (
        "import sys; from pathlib import Path; from veg_sandbox.proc import ProcessTable\n"
        "ProcessTable(Path(sys.argv[1])).spawn_detached('a', ['sleep', '60'])"
    )
    subprocess.run([sys.executable, "-c", script, str(table.directory)], check=True, timeout=20)
    assert table.pid("a") is not None


def test_one_that_ignores_sigterm_is_killed(table: ProcessTable, tmp_path: Path) -> None:
    """SIGKILL follows after the wait."""
    log = tmp_path / "a.log"
    table.spawn_detached("a", ["/bin/sh", "-c", STUBBORN], log=log)
    assert poll(lambda: "ready" in log.read_text(), 5)
    assert table.kill("a", wait=0.2)
    assert table.pid("a") is None


@pytest.mark.parametrize("field", ["start_ticks", "boot_id"])
def test_a_recycled_pid_is_not_ours(table: ProcessTable, field: str) -> None:
    """A record whose pid belongs to another process, or to another boot, is dead and is not signalled."""
    pid = table.spawn_detached("a", ["sleep", "60"])
    file = table.directory / "a.pid"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, field: 1 if field == "start_ticks" else "other"}))
    assert table.pid("a") is None
    assert not table.kill("a")
    assert Path(f"/proc/{pid}").exists()


def test_a_dead_child_is_not_alive(table: ProcessTable) -> None:
    """Not while it is a zombie either, and it does not stay one."""
    pid = table.spawn_detached("a", ["sleep", "60"])
    os.kill(pid, signal.SIGKILL)
    assert poll(lambda: table.pid("a") is None, 5)
    assert poll(lambda: not Path(f"/proc/{pid}").exists(), 5)


def test_kill_all_finds_what_has_no_record(table: ProcessTable) -> None:
    """Also a child of one of ours, and one whose record was lost: the environment marks them."""
    table.spawn_detached("a", ["/bin/sh", "-c", "sleep 60 & sleep 60"])
    table.spawn_detached("b", ["sleep", "60"])
    assert poll(lambda: len(marked(table.directory)) == 4, 5)
    (table.directory / "b.pid").unlink()
    assert table.kill_all() >= 2
    assert marked(table.directory) == []


def test_a_program_that_is_not_there(table: ProcessTable) -> None:
    """One line that names it; no record."""
    with pytest.raises(ProcessError, match="cannot start a"):
        table.spawn_detached("a", ["/no/such/program"])
    assert table.names() == []
