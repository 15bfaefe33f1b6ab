"""Manifests become objects, or one line that says why not."""

import pytest
from veg_common.objects import ManifestError, kind_of, merge_patch, parse_manifests

POD = "{apiVersion: v1, kind: Pod, metadata: {name: a}"
# Each level repeats the one before ten times: 10^20 bytes of JSON in a kilobyte.
BOMB = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nx0: &x0 [y]\n" + "".join(
    f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 20)
)


@pytest.mark.parametrize(
    "name", ["veg", "VpcEgressGateway", "vpc-egress-gateways", "vpcegressgateway", "VEG"]
)
def test_kind_has_many_names(name: str) -> None:
    """A kind is found by its name, plural and short names in any case."""
    assert kind_of(name).qualified == "vpcegressgateway.kubeovn.io"


def test_documents_and_lists_are_flattened() -> None:
    """Several documents and a List are one sequence; cluster-scoped kinds lose a namespace, others get one."""
    text = """
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: a, namespace: wrong}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: p, creationTimestamp: 2026-01-01T00:00:00Z}}
"""
    vpc, pod = parse_manifests(text, "team")
    assert vpc["metadata"] == {"name": "a"}
    assert pod["metadata"] == {"name": "p", "namespace": "team", "creationTimestamp": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: {]", "malformed YAML: line 1"),
        ("- 1", "must be a mapping, not list"),
        ("kind: Pod", "apiVersion and kind must be given"),
        ("{apiVersion: v2, kind: Pod, metadata: {name: a}}", 'no matches for kind "Pod" in version "v2"'),
        ("{apiVersion: v1, kind: Pod}", "Pod: metadata.name must be given"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a/b}}", "metadata.name: invalid name 'a/b'"),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, x: !!python/object:os.system {}}",
            "malformed YAML",
        ),
        (
            f"{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, x: {'y' * 1_600_000}}}",
            "the limit is 1500000",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a, finalizers: 5}}",
            "metadata.finalizers: must be a list",
        ),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a, labels: 3}}", "metadata.labels: must map strings"),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {b: 1}}}",
            "metadata.annotations: must map",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a, ownerReferences: [x]}}",
            "metadata.ownerReferences: must be",
        ),
        (f"{POD}, x: {{1: a}}}}", "key 1 is not a string"),
        (f"{POD}, x: !!binary aGk=}}", "a value of type bytes is not JSON"),
        (f"{POD}, x: &a [*a]}}", "the limit is 1500000"),
        (BOMB, "the limit is 1500000"),
        ("x" * 13_000_000, "too large"),
        ("[" * 5000, "malformed YAML"),
        ("[" * 700_000, "nested deeper"),
        (f"{POD}, x: {'[' * 100_000}{']' * 100_000}}}", "nested deeper"),
        ("- " * 200_000, "nested deeper"),
        ("? " * 200_000, "nested deeper"),
    ],
    ids=range(22),
)
def test_bad_manifests_say_why_in_one_line(text: str, reason: str) -> None:
    """Whatever is wrong becomes one short line."""
    with pytest.raises(ManifestError) as caught:
        parse_manifests(text)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_merge_patch_follows_rfc_7386() -> None:
    """null removes, objects merge, lists and scalars replace."""
    target = {"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 1}
    patch = {"a": {"b": None, "x": {"y": None}}, "d": [3], "f": {}}
    assert merge_patch(target, patch) == {"a": {"c": 2, "x": {}}, "d": [3], "e": 1, "f": {}}
