"""A plan in the one form in which every component prints what it would do. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from veg_api.core.change import Change, Create, Delete, PatchStatus


@dataclass(frozen=True)
class Operation:
    """veg.types.v1.Operation: `detail` is for people."""

    action: Literal["CREATE", "UPDATE", "DELETE"]
    kind: str
    name: str
    detail: str = ""


def operations(changes: Iterable[Change]) -> list[Operation]:
    """Changes of objects in the order of execution; status is left out, for it only tells of them."""
    found = []
    for change in changes:
        name = f"{change.ref.namespace}/{change.ref.name}" if change.ref.namespace else change.ref.name
        if isinstance(change, Create):
            found.append(Operation("CREATE", change.ref.kind, name, _shown(change.object.get("spec") or {})))
        elif isinstance(change, Delete):
            found.append(Operation("DELETE", change.ref.kind, name))
        elif not isinstance(change, PatchStatus):
            found.append(Operation("UPDATE", change.ref.kind, name, _shown(change.patch)))
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= 400 else text[:397] + "..."
