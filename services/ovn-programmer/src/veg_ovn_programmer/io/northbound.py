"""The connection to OVN_Northbound: one IDL in one thread, which reconnects by itself.

Called by the worker: `commit` and `plan` block and belong in an executor. Everything else may be called from any
thread. Writes nothing on its own.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs import stream
from ovs.db import idl as ovs_idl
from ovsdbapp import exceptions as ovsdbapp_errors
from ovsdbapp.backend.ovs_idl import connection, idlutils, transaction
from veg_common import logs

from veg_ovn_programmer.core import rows
from veg_ovn_programmer.core.book import Job
from veg_ovn_programmer.core.intents import Key
from veg_ovn_programmer.core.view import Scene, Variant, View
from veg_ovn_programmer.errors import NorthboundError, NorthboundUnavailableError
from veg_ovn_programmer.io import json_parser, probe, schema, wire
from veg_ovn_programmer.io import replica as replicas
from veg_ovn_programmer.io.changes import Changes
from veg_ovn_programmer.io.commands import ReconcileCommand, Result
from veg_ovn_programmer.io.replica import Replica

# Seconds. A large database takes long to read; a transaction that found no server within its time is given up and
# made anew by the worker.
START_S = 300
COMMIT_S = 10
LOCK_S = 2
RETRY_S = 0.5
# ms between attempts to reconnect; ovs goes up to 8 s by itself.
_BACKOFF_MS = (100, 1000)


@dataclass(frozen=True)
class Tls:
    """PEM files for an `ssl:` remote."""

    key: Path
    certificate: Path
    authority: Path


class _Idl(connection.OvsdbIdl):  # type: ignore[misc]  # ovsdbapp ships no types
    """An IDL that reports changes to a Northbound and tells when its connection comes and goes."""

    def __init__(self, remote: str, helper: Any, owner: Northbound) -> None:
        super().__init__(remote, helper)
        self._session.reconnect.set_backoff(*_BACKOFF_MS)
        self._owner = owner
        self._live = False

    def cooperative_yield(self) -> None:
        """Nothing: this IDL has a thread of its own, and yielding a row costs more than the row."""

    def run(self) -> Any:
        changed = super().run()
        live = self.live()
        if live != self._live:
            self._live = live
            self._owner._connection_changed(live)  # noqa: SLF001
        return changed

    def live(self) -> bool:
        """Whether the copy is complete and follows the server."""
        session = self._session
        return bool(
            self.state == ovs_idl.Idl.IDL_S_MONITORING
            and session.is_connected()
            and session.get_seqno() == self._last_seqno
        )

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        self._owner._row_changed(event, row, updates)  # noqa: SLF001


class Northbound:
    """Reads and writes our rows of OVN_Northbound."""

    def __init__(  # noqa: PLR0913  # keywords, named at every call
        self,
        remote: str,
        *,
        managed: bool,
        wake: Callable[[], None],
        tls: Tls | None = None,
        variant: Variant | None = Variant.S3,
        sb: str = "",
    ) -> None:
        """`variant` of None is found out with the help of the Southbound database at `sb`."""
        self.remote = remote
        self.variant = variant or Variant.S3
        self._sb = sb if variant is None else ""
        self.managed = managed
        self.schema_version = ""
        self.changes = Changes(wake)
        self._tls = tls
        self._connection: Any = None
        self.replica: Replica | None = None
        """Our copy; None before the first connection."""
        self._pending: Replica | None = None
        self._attempt: Any = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._log = logs.get("northbound", remote=remote)

    @property
    def idl(self) -> Any:
        """The IDL (ovsdbapp's commands look for it here)."""
        return self._connection.idl

    @property
    def connected(self) -> bool:
        """Whether the copy is complete and follows the server."""
        return self.replica is not None and self.idl.live()

    def start(self) -> None:
        """Connect in the background, for as long as it takes."""
        self._log.info("starting", json_parser=json_parser.install())
        if self._tls is not None:
            stream.Stream.ssl_set_private_key_file(str(self._tls.key))
            stream.Stream.ssl_set_certificate_file(str(self._tls.certificate))
            stream.Stream.ssl_set_ca_cert_file(str(self._tls.authority))
        self._thread = threading.Thread(target=self._connect, name="northbound-connect", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Disconnect. Waits a few seconds at most."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(LOCK_S)
        if self._connection is not None:
            # Not Connection.stop(), which waits without a bound for a transaction that is stuck.
            self._connection.is_running = False
            with contextlib.suppress(queue.Full):
                self._connection.txns.put(None, timeout=LOCK_S)
            thread = self._connection.thread
            if thread is not None:
                thread.join(LOCK_S)

    def abandon(self) -> None:
        """Let go of a `commit` that waits for an answer; it raises NorthboundUnavailableError."""
        if self._attempt is not None:
            given_up = idlutils.ExceptionResult(ex=NorthboundUnavailableError("given up"), tb="")
            with contextlib.suppress(queue.Full):
                self._attempt.results.put_nowait(given_up)

    def commit(self, jobs: Sequence[Job], scene: Scene) -> dict[Key, Result]:
        """Bring all jobs' owners in line in one transaction.

        Raises NorthboundUnavailableError without an answer in COMMIT_S, NorthboundError when the server refuses.
        """
        replica = self._ready()
        command = ReconcileCommand(self, replica, jobs, self._view(replica, scene), self.changes)
        attempt = transaction.Transaction(
            self, self._connection, timeout=COMMIT_S, check_error=True, log_errors=False
        )
        attempt.add(command)
        self._attempt = attempt
        self.changes.hold()
        try:
            attempt.commit()
        except ovsdbapp_errors.TimeoutException as error:
            raise NorthboundUnavailableError(f"no answer within {COMMIT_S} s") from error
        except RuntimeError as error:
            raise NorthboundError(str(error)) from error
        finally:
            self._attempt = None
            self.changes.release()
        return command.result

    def plan(self, jobs: Sequence[Job], scene: Scene) -> dict[Key, Result]:
        """What `commit` would do, and do nothing. Raises NorthboundUnavailableError."""
        replica = self._ready()
        with self._locked():
            command = ReconcileCommand(self, replica, jobs, self._view(replica, scene), None)
            attempt = ovs_idl.Transaction(self.idl)
            try:
                command.run_idl(attempt)
            finally:
                attempt.abort()
        return command.result

    def owners(self) -> set[Key]:
        """Every owner that has rows in the database. Raises NorthboundUnavailableError."""
        replica = self._ready()
        with self._locked():
            return replica.owners()

    def _ready(self) -> Replica:
        if self.replica is None or not self.connected:
            raise NorthboundUnavailableError(f"{self.remote} is not connected")
        return self.replica

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._connection.lock.acquire(timeout=LOCK_S):
            raise NorthboundUnavailableError(f"{self.remote} does not answer")
        try:
            yield
        finally:
            self._connection.lock.release()

    def _view(self, replica: Replica, scene: Scene) -> View:
        return View(
            scene=scene,
            selection_fields=replica.has_selection_fields(),
            bfd_sessions=replica.has_bfd_sessions(),
            variant=self.variant,
            foreign_default=replica.foreign_default,
            port_towards=replica.port_towards,
            status=replica.status,
            carrier=replica.carrier,
        )

    def _connect(self) -> None:
        told = ""
        while not self._stopping.is_set():
            try:
                self._open()
            except Exception as error:  # noqa: BLE001  # ovs and ovsdbapp raise anything, even Exception itself
                if str(error) != told:
                    told = str(error)
                    self._log.warning("not connected yet", error=told)
                self._stopping.wait(RETRY_S)
            else:
                return

    def _open(self) -> None:
        if self._connection is None:
            version, json = _fetch_schema(self.remote)
            self.schema_version = version
            if self._sb:
                self.variant = probe.detect(self.remote, self._sb, self._stopping.is_set)
            idl = _Idl(self.remote, schema.register(json, managed=self.managed), self)
            self._pending = Replica(idl, managed=self.managed)
            self._connection = connection.Connection(idl, START_S)
        self._connection.start()
        self._connection.timeout = COMMIT_S
        self.replica = self._pending
        self._connection_changed(self.idl.live())

    def _connection_changed(self, live: bool) -> None:  # noqa: FBT001
        if self.replica is None:
            return
        if live:
            self._log.info("connected", schema=self.schema_version)
            self.changes.reloaded()
        else:
            self._log.warning("disconnected")
        self.changes.connection()

    def _row_changed(self, event: str, row: Any, updates: Any) -> None:
        """Called for every row that changes, in the IDL's thread: must be cheap and must not raise."""
        table = row._table.name  # noqa: SLF001
        key = replicas.owner(row)
        if key is not None and event == ovs_idl.ROW_UPDATE and _is_status(table, updates):
            self.changes.session(key)
            return
        if key is not None:
            self.changes.owner(key)
        if event == ovs_idl.ROW_UPDATE:
            before = _old(updates, "external_ids")
            key = rows.owner_of(before) if before is not None else None
            if key is not None:
                self.changes.owner(key)
        if table in rows.CONTAINERS:
            self.changes.holder(table, row.name)
            name = _old(updates, "name") if event == ovs_idl.ROW_UPDATE else None
            if name is not None:
                self.changes.holder(table, name)


def _old(updates: Any, column: str) -> Any | None:
    """A column's value before an update; None when it did not change."""
    return getattr(updates, column, None) if updates is not None else None


def _is_status(table: str, updates: Any) -> bool:
    """Whether an update changed nothing but the status of a BFD row, which is OVN's to write."""
    if table != rows.BFD or _old(updates, "status") is None:
        return False
    ours = ("logical_port", "dst_ip", "min_tx", "min_rx", "detect_mult", rows.MARKS)
    return all(_old(updates, column) is None for column in ours)


def _fetch_schema(remote: str) -> tuple[str, dict[str, Any]]:
    """(version, JSON) of the Northbound schema that the first reachable server has. Raises NorthboundUnavailableError."""
    with wire.opened(remote) as rpc:
        json: dict[str, Any] = wire.call(rpc, "get_schema", [schema.DATABASE])
    return str(json.get("version", "")), json
