"""Our one ovsdbapp command: bring the rows of some owners in line, in one transaction.

It computes the difference inside the transaction, so that a retry (TRY_AGAIN after a lost connection) starts from what
is there then. Its cost is that of the owners' rows: they are found by index, and holders are changed by mutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ovsdbapp.backend.ovs_idl.command import BaseCommand

from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.bfd import Session, carrier
from veg_ovn_programmer.core.book import Job
from veg_ovn_programmer.core.desired import desired, lack, sessions
from veg_ovn_programmer.core.diff import Action, Op, diff
from veg_ovn_programmer.core.rows import Link, Row, Value
from veg_ovn_programmer.core.view import View
from veg_ovn_programmer.errors import IntentError, WaitingError
from veg_ovn_programmer.io import replica as replicas
from veg_ovn_programmer.io import schema
from veg_ovn_programmer.io.changes import Changes
from veg_ovn_programmer.io.replica import Replica


@dataclass(frozen=True)
class Result:
    """What became of one job: the operations of the transaction, or why there are none."""

    ops: tuple[Op, ...] = ()
    error: IntentError | None = None
    lack: WaitingError | None = None
    """The rows are written, but something that they need is not there."""
    sessions: tuple[Session, ...] = ()
    """What OVN says of the owner's BFD sessions, and what the rows make of it."""
    carrier: str = ""
    """The chassis that the owner's BFD port is on, see core.bfd.carrier."""


class ReconcileCommand(BaseCommand):  # type: ignore[misc]  # ovsdbapp ships no types
    """Brings each job's owner in line. `result` is a dict of Result by key; a job in error writes nothing."""

    def __init__(
        self,
        api: Any,
        replica: Replica,
        jobs: Sequence[Job],
        view: View,
        changes: Changes | None,
    ) -> None:
        super().__init__(api)
        self._replica = replica
        self._jobs = jobs
        self._view = view
        self._changes = changes
        self._removed: list[tuple[str, UUID]] = []

    def run_idl(self, txn: Any) -> None:
        """Compute and write every job's difference into an open IDL transaction."""
        self._removed = []
        if self._changes is not None:
            # Seen by this very look; no notice can come in between, for this is the IDL's thread.
            self._changes.settle(job.key for job in self._jobs)
        self.result = {job.key: self._one(txn, job) for job in self._jobs}

    def post_commit(self, txn: Any) -> None:  # noqa: ARG002  # ovsdbapp's signature
        """Check what the transaction left: only an owner that someone else changed meanwhile stays unsettled."""
        for table, uuid in self._removed:
            if self._replica.get(table, uuid) is not None:
                # Its mark named a holder that does not hold it.
                self._replica.misplaced.add(uuid)
        if self._changes is None:
            return
        jobs = {job.key: job for job in self._jobs}
        touched = self._changes.among(jobs)
        self._changes.settle([key for key in touched if not self._differs(jobs[key])])

    def _differs(self, job: Job) -> bool:
        try:
            return bool(self._difference(job))
        except IntentError:
            return True

    def _difference(self, job: Job) -> tuple[Op, ...]:
        wanted = desired(job.intent, self._view) if job.intent is not None else ()
        if job.orphan and not self._replica.is_ours(job.key):
            return ()
        return diff(self._replica.owned(job.key), wanted)

    def _one(self, txn: Any, job: Job) -> Result:
        try:
            ops = self._difference(job)
            self._check(ops)
        except IntentError as error:
            return Result(error=error)
        for op in ops:
            self._execute(txn, op)
        return Result(
            ops,
            lack=lack(job.intent, self._view),
            sessions=sessions(job.intent, self._view),
            carrier=carrier(job.intent, self._view),
        )

    def _check(self, ops: Sequence[Op]) -> None:
        """Raises WaitingError before anything is written, so that nobody sees half of an intent."""
        made = {(op.row.table, op.row.identity[0]) for op in ops if op.action is Action.CREATE}
        for op in ops:
            if op.action is not Action.CREATE:
                continue
            row = op.row
            if row.table in rows.NAMED:
                self._check_name(row)
            if row.table == rows.BFD:
                self._check_session(row)
            if row.table in rows.HOLDERS:
                table = rows.HOLDERS[row.table][0]
                if (table, row.holder) not in made:
                    self._holder(row)

    def _check_name(self, row: Row) -> None:
        name = row.identity[0]
        for other in self._replica.named(row.table, name):
            if replicas.owner(other) != row.owner:
                until = (row.table, name) if row.table in rows.CONTAINERS else None
                raise WaitingError("NameTaken", f"there is a {row.table} {name} of somebody else's", until)

    def _check_session(self, row: Row) -> None:
        for other in self._replica.sessions(*row.identity):
            if replicas.owner(other) != row.owner:
                port, peer = row.identity
                raise WaitingError("NameTaken", f"there is a BFD row {port} {peer} of somebody else's")

    def _holder(self, row: Row) -> Any:
        """The router, switch or group for a new row. Raises WaitingError."""
        table = rows.HOLDERS[row.table][0]
        name = row.holder or ""
        holders = self._replica.named(table, name)
        if len(holders) > 1:
            holders = [holder for holder in holders if replicas.owner(holder) is not None]
        if len(holders) == 1:
            return holders[0]
        word = {rows.ROUTER: "Router", rows.SWITCH: "Switch"}.get(table, "Group")
        if holders:
            raise WaitingError(f"{word}Ambiguous", f"more than one {table} is called {name}", (table, name))
        raise WaitingError(f"{word}Missing", f"{table} {name} is not there", (table, name))

    def _execute(self, txn: Any, op: Op) -> None:
        if op.action is Action.CREATE:
            self._create(txn, op.row)
        elif op.action is Action.UPDATE:
            self._update(op)
        else:
            self._delete(txn, op)

    def _create(self, txn: Any, row: Row) -> None:
        new = txn.insert(self.api.idl.tables[row.table])
        for column, value in row.columns.items():
            setattr(new, column, self._value(value))
        if row.table in rows.HOLDERS:
            self._holder(row).addvalue(rows.HOLDERS[row.table][1], new.uuid)

    def _update(self, op: Op) -> None:
        row = self._replica.get(op.row.table, op.handle)
        for column, value in op.changed.items():
            if column == rows.MARKS and isinstance(value, dict):
                # Key by key: others may have keys there, and ovs spoils an index whose column is assigned.
                for key, text in value.items():
                    row.setkey(column, key, text)
            else:
                setattr(row, column, self._value(value))

    def _value(self, value: Value) -> Any:
        """A value as the IDL wants it; links lead to rows of before or of this transaction."""
        if isinstance(value, frozenset) and any(isinstance(one, Link) for one in value):
            found = (self._replica.linked(one) for one in sorted(value) if isinstance(one, Link))
            return [row for row in found if row is not None]
        return schema.write(value)

    def _delete(self, txn: Any, op: Op) -> None:
        table, uuid = op.row.table, op.handle
        row = self._replica.get(table, uuid)
        if table in rows.HOLDERS and isinstance(uuid, UUID):
            self._let_go(txn, op.row, uuid)
            self._unlink(txn, op.row, uuid)
            self._removed.append((table, uuid))
        row.delete()

    @staticmethod
    def _unlink(txn: Any, row: Row, uuid: UUID) -> None:
        """Empty a port's reference to its group: the server counts it until after it has checked the group's end."""
        if row.table == rows.ROUTER_PORT and row.columns.get("ha_chassis_group"):
            txn.add_op(
                {
                    "op": "update",
                    "table": row.table,
                    "where": [["_uuid", "==", ["uuid", str(uuid)]]],
                    "row": {"ha_chassis_group": ["set", []]},
                }
            )

    def _let_go(self, txn: Any, row: Row, uuid: UUID) -> None:
        """Take a row from its holder; a row that nothing refers to is collected by the server."""
        holder_table, column = rows.HOLDERS[row.table]
        holders = self._replica.named(holder_table, row.holder) if row.holder else []
        if holders and uuid not in self._replica.misplaced:
            for holder in holders:
                holder.delvalue(column, uuid)
            return
        reference = ["uuid", str(uuid)]
        txn.add_op(
            {
                "op": "mutate",
                "table": holder_table,
                "where": [[column, "includes", reference]],
                "mutations": [[column, "delete", reference]],
            }
        )
