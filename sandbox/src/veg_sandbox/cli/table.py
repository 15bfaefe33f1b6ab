"""Tables and ages as kubectl prints them. Pure; the cells come from `printers`."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

# kubectl's tabwriter: at least three blanks between columns, no column narrower than six characters.
PADDING = 3
MIN_WIDTH = 6


def render(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table, each ending with a newline; the last column is never padded."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(MIN_WIDTH, *(len(line[i]) + PADDING for line in lines)) for i in range(len(header) - 1)]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)) + line[-1] + "\n"
        for line in lines
    )


def age(since: str | None, now: dt.datetime) -> str:
    """Time since an RFC 3339 timestamp as kubectl prints an age; `<unknown>` without one."""
    if not since:
        return "<unknown>"
    try:
        then = dt.datetime.fromisoformat(since)
    except (TypeError, ValueError):
        return "<invalid>"
    if then.tzinfo is None:
        then = then.replace(tzinfo=dt.UTC)
    return human_duration(int((now - then).total_seconds()))


def human_duration(seconds: int) -> str:
    """A duration with two or three significant digits: Kubernetes' `duration.HumanDuration`."""
    if seconds < -1:
        return "<invalid>"
    seconds = max(seconds, 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    years = days // 365
    steps = (
        (seconds < 120, f"{seconds}s"),
        (minutes < 10, _two(minutes, "m", seconds % 60, "s")),
        (hours < 3, f"{minutes}m"),
        (hours < 8, _two(hours, "h", minutes % 60, "m")),
        (hours < 48, f"{hours}h"),
        (days < 8, _two(days, "d", hours % 24, "h")),
        (years < 2, f"{days}d"),
        (years < 8, _two(years, "y", days % 365, "d")),
    )
    return next((text for fits, text in steps if fits), f"{years}y")


def crd_cell(value: Any) -> str:
    """A value of an additional printer column of a custom resource: lists as compact JSON, nothing as nothing."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case list() | dict():
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        case _:
            return str(value)


def dig(obj: Any, *path: str) -> Any:
    """The value at a path of nested mappings; None where there is no way, whatever the manifest holds there."""
    for key in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(key)
    return obj


def _two(first: int, first_unit: str, second: int, second_unit: str) -> str:
    return f"{first}{first_unit}{second}{second_unit}" if second else f"{first}{first_unit}"
