"""`describe`: an object's spec, status, conditions and events as people read them. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import yaml
from veg_common.objects import Object

from veg_sandbox.cli.merge import LAST_APPLIED
from veg_sandbox.cli.table import age, crd_cell, dig, render


def describe(obj: Object, events: Sequence[Object], now: dt.datetime) -> str:
    """Text for stdout."""
    metadata = obj["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != LAST_APPLIED}
    lines = [f"{'Name:':<14}{metadata['name']}\n"]
    if metadata.get("namespace"):
        lines.append(f"{'Namespace:':<14}{metadata['namespace']}\n")
    lines += [_pairs("Labels:", metadata.get("labels") or {}, "="), _pairs("Annotations:", annotations, ": ")]
    lines += [f"{'API Version:':<14}{obj['apiVersion']}\n", f"{'Kind:':<14}{obj['kind']}\n"]
    lines.append(f"{'Created:':<14}{metadata.get('creationTimestamp', '')}\n")
    for part in ("spec", "data", "config"):
        if obj.get(part):
            lines.append(f"{part.capitalize()}:\n{_indented(obj[part])}")
    status = obj.get("status") if isinstance(obj.get("status"), dict) else {}
    rest = {key: value for key, value in (status or {}).items() if key != "conditions"}
    if rest:
        lines.append(f"Status:\n{_indented(rest)}")
    lines.append(_conditions(dig(obj, "status", "conditions") or [], now))
    lines.append(_events(events, now))
    return "".join(lines)


def _pairs(title: str, pairs: dict[str, Any], between: str) -> str:
    shown = [f"{key}{between}{crd_cell(value)}" for key, value in sorted(pairs.items())] or ["<none>"]
    return "".join(f"{title if i == 0 else '':<14}{text}\n" for i, text in enumerate(shown))


def _indented(value: Any) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return "".join(f"  {line}\n" for line in text.splitlines())


def _conditions(conditions: Sequence[Object], now: dt.datetime) -> str:
    if not conditions:
        return ""
    rows = [
        [
            f"  {c.get('type', '')}",
            str(c.get("status", "")),
            age(c.get("lastTransitionTime"), now),
            str(c.get("reason", "")),
            str(c.get("message", "")),
        ]
        for c in conditions
    ]
    return "Conditions:\n" + render(["  Type", "Status", "Since", "Reason", "Message"], rows)


def _events(events: Sequence[Object], now: dt.datetime) -> str:
    if not events:
        return f"{'Events:':<14}<none>\n"
    rows = [
        [
            f"  {event.get('type', '')}",
            str(event.get("reason", "")),
            age(event.get("lastTimestamp") or dig(event, "metadata", "creationTimestamp"), now),
            str(dig(event, "source", "component") or event.get("reportingComponent") or ""),
            str(event.get("message", "")),
        ]
        for event in events
    ]
    return "Events:\n" + render(["  Type", "Reason", "Age", "From", "Message"], rows)
