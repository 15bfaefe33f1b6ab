"""Beside Kube-OVN: it owns networks and addresses, api asks it for what gateways should get and reads what they got."""

from collections.abc import Iterable

import pytest
from veg_api.core.change import Change
from veg_api.core.intents import GatewayIntent
from veg_api.core.workload import Defaults
from veg_common.objects import Object

from tests.unit.api.conftest import World, cluster, gateway, obj

POOL = "ovn.kubernetes.io/ip_pool"
OUTER_POOL = "eth1.default.kubernetes.io/ip_pool"
_SIDES = (
    ("ovn.kubernetes.io", "ovn-default", ""),
    ("eth1.default.kubernetes.io", "macvlan1", ".eth1.default"),
)


class KubeOvn(World):
    """Kube-OVN gives pods their addresses, and nobody else touches what is its own."""

    def __init__(self, *objects: Object) -> None:
        super().__init__(*objects)
        self.defaults = Defaults(kube_ovn=True)

    def carry_out(self, changes: Iterable[Change]) -> None:
        """As the store, after a look at who writes what."""
        listed = list(changes)
        for change in listed:
            assert change.ref.kind not in ("Vpc", "Subnet", "IP"), change
            if change.ref.kind == "Pod":
                annotations = getattr(change, "patch", {}).get("metadata", {}).get("annotations", {})
                assert set(annotations) <= {"vpc-egress-gateway/config-generation"}
        super().carry_out(listed)

    def _kubelet(self, *, ready: bool) -> bool:
        """Addresses out of the pools that pods name (else any), then as ever."""
        busy = self._collect()
        for pod in self.gateway_pods():
            annotations = pod["metadata"]["annotations"]
            for prefix, subnet, suffix in _SIDES:
                if f"{prefix}/allocated" in annotations:
                    continue
                assert annotations[f"{prefix}/logical_switch"] == subnet
                pool = annotations[f"{prefix}/ip_pool"]
                used = {ip["spec"]["ipAddress"] for ip in self.all("IP") if ip["spec"]["subnet"] == subnet}
                free = [item for item in pool.split(";" if ";" in pool else ",") if item not in used]
                if not free:
                    continue  # Kube-OVN tries again and again
                busy = True
                self._give(pod, prefix, subnet, suffix, free[-1])
        return super()._kubelet(ready=ready) or busy

    def _give(self, pod: Object, prefix: str, subnet: str, suffix: str, text: str) -> None:
        given = {"allocated": "true", "ip_address": text, "logical_switch": subnet, "cidr": "", "gateway": ""}
        name = pod["metadata"]["name"]
        self.update(
            "Pod", name, {"metadata": {"annotations": {f"{prefix}/{k}": v for k, v in given.items()}}}
        )
        spec = {"podName": name, "namespace": "default", "subnet": subnet, "ipAddress": text}
        self.put(obj("IP", f"{name}.default{suffix}", spec=spec))

    def _collect(self) -> bool:
        alive = {pod["metadata"]["name"] for pod in self.all("Pod")}
        gone = [ip for ip in self.all("IP") if ip["spec"]["podName"] not in alive]
        for ip in gone:
            self.vanish("IP", ip["metadata"]["name"])
        return bool(gone)


@pytest.fixture
def beside() -> KubeOvn:
    """The specification's first example with two replicas, settled."""
    world = KubeOvn(*cluster())
    world.put(gateway(replicas=2))
    world.settle()
    return world


def pools(world: World) -> tuple[str, str]:
    """What Kube-OVN is asked to choose from."""
    deployment = world.get("Deployment", "gateway1")
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert POOL not in deployment["metadata"].get("annotations", {})
    return annotations[POOL], annotations[OUTER_POOL]


def hops(world: World) -> list[str]:
    """Nexthops that the programmer holds."""
    intent = world.intent()
    assert isinstance(intent, GatewayIntent)
    return [hop for family in intent.families for hop in family.nexthops]


def names(world: World) -> set[str]:
    """Names of the gateway's pods."""
    return {pod["metadata"]["name"] for pod in world.gateway_pods()}


def test_pods_are_given_addresses_by_kube_ovn(beside: KubeOvn) -> None:
    """The pools have one address to spare; status and nexthops are what the pods got of them."""
    assert pools(beside) == ("10.16.0.2,10.16.0.3,10.16.0.4", "172.17.0.11,172.17.0.12,172.17.0.13")
    assert beside.status()["ready"] is True
    assert beside.status()["internalIPs"] == hops(beside)
    assert len(hops(beside)) == 2
    assert set(hops(beside)) <= set(pools(beside)[0].split(","))
    assert beside.status()["pods"][0]["externalIPs"] in pools(beside)[1]


def test_listed_addresses_are_the_pool() -> None:
    """What the resource lists is asked for as it is, dual-stack in Kube-OVN's spelling."""
    world = KubeOvn(*cluster("dual"))
    ips = ["172.17.0.21,fd17::21", "172.17.0.22,fd17::22"]
    world.put(gateway(externalIPs=ips))
    world.settle()
    assert pools(world)[1] == ";".join(ips)
    assert world.status()["externalIPs"][0] in ips


def test_addresses_outlive_pods_and_objects(beside: KubeOvn) -> None:
    """Neither a restart of pods nor a Deployment deleted by hand changes what the outside knows."""
    before = pools(beside)
    for name in names(beside):
        beside.remove("Pod", name)
    beside.settle()
    assert pools(beside) == before
    beside.vanish("Deployment", "gateway1")
    beside.settle()
    assert pools(beside) == before
    assert beside.status()["ready"] is True


def test_scaling_down_replaces_nobody(beside: KubeOvn) -> None:
    """A pool only grows, and only when it has to: a smaller gateway keeps its pods and its pool."""
    before, pool = names(beside), pools(beside)
    beside.update("VpcEgressGateway", "gateway1", {"spec": {"replicas": 1}})
    beside.settle()
    assert names(beside) < before
    assert pools(beside) == pool
    beside.update("VpcEgressGateway", "gateway1", {"spec": {"replicas": 2}})
    beside.settle()
    assert pools(beside) == pool
    beside.update("VpcEgressGateway", "gateway1", {"spec": {"replicas": 3}})
    beside.settle()
    assert pools(beside)[0].startswith(f"{pool[0]},")
    assert beside.status()["ready"] is True


def test_an_address_that_kube_ovn_gave_away_is_replaced(beside: KubeOvn) -> None:
    """Nobody holds a pool's spare address for us: when a stranger got it, another one takes its place."""
    spare = next(text for text in pools(beside)[0].split(",") if text not in hops(beside))
    spec = {"podName": "client", "namespace": "default", "subnet": "ovn-default", "ipAddress": spare}
    beside.put(obj("Pod", "client", "default", spec={"nodeName": "node1"}))
    beside.put(obj("IP", "client.default", spec=spec))
    beside.settle()
    assert spare not in pools(beside)[0].split(",")
    assert len(pools(beside)[0].split(",")) == 3


def test_two_gateways_never_share_an_address(beside: KubeOvn) -> None:
    """What one gateway's pool holds is taken for every other."""
    beside.put(gateway("gateway2", policies=[{"snat": True, "ipBlocks": ["10.16.9.0/24"]}]))
    beside.step()
    template = beside.get("Deployment", "gateway2")["spec"]["template"]["metadata"]["annotations"]
    for prefix, mine in zip((POOL, OUTER_POOL), pools(beside), strict=True):
        assert not set(template[prefix].split(",")) & set(mine.split(","))


def test_a_gateway_leaves_nothing_behind(beside: KubeOvn) -> None:
    """Deletion takes the workload; addresses are Kube-OVN's to collect."""
    beside.remove("VpcEgressGateway", "gateway1")
    beside.settle()
    for kind in ("VpcEgressGateway", "Deployment", "ConfigMap", "PodDisruptionBudget", "Pod", "IP"):
        assert beside.all(kind) == []
