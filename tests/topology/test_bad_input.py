"""Bad input: told with field and reason, while other gateways go on."""

from collections.abc import Callable, Iterator

import pytest
from veg_sandbox.harness import eventually

from tests.topology.conftest import Lab, gateway, pod, subnet, together, vpc

GOOD = "[{snat: true, ipBlocks: [10.16.0.0/16]}]"
OTHER = "[{snat: true, ipBlocks: [10.16.250.0/24]}]"

CASES = {
    "unknown-vpc": (gateway("bad", OTHER, vpc="nowhere"), "spec.vpc", "nowhere"),
    "unknown-internal-subnet": (
        gateway("bad", OTHER, internalSubnet="nowhere"),
        "spec.internalSubnet",
        "nowhere",
    ),
    "unknown-external-subnet": (
        gateway("bad", OTHER, externalSubnet="nowhere"),
        "spec.externalSubnet",
        "nowhere",
    ),
    "unknown-policy-subnet": (
        gateway("bad", "[{subnets: [nowhere]}]"),
        "spec.policies[0].subnets[0]",
        "nowhere",
    ),
    "no-nad": (gateway("bad", OTHER, externalSubnet="nonad"), "spec.externalSubnet", "default/eth9"),
    "no-provider": (gateway("bad", OTHER, externalSubnet="ovn-default"), "spec.externalSubnet", "provider"),
    "no-policies": (gateway("bad", "[]"), "spec.policies", "at least one"),
    "empty-policy": (gateway("bad", "[{snat: true}]"), "spec.policies[0]", "ipBlocks"),
    "host-bits": (
        gateway("bad", "[{ipBlocks: [10.16.0.1/16]}]"),
        "spec.policies[0].ipBlocks[0]",
        "10.16.0.0/16",
    ),
    "family": (gateway("bad", "[{ipBlocks: ['fd00::/64']}]"), "spec.policies[0].ipBlocks[0]", "IPv6"),
    "too-few-ips": (gateway("bad", OTHER, replicas=2, internalIPs=["10.16.0.77"]), "spec.internalIPs", "2"),
    "too-few-external": (
        gateway("bad", OTHER, replicas=2, externalIPs=["172.17.0.77"]),
        "spec.externalIPs",
        "2",
    ),
    "outside-subnet": (gateway("bad", OTHER, internalIPs=["10.99.0.1"]), "spec.internalIPs[0]", "10.99.0.1"),
    "excluded": (gateway("bad", OTHER, externalIPs=["172.17.0.5"]), "spec.externalIPs[0]", "excluded"),
    "given-twice": (
        gateway("bad", OTHER, internalIPs=["10.16.0.77", "10.16.0.77"]),
        "spec.internalIPs[1]",
        "twice",
    ),
    "taken": (gateway("bad", OTHER, externalIPs=["172.17.0.11"]), "spec.externalIPs[0]", "good"),
    "negative": (gateway("bad", OTHER, replicas=-1), "spec.replicas", "-1"),
    "too-many": (gateway("bad", OTHER, replicas=11), "spec.replicas", "10"),
    "wrong-type": (gateway("bad", OTHER, replicas="two"), "spec.replicas", "integer"),
    "multiplier": (
        gateway("bad", OTHER, bfd="{enabled: false, multiplier: 256}"),
        "spec.bfd.multiplier",
        "255",
    ),
}


@pytest.fixture(scope="module")
def good(sandboxes: Callable[[str], Lab]) -> Iterator[Lab]:
    """A sandbox with a gateway that must go on whatever the neighbours do."""
    lab = sandboxes("ipv4")
    lab.start(
        gateway("good", GOOD),
        pod("client"),
        subnet("nonad", "172.18.0.0/24", provider="eth9.default"),
        subnet("tiny", "10.80.0.0/29", vpc="ovn-cluster"),
        gateways=("good",),
        pods=("client",),
    )
    yield lab
    for kind, name in (("veg", "good"), ("pod", "client"), ("subnet", "nonad"), ("subnet", "tiny")):
        lab("delete", kind, name, "--ignore-not-found", timeout=90)


@pytest.mark.parametrize("case", CASES)
def test_a_condition_and_an_event_name_field_and_reason(good: Lab, case: str) -> None:
    """Validated is False, its message names the field and the reason, an event says it; the neighbour goes on."""
    manifest, field, reason = CASES[case]
    good.apply(manifest)
    try:
        found = eventually(
            lambda: (c := good.condition("bad", "Validated")) and c["status"] == "False" and c, 30
        )
        assert field in found["message"]  # type: ignore[index]
        assert reason in found["message"]  # type: ignore[index]
        assert good.status("bad")["phase"] == "Pending"
        events = [e for e in good.items("event") if e["involvedObject"]["name"] == "bad"]
        assert any(field in e["message"] for e in events)
        assert good.seen("client", count=3) == {"172.17.0.11": 3}
    finally:
        good("delete", "veg", "bad", timeout=60)


def test_a_source_outside_the_vpc_is_a_warning(good: Lab) -> None:
    """An ipBlock outside every subnet may lie behind a router: the gateway runs, a condition says it."""
    good.start(gateway("far", "[{snat: true, ipBlocks: [10.200.0.0/24]}]"), gateways=("far",))
    found = good.condition("far", "SourcesInsideVpc")
    assert found["status"] == "False"
    assert "spec.policies[0].ipBlocks[0]" in found["message"]
    assert "10.200.0.0/24" in found["message"]
    good("delete", "veg", "far", timeout=60)


def test_an_exhausted_pool_says_numbers(good: Lab) -> None:
    """Five usable addresses and six replicas: the condition counts, and enough replicas fewer work."""
    policies = "[{snat: true, ipBlocks: [10.80.0.0/29]}]"
    good.apply(gateway("full", policies, internalSubnet="tiny", replicas=6))
    found = eventually(
        lambda: (c := good.condition("full", "AddressesAllocated")) and c["status"] == "False" and c, 30
    )
    assert "tiny" in found["message"]  # type: ignore[index]
    assert "5" in found["message"]  # type: ignore[index]
    good("scale", "veg", "full", "--replicas=2")
    good.ready("full")
    good("delete", "veg", "full", timeout=60)


def test_a_changed_prefix_is_refused_and_the_gateway_runs_on(good: Lab) -> None:
    """prefix can not change; the last good state keeps running, and taking the change back clears the condition."""
    good.apply(gateway("good", GOOD, prefix="veg-"))
    found = eventually(
        lambda: (c := good.condition("good", "Validated")) and c["status"] == "False" and c, 30
    )
    assert "spec.prefix" in found["message"]  # type: ignore[index]
    assert good.seen("client", count=3) == {"172.17.0.11": 3}
    good.apply(gateway("good", GOOD))
    eventually(lambda: good.condition("good", "Validated").get("status") == "True", 30)


@pytest.mark.parametrize("family", ["replicas: 20", "policies: []"], ids=["replicas", "policies"])
def test_a_bad_change_of_a_running_gateway_keeps_the_last_good_state(good: Lab, family: str) -> None:
    """A running gateway with a change that is not valid serves as before, also over a restart of api."""
    key, value = family.split(": ")
    manifest = gateway("good", GOOD, replicas=20) if key == "replicas" else gateway("good", value)
    good.apply(manifest)
    eventually(lambda: good.condition("good", "Validated").get("status") == "False", 30)
    good("restart", "api", "--kill")
    assert good.seen("client", count=3) == {"172.17.0.11": 3}
    good.apply(gateway("good", GOOD))
    eventually(lambda: good.condition("good", "Validated").get("status") == "True", 30)
    assert good.seen("client", count=3) == {"172.17.0.11": 3}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("apiVersion: [", "malformed YAML", id="yaml"),
        pytest.param("apiVersion: v1\nkind: Unheard\nmetadata: {name: a}", "Unheard", id="kind"),
        pytest.param(together(vpc("fine"), "apiVersion: v1\nkind: Vpc"), "document 2", id="second-document"),
        pytest.param(vpc("big").replace("spec: {}", f"spec: {{x: {'y' * 5_000_000}}}"), "limit", id="5MB"),
    ],
)
def test_the_command_line_refuses_what_is_no_manifest(good: Lab, text: str, reason: str) -> None:
    """Exit 2, one line with the reason, and nothing of the file is applied."""
    done = good.run("apply", "-f", "-", stdin=text)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "fine" not in [v["metadata"]["name"] for v in good.items("vpc")]
