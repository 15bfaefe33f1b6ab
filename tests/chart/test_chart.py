"""The chart without a cluster: what it renders is complete, asks for no more than it needs, and fits the services."""

import base64
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from veg_api.__main__ import main as api
from veg_ovn_programmer.__main__ import cli as programmer

from tests.chart.conftest import CHART, KUBERNETES, REMOTES, ROOT, Helm, Objects

GOLDEN = Path(__file__).parent / "golden"
SSL = (
    "--set",
    "ovn.northbound.remotes={ssl:[fd00::1]:6641,ssl:[fd00::2]:6641}",
    "--set",
    "ovn.tls.secretName=kube-ovn-tls",
)
CERT_MANAGER = ("--set", "tls.mode=cert-manager")
EVERYTHING = (
    *("--set", "networkPolicy.enabled=true"),
    *("--set", "metrics.serviceMonitor.enabled=true"),
    *("--set", "ovn.southbound.remotes={tcp:192.0.2.1:6642}"),
    *("--set", "api.nodeSelector.a=b"),
    *("--set", "api.podAnnotations.a=b"),
    *("--set", "image.registry=registry.example/team"),
    *("--set", "image.pullSecrets={one}"),
    *("--set", "ovnProgrammer.service.clusterIP=10.96.0.77"),
    *("--set-json", 'ovnProgrammer.tolerations=[{"operator":"Exists"}]'),
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "default": (),
    "kube-ovn": ("--set", "topology=kube-ovn"),
    "ssl": SSL,
    "cert-manager": CERT_MANAGER,
    "issuer": (*CERT_MANAGER, "--set", "tls.certManager.issuerRef.name=ours"),
    "secret": ("--set", "tls.mode=secret", "--set", "tls.existingSecret=ours"),
    "everything": EVERYTHING,
    "pod-network": ("--set", "hostNetwork=false", "--set", "ipv6=true", "--set", "api.replicas=1"),
    "no-crds": tuple(
        argument
        for kind in ("vpcEgressGateway", "vpc", "subnet", "ip", "networkAttachmentDefinition")
        for argument in ("--set", f"crds.{kind}.install=false")
    ),
}
GOLDEN_VARIANTS = ("default", "kube-ovn", "ssl", "everything")
COMPONENTS = ("api", "ovn-programmer")
NAME = "veg-vpc-egress-gateway"

Render = Callable[..., Objects]


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
def test_lint_finds_nothing(helm: Helm, variant: str) -> None:
    """`helm lint --strict` is content."""
    done = helm.run("lint", "--strict", str(CHART), *KUBERNETES, *REMOTES, *VARIANTS[variant])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_template_an_object(helm: Helm, variant: str) -> None:
    """No template renders two objects, and every object has the release's labels."""
    seen = []
    for part in helm.text(*VARIANTS[variant]).split("\n---\n"):
        obj = yaml.load(part, Loader=yaml.CSafeLoader)
        if not obj:
            continue
        source = re.search(r"# Source: (\S+)", part)
        assert source
        seen.append(source.group(1))
        assert obj["metadata"]["labels"]["app.kubernetes.io/instance"] == "veg"
        assert obj["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
def test_what_is_rendered_is_what_was_reviewed(rendered: Render, variant: str) -> None:
    """All objects but CRDs and the certificate, against a file; VEG_REWRITE=1 writes it."""
    listed = [
        obj
        for key, obj in sorted(rendered(*VARIANTS[variant]).items())
        if key[0] not in ("CustomResourceDefinition", "Secret")
    ]
    text = yaml.safe_dump_all(listed, sort_keys=True, width=110)
    path = GOLDEN / f"{variant}.yaml"
    if os.environ.get("VEG_REWRITE"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_services_know_every_flag(rendered: Render, variant: str) -> None:
    """What Deployments and test pods call is parsed by the services' own commands."""
    for pod in _pod_specs(rendered(*VARIANTS[variant])):
        for container in pod["containers"]:
            program, command = container["command"]
            group = {"veg-api": api, "veg-ovn-programmer": programmer}[program]
            found = group.commands[command]
            # Files are not there; names of options and their values are looked at all the same.
            for parameter in found.params:
                if isinstance(parameter.type, click.Path):
                    parameter.type = click.STRING
            found.make_context(program, [_filled(argument) for argument in container["args"]])


@pytest.mark.parametrize("variant", VARIANTS)
def test_references_hold(rendered: Render, variant: str) -> None:
    """Selectors meet labels, ports have names, mounts have volumes, service accounts and bound roles are there."""
    objects = rendered(*VARIANTS[variant])
    for component in COMPONENTS:
        name = f"{NAME}-{component}"
        deployment, service = objects["Deployment", name], objects["Service", name]
        template = deployment["spec"]["template"]
        for selector in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
            assert selector.items() <= template["metadata"]["labels"].items()
        container = template["spec"]["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        # Service and container have the same numbers: whoever resolves names without translating ports gets there.
        assert {p["targetPort"]: p["port"] for p in service["spec"]["ports"]} == ports
        probes = [container[kind]["httpGet"]["port"] for kind in ("livenessProbe", "readinessProbe")]
        assert set(probes) <= ports.keys()
        assert ("ServiceAccount", template["spec"]["serviceAccountName"]) in objects
    for pod in _pod_specs(objects):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    numbers = [
        port["containerPort"] for component in COMPONENTS for port in _container(objects, component)["ports"]
    ]
    assert len(numbers) == len(set(numbers)), "both may be on one node's network"
    for kind, role in (("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")):
        binding = objects[kind, f"{NAME}-api"]
        assert (role, binding["roleRef"]["name"]) in objects
        assert [s["name"] for s in binding["subjects"]] == [f"{NAME}-api"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_have_no_privileges(rendered: Render, variant: str) -> None:
    """No root, no capability, no writable root file system; a token only where the API server is spoken to."""
    for pod in _pod_specs(rendered(*VARIANTS[variant])):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        speaks = pod["containers"][0]["command"] == ["veg-api", "run"]
        assert pod["automountServiceAccountToken"] is speaks


def test_rights_are_few(rendered: Render) -> None:
    """No wildcard, no secret, no escalation; in Kube-OVN's topology nothing of its resources is written."""
    for variant in ("default", "kube-ovn"):
        objects = rendered(*VARIANTS[variant])
        rules = objects["ClusterRole", f"{NAME}-api"]["rules"] + objects["Role", f"{NAME}-api"]["rules"]
        words = {word for rule in rules for key in ("apiGroups", "resources", "verbs") for word in rule[key]}
        assert not words & {"*", "secrets", "escalate", "bind", "impersonate", "deletecollection"}
        assert not [word for word in words if word.startswith("pods/")]
    written = {
        resource
        for rule in rules
        if set(rule["verbs"]) - {"get", "list", "watch"}
        for resource in rule["resources"]
        if rule["apiGroups"] == ["kubeovn.io"]
    }
    assert {resource.split("/")[0] for resource in written} == {"vpc-egress-gateways"}


def test_the_chart_makes_a_certificate(rendered: Render, tmp_path: Path) -> None:
    """It is signed by its authority, good for both ends, and names both Services."""
    data = rendered()["Secret", f"{NAME}-tls"]["data"]
    for key in ("ca.crt", "tls.crt", "tls.key"):
        (tmp_path / key).write_bytes(base64.b64decode(data[key]))
    for purpose in ("sslserver", "sslclient"):
        argv = ["openssl", "verify", "-CAfile", "ca.crt", "-purpose", purpose, "tls.crt"]
        assert "OK" in subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    argv = ["openssl", "x509", "-in", "tls.crt", "-noout", "-ext", "subjectAltName"]
    names = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for component in COMPONENTS:
        for suffix in ("", ".egress", ".egress.svc", ".egress.svc.cluster.local"):
            assert f"DNS:{NAME}-{component}{suffix}" in names.replace(",", "").split()
    assert "IP Address:127.0.0.1" in names


def test_crds_are_the_files(rendered: Render) -> None:
    """What the release installs is what the API server's tests test; uninstalling leaves it unless told."""
    for path in (CHART / "files/crds").glob("*.yaml"):
        wanted = yaml.safe_load(path.read_text())
        found = rendered()["CustomResourceDefinition", wanted["metadata"]["name"]]
        assert found["spec"] == wanted["spec"]
        assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        dropped = rendered("--set", "crds.keep=false")
        found = dropped["CustomResourceDefinition", wanted["metadata"]["name"]]
        assert "annotations" not in found["metadata"]
    none = rendered(*VARIANTS["no-crds"])
    assert not [key for key in none if key[0] == "CustomResourceDefinition"]


def test_schemas_have_no_stray_words() -> None:
    """A comma in an unquoted description makes a key of what follows; the API server would drop it in silence."""
    known = {
        *("type", "description", "properties", "items", "required", "default", "enum", "format", "pattern"),
        *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties"),
        "additionalProperties",
    }

    def strays(schema: dict[str, Any]) -> Iterator[str]:
        yield from (key for key in schema if key not in known and not key.startswith("x-kubernetes-"))
        below = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
        for nested in below:
            yield from strays(nested)

    for path in (CHART / "files/crds").glob("*.yaml"):
        version = yaml.safe_load(path.read_text())["spec"]["versions"][0]
        assert not list(strays(version["schema"]["openAPIV3Schema"]))


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        pytest.param(("--set", "api.replica=2"), "replica", id="unknown"),
        pytest.param(("--set", "topology=other"), "topology", id="topology"),
        pytest.param(("--set", "ovn.northbound.remotes={10.0.0.1:6641}"), "remotes", id="remote"),
        pytest.param(("--set", "ovn.northbound.remotes={ssl:1.1.1.1:6641}"), "secretName", id="ssl"),
        pytest.param(("--set", "tls.mode=secret"), "tls.existingSecret", id="no-secret"),
        pytest.param(("--set", "crds.vpc.install=maybe"), "install", id="install"),
        pytest.param(("--set", "api.ports.grpc=0"), "grpc", id="port"),
        pytest.param(("--kube-version", "1.30.0"), "kubeVersion", id="kubernetes"),
    ],
)
def test_wrong_values_are_refused(helm: Helm, args: tuple[str, ...], reason: str) -> None:
    """Before anything is sent to a cluster, and the answer names the value."""
    assert reason in helm.refusal(*args)


def test_the_one_required_value_is_asked_for(helm: Helm) -> None:
    """Without servers of the Northbound database nothing is installed, and the answer tells how to name them."""
    assert "--set 'ovn.northbound.remotes={tcp:" in helm.refusal(remotes=())


def test_every_value_has_a_schema() -> None:
    """values.yaml and values.schema.json name the same values, and the schema describes each."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def paths(found: Any, at: str = "") -> Iterator[str]:
        for key, value in found.items() if isinstance(found, dict) else ():
            yield f"{at}{key}"
            yield from paths(value, f"{at}{key}.")

    def described(found: dict[str, Any], at: str = "") -> Iterator[str]:
        if "properties" in found:
            assert found["additionalProperties"] is False
        for key, value in found.get("properties", {}).items():
            assert value["description"]
            yield f"{at}{key}"
            yield from described(value, f"{at}{key}.")

    free = ("api.resources.", "ovnProgrammer.resources.")
    named = {path for path in paths(values) if not path.startswith(free)}
    assert named == set(described(schema)) - {"global"}


def test_versions_agree() -> None:
    """The chart installs images of the distribution's version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]


def _pod_specs(objects: Objects) -> Iterator[dict[str, Any]]:
    for (kind, _), obj in objects.items():
        if kind == "Deployment":
            yield obj["spec"]["template"]["spec"]
        elif kind == "Pod":
            yield obj["spec"]


def _container(objects: Objects, component: str) -> dict[str, Any]:
    container: dict[str, Any] = objects["Deployment", f"{NAME}-{component}"]["spec"]["template"]["spec"][
        "containers"
    ][0]
    return container


def _filled(argument: str) -> str:
    """An argument as kubelet would give it."""
    return argument.replace("$(POD_IP)", "127.0.0.1").replace("$(POD_NAMESPACE)", "egress")
