"""The control plane that the other tests stand on."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.kube.cluster import Cluster, KubectlError

NAMESPACE = "of-test-cluster"


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace for one test."""
    cluster.kubectl("create", "namespace", NAMESPACE)
    yield NAMESPACE
    # Nobody plays kubelet here: what is bound to a node goes only by force.
    cluster.kubectl("delete", "deployment", "--all", "-n", NAMESPACE)
    cluster.kubectl("delete", "pod", "--all", "-n", NAMESPACE, "--force", "--grace-period=0")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true")


@pytest.fixture
def node(cluster: Cluster) -> Iterator[str]:
    """A node that only exists on paper."""
    name = "paper"
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    }
    cluster.kubectl("create", "-f", "-", input=json.dumps(node))
    yield name
    cluster.kubectl("delete", "node", name)


def test_the_cluster_is_ready_and_tells_its_version(cluster: Cluster) -> None:
    """Every part that the API server checks is fine, and client and server tell the version that was built."""
    assert "ok" in cluster.kubectl("get", "--raw", "/readyz")
    version = json.loads(cluster.kubectl("version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"] == version["clientVersion"]["gitVersion"]
    assert "version.BuildInfo" in cluster.helm("version")


def test_a_deployment_gets_pods_on_a_node(cluster: Cluster, namespace: str, node: str) -> None:
    """The Deployment and ReplicaSet controllers make pods and the scheduler binds them."""
    cluster.kubectl("create", "deployment", "web", "--image=none", "--replicas=2", "-n", namespace)

    def bound() -> bool:
        pods = cluster.items("pod", "-n", namespace)
        return len(pods) == 2 and all(pod["spec"].get("nodeName") == node for pod in pods)

    cluster.until(bound, what="two pods are bound", timeout=30)


def test_who_was_granted_nothing_may_do_nothing(cluster: Cluster, namespace: str) -> None:
    """RBAC is on: a user and a service account without roles are refused, and allowed what a role grants."""
    account = f"system:serviceaccount:{namespace}:default"
    cluster.until(
        lambda: cluster.run("kubectl", "get", "sa", "default", "-n", namespace).returncode == 0,
        what="the namespace has its service account",
    )
    for user in ("alice", account):
        with pytest.raises(KubectlError, match="Forbidden"):
            cluster.kubectl("get", "pods", "-n", namespace, kubeconfig=cluster.token_kubeconfig(user))
    cluster.kubectl(
        *("create", "rolebinding", "reader", "-n", namespace, "--clusterrole=view"),
        f"--serviceaccount={namespace}:default",
    )
    kubeconfig = cluster.token_kubeconfig(account)
    cluster.until(
        lambda: cluster.run("kubectl", "get", "pods", "-n", namespace, kubeconfig=kubeconfig).returncode == 0,
        what="the role is in force",
    )


def test_the_api_server_comes_back_as_it_was(cluster: Cluster, namespace: str) -> None:
    """After kill -9 of the API server all objects are there again at the same address, within seconds."""
    cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b", "-n", namespace)
    cluster.kill_apiserver()
    assert not cluster.answers("/readyz")
    begun = time.monotonic()
    cluster.start_apiserver()
    assert time.monotonic() - begun < 60
    assert cluster.get("configmap", "kept", namespace)["data"] == {"a": "b"}
