"""A sandbox that is up as far as the object commands can tell: a store in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from veg_sandbox.cli.app import cli
from veg_sandbox.cli.context import Paths, Settings, write_settings

Run = Callable[..., Result]


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """The paths of a sandbox called `t`, without a lab."""
    monkeypatch.setenv("VEG_SANDBOX_DIR", str(tmp_path))
    monkeypatch.setenv("VEG_SANDBOX", "t")
    where = Paths(tmp_path / "t")
    where.objects.mkdir(parents=True)
    write_settings(where, Settings())
    return where


@pytest.fixture
def run(sandbox: Paths) -> Run:
    """`run("get", "veg", stdin="…")`: the command line in this process."""

    def invoke(*args: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, list(args), input=stdin, catch_exceptions=False)

    return invoke
