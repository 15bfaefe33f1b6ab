"""api beside Kube-OVN on a real API server, with no more rights than the chart gives it there."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from veg_common.objects import Object, Ref, ref_of
from veg_common.store import StoreError

from tests.functional.api.conftest import gateway
from tests.kube.api_lab import LABEL, ApiLab
from tests.kube.cluster import Cluster

_SIDES = (
    ("ovn.kubernetes.io", "ovn-default", ""),
    ("eth1.default.kubernetes.io", "macvlan1", ".eth1.default"),
)


class Beside(ApiLab):
    """Kube-OVN's part: an address of the pool for each network of a pod, and an IP object that records it."""

    async def _tend(self, pod: Object) -> None:
        annotations = pod["metadata"].get("annotations", {})
        if LABEL in pod["metadata"].get("labels", {}) and "deletionTimestamp" not in pod["metadata"]:
            for prefix, subnet, suffix in _SIDES:
                if f"{prefix}/allocated" not in annotations:
                    await self._give(pod, prefix, subnet, suffix)
        await super()._tend(pod)
        alive = {p["metadata"]["name"] for p in await self.store.list("Pod", "default")}
        for ip in await self.store.list("IP"):
            if ip["spec"]["podName"] not in alive:
                await self.store.delete(ref_of(ip))

    async def _give(self, pod: Object, prefix: str, subnet: str, suffix: str) -> None:
        name, annotations = pod["metadata"]["name"], pod["metadata"]["annotations"]
        used = {
            ip["spec"]["ipAddress"] for ip in await self.store.list("IP") if ip["spec"]["subnet"] == subnet
        }
        free = [text for text in annotations[f"{prefix}/ip_pool"].split(",") if text not in used]
        if not free:
            return  # Kube-OVN tries again
        spec = {
            "podName": name,
            "namespace": "default",
            "subnet": subnet,
            "ipAddress": free[0],
            "macAddress": "",
        }
        lists = {
            "attachIps": [],
            "attachMacs": [],
            "attachSubnets": [],
            "containerID": "",
            "nodeName": "",
            "podType": "",
        }
        families = {"v4IpAddress": free[0], "v6IpAddress": ""}
        with contextlib.suppress(StoreError):
            await self.store.create(
                {
                    "apiVersion": "kubeovn.io/v1",
                    "kind": "IP",
                    "metadata": {"name": f"{name}.default{suffix}"},
                    "spec": {**spec, **lists, **families},
                }
            )
        given = {"allocated": "true", "ip_address": free[0], "logical_switch": subnet}
        patch = {f"{prefix}/{key}": value for key, value in given.items()}
        await self.store.update(Ref("Pod", "default", name), {"metadata": {"annotations": patch}})


@pytest.fixture
async def lab(cluster: Cluster, tmp_path: Path) -> AsyncIterator[ApiLab]:
    """A cluster whose networks are Kube-OVN's, and no api yet."""
    async with Beside(cluster, tmp_path, topology="kube-ovn") as made:
        yield made


def written_by_us(cluster: Cluster, kind: str) -> list[str]:
    """Names of objects that bear a mark of api's."""
    raw = cluster.kubectl("get", kind, "-A", "-o", "json", "--show-managed-fields")
    return [
        item["metadata"]["name"]
        for item in json.loads(raw)["items"]
        if item["metadata"].get("finalizers") or item.get("status")
    ]


async def test_a_gateway_beside_kube_ovn(lab: ApiLab) -> None:
    """It asks through its template and reads from its pods; networks, addresses and their ports are left alone."""
    api = lab.start()
    await lab.apply(gateway(replicas=2))
    status = await lab.ready()
    pools = (await lab.get("Deployment") or {})["spec"]["template"]["metadata"]["annotations"]
    assert pools["ovn.kubernetes.io/ip_pool"] == "10.16.0.2,10.16.0.3,10.16.0.4"
    assert set(status["internalIPs"]) < set(pools["ovn.kubernetes.io/ip_pool"].split(","))
    assert lab.programmer.names(2) + lab.programmer.names(3) + lab.programmer.names(4) == []
    for kind in ("subnets.kubeovn.io", "vpcs.kubeovn.io", "ips.kubeovn.io"):
        assert written_by_us(lab.cluster, kind) == []
    await lab.quiet(api)

    old = {pod["metadata"]["name"] for pod in await lab.pods()}
    await asyncio.to_thread(lab.cluster.kubectl, "rollout", "restart", "deployment/gateway1", "-n", "default")

    async def replaced() -> bool:
        return not old & {pod["metadata"]["name"] for pod in await lab.pods()}

    await lab.until(replaced)
    again = await lab.ready()
    assert set(again["internalIPs"]) < set(pools["ovn.kubernetes.io/ip_pool"].split(","))
    await lab.quiet(api)
    assert "forbidden" not in lab.logs()

    await lab.store.delete(Ref("VpcEgressGateway", "default", "gateway1"))

    async def gone() -> bool:
        return not await lab.store.list("VpcEgressGateway") and not await lab.pods()

    await lab.until(gone)
