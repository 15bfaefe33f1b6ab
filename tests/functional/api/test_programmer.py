"""api and the real ovn-programmer on a real Northbound database; the test plays OVN, which writes a session's status."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from veg_common.objects import Ref
from veg_sandbox.ovn.root import ovn_root

from tests.functional.api.conftest import CLUSTER, Lab
from tests.functional.ovn_programmer.conftest import Ovsdb

THIRD = """
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: vpc1}
spec:
  bfdPort: {enabled: true, ip: "%s"}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: subnet1}
spec: {vpc: vpc1, cidrBlock: "%s"}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: macvlan}
spec: {provider: eth1.default, cidrBlock: "%s", excludeIps: [172.17.0.0..172.17.0.10]}
---
apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: {name: gateway2, namespace: default}
spec:
  vpc: vpc1
  replicas: 2
  internalSubnet: subnet1
  externalSubnet: macvlan
  bfd: {enabled: true}
  policies:
  - {snat: true, subnets: [subnet1]}
"""
FAMILIES = {
    "ipv4": ("10.255.255.255", "192.168.0.0/24", "172.17.0.0/16"),
    "ipv6": ("fdff::1", "fd00:192:168::/112", "fd17::/64"),
    "dual": ("10.255.255.255,fdff::1", "192.168.0.0/24,fd00:192:168::/112", "172.17.0.0/16,fd17::/64"),
}


class RealProgrammer:
    """The process, with the part of the fake's interface that Lab uses."""

    def __init__(self, folder: Path, nb: Ovsdb) -> None:
        self.listen = f"unix:{folder}/programmer.sock"
        self.nb = nb
        self._log = folder / "programmer.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; Lab waits for what it does."""
        argv = [
            sys.executable,
            "-m",
            "veg_ovn_programmer",
            "run",
            "--nb",
            self.nb.remote,
            "--listen",
            self.listen,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*argv, "--topology", "managed"], stderr=log, stdout=log)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def sessions(self) -> dict[str, str]:
        """Status of the gateway's BFD rows by peer; "" before OVN has looked at one."""
        return {row["dst_ip"]: _status(row) for row in self.nb.select("BFD").values()}

    def say(self, peer: str, status: str) -> None:
        """What ovn-controller and northd would write."""
        where = [["dst_ip", "==", peer]]
        self.nb.transact({"op": "update", "table": "BFD", "where": where, "row": {"status": status}})


def _status(row: Any) -> str:
    return row["status"] if isinstance(row["status"], str) else ""


@pytest.fixture
async def real() -> AsyncIterator[Lab]:
    """api, programmer and database, with a fresh cluster."""
    with tempfile.TemporaryDirectory(prefix=f"vega{os.getpid()}-") as name:
        folder = Path(name)
        nb = Ovsdb(ovn_root(), folder)
        nb.start()
        programmer = RealProgrammer(folder, nb)
        lab = Lab(folder)
        lab.programmer = programmer  # type: ignore[assignment]
        await lab.apply(CLUSTER)
        programmer.start()
        lab.start_api()
        kubelet = asyncio.create_task(lab.kubelet())
        yield lab
        kubelet.cancel()
        await asyncio.gather(kubelet, return_exceptions=True)
        lab.stop_api()
        programmer.kill()
        nb.kill()


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_third_example_on_real_rows(real: Lab, family: str) -> None:
    """Port, group, sessions and routes as the specification prints them; ready by the rows' status; nothing left."""
    programmer: Any = real.programmer
    nb: Ovsdb = programmer.nb
    await real.apply(THIRD % FAMILIES[family])
    count = 4 if family == "dual" else 2
    await real.until(lambda: len(programmer.sessions()) == count, 40)
    for row in nb.select("BFD").values():
        version = "6" if ":" in row["dst_ip"] else "4"
        marks = [["af", version], ["vendor", "kube-ovn"], ["vpc-egress-gateway", "default/gateway2"]]
        assert sorted(row["external_ids"][1]) == marks
        assert (row["logical_port"], row["min_tx"]) == ("bfd@vpc1", 1000)
        assert row["detect_mult"] == 3
    (port,) = [r for r in nb.select("Logical_Router_Port").values() if r["name"] == "bfd@vpc1"]
    networks = [port["networks"]] if isinstance(port["networks"], str) else port["networks"][1]
    assert {n.partition("/")[0] for n in networks} == set(FAMILIES[family][0].split(","))
    chassis = sorted(nb.select("HA_Chassis").values(), key=lambda r: -r["priority"])
    assert [r["chassis_name"] for r in chassis] == ["node1", "node2"]
    assert (await real.status("gateway2"))["ready"] is False
    for peer in programmer.sessions():
        programmer.say(peer, "up")
    await real.ready("gateway2", 40)
    assert {row["min_rx"] for row in nb.select("BFD").values()} == {1000}
    routes = [line for line in nb.routes("vpc1") if "src-ip" in line]
    assert len(routes) == count
    assert all(line.endswith("src-ip ecmp ecmp-symmetric-reply bfd") for line in routes)
    vpc = await real.get("Vpc", "vpc1")
    assert vpc is not None
    assert {c["type"]: c["status"] for c in vpc["status"]["conditions"]}["BFDPortReady"] == "True"

    first = min(programmer.sessions())
    programmer.say(first, "down")

    async def told() -> bool:
        condition = await real.condition("BfdSessionsUp", "gateway2")
        return condition["status"] == "False" and f"{first} is Down" in condition["message"]

    await real.until(told)
    assert (await real.status("gateway2"))["ready"] is False
    programmer.kill()
    programmer.start()
    await real.until(lambda: len(programmer.sessions()) == count)
    programmer.say(first, "up")
    await real.ready("gateway2", 40)

    for kind, namespace, name in (
        ("VpcEgressGateway", "default", "gateway2"),
        ("Subnet", "", "subnet1"),
        ("Vpc", "", "vpc1"),
    ):
        await real.store.delete(Ref(kind, namespace, name))

    async def gone() -> bool:
        rows = (r["name"] for t in ("Logical_Router", "Logical_Switch") for r in nb.select(t).values())
        return await real.get("Vpc", "vpc1") is None and not any("vpc1" in n or n == "subnet1" for n in rows)

    await real.until(gone, 40)
    assert nb.select("BFD") == nb.select("HA_Chassis_Group") == {}
