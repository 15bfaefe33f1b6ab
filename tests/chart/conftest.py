"""The chart as helm renders it, parsed."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/vpc-egress-gateway"
NAMESPACE = "egress"
# Without a cluster helm believes in a version of Kubernetes of its own.
KUBERNETES = ("--kube-version", "1.36.0")
REMOTES = ("--set", "ovn.northbound.remotes={tcp:192.0.2.1:6641}")

Objects = dict[tuple[str, str], dict[str, Any]]


class Helm:
    """helm on the chart, as release `veg` in namespace `egress`."""

    def __init__(self, program: str) -> None:
        """Use this program."""
        self.program = program
        self._rendered: dict[tuple[str, ...], str] = {}

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """One command."""
        return subprocess.run([self.program, *args], capture_output=True, text=True, check=False, timeout=60)

    def template(self, *args: str, remotes: tuple[str, ...] = REMOTES) -> subprocess.CompletedProcess[str]:
        """`helm template` with further arguments."""
        return self.run("template", "veg", str(CHART), "-n", NAMESPACE, *KUBERNETES, *remotes, *args)

    def text(self, *args: str, remotes: tuple[str, ...] = REMOTES) -> str:
        """What is rendered; once for the same arguments."""
        if (*remotes, *args) not in self._rendered:
            done = self.template(*args, remotes=remotes)
            assert done.returncode == 0, done.stderr
            self._rendered[*remotes, *args] = done.stdout
        return self._rendered[*remotes, *args]

    def objects(self, *args: str, remotes: tuple[str, ...] = REMOTES) -> Objects:
        """What is rendered, by kind and name."""
        text = self.text(*args, remotes=remotes)
        listed = [doc for doc in yaml.load_all(text, Loader=yaml.CSafeLoader) if doc]
        found = {(doc["kind"], doc["metadata"]["name"]): doc for doc in listed}
        assert len(found) == len(listed)
        return found

    def refusal(self, *args: str, remotes: tuple[str, ...] = REMOTES) -> str:
        """Why nothing is rendered."""
        done = self.template(*args, remotes=remotes)
        assert done.returncode
        return done.stderr


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The helm that is there; scripts/kube.sh builds one."""
    found = subprocess.run(
        [ROOT / "scripts/helm.sh"], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()
    assert found, "there is no helm: run scripts/kube.sh, or name one by VEG_HELM"
    return Helm(found)


@pytest.fixture(scope="session")
def rendered(helm: Helm) -> Callable[..., Objects]:
    """Renders once a set of arguments."""
    kept: dict[tuple[str, ...], Objects] = {}

    def render(*args: str) -> Objects:
        if args not in kept:
            kept[args] = helm.objects(*args)
        return kept[args]

    return render
