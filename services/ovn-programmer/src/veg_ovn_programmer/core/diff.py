"""The difference between the rows found and the rows wanted, as operations in a stable order."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from veg_ovn_programmer.core.rows import MARKS, TABLES, TITLES, Found, Row, Value, show

_RANK = {table: rank for rank, table in enumerate(TABLES)}


class Action(enum.IntEnum):
    """What an operation does; the numbers are those of veg.types.v1.Action."""

    CREATE = 1
    UPDATE = 2
    DELETE = 3


@dataclass(frozen=True)
class Op:
    """One row made, changed in place or removed."""

    action: Action
    row: Row
    """The row wanted, or the one found when it is removed."""
    handle: object = None
    """The row found; None when it is made."""
    changed: Mapping[str, Value] = field(default_factory=dict)
    """Columns to write in an update; of external_ids only the keys to set."""

    @property
    def name(self) -> str:
        """Which row of its table, in the words of its field: a name, a match, a prefix."""
        return show(self.row.columns[TITLES[self.row.table]])

    @property
    def detail(self) -> str:
        """What it will hold, for people."""
        columns = self.changed if self.action is Action.UPDATE else self.row.columns
        shown = {
            column: value
            for column, value in columns.items()
            if column != TITLES[self.row.table] and (self.action is Action.UPDATE or show(value))
        }
        parts = [f"{column}={show(shown[column])}" for column in sorted(shown)]
        return " ".join([f"on {self.row.holder}", *parts] if self.row.holder else parts)


def diff(found: Iterable[Found], wanted: Iterable[Row]) -> tuple[Op, ...]:
    """Operations that turn the rows found into the rows wanted.

    A row of the same table, holder and identity is kept and updated in place. Of several rows found alike one is kept.
    Makes and updates come first, holders before what they hold; removals follow in the opposite order.
    """
    there: dict[tuple[object, ...], Found] = {}
    surplus: list[Found] = []
    for one in sorted(found, key=lambda f: str(f.handle)):
        kept = there.setdefault(_place(one.row), one)
        surplus += [one] if kept is not one else []
    made: list[Op] = []
    for row in wanted:
        known = there.pop(_place(row), None)
        if known is None:
            made.append(Op(Action.CREATE, row))
        elif changed := _changed(known.row.columns, row.columns):
            made.append(Op(Action.UPDATE, row, known.handle, changed))
    made.sort(key=_order)
    removed = [Op(Action.DELETE, one.row, one.handle) for one in (*there.values(), *surplus)]
    removed.sort(key=_order, reverse=True)
    return (*made, *removed)


def _place(row: Row) -> tuple[object, ...]:
    return (row.table, row.holder, row.identity)


def _order(op: Op) -> tuple[object, ...]:
    return (_RANK[op.row.table], op.row.owner, op.row.holder or "", op.row.identity, str(op.handle))


def _changed(found: Mapping[str, Value], wanted: Mapping[str, Value]) -> dict[str, Value]:
    changed: dict[str, Value] = {}
    for column, value in wanted.items():
        old = found.get(column)
        if column == MARKS and isinstance(value, Mapping):
            # Others may add keys of their own beside ours.
            old = old if isinstance(old, Mapping) else {}
            missing = {key: text for key, text in value.items() if old.get(key) != text}
            if missing:
                changed[column] = missing
        elif old != value:
            changed[column] = value
    return changed
