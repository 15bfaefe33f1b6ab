"""The chart on a real API server: install, upgrade, rights, uninstall. Without nodes, so that no pod runs."""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from veg_api.io.election import LEASE_NAME

from tests.kube.cluster import Cluster, KubectlError

CHART = Path(__file__).resolve().parents[2] / "charts/vpc-egress-gateway"
NAMESPACE = "egress"
NAME = "veg-vpc-egress-gateway"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{NAME}-api"
GROUPS = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
REMOTES = ("--set", "ovn.northbound.remotes={tcp:192.0.2.1:6641}")
CRDS = {
    yaml.safe_load(path.read_text())["metadata"]["name"]: path
    for path in sorted((CHART / "files/crds").glob("*.yaml"))
}

Ask = tuple[str, str]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane of its own: what is installed for the whole cluster is tested."""
    running = Cluster.start(tmp_path_factory.mktemp("chart"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def installed(own: Cluster) -> Iterator[Cluster]:
    """A cluster with the chart; afterwards nothing of it is left."""
    install(own)
    yield own
    own.run("helm", "uninstall", "veg", "-n", NAMESPACE, "--wait")
    for name in CRDS:
        own.kubectl("delete", "crd", name, "--ignore-not-found")


def install(cluster: Cluster, *args: str) -> None:
    """Install or upgrade."""
    argv = ("upgrade", "--install", "veg", str(CHART), "-n", NAMESPACE, "--create-namespace")
    cluster.helm(*argv, *REMOTES, *args)


def certificate(cluster: Cluster) -> dict[str, str]:
    """The secret's files."""
    found: dict[str, str] = cluster.get("secret", f"{NAME}-tls", NAMESPACE)["data"]
    return found


def crds(cluster: Cluster) -> set[str]:
    """Names of our CRDs that are there."""
    return set(CRDS) & {crd["metadata"]["name"] for crd in cluster.items("crd")}


def ours(cluster: Cluster) -> list[str]:
    """Whatever bears the release's labels, of every type that can be listed and deleted."""
    types = cluster.kubectl("api-resources", "--verbs=list,delete", "-o", "name").split()
    types = [name for name in types if not name.startswith("events")]
    argv = ("-A", "-l", "app.kubernetes.io/instance=veg", "-o", "name", "--ignore-not-found")
    return cluster.kubectl("get", ",".join(types), *argv).split()


def allowed(cluster: Cluster, asked: Iterable[Ask], namespace: str = "default") -> dict[Ask, bool]:
    """What of this (verb, `resource.group/subresource` or `resource.group:name`) the api's service account may."""
    asked = list(asked)
    reviews = [_review(verb, resource, namespace) for verb, resource in asked]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    said = cluster.kubectl("create", "-f", "-", "-o", 'jsonpath={.status.allowed}{"\\n"}', input=listed)
    return {key: answer == "true" for key, answer in zip(asked, said.splitlines(), strict=True)}


def _review(verb: str, resource: str, namespace: str) -> dict[str, Any]:
    kind, _, name = resource.partition(":")
    kind, _, subresource = kind.partition("/")
    kind, _, group = kind.partition(".")
    attributes = {
        "verb": verb,
        "group": group,
        "resource": kind,
        "subresource": subresource,
        "name": name,
        "namespace": namespace,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "groups": GROUPS, "resourceAttributes": attributes},
    }


def test_install_upgrade_uninstall(installed: Cluster) -> None:
    """An upgrade changes what was changed and keeps the certificate; uninstalling leaves nothing but CRDs."""
    assert crds(installed) == set(CRDS)
    before = certificate(installed)
    install(installed, "--set", "api.replicas=3", "--set", "api.resources.limits.memory=1Gi")
    deployment = installed.get("deployment", f"{NAME}-api", NAMESPACE)
    assert deployment["spec"]["replicas"] == 3
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    assert certificate(installed) == before
    assert installed.kubectl("get", "veg", "-A").strip() == ""
    installed.helm("uninstall", "veg", "-n", NAMESPACE, "--wait")
    assert crds(installed) == set(CRDS)
    left = [name for name in ours(installed) if not name.startswith("customresourcedefinition")]
    # The controller of endpoints is not done yet.
    installed.until(
        lambda: not [name for name in ours(installed) if not name.startswith("customresourcedefinition")],
        what=f"nothing is left of {left}",
        timeout=30,
    )
    install(installed)
    assert certificate(installed) != before


def test_without_keep_uninstalling_takes_the_crds(installed: Cluster) -> None:
    """crds.keep=false: no object of the release is left."""
    install(installed, "--set", "crds.keep=false")
    installed.helm("uninstall", "veg", "-n", NAMESPACE, "--wait")
    installed.until(lambda: not crds(installed), what="the CRDs are gone", timeout=30)
    installed.until(lambda: not ours(installed), what="nothing is left", timeout=30)


def test_the_certificate_is_made_anew_when_it_must(installed: Cluster) -> None:
    """For a new name, and after its secret was deleted; the authority's name does not matter to either."""
    before = certificate(installed)
    install(installed, "--set", "tls.extraDnsNames={egress.example}")
    named = certificate(installed)
    assert named["tls.crt"] != before["tls.crt"]
    install(installed, "--set", "tls.extraDnsNames={egress.example}")
    assert certificate(installed) == named
    installed.kubectl("delete", "secret", f"{NAME}-tls", "-n", NAMESPACE)
    install(installed, "--set", "tls.extraDnsNames={egress.example}")
    anew = certificate(installed)
    assert anew["ca.crt"] != named["ca.crt"]
    assert b"BEGIN CERTIFICATE" in base64.b64decode(anew["tls.crt"])


def test_crds_of_others_are_left_alone(own: Cluster) -> None:
    """With install=auto theirs stay as they are and stay at all; with true helm refuses to take them over."""
    name = "vpcs.kubeovn.io"
    foreign = yaml.safe_load(CRDS[name].read_text())
    foreign["metadata"]["labels"] = {"of": "kube-ovn"}
    own.kubectl("create", "-f", "-", input=json.dumps(foreign))
    try:
        install(own, "--set", "topology=kube-ovn", "--set", "crds.keep=false")
        assert crds(own) == set(CRDS)
        assert own.get("crd", name)["metadata"]["labels"] == {"of": "kube-ovn"}
        with pytest.raises(KubectlError, match="invalid ownership metadata"):
            install(own, "--set", "topology=kube-ovn", "--set", "crds.vpc.install=true")
        own.helm("uninstall", "veg", "-n", NAMESPACE, "--wait")
        own.until(lambda: crds(own) == {name}, what="only theirs is left", timeout=30)
    finally:
        own.run("helm", "uninstall", "veg", "-n", NAMESPACE, "--wait")
        for crd in CRDS:
            own.kubectl("delete", "crd", crd, "--ignore-not-found")


# What api does, beyond reading, in both topologies; what it does in the managed one; what nobody needs.
WRITES = (
    ("patch", "vpc-egress-gateways.kubeovn.io"),
    ("patch", "vpc-egress-gateways.kubeovn.io/status"),
    ("update", "vpc-egress-gateways.kubeovn.io/finalizers"),
    *((verb, "deployments.apps") for verb in ("create", "patch", "delete")),
    *((verb, "configmaps") for verb in ("create", "patch", "delete")),
    *((verb, "poddisruptionbudgets.policy") for verb in ("create", "patch", "delete")),
    *((verb, "pods") for verb in ("patch", "delete")),
    *((verb, "events") for verb in ("get", "list", "watch", "create", "patch")),
)
MANAGED = (
    *((verb, "ips.kubeovn.io") for verb in ("create", "patch", "delete")),
    ("patch", "vpcs.kubeovn.io"),
    ("patch", "vpcs.kubeovn.io/status"),
    ("patch", "subnets.kubeovn.io"),
    ("patch", "subnets.kubeovn.io/status"),
)
READS = (
    *(f"{kind}.kubeovn.io" for kind in ("vpc-egress-gateways", "vpcs", "subnets", "ips")),
    "network-attachment-definitions.k8s.cni.cncf.io",
    *("pods", "nodes", "namespaces", "configmaps", "deployments.apps", "poddisruptionbudgets.policy"),
)
NEVER = (
    *((verb, "secrets") for verb in ("get", "list", "watch", "create")),
    *((verb, "vpc-egress-gateways.kubeovn.io") for verb in ("create", "delete")),
    *((verb, "vpcs.kubeovn.io") for verb in ("create", "delete")),
    *((verb, "subnets.kubeovn.io") for verb in ("create", "delete")),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("patch", "nodes"),
    ("patch", "namespaces"),
    ("delete", "events"),
    ("create", "network-attachment-definitions.k8s.cni.cncf.io"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
    ("get", "leases.coordination.k8s.io"),
)


def test_rights_of_the_api(installed: Cluster) -> None:
    """The service account may do what api does, and nothing of what it does not; fewer beside Kube-OVN."""
    reads = [(verb, kind) for kind in READS for verb in ("get", "list", "watch")]
    _until_right(installed, [*reads, *WRITES, *MANAGED])
    assert _granted(installed, NEVER) == []
    lease = "leases.coordination.k8s.io"
    mine = [("create", lease), ("get", f"{lease}:{LEASE_NAME}"), ("patch", f"{lease}:{LEASE_NAME}")]
    assert all(allowed(installed, mine, NAMESPACE).values())
    others = [("get", f"{lease}:other"), ("patch", f"{lease}:other"), ("delete", f"{lease}:{LEASE_NAME}")]
    assert not any(allowed(installed, others, NAMESPACE).values())
    install(installed, "--set", "topology=kube-ovn")
    # What was granted before may be for a moment longer.
    installed.until(lambda: not _granted(installed, MANAGED), what="fewer rights beside Kube-OVN")
    _until_right(installed, [*reads, *WRITES])


def _until_right(cluster: Cluster, asked: Sequence[Ask]) -> None:
    """The API server learns of roles by watches of its own."""
    cluster.until(lambda: not _refused(cluster, asked), what="all that api does is allowed")


def _refused(cluster: Cluster, asked: Iterable[Ask]) -> list[Ask]:
    return [key for key, yes in allowed(cluster, asked).items() if not yes]


def _granted(cluster: Cluster, asked: Iterable[Ask]) -> list[Ask]:
    return [key for key, yes in allowed(cluster, asked).items() if yes]
