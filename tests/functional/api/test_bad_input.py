"""Files and resources that make no sense: told, and nobody else is hurt."""

import asyncio
from typing import Any

import pytest
from veg_sandbox.cli.objects import apply_one

from tests.functional.api.conftest import Lab, gateway

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown-vpc": ({"vpc": "nope"}, "spec.vpc"),
    "unknown-subnet": ({"externalSubnet": "nope"}, "spec.externalSubnet"),
    "no-nad": ({"externalSubnet": "nonad"}, "spec.externalSubnet"),
    "no-policies": ({"policies": []}, "spec.policies"),
    "empty-policy": ({"policies": [{"snat": True}]}, "spec.policies[0]"),
    "host-bits": ({"policies": [{"ipBlocks": ["10.16.0.1/16"]}]}, "spec.policies[0].ipBlocks[0]"),
    "family": ({"policies": [{"ipBlocks": ["fd00::/64"]}]}, "spec.policies[0].ipBlocks[0]"),
    "too-few": ({"replicas": 2, "internalIPs": ["10.16.0.77"]}, "spec.internalIPs"),
    "outside": ({"internalIPs": ["10.99.0.1"]}, "spec.internalIPs[0]"),
    "excluded": ({"externalIPs": ["172.17.0.5"]}, "spec.externalIPs[0]"),
    "taken": ({"externalIPs": ["172.17.0.11"]}, "spec.externalIPs[0]"),
    "twice": ({"internalIPs": ["10.16.0.77", "10.16.0.77"]}, "spec.internalIPs[1]"),
    "negative": ({"replicas": -1}, "spec.replicas"),
    "eleven": ({"replicas": 11}, "spec.replicas"),
    "words": ({"replicas": "two"}, "spec.replicas"),
    "huge-number": ({"replicas": 2**40}, "spec.replicas"),
    "multiplier": ({"bfd": {"multiplier": 256}}, "spec.bfd.multiplier"),
    "bfd": ({"bfd": {"enabled": True}}, "spec.bfd.enabled"),
    "spec-is-a-list": ({}, "spec"),
}


async def test_every_fault_has_a_condition_and_an_event(lab: Lab) -> None:
    """All bad gateways at once: each is told in its field, the good one among them completes."""
    await lab.apply(gateway("good"))
    await lab.ready("good")
    await lab.apply(
        "apiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: {name: nonad}\n"
        "spec: {cidrBlock: 172.18.0.0/24, provider: eth9.default}\n"
    )
    for name, (spec, _) in CASES.items():
        manifest = gateway(f"bad-{name}", **spec)
        if name == "spec-is-a-list":
            manifest = manifest.partition("spec:")[0] + "spec: [1, 2]\n"
        await lab.apply(manifest)
    for name, (_, field) in CASES.items():

        async def told(name: str = name, field: str = field) -> bool:
            condition = await lab.condition("Validated", f"bad-{name}")
            return condition.get("status") == "False" and field in condition["message"]

        await lab.until(told)
        assert (await lab.status(f"bad-{name}"))["phase"] == "Pending"
    events = {(e["involvedObject"]["name"], e["message"]) for e in await lab.store.list("Event")}
    for name, (_, field) in CASES.items():
        assert any(about == f"bad-{name}" and field in message for about, message in events)
    await lab.apply(gateway("good", replicas=2))
    await lab.ready("good")
    assert [d["metadata"]["name"] for d in await lab.store.list("Deployment")] == ["good"]


async def test_a_bad_change_survives_a_restart_of_api(lab: Lab) -> None:
    """The last good state is looked after by a process that never saw it in the resource."""
    await lab.apply(gateway(replicas=2))
    before = await lab.ready()
    rows = lab.programmer.gateway()
    await lab.apply(gateway(replicas=2, policies=[], externalSubnet="nope"))
    lab.stop_api()
    lab.programmer.rows.clear()
    lab.start_api()
    await lab.until(lambda: lab.programmer.gateway() == rows)
    (first, *_) = await lab.store.list("Pod")
    from veg_common.objects import ref_of

    await lab.store.delete(ref_of(first))

    async def replaced() -> bool:
        pods = {p["metadata"]["name"] for p in await lab.store.list("Pod")}
        status = await lab.status()
        same = (status["internalIPs"], status["externalIPs"]) == (
            before["internalIPs"],
            before["externalIPs"],
        )
        return first["metadata"]["name"] not in pods and status["ready"] and same

    await lab.until(replaced)
    condition = await lab.condition("Validated")
    assert condition["status"] == "False"
    assert "spec.policies" in condition["message"]
    assert "spec.externalSubnet" in condition["message"]


@pytest.mark.parametrize(
    "content",
    ["apiVersion: [", "x: " + "y" * 5_000_000, "kind: Unheard\napiVersion: v1\nmetadata: {name: a}"],
)
async def test_a_broken_file_hurts_nobody(lab: Lab, content: str) -> None:
    """Malformed, huge or of an unknown kind, over a good gateway's manifest: the gateway goes on, also over a restart."""
    await lab.apply(gateway())
    await lab.ready()
    await lab.until(lambda: lab.programmer.resyncs == 1)
    rows, ports = lab.programmer.gateway(), lab.programmer.names(4)
    path = lab.root / "vpc-egress-gateways" / "default" / "gateway1.yaml"
    good = path.read_text()
    path.write_text(content)

    async def told() -> bool:
        return any(e["reason"] == "Unreadable" for e in await lab.store.list("Event"))

    await lab.until(told)
    await lab.apply(gateway("other"))
    await lab.ready("other")
    lab.stop_api()
    lab.start_api()
    await lab.apply(gateway("third"))
    await lab.ready("third")
    await asyncio.sleep(0.3)
    assert lab.programmer.gateway() == rows
    assert set(ports) <= set(lab.programmer.names(4))
    assert lab.programmer.resyncs == 1  # what can not be read may exist: nothing is declared complete
    path.write_text(good)
    await lab.until(lambda: lab.programmer.resyncs == 2)
    await lab.ready()


async def test_a_broken_file_that_goes_is_gone(lab: Lab) -> None:
    """A file that never could be read and is removed holds up nothing."""
    lab.stop_api()
    folder = lab.root / "vpc-egress-gateways" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "never.yaml").write_text("apiVersion: [")
    resyncs = lab.programmer.resyncs
    lab.start_api()
    await lab.apply(gateway())
    await lab.ready()
    assert lab.programmer.resyncs == resyncs
    (folder / "never.yaml").unlink()
    await lab.until(lambda: lab.programmer.resyncs == resyncs + 1)


async def test_what_is_ours_comes_back(lab: Lab) -> None:
    """Deployment, ConfigMap and IP objects deleted or changed by hand are put right."""
    await lab.apply(gateway())
    status = await lab.ready()
    from veg_common.objects import Ref

    await lab.store.delete(Ref("ConfigMap", "default", "gateway1-config"))
    await lab.store.delete(Ref("IP", "", "gateway1-0.default"))
    await lab.store.update(Ref("Deployment", "default", "gateway1"), {"spec": {"replicas": 5}})

    async def back() -> bool:
        deployment = await lab.get("Deployment", "gateway1")
        objects = [await lab.get("ConfigMap", "gateway1-config"), await lab.get("IP", "gateway1-0.default")]
        return all(objects) and deployment is not None and deployment["spec"]["replicas"] == 1

    await lab.until(back)
    after = await lab.ready()
    assert after["internalIPs"] == status["internalIPs"]
    await lab.store.delete(Ref("Deployment", "default", "gateway1"))

    async def made_again() -> bool:
        return await lab.get("Deployment", "gateway1") is not None

    await lab.until(made_again)
    assert (await lab.ready())["externalIPs"] == status["externalIPs"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--store", "kubernetes", "--programmer", "unix:/x", "--listen", "unix:/y"], "--store"),
        (["--store", "folder:/x", "--programmer", "here", "--listen", "unix:/y"], "--programmer"),
        (["--store", "folder:/x", "--programmer", "unix:/x"], "--listen"),
    ],
)
def test_usage_errors(flags: list[str], text: str) -> None:
    """A wrong flag is exit code 2 with the flag's name on stderr."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "veg_api", "run", *flags],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert text in done.stderr


async def test_nonsense_in_any_object_hurts_nobody(lab: Lab) -> None:
    """What hands write into objects of every kind ends no loop: others are served, the gRPC lists answer."""
    await lab.apply(gateway("victim"))
    await lab.ready("victim")
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: odd, namespace: default, %s}\nspec: %s\n"
    files = {
        "pods/default/odd.yaml": pod % ("creationTimestamp: [1]", "{}"),
        "pods/default/odder.yaml": (pod % ("labels: {}", "[x]")).replace("odd,", "odder,"),
        "vpcs/odd.yaml": "apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: {name: odd, generation: x}\nspec: 3\n",
        "subnets/odd.yaml": "apiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: {name: odd}\nspec: [[]]\n",
        "ips/odd.yaml": (
            "apiVersion: kubeovn.io/v1\nkind: IP\nmetadata: {name: odd}\nspec: {v4IpAddress: [1], subnet: {}}\n"
        ),
        "nodes/odd.yaml": "apiVersion: v1\nkind: Node\nmetadata: {name: odd}\nstatus: {conditions: 7}\n",
    }
    for name, text in files.items():
        (lab.root / name).write_text(text)
    from veg_common.objects import Ref

    nonsense = {"conditions": [{"type": []}, 3], "internalIPs": 5, "workload": "x", "nexthops": ["y"]}
    await lab.store.update_status(Ref("VpcEgressGateway", "default", "victim"), {"status": nonsense})
    await lab.apply(gateway("other", replicas=2))
    await lab.ready("other")
    await lab.ready("victim")
    assert lab.process is not None
    assert lab.process.poll() is None
    async with lab.stub() as stub:
        from veg.api.v1 import api_pb2

        async def listed() -> bool:
            found = await stub.ListGateways(api_pb2.ListGatewaysRequest(), timeout=5)
            return [g.status.ready for g in found.gateways] == [True, True]

        await lab.until(listed)


@pytest.mark.parametrize(
    "metadata",
    [
        "{name: a, generation: x}",
        "{name: a, labels: [1]}",
        "{name: a, finalizers: {}}",
        "{name: a, creationTimestamp: 3}",
        "{name: a, uid: {}}",
        "{name: 5}",
        "{name: a, namespace: [b]}",
        "3",
    ],
)
async def test_odd_metadata_is_the_callers_fault(lab: Lab, metadata: str) -> None:
    """Validate and Plan answer INVALID_ARGUMENT with a line that says what is odd."""
    import grpc
    from veg.api.v1 import api_pb2

    manifest = f"apiVersion: kubeovn.io/v1\nkind: VpcEgressGateway\nmetadata: {metadata}\nspec: {{}}\n"
    async with lab.stub() as stub:
        for call, request in (
            (stub.ValidateGateway, api_pb2.ValidateGatewayRequest(manifest=manifest)),
            (stub.PlanGateway, api_pb2.PlanGatewayRequest(manifest=manifest)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(request, timeout=5)
            assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "metadata" in str(failure.value.details())


async def test_applying_over_a_broken_file_heals(lab: Lab) -> None:
    """A new manifest over one that can not be read is a gateway again, with the addresses it had."""
    await lab.apply(gateway())
    before = await lab.ready()
    path = lab.root / "vpc-egress-gateways" / "default" / "gateway1.yaml"
    path.write_text("apiVersion: [")

    async def told() -> bool:
        return any(e["reason"] == "Unreadable" for e in await lab.store.list("Event"))

    await lab.until(told)
    from veg_common.objects import parse_manifests

    (manifest,) = parse_manifests(gateway(replicas=2))
    assert await apply_one(lab.store, manifest, print) == "vpcegressgateway.kubeovn.io/gateway1 created"
    after = await lab.ready()
    assert len(after["externalIPs"]) == 2
    assert set(before["externalIPs"]) <= set(after["externalIPs"])
    stored = await lab.get("VpcEgressGateway", "gateway1")
    deployment = await lab.get("Deployment", "gateway1")
    assert stored is not None
    assert deployment is not None
    assert stored["metadata"]["finalizers"] == ["kubeovn.io/vpc-egress-gateway"]
    assert deployment["metadata"]["ownerReferences"][0]["uid"] == stored["metadata"]["uid"]
