"""The chart with a Northbound database of three servers, whose leader goes away."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from veg_sandbox.ovn.root import ovn_root

from tests.functional.ovn_programmer.cluster import Cluster as Northbound
from tests.kube.cluster import Cluster
from tests.kube.rig import Rig, example, system


@pytest.fixture(scope="module")
def northbound() -> Iterator[Northbound]:
    """Three servers on loopback."""
    with TemporaryDirectory(prefix="vegraft") as folder:  # short: sockets are in it
        servers = Northbound(ovn_root(), Path(folder), "tcp")
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()


@pytest.fixture(scope="module")
def rig(own_cluster: Cluster, northbound: Northbound) -> Iterator[Rig]:
    """The chart's system, told of all three servers."""
    remotes = ("--set", f"ovn.northbound.remotes={{{northbound.remote}}}")
    with system(own_cluster, "chart", values=remotes) as running:
        yield running


def test_the_leader_goes_away(rig: Rig, northbound: Northbound) -> None:
    """What is asked for while there is no leader is in the database of the next one, once; so is what comes later.

    Rows only: the nodes' OVN follows another database, so no replica ever serves, and a drop closes each source.
    """

    def policies() -> list[str]:
        listed = northbound.nbctl("lr-policy-list", "ovn-cluster").splitlines()
        return sorted(line.split()[3] for line in listed if line.split()[-1:] == ["drop"])

    def sources(*blocks: str) -> None:
        patch = json.dumps({"spec": {"policies": [{"snat": True, "ipBlocks": blocks}]}})
        rig.kubectl("patch", "veg", "gateway1", "--type=merge", "-p", patch)

    rig.cluster.apply(example("first.yaml"))
    rig.eventually(lambda: policies() == ["10.16.0.0/16"], 60, "the gateway's rows")
    for gone in (1, 2):
        leader = northbound.leader()
        leader.kill()
        block = f"10.16.{gone}.0/24"
        sources(block)
        rig.eventually(lambda wanted=block: policies() == [wanted], 60, "the new leader has the change")
        leader.start()
        northbound.leader()
        sources(block, "10.16.9.0/24")
        rig.eventually(lambda wanted=block: policies() == [wanted, "10.16.9.0/24"], 60, "and the next one")
