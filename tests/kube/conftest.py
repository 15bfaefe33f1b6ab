"""One control plane for all tests on Kubernetes; its logs are named when something failed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.cluster import Cluster

_LOGS: list[Path] = []


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real control plane without nodes. Shared: use namespaces and names of your own, and remove them."""
    yield from _running(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane for one file of tests."""
    yield from _running(tmp_path_factory.mktemp("own"))


def _running(directory: Path) -> Iterator[Cluster]:
    running = Cluster.start(directory)
    _LOGS.append(running.logs)
    try:
        yield running
    finally:
        running.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where the control plane's logs are, when they may be needed."""
    if _LOGS and any(terminalreporter.stats.get(kind) for kind in ("failed", "error")):
        for folder in _LOGS:
            terminalreporter.write_line(f"logs of the control plane: {folder}")
