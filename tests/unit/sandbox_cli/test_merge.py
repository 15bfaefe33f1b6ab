"""`apply` merges as kubectl does."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from veg_common.objects import merge_patch
from veg_sandbox.cli.merge import LAST_APPLIED, patch_for, to_create

SCALARS = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "b"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
)
SPECS = st.dictionaries(st.sampled_from("pqr"), VALUES, max_size=3)


def manifest(spec: Any, **metadata: Any) -> dict[str, Any]:
    """A manifest as a person writes it."""
    return {"apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": {"name": "v", **metadata}, "spec": spec}


def drop_nulls(value: Any) -> Any:
    """What a server keeps of a manifest: nulls in mappings are as good as absent."""
    if isinstance(value, dict):
        return {key: drop_nulls(item) for key, item in value.items() if item is not None}
    return value


@given(SPECS, SPECS)
def test_the_last_manifest_wins(first: Any, second: Any) -> None:
    """Whatever was applied before, the spec ends as the last manifest says, and applying it again is nothing."""
    live = merge_patch({}, to_create(manifest(first)))
    for _ in range(2):
        patch = patch_for(live, manifest(second))
        if patch:
            live = merge_patch(live, patch)
    assert drop_nulls(live["spec"]) == drop_nulls(merge_patch({}, second))
    assert patch_for(live, manifest(second)) is None


@given(SPECS, SPECS)
def test_fields_of_others_stay(first: Any, second: Any) -> None:
    """What nobody's manifest ever held (finalizers, addresses, status) survives every apply."""
    live = merge_patch({}, to_create(manifest(first)))
    live["metadata"]["finalizers"] = ["kubeovn.io/x"]
    live["metadata"]["annotations"]["ovn.kubernetes.io/ip_address"] = "10.16.0.2"
    live["spec"]["nodeName"] = "n"
    live["status"] = {"ready": True}
    live = merge_patch(live, patch_for(live, manifest(second)) or {})
    assert live["metadata"]["finalizers"] == ["kubeovn.io/x"]
    assert live["metadata"]["annotations"]["ovn.kubernetes.io/ip_address"] == "10.16.0.2"
    assert live["spec"]["nodeName"] == "n"
    assert live["status"] == {"ready": True}


def test_server_fields_of_a_manifest_are_ignored() -> None:
    """An edited `get -o yaml` can be applied: uid, versions, times and status in it change nothing."""
    live = to_create(manifest({"a": 1}))
    live["metadata"] |= {"uid": "u", "resourceVersion": "7", "generation": 2, "creationTimestamp": "t"}
    live["status"] = {"ready": True}
    edited = {**manifest({"a": 1}, uid="other", resourceVersion="3"), "status": {"ready": False}}
    assert patch_for(live, edited) is None
    assert "status" not in to_create(edited)


def test_adopting_an_object_that_was_never_applied() -> None:
    """Without a last applied manifest nothing is removed: only what the manifest says is set."""
    live = {**manifest({"default": True, "gateway": "10.16.0.1"})}
    patch = patch_for(live, manifest({"gateway": "10.16.0.2"}))
    assert patch is not None
    assert patch["spec"] == {"gateway": "10.16.0.2"}
    assert LAST_APPLIED in patch["metadata"]["annotations"]


def test_true_is_not_one() -> None:
    """JSON tells booleans from numbers, so a corrected type is a change."""
    assert patch_for(to_create(manifest({"a": 1})), manifest({"a": True})) is not None
