"""What the object commands do with a store: apply, delete, get, scale, wait. The click layer is in `commands`."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import yaml
from veg_common.objects import Kind, ManifestError, Object, Ref, kind_of, ref_of
from veg_common.store import AlreadyExistsError, ConflictError, InvalidObjectError, NotFoundError, ObjectStore

from veg_sandbox.cli import manifests, merge, printers
from veg_sandbox.cli.errors import FAILED, USAGE, CliError, not_found, resource
from veg_sandbox.cli.table import dig
from veg_sandbox.runtime.core.selectors import matches_labels, parse_selector

Emit = Callable[[str], None]
_POLL_SECONDS = 0.05
_CONFLICT_RETRIES = 10
# Of a VpcEgressGateway; as its validation has it.
MAX_REPLICAS = 10


@dataclass(frozen=True)
class Scope:
    """Where to look: one namespace, or all of them."""

    namespace: str = "default"
    everywhere: bool = False

    def of(self, kind: Kind) -> str | None:
        """The namespace to list; None for all, and for cluster-scoped kinds."""
        return None if self.everywhere or not kind.namespaced else self.namespace

    def ref(self, kind: Kind, name: str) -> Ref:
        """The object of that name."""
        return Ref(kind.kind, self.namespace if kind.namespaced else "", name)


def kind_named(name: str) -> Kind:
    """The kind a user means. Raises CliError as kubectl words it."""
    try:
        return kind_of(name.partition(".")[0])
    except KeyError:
        raise CliError(f'error: the server doesn\'t have a resource type "{name}"') from None


def targets(args: Sequence[str]) -> list[tuple[Kind, str | None]]:
    """`KIND`, `KIND NAME…`, `KIND/NAME …` and `KIND,KIND`, as kubectl takes them; name None means all of a kind."""
    if not args:
        raise CliError("error: a kind must be given, for example: veg, pod, subnet")
    if any("/" in arg for arg in args):
        pairs = [arg.partition("/") for arg in args]
        if not all(kind and name and "/" not in name for kind, _, name in pairs):
            raise CliError("error: when one argument is KIND/NAME, all must be")
        return [(kind_named(kind), name) for kind, _, name in pairs]
    kinds = [kind_named(name) for name in args[0].split(",")]
    return [(kind, name) for kind in kinds for name in (args[1:] or (None,))]


# get ------------------------------------------------------------------------------------------------------------


async def find(
    store: ObjectStore, wanted: Sequence[tuple[Kind, str | None]], scope: Scope, selector: str | None
) -> list[tuple[Kind, list[Object]]]:
    """Objects by kind in the order asked for. Raises CliError for a name that is not there."""
    try:
        chosen = parse_selector(selector) if selector else None
    except ValueError as error:
        raise CliError(f"error: {error}") from error
    if chosen is not None and any(name for _, name in wanted):
        raise CliError("error: name cannot be provided when a selector is specified")
    if scope.everywhere and any(name and kind.namespaced for kind, name in wanted):
        raise CliError("error: a resource cannot be retrieved by name across all namespaces")
    found: dict[Kind, list[Object]] = {}
    for kind, name in wanted:
        if name is None:
            listed = await store.list(kind.kind, scope.of(kind))
        else:
            listed = [await _get(store, kind, scope.ref(kind, name))]
        if chosen is not None:
            listed = [obj for obj in listed if matches_labels(chosen, dig(obj, "metadata", "labels") or {})]
        found.setdefault(kind, []).extend(listed)
    return list(found.items())


def show(
    found: Sequence[tuple[Kind, list[Object]]], output: str, scope: Scope, *, single: bool, now: dt.datetime
) -> str:
    """Text for stdout in the format asked for: "", "wide", "name", "json" or "yaml"."""
    objects = [obj for _, listed in found for obj in listed]
    if output in ("json", "yaml"):
        data = objects[0] if single else {"apiVersion": "v1", "kind": "List", "items": objects}
        if output == "json":
            return json.dumps(data, indent=4, ensure_ascii=False) + "\n"
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=False)
    if output == "name":
        return "".join(
            f"{kind.qualified}/{obj['metadata']['name']}\n" for kind, listed in found for obj in listed
        )
    view = printers.View(wide=output == "wide", namespaces=scope.everywhere, named=len(found) > 1)
    tables = [printers.table(kind, listed, now, view) for kind, listed in found if listed]
    return "\n".join(tables)


def nothing_found(found: Sequence[tuple[Kind, list[Object]]], scope: Scope) -> str:
    """Kubectl's remark about an empty listing."""
    if scope.everywhere or not any(kind.namespaced for kind, _ in found):
        return "No resources found"
    return f"No resources found in {scope.namespace} namespace."


# apply ----------------------------------------------------------------------------------------------------------


async def apply_files(store: ObjectStore, files: Sequence[str], namespace: str, out: Emit, err: Emit) -> int:
    """Apply every file; a file that can not be read in whole is not applied at all. Returns the exit code."""
    code = 0
    found: list[str] = []
    for file in files:
        try:
            found += manifests.sources(file)
        except ManifestError as error:
            err(f"error: {error}")
            code = USAGE
    for source in found:
        try:
            objects = manifests.load(source, namespace)
        except ManifestError as error:
            err(f"error: {error}")
            code = USAGE
            continue
        for obj in objects:
            try:
                await ensure_namespace(store, obj, out)
                out(await apply_one(store, obj, err))
            except InvalidObjectError as error:
                err(f"error: {'stdin' if source == '-' else source}: {error}")
                code = USAGE
    return code


async def apply_one(store: ObjectStore, manifest: Object, err: Emit) -> str:
    """Create or update one object; says what was done as kubectl does. Raises InvalidObjectError."""
    ref, kind = ref_of(manifest), kind_of(manifest["kind"])
    label = f"{kind.qualified}/{ref.name}"
    for _ in range(_CONFLICT_RETRIES):
        try:
            live = await store.get(ref)
        except (NotFoundError, InvalidObjectError):  # what can not be read is replaced
            try:
                await store.create(merge.to_create(manifest))
            except AlreadyExistsError:
                continue
            return f"{label} created"
        if dig(live, "metadata", "deletionTimestamp"):
            err(f"Warning: {label} is being deleted: what is applied now goes with it")
        patch = merge.patch_for(live, manifest)
        if patch is None:
            return f"{label} unchanged"
        patch["metadata"]["resourceVersion"] = dig(live, "metadata", "resourceVersion")
        try:
            await store.update(ref, patch)
        except (ConflictError, NotFoundError):
            continue
        return f"{label} configured"
    raise InvalidObjectError(f"{label} keeps changing: not applied")


async def ensure_namespace(store: ObjectStore, obj: Object, out: Emit) -> None:
    """Create the object's namespace unless it is there."""
    name = ref_of(obj).namespace
    if not name:
        return
    try:
        await store.get(Ref("Namespace", "", name))
    except NotFoundError:
        try:
            await store.create(namespace_object(name))
        except AlreadyExistsError:
            return
        out(f"namespace/{name} created")


def namespace_object(name: str) -> Object:
    """A Namespace as the API server would store it."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "status": {"phase": "Active"},
    }


# delete ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeleteOptions:
    """Flags of delete; `timeout` in s, None does not wait."""

    timeout: float | None = 60
    ignore_not_found: bool = False


async def delete(
    store: ObjectStore, refs: Sequence[Ref], options: DeleteOptions, out: Emit, err: Emit
) -> int:
    """Delete objects and wait until they and what they own are gone. Returns the exit code."""
    code, deleted = 0, []
    for ref in refs:
        kind = kind_of(ref.kind)
        try:
            deleted.append((ref, dig(await store.get(ref), "metadata", "uid")))
            await store.delete(ref)
        except NotFoundError:
            if not options.ignore_not_found:
                err(not_found(kind, ref.name).format_message())
                code = USAGE
            continue
        out(f'{kind.qualified} "{ref.name}" deleted')
    if options.timeout is None:
        return code
    deadline = time.monotonic() + options.timeout
    for ref, uid in deleted:
        while left := await _left_of(store, ref, uid):
            if time.monotonic() > deadline:
                err(f"error: timed out waiting for {left} to go")
                return FAILED
            await asyncio.sleep(_POLL_SECONDS)
    return code


async def _left_of(store: ObjectStore, ref: Ref, uid: str | None) -> Ref | None:
    """The object itself while it is there, else one that it (or what it owned) still owns."""
    try:
        if dig(await store.get(ref), "metadata", "uid") == uid:
            return ref
    except NotFoundError:
        pass
    if ref.kind not in ("VpcEgressGateway", "Deployment"):
        return None
    for kind in ("Deployment", "ConfigMap", "Pod"):
        for obj in await store.list(kind, ref.namespace):
            owners = dig(obj, "metadata", "ownerReferences") or []
            label = dig(obj, "metadata", "labels", "ovn.kubernetes.io/vpc-egress-gateway")
            if any(o.get("uid") == uid for o in owners) or (
                ref.kind == "VpcEgressGateway" and label == ref.name and owners
            ):
                return ref_of(obj)
    return None


# scale, wait ----------------------------------------------------------------------------------------------------


async def scale(store: ObjectStore, kind: Kind, ref: Ref, replicas: int) -> str:
    """Set spec.replicas. Raises CliError."""
    if kind.kind not in ("VpcEgressGateway", "Deployment"):
        raise CliError(f"error: {resource(kind)} can not be scaled")
    if replicas < 0 or (kind.kind == "VpcEgressGateway" and replicas > MAX_REPLICAS):
        allowed = f"from 0 to {MAX_REPLICAS}" if kind.kind == "VpcEgressGateway" else "0 or more"
        raise CliError(f"error: --replicas={replicas}: must be {allowed}")
    await _get(store, kind, ref)
    await store.update(ref, {"spec": {"replicas": replicas}})
    return f"{kind.qualified}/{ref.name} scaled"


async def wait(store: ObjectStore, kind: Kind, ref: Ref, seconds: float) -> str:
    """Wait until the object serves what its spec asks for. Raises CliError with the reason after `seconds` s."""
    obj = await _get(store, kind, ref)
    deadline = time.monotonic() + seconds
    while reason := why_not_ready(obj):
        if time.monotonic() > deadline:
            raise CliError(
                f"error: {kind.qualified}/{ref.name} is not ready after {seconds:g} s: {reason}", FAILED
            )
        await asyncio.sleep(_POLL_SECONDS)
        obj = await _get(store, kind, ref)
    return f"{kind.qualified}/{ref.name} condition met"


def why_not_ready(obj: Object) -> str:
    """What an object still lacks, for people; "" when it is ready for its present spec."""
    match obj["kind"]:
        case "VpcEgressGateway":
            return _gateway_lacks(obj)
        case "Deployment":
            return _deployment_lacks(obj)
        case "Pod":
            return "" if _condition(obj, "Ready").get("status") == "True" else _conditions_text(obj)
        case "Node":
            return "" if _condition(obj, "Ready").get("status") == "True" else "it is not ready"
        case _:
            return ""


async def events_of(store: ObjectStore, ref: Ref) -> list[Object]:
    """Events about an object, oldest first."""
    events = await store.list("Event", ref.namespace or None)
    mine = [
        e
        for e in events
        if dig(e, "involvedObject", "kind") == ref.kind and dig(e, "involvedObject", "name") == ref.name
    ]
    return sorted(mine, key=lambda e: str(e.get("lastTimestamp") or dig(e, "metadata", "creationTimestamp")))


def _gateway_lacks(obj: Object) -> str:
    generation = dig(obj, "metadata", "generation")
    if (observed := dig(obj, "status", "observedGeneration")) != generation:
        return f"generation {generation} is not observed yet (last: {observed or 'none'}); {_conditions_text(obj)}"
    replicas = 1 if dig(obj, "spec", "replicas") is None else dig(obj, "spec", "replicas")
    serving = dig(obj, "status", "internalIPs") or []
    # Ready can come before the last pod says so; who waits wants both.
    if dig(obj, "status", "ready") is not True or dig(obj, "status", "phase") not in (None, "Completed"):
        return _conditions_text(obj)
    if len(serving) != replicas:
        return f"{len(serving)} of {replicas} replicas serve; {_conditions_text(obj)}"
    return ""


def _deployment_lacks(obj: Object) -> str:
    if dig(obj, "status", "observedGeneration") != dig(obj, "metadata", "generation"):
        return "its generation is not observed yet"
    wanted = 1 if dig(obj, "spec", "replicas") is None else dig(obj, "spec", "replicas")
    counts = [dig(obj, "status", field) for field in ("replicas", "updatedReplicas", "readyReplicas")]
    if any(count != wanted for count in counts):
        return f"{counts[2] or 0} of {wanted} replicas are ready, {counts[1] or 0} updated, {counts[0] or 0} in all"
    return ""


def _condition(obj: Object, kind: str) -> Object:
    return next((c for c in dig(obj, "status", "conditions") or [] if c.get("type") == kind), {})


def _conditions_text(obj: Object) -> str:
    told = [
        f"{c.get('type')}={c.get('status')}"
        + (f" {c['reason']}" if c.get("reason") else "")
        + (f": {c['message']}" if c.get("message") else "")
        for c in dig(obj, "status", "conditions") or []
        if c.get("status") != "True"
    ]
    phase = dig(obj, "status", "phase") or "Pending"
    return "; ".join(told) or f"phase {phase}, no condition tells why"


async def _get(store: ObjectStore, kind: Kind, ref: Ref) -> Object:
    try:
        return await store.get(ref)
    except NotFoundError:
        raise not_found(kind, ref.name) from None
    except InvalidObjectError as error:
        raise CliError(f"error: {error}") from error


def echo_error(text: str) -> None:
    """A line on stderr."""
    click.echo(text, err=True)
