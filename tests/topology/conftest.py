"""Sandboxes for the topology tests: one per IP family and session, shared by the tests that name it."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import pytest
from veg_sandbox.harness import ECHO_PORT, Sandbox, eventually

EXAMPLES = resources.files("veg_sandbox.demo").joinpath("examples")
FIRST = EXAMPLES.joinpath("first.yaml").read_text(encoding="utf-8")
OUTSIDE = {4: "172.17.0.1", 6: "fd17::1"}

# The outside networks, one Subnet a family set, all on the one NetworkAttachmentDefinition of the first example.
NAD = FIRST.split("---")[0]
MACVLAN = {
    "ipv4": ("IPv4", "172.17.0.0/16", "172.17.0.1", ["172.17.0.0..172.17.0.10"]),
    "ipv6": ("IPv6", "fd17::/64", "fd17::1", ["fd17::1..fd17::10"]),
    "dual": (
        "Dual",
        "172.17.0.0/16,fd17::/64",
        "172.17.0.1,fd17::1",
        ["172.17.0.0..172.17.0.10", "fd17::1..fd17::10"],
    ),
}


def subnet(name: str, cidr: str, *, vpc: str = "", protocol: str = "", **extra: object) -> str:
    """A Subnet manifest."""
    spec = {
        "cidrBlock": cidr,
        **({"vpc": vpc} if vpc else {}),
        **({"protocol": protocol} if protocol else {}),
        **extra,
    }
    lines = "".join(f"  {key}: {_inline(value)}\n" for key, value in spec.items())
    return f"apiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: {{name: {name}}}\nspec:\n{lines}"


def vpc(name: str) -> str:
    """A Vpc manifest."""
    return f"apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: {{name: {name}}}\nspec: {{}}\n"


def macvlan(family: str, name: str = "macvlan1") -> str:
    """The external Subnet of a family set."""
    protocol, cidr, gateway, exclude = MACVLAN[family]
    return subnet(name, cidr, protocol=protocol, provider="eth1.default", gateway=gateway, excludeIps=exclude)


def gateway(name: str, policies: str, *, namespace: str = "default", **spec: object) -> str:
    """A VpcEgressGateway manifest; `policies` is YAML in flow style, other fields as given."""
    fields = {"vpc": "ovn-cluster", "externalSubnet": "macvlan1", **spec}
    lines = "".join(f"  {key}: {_inline(value)}\n" for key, value in fields.items())
    return (
        "apiVersion: kubeovn.io/v1\nkind: VpcEgressGateway\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{lines}  policies: {policies}\n"
    )


def pod(name: str, subnet_name: str = "", namespace: str = "default") -> str:
    """A client Pod manifest."""
    annotations = f"annotations: {{ovn.kubernetes.io/logical_switch: {subnet_name}}}, " if subnet_name else ""
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{{annotations}name: {name}, namespace: {namespace}}}\n"
        "spec: {containers: [{name: client, image: none}]}\n"
    )


def together(*manifests: str) -> str:
    """One file of several documents."""
    return "---\n".join(manifests)


def _inline(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(f'"{item}"' if isinstance(item, str) else str(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) and value and not value.startswith("{") else str(value)


@dataclass(frozen=True)
class Lab(Sandbox):
    """A sandbox with the expectations that many tests share."""

    family: str = "ipv4"
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self, *manifests: str, gateways: tuple[str, ...] = (), pods: tuple[str, ...] = ()) -> None:
        """Apply, then wait until the gateways (in `default`) are ready and the pods run."""
        self.apply(together(*manifests))
        for name in pods:
            eventually(lambda name=name: self.running(name), 60, f"pod {name} runs")  # type: ignore[misc]
        self.ready(*gateways)

    def ready(self, *gateways: str) -> None:
        """Wait until the gateways are ready and every chassis has what the Northbound database holds."""
        for name in gateways:
            self("wait", "veg", name, "--timeout", "60", timeout=90)
        self("nbctl", "--timeout=30", "--wait=hv", "sync", timeout=60)

    def running(self, name: str) -> bool:
        """Whether a pod of `default` runs."""
        return bool(self.get("pod", name)["status"].get("phase") == "Running")

    def seen(self, client: str, *, version: int = 4, proto: str = "tcp", count: int = 10) -> dict[str, int]:
        """Which source addresses the outside host saw from `count` exchanges of a client; none may fail."""
        result = self.connect(client, OUTSIDE[version], proto=proto, count=count)
        assert result["failed"] == 0, result
        sources: dict[str, int] = result["sources"]
        return sources

    def connect(self, client: str, target: str, *, proto: str = "tcp", count: int = 10) -> dict[str, Any]:
        """A traffic probe of `count` exchanges with an echo server."""
        port = str(ECHO_PORT)
        args = ("connect", "--count", str(count), "--proto", proto, "--target", target, "--port", port)
        return self.probe(client, *args, timeout=120)

    def pings(self, client: str, target: str) -> bool:
        """Whether a client reaches an address with ICMP within a second, one of three tries."""
        return (
            self.run("exec", client, "--", "ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", target).returncode
            == 0
        )

    def status(self, name: str) -> dict[str, Any]:
        """The status of a gateway of `default`."""
        found: dict[str, Any] = self.get("veg", name).get("status", {})
        return found

    def condition(self, name: str, kind: str) -> dict[str, str]:
        """One condition of a gateway of `default`; empty when it has none of that type."""
        return next((c for c in self.status(name).get("conditions", []) if c["type"] == kind), {})


@contextmanager
def _sandbox(family: str) -> Iterator[Lab]:
    lab = Lab(f"t{os.getpid()}{family}", family)
    try:
        lab("up", "--nodes", "3", "--ip-family", family, timeout=600)
        lab.apply(together(NAD, macvlan(family)))
        yield lab
    finally:
        lab("down", timeout=120)


@pytest.fixture(scope="session")
def sandboxes() -> Iterator[Callable[[str], Lab]]:
    """Sandboxes by family, built when first asked for."""
    with ExitStack() as stack:
        labs: dict[str, Lab] = {}

        def of(family: str) -> Lab:
            if family not in labs:
                labs[family] = stack.enter_context(_sandbox(family))
            return labs[family]

        yield of


@pytest.fixture
def cleaned() -> Iterator[Callable[[Lab], Lab]]:
    """A lab whose gateways, pods, custom subnets and VPCs are removed after the test."""
    used: list[Lab] = []

    def using(lab: Lab) -> Lab:
        used.append(lab)
        return lab

    yield using
    for lab in used:
        _clean(lab)


def _clean(lab: Lab) -> None:
    keep = {"Subnet": {"ovn-default", "macvlan1"}, "Vpc": {"ovn-cluster"}}
    for kind in ("VpcEgressGateway", "Pod", "Subnet", "Vpc"):
        for item in lab.items(kind):
            meta = item["metadata"]
            if meta["name"] in keep.get(kind, set()):
                continue
            lab(
                "delete",
                kind,
                meta["name"],
                "-n",
                meta.get("namespace", "default"),
                "--ignore-not-found",
                timeout=90,
            )


@pytest.fixture
def lab(sandboxes: Callable[[str], Lab], cleaned: Callable[[Lab], Lab]) -> Lab:
    """The IPv4 sandbox."""
    return cleaned(sandboxes("ipv4"))


@pytest.fixture
def dual(sandboxes: Callable[[str], Lab], cleaned: Callable[[Lab], Lab]) -> Lab:
    """The dual-stack sandbox."""
    return cleaned(sandboxes("dual"))
