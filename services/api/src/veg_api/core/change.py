"""Differences between objects, and the changes that remove them, as values. Pure.

A wanted object says only what is ours: keys it does not have are somebody else's (a server's defaults, a status) and
stay. A key that is to be absent is written as None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from veg_common.objects import Object, Ref, ref_of

_EXACT = 2**53


@dataclass(frozen=True)
class Create:
    """A new object."""

    ref: Ref
    object: Object


@dataclass(frozen=True)
class Patch:
    """A JSON merge patch of anything but status."""

    ref: Ref
    patch: Object


@dataclass(frozen=True)
class PatchStatus:
    """A merge patch of the status."""

    ref: Ref
    patch: Object


@dataclass(frozen=True)
class Delete:
    """A deletion."""

    ref: Ref


Change = Create | Patch | PatchStatus | Delete


@dataclass(frozen=True)
class EventRecord:
    """A Kubernetes Event to be recorded about an object."""

    about: Ref
    uid: str
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def put(wanted: Object, current: Object | None) -> Change | None:
    """The change that makes `current` hold all of `wanted`; None when it does."""
    ref = ref_of(wanted)
    if current is None:
        return Create(ref, _without_none(wanted))
    patch = difference(current, wanted)
    return Patch(ref, patch) if patch else None


def put_status(ref: Ref, wanted: Object, current: Object) -> PatchStatus | None:
    """The one patch that makes the whole status `wanted`; None when it is."""
    if current == wanted or _rounded(current) == _rounded(wanted):
        return None
    return PatchStatus(ref, {"status": {**dict.fromkeys(set(current) - set(wanted)), **wanted}})


def difference(current: Any, wanted: Object) -> Object:
    """The merge patch from `current` to an object that covers `wanted`; {} when it does already."""
    have = current if isinstance(current, dict) else {}
    patch: Object = {}
    for key, value in wanted.items():
        if value is not None and have.get(key) == value:
            continue  # compared in C: the common case by far
        if value is None:
            if have.get(key) is not None:
                patch[key] = None
        elif isinstance(value, dict):
            nested = difference(have.get(key), value)
            if nested or not isinstance(have.get(key), dict):
                patch[key] = nested
        elif not covers(have.get(key), value):
            patch[key] = _without_none(value)
    return patch


def covers(current: Any, wanted: Any) -> bool:
    """Whether `current` holds all that `wanted` says; mappings may hold more, lists must match one by one."""
    if current == wanted:
        return True
    if isinstance(wanted, dict):
        return isinstance(current, dict) and all(
            (current.get(k) is None) if v is None else covers(current.get(k), v) for k, v in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(current, list)
            and len(current) == len(wanted)
            and all(covers(c, w) for c, w in zip(current, wanted, strict=True))
        )
    return False


def _rounded(status: Object) -> Object:
    """A status with large numbers as an API server keeps them: it counts the addresses of an IPv6 subnet in floats."""
    return {k: float(v) if type(v) is int and abs(v) > _EXACT else v for k, v in status.items()}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value
