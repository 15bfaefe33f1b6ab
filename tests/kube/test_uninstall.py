"""Installing and uninstalling: nothing is left."""

from tests.kube.cluster import Cluster
from tests.kube.rig import RELEASE, RELEASE_NAMESPACE, example, system


def test_uninstalling_leaves_nothing(own_cluster: Cluster) -> None:
    """After a gateway was used: no resource, no kind, no row of the Northbound database, no network namespace of a pod."""
    with system(own_cluster, "chart") as rig:
        rig.cluster.apply(example("first.yaml"))
        rig.ready("gateway1")
        rig.clean()
        rig.kubectl("delete", "subnet", "ovn-default", "--timeout=30s")
        rig.kubectl("delete", "vpc", "ovn-cluster", "--timeout=30s")
        for table in ("Logical_Router", "Logical_Switch", "Logical_Router_Policy", "BFD"):
            # An unused Vpc has no finalizer: it is gone before its rows are.
            listing = ("nbctl", "--bare", "--columns=_uuid", "list", table)
            rig.eventually(lambda argv=listing: not rig.sandbox(*argv).strip(), 30, f"no {table}")
        rig.cluster.helm("uninstall", RELEASE, "-n", RELEASE_NAMESPACE, "--wait")
        rig.eventually(lambda: rig.lab.pod_ids() == [], 30, "no pods on the nodes")

        def left() -> str:
            types = rig.kubectl("api-resources", "--verbs=list,delete", "-o", "name").split()
            kinds = ",".join(name for name in types if not name.startswith("events"))
            label = f"app.kubernetes.io/instance={RELEASE}"
            return rig.kubectl("get", kinds, "-A", "-l", label, "-o", "name").strip()

        rig.eventually(lambda: not left(), 60, "no resource is left")
        assert "kubeovn" not in rig.kubectl("get", "crd", "-o", "name")
