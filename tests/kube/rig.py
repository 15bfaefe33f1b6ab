"""The whole system on a cluster: a control plane, a sandbox as its nodes, and api and ovn-programmer from one of two sources.

`processes`: the sandbox runs them; `chart`: pods of the Helm chart. What they share is a Rig.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

from veg_sandbox.harness import ECHO_PORT, Sandbox, eventually
from veg_sandbox.net.lab import Lab, lab_dir

from tests.kube.cluster import ROOT, Cluster, KubectlError

EXAMPLES = resources.files("veg_sandbox.demo").joinpath("examples")
CHART = ROOT / "charts" / "vpc-egress-gateway"
OUTSIDE = "172.17.0.1"
RELEASE, RELEASE_NAMESPACE = "veg", "veg-system"
LABEL = "ovn.kubernetes.io/vpc-egress-gateway"
DEFAULTS = """\
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: ovn-cluster}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: ovn-default}
spec:
  {vpc: ovn-cluster, default: true, provider: ovn, protocol: IPv4, cidrBlock: 10.16.0.0/16, gateway: 10.16.0.1,
   excludeIps: [10.16.0.1]}
"""


def example(name: str) -> str:
    """A manifest of the specification's examples."""
    return EXAMPLES.joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Rig:
    """One system. Everything is asked through kubectl; packets go through the sandbox."""

    cluster: Cluster
    sandbox: Sandbox
    source: str

    @property
    def lab(self) -> Lab:
        """The lab of the sandbox."""
        return Lab.attach(lab_dir(self.sandbox.name))

    def kubectl(self, *args: str, timeout: float = 60) -> str:
        """Standard output of kubectl."""
        return self.cluster.kubectl(*args, timeout=timeout)

    def table(self, *args: str) -> list[list[str]]:
        """What `kubectl get` prints: header and rows, split at two or more blanks."""
        return [re.split(r"\s{2,}", line.strip()) for line in self.kubectl("get", *args).splitlines()]

    def ready(self, gateway: str, timeout: int = 90) -> None:
        """Wait until a gateway of `default` serves what its newest spec asks for, and every chassis has its rows."""

        def done() -> bool:
            found = self.cluster.get("veg", gateway)
            status = found.get("status", {})
            current = status.get("observedGeneration") == found["metadata"]["generation"]
            return bool(current and status.get("ready") and status.get("phase") == "Completed")

        self.eventually(done, timeout, f"{gateway} is ready")
        self.sandbox("nbctl", "--timeout=30", "--wait=hv", "sync", timeout=60)

    def running(self, pod: str, timeout: int = 60) -> None:
        """Wait until a pod of `default` runs."""
        self.eventually(
            lambda: self.cluster.get("pod", pod)["status"].get("phase") == "Running", timeout, f"{pod} runs"
        )

    def eventually(self, check: Any, timeout: float = 30, what: str = "") -> Any:
        """Poll; what kubectl refuses counts as not yet."""

        def patient() -> Any:
            try:
                return check()
            except KubectlError as error:
                raise AssertionError(str(error)) from error

        return eventually(patient, timeout, what)

    def pods(self, gateway: str) -> list[dict[str, Any]]:
        """The pods of a gateway of `default`, by name."""
        found = self.cluster.items("pod", "-n", "default", "-l", f"{LABEL}={gateway}")
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def seen(self, client: str, count: int = 20) -> dict[str, int]:
        """Source addresses that the outside host saw in `count` connections of a client; none may fail."""
        result = self.sandbox.probe(
            client,
            *("connect", "--count", str(count), "--target", OUTSIDE, "--port", str(ECHO_PORT)),
            timeout=120,
        )
        assert result["failed"] == 0, result
        sources: dict[str, int] = result["sources"]
        return sources

    @contextmanager
    def forwarded(self, target: str, port: int, namespace: str = "default") -> Iterator[str]:
        """`kubectl port-forward`: the address on this machine that leads to a port of the target."""
        argv = (self.cluster.bin / "kubectl", "port-forward", "-n", namespace, target, f":{port}")
        pipe = subprocess.PIPE
        with subprocess.Popen(
            argv, env=self.cluster.environment(), stdout=pipe, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                told = process.stdout.readline() if process.stdout else ""
                found = re.fullmatch(r"Forwarding from (127\.0\.0\.1:\d+) -> \d+", told.strip())
                assert found, told
                yield found[1].replace("127.0.0.1", "localhost")
            finally:
                process.terminate()

    def grpcurl(self, *args: str) -> subprocess.CompletedProcess[str]:
        """grpcurl, at most 20 s."""
        return self.cluster.run("grpcurl", "-max-time", "20", *args, timeout=30)

    def clean(self) -> None:
        """Remove what tests made in `default`, and the networks and VPCs that are not the cluster's own."""
        self.kubectl("delete", "veg", "--all", "-n", "default", "--timeout=90s", timeout=120)
        self.kubectl("delete", "pod", "--all", "-n", "default", "--timeout=60s", timeout=90)
        for kind, keep in (("subnet", "ovn-default"), ("vpc", "ovn-cluster")):
            for item in self.cluster.items(kind):
                if item["metadata"]["name"] != keep:
                    self.kubectl("delete", kind, item["metadata"]["name"], "--timeout=60s", timeout=90)
        self.kubectl("delete", "net-attach-def", "--all", "-n", "default")


@contextmanager
def system(cluster: Cluster, source: str, nodes: int = 3, values: Sequence[str] = ()) -> Iterator[Rig]:
    """A sandbox as the nodes of the cluster, with everything running; nothing is left of it afterwards.

    `values`: further arguments of `helm install`.
    """
    sandbox = Sandbox(f"k{os.getpid()}{source}")
    rig = Rig(cluster, sandbox, source)
    flags = ["--nodes", str(nodes), "--store", f"kube:{cluster.kubeconfig}"]
    try:
        if source == "processes":
            install_crds(cluster)
            sandbox("up", *flags, timeout=180)
        else:
            sandbox("up", *flags, "--without", "api,ovn-programmer", timeout=180)
            install(rig, *values)
        cluster.apply(DEFAULTS)
        yield rig
    finally:
        _take_down(rig)


def install_crds(cluster: Cluster) -> None:
    """The chart's CRDs without the chart."""
    cluster.kubectl("apply", "--server-side", "-f", str(CHART / "files" / "crds"))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


def install(rig: Rig, *values: str) -> str:
    """`helm install` of the chart; returns what it prints."""
    return rig.cluster.helm(
        *("install", RELEASE, str(CHART), "-n", RELEASE_NAMESPACE, "--create-namespace"),
        *("--set", f"ovn.northbound.remotes={{tcp:{rig.lab.nb_address}:6641}}"),
        *("--set", "crds.keep=false", "--wait", "--timeout", "120s", *values),
    )


def _take_down(rig: Rig) -> None:
    cluster = rig.cluster
    try:
        if cluster.run("kubectl", "get", "crd", "vpc-egress-gateways.kubeovn.io").returncode == 0:
            rig.clean()
            for kind in ("subnet", "vpc", "ip"):
                cluster.run("kubectl", "delete", kind, "--all", "--timeout=30s")
        if rig.source == "chart":
            cluster.run("helm", "uninstall", RELEASE, "-n", RELEASE_NAMESPACE, "--wait", timeout=120)
            cluster.run("kubectl", "delete", "namespace", RELEASE_NAMESPACE, "--timeout=60s", timeout=90)
        else:
            cluster.run("kubectl", "delete", "-f", str(CHART / "files" / "crds"), "--timeout=60s", timeout=90)
    finally:
        rig.sandbox("down", timeout=120)
