"""A sandbox of two nodes with pods of two containers made by hand: api's plans are not what is tested here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from veg_common.folder import FolderStore
from veg_common.objects import Ref, kind_of
from veg_sandbox.harness import Sandbox, eventually
from veg_sandbox.net.model import lab_dir

_SCRIPT = (
    "trap 'touch /run/veg/{name}.ended; exit 0' TERM; "
    "while :; do touch /run/veg/{name}.alive; sleep 0.1; done"
)
_CONTAINER = """
        - name: {name}
          image: none
          command: [sh, -c, "{script}"]
          volumeMounts: [{{name: run, mountPath: /run/veg}}]
          readinessProbe:
            periodSeconds: 1
            failureThreshold: 1
            exec: {{command: [sh, -c, "test ! -e /run/veg/{name}.sick || {{ cat /run/veg/{name}.sick; exit 1; }}"]}}
"""
_DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: pair, namespace: default}
spec:
  replicas: 1
  template:
    metadata: {labels: {app: pair}}
    spec:
      terminationGracePeriodSeconds: 5
      nodeSelector: {kubernetes.io/hostname: kube-ovn-worker}
      volumes: [{name: run, emptyDir: {}}]
      containers:
"""
_CLIENT = """
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default}
spec:
  nodeSelector: {kubernetes.io/hostname: kube-ovn-worker2}
  containers: [{name: client, image: none}]
"""


class Lab(Sandbox):
    """The sandbox and its pods. Objects are read in this process: what is polled must not start programs."""

    def items(self, kind: str, *args: str) -> list[dict[str, Any]]:
        """All objects of a kind; `-l app=pair` is the only choice there is."""
        found = asyncio.run(FolderStore(lab_dir(self.name) / "objects").list(kind))
        return [o for o in found if not args or (o["metadata"].get("labels") or {}).get("app") == "pair"]

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object."""
        ref = Ref(kind_of(kind).kind, namespace if kind_of(kind).namespaced else "", name)
        return asyncio.run(FolderStore(lab_dir(self.name) / "objects").get(ref))

    def pair(self) -> str:
        """The pod of two containers; there is one, and it is ready."""
        listed = [p for p in self.items("pod", "-l", "app=pair") if "deletionTimestamp" not in p["metadata"]]
        assert len(listed) == 1, listed
        (pod,) = listed
        conditions = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", [])}
        assert conditions.get("Ready") == "True", conditions
        return str(pod["metadata"]["name"])

    def container(self, pod: str, name: str) -> dict[str, object]:
        """The status of a container."""
        statuses = self.get("pod", pod)["status"]["containerStatuses"]
        found: dict[str, object] = next(s for s in statuses if s["name"] == name)
        return found

    def pings(self) -> bool:
        """Whether the client reaches the pod: one of three packets, within a second or two."""
        address = self.get("pod", self.items("pod", "-l", "app=pair")[0]["metadata"]["name"])["status"][
            "podIP"
        ]
        return (
            self.run(
                "exec", "client", "--", "ping", "-n", "-c", "3", "-i", "0.3", "-W", "1", address
            ).returncode
            == 0
        )

    def process(self, service: str) -> str:
        """The line of `status` about a service, "" without one."""
        lines = self.run("status").stdout.splitlines()
        return next((line for line in lines if line.split()[:1] == [service]), "")


@pytest.fixture(scope="session")
def shared() -> Iterator[Lab]:
    """The sandbox, for the whole run."""
    lab = Lab(f"f{os.getpid()}")
    try:
        lab("up", "--nodes", "2", timeout=600)
        containers = "".join(
            _CONTAINER.format(name=name, script=_SCRIPT.format(name=name)) for name in ("gateway", "bfdd")
        )
        lab.apply(f"{_DEPLOYMENT}{containers}---{_CLIENT}")
        yield lab
    finally:
        lab("down", timeout=120)


@pytest.fixture
def lab(shared: Lab) -> Iterator[Lab]:
    """The sandbox, whole before and after the test."""
    eventually(shared.pair, 30, "the pod is ready")
    eventually(shared.pings, 30, "the client reaches the pod")
    yield shared
    shared("fault", "--heal", timeout=90)


@pytest.fixture
def pod(lab: Lab) -> str:
    """Name of the pod with two containers."""
    return lab.pair()
