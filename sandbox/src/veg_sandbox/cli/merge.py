"""What `apply` changes: kubectl's three-way merge of live object, last applied manifest and new manifest. Pure.

Fields that somebody else set (finalizers, a pod's node, addresses) stay; fields that the last manifest had and
the new one has not vanish; status is never touched.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from veg_common.objects import Object

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# Set by the API server: meaningless in a manifest (they come from an edited `get -o yaml`).
_SERVER_FIELDS = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
)


def clean(manifest: Object) -> Object:
    """The manifest without what only a server may say."""
    result = copy.deepcopy(manifest)
    result.pop("status", None)
    metadata = result["metadata"]
    for field in _SERVER_FIELDS:
        metadata.pop(field, None)
    if isinstance(metadata.get("annotations"), dict):
        metadata["annotations"].pop(LAST_APPLIED, None)
    return result


def to_create(manifest: Object) -> Object:
    """The object to create: the manifest, remembering itself as last applied."""
    result = clean(manifest)
    return _with_last_applied(result, result)


def patch_for(live: Object, manifest: Object) -> Object | None:
    """The RFC 7386 patch that makes `live` what the manifest asks for; None when there is nothing to do."""
    wanted = clean(manifest)
    patch = _three_way(_last_applied(live), wanted, live)
    if not patch:
        return None
    return _with_last_applied(patch, wanted)


def _last_applied(live: Object) -> Object:
    annotations = live.get("metadata", {}).get("annotations")
    text = annotations.get(LAST_APPLIED) if isinstance(annotations, dict) else None
    try:
        last = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return last if isinstance(last, dict) else {}


def _three_way(last: Any, wanted: Object, live: Any) -> Object:
    live = live if isinstance(live, dict) else {}
    last = last if isinstance(last, dict) else {}
    # A null in a manifest asks for nothing: the API server drops it.
    wanted = {key: value for key, value in wanted.items() if value is not None}
    patch: Object = {key: None for key in last if key not in wanted and key in live}
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(live.get(key), dict):
            if inner := _three_way(last.get(key), value, live[key]):
                patch[key] = inner
        elif key not in live or not _same(live[key], value):
            patch[key] = value
    return patch


def _same(one: Any, other: Any) -> bool:
    """Equality that tells true from 1, as JSON does."""
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _with_last_applied(target: Object, applied: Object) -> Object:
    result = copy.deepcopy(target)
    metadata = result.setdefault("metadata", {})
    annotations = metadata.get("annotations")
    text = json.dumps(applied, separators=(",", ":"), ensure_ascii=False) + "\n"
    metadata["annotations"] = {**(annotations if isinstance(annotations, dict) else {}), LAST_APPLIED: text}
    return result
