"""What the sandbox's kubelets answer to `kubectl exec` and `kubectl logs`."""

from pathlib import Path

import pytest
from veg_sandbox.runtime.server import _tail, status_of_exit


@pytest.mark.parametrize(("code", "shown"), [(3, "3"), (-9, "137")])
def test_a_command_that_failed_tells_its_code(code: int, shown: str) -> None:
    """kubectl exits with the code of the cause ExitCode; a signal counts as 128 and its number."""
    status = status_of_exit(code)
    assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": shown}]


def test_a_command_that_succeeded() -> None:
    """Says so, and nothing else."""
    assert status_of_exit(0) == {"metadata": {}, "status": "Success"}


@pytest.mark.parametrize(
    ("lines", "shown"), [(None, b"a\nb\nc\n"), (2, b"b\nc\n"), (0, b""), (9, b"a\nb\nc\n")]
)
def test_the_last_lines_of_a_log(tmp_path: Path, lines: int | None, shown: bytes) -> None:
    """All of it, or the last ones."""
    file = tmp_path / "log"
    file.write_text("a\nb\nc\n")
    assert b"".join(_tail(file, lines)) == shown


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """A container without a process writes none."""
    assert list(_tail(tmp_path / "none", None)) == []
