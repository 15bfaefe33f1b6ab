"""api beside Kube-OVN on a real API server, with no more rights than the chart gives it there."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest
from veg_common.objects import Object, Ref, ref_of
from veg_common.store import StoreError

from tests.functional.api.conftest import gateway
from tests.kube.api_lab import LABEL, ApiLab
from tests.kube.cluster import Cluster

THEIR_KIND = Path(__file__).with_name("kube_ovn_crd.yaml")
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


class WithTheirKind(Beside):
    """The cluster's kind VpcEgressGateway is Kube-OVN's too."""

    def _install(self) -> None:
        super()._install()
        self.cluster.apply(THEIR_KIND.read_text())

    async def __aenter__(self) -> Self:
        """Wait until the API server drops what their CRD does not know."""
        await super().__aenter__()
        await self.apply(gateway(replicas=2))
        await self.until(lambda: not self._keeps_nexthops())
        return self

    async def __aexit__(self, *arguments: object) -> None:
        """Our CRD again, for the next test."""
        await asyncio.to_thread(super()._install)
        await self.until(self._keeps_nexthops)
        await super().__aexit__(*arguments)

    def _keeps_nexthops(self) -> bool:
        patch = {"status": {"nexthops": ["10.16.0.9"], "phase": "Pending", "conditions": []}}
        where = ("veg", "gateway1", "-n", "default", "--subresource=status", "--type=merge")
        raw = self.cluster.kubectl("patch", *where, "-p", json.dumps(patch), "--dry-run=server", "-o", "json")
        return "nexthops" in json.loads(raw)["status"]


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


async def test_their_kind_of_gateway(cluster: Cluster, tmp_path: Path) -> None:
    """With Kube-OVN's own CRD: no status is refused, none is written again and again, and a pod that was ready once
    stays a nexthop although the API server does not keep that for us.
    """
    async with WithTheirKind(cluster, tmp_path, topology="kube-ovn") as lab:
        api = lab.start()

        async def completed() -> Object | None:
            status = await lab.status()
            return status if status.get("ready") and status["phase"] == "Completed" else None

        status = await lab.until(completed)
        assert len(status["internalIPs"]) == 2
        assert not {"nexthops", "pods", "observedGeneration"} & set(status)
        await lab.quiet(api)
        assert list(lab.programmer.gateway().families[0].nexthops) == status["internalIPs"]
        lab.paused = True
        pod = (await lab.pods())[0]
        conditions = [
            {**c, "status": "False"} if c["type"] in ("Ready", "ContainersReady") else c
            for c in pod["status"]["conditions"]
        ]
        await lab.store.update_status(ref_of(pod), {"status": {"conditions": conditions}})

        async def told() -> bool:
            found = await lab.condition("WorkloadReady")
            return bool(found["status"] == "False" and found["lastUpdateTime"])

        await lab.until(told)
        await lab.quiet(api)
        assert list(lab.programmer.gateway().families[0].nexthops) == status["internalIPs"]
        assert "Invalid" not in lab.logs()
