"""Kubernetes objects as plain dictionaries: their kinds, names, and how a manifest file becomes them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

Object = dict[str, Any]

# etcd's default request limit: a larger object would be refused by a real API server too.
MAX_OBJECT_BYTES = 1_500_000
# Deeper than any manifest; libyaml's own composer recurses without a bound and would take the process along.
MAX_DEPTH = 200


class ManifestError(ValueError):
    """A manifest that can not become objects; the text is one line and names the document at fault."""


@dataclass(frozen=True, order=True)
class Kind:
    """One resource type, as `kubectl api-resources` would list it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool
    short_names: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """API group, "" for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def qualified(self) -> str:
        """What kubectl prints before a slash and a name: `vpcegressgateway.kubeovn.io`, `pod`."""
        return f"{self.kind.lower()}.{self.group}" if self.group else self.kind.lower()


KINDS: tuple[Kind, ...] = (
    Kind("kubeovn.io/v1", "VpcEgressGateway", "vpc-egress-gateways", True, ("veg", "vpc-egress-gw")),
    Kind("kubeovn.io/v1", "Vpc", "vpcs", False),
    Kind("kubeovn.io/v1", "Subnet", "subnets", False),
    Kind("kubeovn.io/v1", "IP", "ips", False),
    Kind(
        "k8s.cni.cncf.io/v1",
        "NetworkAttachmentDefinition",
        "network-attachment-definitions",
        True,
        ("nad", "net-attach-def"),
    ),
    Kind("v1", "Pod", "pods", True, ("po",)),
    Kind("v1", "Node", "nodes", False, ("no",)),
    Kind("v1", "Namespace", "namespaces", False, ("ns",)),
    Kind("v1", "ConfigMap", "configmaps", True, ("cm",)),
    Kind("v1", "Event", "events", True, ("ev",)),
    Kind("apps/v1", "Deployment", "deployments", True, ("deploy",)),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", True, ("pdb",)),
    Kind("coordination.k8s.io/v1", "Lease", "leases", True),
)

_BY_NAME = {
    alias.lower(): kind
    for kind in KINDS
    for alias in (kind.kind, kind.plural, kind.plural.replace("-", ""), *kind.short_names)
}


def kind_of(name: str) -> Kind:
    """The kind of a CamelCase name, plural, singular or short name, in any case. Raises KeyError."""
    return _BY_NAME[name.lower()]


@dataclass(frozen=True, order=True)
class Ref:
    """Names one object. `namespace` is "" for cluster-scoped kinds; `kind` is the CamelCase name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """`Kind namespace/name`, for messages."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def ref_of(obj: Object) -> Ref:
    """The name of an object that `check_object` accepts."""
    kind = kind_of(obj["kind"])
    metadata = obj["metadata"]
    return Ref(kind.kind, metadata.get("namespace", "") if kind.namespaced else "", metadata["name"])


def check_object(obj: Any) -> str | None:
    """What keeps `obj` from being an object of a known kind with a name, in one line; None if nothing does."""
    if not isinstance(obj, dict):
        return f"a manifest must be a mapping, not {type(obj).__name__}"
    kind_name, version = obj.get("kind"), obj.get("apiVersion")
    if not isinstance(kind_name, str) or not isinstance(version, str):
        return "apiVersion and kind must be given"
    kind = next((k for k in KINDS if k.kind == kind_name), None)
    if kind is None or kind.api_version != version:
        return f'no matches for kind "{kind_name}" in version "{version}"'
    metadata = obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str) or not name:
        return f"{kind.kind}: metadata.name must be given"
    namespace = metadata.get("namespace", "")
    for field, value in (("metadata.name", name), ("metadata.namespace", namespace)):
        if not isinstance(value, str) or "/" in value or value.startswith(".") or len(value) > 253:
            return f"{kind.kind}: {field}: invalid name {value!r:.60}"
    return next((f"{kind.kind} {name}: {problem}" for problem in _odd_metadata(metadata)), None)


def _odd_metadata(metadata: Object) -> Iterator[str]:
    """What every reader of metadata relies on and is not so (metav1.ObjectMeta)."""
    for field in ("labels", "annotations"):
        value = metadata.get(field)
        if value is not None and not (
            isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
        ):
            yield f"metadata.{field}: must map strings to strings"
    for field in ("uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"):
        if not isinstance(metadata.get(field, ""), str):
            yield f"metadata.{field}: must be a string"
    for field in ("generation", "deletionGracePeriodSeconds"):
        if type(metadata.get(field, 0)) is not int:
            yield f"metadata.{field}: must be an integer"
    for field, item in (("finalizers", str), ("ownerReferences", dict)):
        value = metadata.get(field)
        if value is not None and not (
            isinstance(value, list) and all(isinstance(one, item) for one in value)
        ):
            yield f"metadata.{field}: must be a list of {'strings' if item is str else 'mappings'}"


def parse_manifests(text: str, default_namespace: str = "default") -> list[Object]:
    """Objects of a YAML or JSON file of one or more documents (lists are flattened), namespaces filled in.

    Raises ManifestError for malformed YAML, unknown kinds, missing names, and objects above MAX_OBJECT_BYTES.
    """
    if len(text) > MAX_OBJECT_BYTES * 8:
        raise ManifestError(f"{len(text)} bytes: too large for a manifest")
    try:
        _check_depth(text)
        documents = [doc for doc in yaml.load_all(text, Loader=_Loader) if doc is not None]
    except ManifestError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ManifestError(_one_line(error)) from error
    objects: list[Object] = []
    for doc in documents:
        items = doc.get("items") if isinstance(doc, dict) and doc.get("kind") == "List" else None
        objects.extend(items if isinstance(items, list) else [doc])
    for number, obj in enumerate(objects, 1):
        if isinstance(obj, dict) and isinstance(obj.get("metadata"), dict):
            # Kubernetes treats null as absent.
            obj["metadata"] = {key: value for key, value in obj["metadata"].items() if value is not None}
        problem = check_object(obj)
        problem = problem or _not_json(obj)
        if problem:
            raise ManifestError(f"document {number}: {problem}" if len(objects) > 1 else problem)
        if kind_of(obj["kind"]).namespaced:
            obj["metadata"].setdefault("namespace", default_namespace)
        else:
            obj["metadata"].pop("namespace", None)
    return objects


def encode(obj: Any) -> bytes:
    """Compact JSON of plain data. Raises TypeError for what JSON can not hold."""
    return json.dumps(obj, separators=(",", ":"), ensure_ascii=False).encode()


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: `patch` over `target`; null removes a key, lists are replaced whole. Neither is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


class _Loader(yaml.CSafeLoader):
    """YAML without timestamps: Kubernetes knows times as strings only."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _check_depth(text: str) -> None:
    """Raise ManifestError for YAML that nests deeper than MAX_DEPTH: the parser's events tell, without recursion.

    Raises YAMLError for what is no YAML.
    """
    if sum(map(text.count, ("[", "{", "- ", "? "))) + text.count("\n") <= MAX_DEPTH:
        return  # too few openings
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ManifestError(f"malformed YAML: nested deeper than {MAX_DEPTH} levels")


def _not_json(obj: Object) -> str | None:
    """Why `obj` can not be stored as JSON of at most MAX_OBJECT_BYTES, in one line; None if it can.

    Every node is looked at once, however often YAML aliases repeat it: a kilobyte of nested aliases stands for
    gigabytes of JSON.
    """
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if isinstance(value, str):
            return len(value.encode(errors="surrogatepass")) + 2
        if value is None or isinstance(value, bool | int | float):
            return len(str(value))
        if not isinstance(value, dict | list):
            raise ManifestError(f"a value of type {type(value).__name__} is not JSON")
        if id(value) not in sizes:
            sizes[id(value)] = MAX_OBJECT_BYTES + 1  # what it counts for inside itself: a cycle has no end
            if isinstance(value, dict):
                if odd := [key for key in value if not isinstance(key, str)]:
                    raise ManifestError(f"key {odd[0]!r:.60} is not a string")
                total = sum(size(key) + size(item) + 2 for key, item in value.items())
            else:
                total = sum(size(item) + 1 for item in value)
            sizes[id(value)] = total + 2
        return sizes[id(value)]

    try:
        total = size(obj)
    except ManifestError as error:
        return f"{ref_of(obj)}: {error}"
    too_large = f"{ref_of(obj)}: more than {MAX_OBJECT_BYTES} bytes, the limit is {MAX_OBJECT_BYTES}"
    return too_large if total > MAX_OBJECT_BYTES else None


def _one_line(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"malformed YAML: line {mark.line + 1}: {problem}" if mark else f"malformed YAML: {problem}"
