"""The sandbox's own api and ovn-programmer on a cluster: `veg-sandbox up --store kube:…`, without the chart's pods."""

from tests.kube.cluster import Cluster
from tests.kube.rig import example, system


def test_services_as_processes(own_cluster: Cluster) -> None:
    """The first example works, and the commands of the sandbox work beside kubectl; a second `up` brings back a deleted node."""
    with system(own_cluster, "processes") as rig:
        rig.cluster.apply(example("first.yaml") + "---\n" + example("client.yaml"))
        rig.ready("gateway1")
        rig.running("client")
        assert rig.seen("client") == {"172.17.0.11": 20}
        assert "gateway1" in rig.sandbox("get", "veg")
        idle = {node.name for node in rig.lab.nodes} - {
            pod["spec"]["nodeName"] for pod in rig.cluster.items("pod", "-n", "default")
        }
        name = min(idle)
        rig.kubectl("delete", "node", name)
        rig.sandbox("up", "--nodes", "3")
        rig.eventually(lambda: " Ready" in rig.kubectl("get", "node", name), 60, "the node is back")
