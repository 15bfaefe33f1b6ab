"""Every fault of a gateway is told with its field and its reason; what is fine is not."""

from typing import Any

import pytest
from veg_api.core.problems import Problem
from veg_common.objects import Object

from tests.unit.api.conftest import World, cluster, gateway, macvlan, nad, obj, pod, subnet

EXTRA = [
    obj("Vpc", "vpc1", spec={}),
    subnet("inner", "192.168.0.0/24", vpc="vpc1"),
    subnet("orphan", "172.18.0.0/24", provider="nonad.default"),
    subnet("noprovider", "172.19.0.0/24", provider="only-one-word"),
    subnet("six", "fd66::/64", provider="eth1.default"),
    subnet("brokennad", "172.21.0.0/24", provider="broken.default"),
    obj("NetworkAttachmentDefinition", "broken", "default", spec={"config": "{"}),
    subnet("bad", "10.9.0.1/24"),
]
BLOCK = [{"snat": True, "ipBlocks": ["10.16.0.0/24"]}]

CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown-vpc": ({"vpc": "nope"}, "spec.vpc", "VPC 'nope' does not exist"),
    "unknown-internal": ({"internalSubnet": "nope"}, "spec.internalSubnet", "'nope' does not exist"),
    "internal-of-other-vpc": ({"internalSubnet": "inner"}, "spec.internalSubnet", "belongs to VPC 'vpc1'"),
    "internal-is-external": ({"internalSubnet": "macvlan1"}, "spec.internalSubnet", "belongs to no VPC"),
    "internal-invalid": ({"internalSubnet": "bad"}, "spec.internalSubnet", "host bits"),
    "unknown-external": ({"externalSubnet": "nope"}, "spec.externalSubnet", "'nope' does not exist"),
    "no-external": ({"externalSubnet": None}, "spec.externalSubnet", "is required"),
    "external-without-provider": (
        {"externalSubnet": "ovn-default"},
        "spec.externalSubnet",
        "has no provider",
    ),
    "provider-no-nad": ({"externalSubnet": "orphan"}, "spec.externalSubnet", "default/nonad"),
    "provider-malformed": ({"externalSubnet": "noprovider"}, "spec.externalSubnet", "'only-one-word'"),
    "nad-broken": ({"externalSubnet": "brokennad"}, "spec.externalSubnet", "not valid JSON"),
    "no-family-in-common": ({"externalSubnet": "six"}, "spec.externalSubnet", "no IP family in common"),
    "no-policies": ({"policies": []}, "spec.policies", "at least one policy"),
    "null-policies": ({"policies": None}, "spec.policies", "at least one policy"),
    "empty-policy": (
        {"policies": [*BLOCK, {"snat": True}]},
        "spec.policies[1]",
        "neither ipBlocks nor subnets",
    ),
    "host-bits": (
        {"policies": [{"ipBlocks": ["10.16.0.0/24", "10.16.0.1/16"]}]},
        "spec.policies[0].ipBlocks[1]",
        "the network is 10.16.0.0/16",
    ),
    "not-a-cidr": ({"policies": [{"ipBlocks": ["10.16/16"]}]}, "spec.policies[0].ipBlocks[0]", "not an IP"),
    "netmask": (
        {"policies": [{"ipBlocks": ["10.16.0.0/255.255.0.0"]}]},
        "spec.policies[0].ipBlocks[0]",
        "not an IP prefix",
    ),
    "other-family": (
        {"policies": [{"ipBlocks": ["fd00::/64"]}]},
        "spec.policies[0].ipBlocks[0]",
        "only IPv4",
    ),
    "multicast": ({"policies": [{"ipBlocks": ["224.0.0.0/4"]}]}, "spec.policies[0].ipBlocks[0]", "multicast"),
    "policy-unknown-subnet": ({"policies": [{"subnets": ["nope"]}]}, "spec.policies[0].subnets[0]", "'nope'"),
    "policy-other-vpc": ({"policies": [{"subnets": ["inner"]}]}, "spec.policies[0].subnets[0]", "VPC 'vpc1'"),
    "policy-external": ({"policies": [{"subnets": ["macvlan1"]}]}, "spec.policies[0].subnets[0]", "no VPC"),
    "snat-conflict": (
        {"policies": [*BLOCK, {"snat": False, "ipBlocks": ["10.16.0.0/24"]}]},
        "spec.policies[1].ipBlocks[0]",
        "snat: true at spec.policies[0].ipBlocks[0] and with snat: false here",
    ),
    "too-few-internal": ({"replicas": 2, "internalIPs": ["10.16.0.7"]}, "spec.internalIPs", "1 given for 2"),
    "too-few-external": (
        {"replicas": 3, "externalIPs": ["172.17.0.20"]},
        "spec.externalIPs",
        "1 given for 3",
    ),
    "outside": ({"internalIPs": ["10.99.0.1"]}, "spec.internalIPs[0]", "outside 10.16.0.0/16"),
    "excluded": ({"externalIPs": ["172.17.0.5"]}, "spec.externalIPs[0]", "excluded by excludeIps"),
    "gateway-address": ({"internalIPs": ["10.16.0.1"]}, "spec.internalIPs[0]", "is the gateway"),
    "network-address": ({"internalIPs": ["10.16.0.0"]}, "spec.internalIPs[0]", "is the network address"),
    "broadcast": ({"internalIPs": ["10.16.255.255"]}, "spec.internalIPs[0]", "is the broadcast address"),
    "twice": ({"internalIPs": ["10.16.0.7", "10.16.0.7"]}, "spec.internalIPs[1]", "given twice"),
    "taken": ({"internalIPs": ["10.16.0.50"]}, "spec.internalIPs[0]", "taken by pod default/client"),
    "taken-by-gateway": (
        {"externalIPs": ["172.17.0.77"]},
        "spec.externalIPs[0]",
        "taken by gateway default/first",
    ),
    "no-address": ({"internalIPs": ["ten"]}, "spec.internalIPs[0]", "not an IP address"),
    "wrong-family-mix": (
        {"internalIPs": ["10.16.0.7,fd00::7"]},
        "spec.internalIPs[0]",
        "must be one IPv4 address",
    ),
    "negative": ({"replicas": -1}, "spec.replicas", "0 to 10, not -1"),
    "too-many": ({"replicas": 11}, "spec.replicas", "0 to 10, not 11"),
    "multiplier": ({"bfd": {"multiplier": 256}}, "spec.bfd.multiplier", "1 to 255, not 256"),
    "min-rx": ({"bfd": {"minRX": 0}}, "spec.bfd.minRX", "1 to 3600000 ms"),
    "bfd": ({"bfd": {"enabled": True}}, "spec.bfd.enabled", "Vpc 'ovn-cluster' has no enabled BFD port"),
    "wrong-type": ({"replicas": "two"}, "spec.replicas", "must be an integer, not 'two'"),
    "wrong-nested-type": (
        {"policies": [{"ipBlocks": "10.0.0.0/8"}]},
        "spec.policies[0].ipBlocks",
        "must be a list",
    ),
    "boolean-number": ({"replicas": True}, "spec.replicas", "must be an integer"),
    "operator": (
        {"nodeSelector": [{"matchExpressions": [{"key": "a", "operator": "Like"}]}]},
        "spec.nodeSelector[0].matchExpressions[0].operator",
        "'Like'",
    ),
    "selector-type": (
        {"nodeSelector": [{"matchLabels": {"a": 1}}]},
        "spec.nodeSelector[0].matchLabels.a",
        "a string",
    ),
    "selector-empty": ({"nodeSelector": [{}]}, "spec.nodeSelector[0]", "no node"),
    "prefix-name": ({"prefix": "UPPER-"}, "spec.prefix", "no valid name"),
}


@pytest.fixture
def busy() -> World:
    """A cluster with a pod and a gateway that have addresses."""
    world = World(*cluster(), *EXTRA, pod("client", **{"ovn.kubernetes.io/ip_address": "10.16.0.50"}))
    world.put(gateway("first", policies=[{"ipBlocks": ["10.16.99.0/24"]}], externalIPs=["172.17.0.77"]))
    world.settle()
    return world


def faults(world: World, item: Object) -> list[Problem]:
    """What a gateway's plan finds."""
    world.put(item)
    return list(world.plan(item["metadata"]["name"]).problems)


@pytest.mark.parametrize("case", CASES)
def test_fault(busy: World, case: str) -> None:
    """One fault: exactly one error, in the right field; nothing of the gateway is made, the neighbour is untouched."""
    spec, field, message = CASES[case]
    neighbour = busy.status("first")
    errors = [p for p in faults(busy, gateway(**{"policies": BLOCK, **spec})) if not p.warning]
    assert [p.field for p in errors] == [field]
    assert message in errors[0].message
    busy.settle()
    condition = busy.condition("Validated")
    assert condition["status"] == "False"
    assert field in condition["message"]
    assert message in condition["message"]
    assert busy.status()["phase"] == "Pending"
    assert [d["metadata"]["name"] for d in busy.all("Deployment")] == ["first"]
    assert busy.status("first") == neighbour


def test_all_faults_at_once(busy: World) -> None:
    """Every fault is told, not only the first."""
    spec: dict[str, Any] = {
        "vpc": "nope",
        "externalSubnet": "nope",
        "replicas": "two",
        "policies": [{}],
        "bfd": {"multiplier": 0},
    }
    fields = {p.field for p in faults(busy, gateway(**spec))}
    expected = {"spec.vpc", "spec.externalSubnet", "spec.replicas", "spec.policies[0]", "spec.bfd.multiplier"}
    assert fields == expected


def test_unknown_fields_are_warnings(busy: World) -> None:
    """A misspelt field is told and does not stop the gateway."""
    problems = faults(
        busy, gateway(policies=[{"snat": True, "subnet": ["x"], "subnets": ["ovn-default"]}], replica=2)
    )
    assert [(p.field, p.warning) for p in problems] == [
        ("spec.policies[0].subnet", True),
        ("spec.replica", True),
    ]
    busy.settle()
    assert busy.status()["ready"] is True
    assert busy.condition("NoWarnings")["status"] == "False"


def test_source_outside_the_vpc_is_a_warning(busy: World) -> None:
    """It may lie behind a router: the gateway runs, agents get a way back to it, a condition tells."""
    faults(busy, gateway(policies=[{"ipBlocks": ["10.200.0.0/24"]}]))
    busy.settle()
    assert busy.status()["ready"] is True
    condition = busy.condition("SourcesInsideVpc")
    assert condition["status"] == "False"
    assert "spec.policies[0].ipBlocks[0]" in condition["message"]
    assert (
        '"10.200.0.0/24"'
        in busy.get("ConfigMap", "gateway1-config")["data"]["agent.json"].split("sources")[0]
    )


def test_same_source_twice_is_harmless(busy: World) -> None:
    """The same prefix with the same snat is one source."""
    policies = [
        {"snat": True, "subnets": ["ovn-default"], "ipBlocks": ["10.16.0.0/16"]},
        {"snat": True, "subnets": ["ovn-default"]},
    ]
    assert faults(busy, gateway(policies=policies)) == []
    busy.settle()
    intent = busy.intent()
    assert intent is not None
    assert intent.families[0].sources == ("10.16.0.0/16",)  # type: ignore[union-attr]


@pytest.mark.parametrize(("prefix", "name"), [("", "g" * 64), ("p" * 40, "g" * 40)], ids=["name", "prefix"])
def test_too_long_names(world: World, prefix: str, name: str) -> None:
    """Names that labels or the Deployment can not hold are refused."""
    world.put(gateway(name, prefix=prefix))
    assert [p.reason for p in world.plan(name).problems] == ["NameTooLong"]


def test_dual_internal_with_ipv4_external() -> None:
    """The gateway has the families of both subnets; IPv6 of a named subnet is left out with a word, not an error."""
    world = World(*[o for o in cluster("dual") if o["metadata"]["name"] != "macvlan1"], macvlan())
    world.put(gateway())
    world.settle()
    assert world.status()["ready"] is True
    assert world.status()["internalIPs"] == ["10.16.0.2"]
    assert "fd00:10:16::/112" in world.condition("NoWarnings")["message"]
    world.put(gateway(policies=[{"ipBlocks": ["fd00:10:16::/112"]}]))
    assert [p.reason for p in world.plan().problems] == ["FamilyMismatch"]
    assert not world.plan().problems[0].warning


def test_ovn_provider_names_the_same_nad(world: World) -> None:
    """`<nad>.<ns>.ovn` is a provider too."""
    world.put(nad("eth2"))
    world.put(subnet("ext2", "172.30.0.0/24", provider="eth2.default.ovn"))
    world.put(gateway(externalSubnet="ext2"))
    assert world.plan().problems == ()


@pytest.mark.parametrize(
    "change",
    [{"replicas": 20}, {"policies": []}, {"vpc": "nope"}, {"prefix": "veg-"}, {"externalSubnet": "nope"}],
    ids=["replicas", "policies", "vpc", "prefix", "external"],
)
def test_a_bad_change_keeps_the_last_good_state(world: World, change: dict[str, Any]) -> None:
    """Workload, configuration and rows stay; pods that die are replaced on their addresses; taking it back heals."""
    world.put(gateway(replicas=2))
    world.settle()
    before = {kind: world.all(kind) for kind in ("Deployment", "ConfigMap", "IP")}
    status, intent = world.status(), world.intent()
    world.put(gateway(**{"replicas": 2, **change}))
    world.settle()
    assert {kind: world.all(kind) for kind in before} == before
    assert world.intent() == intent
    assert world.status()["ready"] is True
    assert world.status()["phase"] == "Pending"
    assert world.status()["observedGeneration"] == 2
    assert world.condition("Validated")["status"] == "False"
    world.remove("Pod", world.gateway_pods()[0]["metadata"]["name"])
    world.settle()
    assert world.status()["externalIPs"] == status["externalIPs"]
    assert world.intent() == intent
    world.put(gateway(replicas=2))
    world.settle()
    assert world.condition("Validated")["status"] == "True"
    assert world.status()["phase"] == "Completed"


def test_a_lost_subnet_keeps_the_gateway_running(world: World) -> None:
    """What a gateway stands on vanishes: it goes on with what it knew, and says what is missing."""
    world.put(gateway())
    world.settle()
    intent = world.intent()
    world.vanish("Subnet", "macvlan1")
    world.settle()
    assert "macvlan1" in world.condition("Validated")["message"]
    assert world.status()["ready"] is True
    assert world.intent() == intent


def test_node_selector_terms(world: World) -> None:
    """Entries are alternatives; the parts of an entry must all match."""
    terms = [
        {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node1"]}]},
    ]
    world.put(gateway(nodeSelector=terms))
    world.settle()
    affinity = world.get("Deployment", "gateway1")["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    assert affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == [
        {
            "matchExpressions": [
                {"key": "a", "operator": "In", "values": ["1"]},
                {"key": "b", "operator": "Exists"},
            ]
        },
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node1"]}]},
    ]
    world.put(gateway())
    world.settle()
    assert "nodeAffinity" not in world.get("Deployment", "gateway1")["spec"]["template"]["spec"]["affinity"]


@pytest.mark.parametrize(
    ("name", "prefix", "field"),
    [
        ("A_b", "", "metadata.name"),
        ("a" * 64, "", "metadata.name"),
        ("ok", "Bad_", "spec.prefix"),
        ("ok", "a" * 62, "spec.prefix"),
    ],
    ids=["name", "long-name", "prefix", "long-prefix"],
)
def test_a_bad_name_is_blamed_on_its_origin(busy: World, name: str, prefix: str, field: str) -> None:
    """A name that no Deployment can have: the prefix is to blame only where there is one."""
    found = faults(busy, gateway(name, policies=BLOCK, **({"prefix": prefix} if prefix else {})))
    assert {p.field for p in found} == {field}
