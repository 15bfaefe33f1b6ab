"""NAT rules in the kernel's legacy tables, with python-iptables' binding of libiptc.

Rules are written and compared as the kernel's own structures (linux/netfilter_ipv4/ip_tables.h and its IPv6 twin).
Going past python-iptables' Rule class is on purpose: libxtables can not serve NAT targets of both families in one
process (one shared object registers once), building a Rule costs about a millisecond, and a rule of somebody else
whose extension is not installed here must be no obstacle.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from veg_node_agent.core.model import Chain, Exemption, Family, Tracking
from veg_node_agent.core.operations import ExemptOp, NatOp, TrackingOp
from veg_node_agent.errors import KernelError
from veg_node_agent.io.xt_entries import (
    decode,
    encode,
    encode_exemption,
    encode_tracking,
    same_exemption,
    same_tracking,
)

_LOCK_WAIT = 3.0  # s


class _Table:
    """One legacy table of one family. Methods raise KernelError."""

    def __init__(self, family: Family, name: str, chain: str) -> None:
        self._what = f"legacy {family.label} {name} table"
        self._chain = chain
        _prepare_environment()
        try:
            import iptc  # noqa: PLC0415  (costs 0.3 s and 8 MB, and is not needed with nft)

            self._error: type[Exception] = iptc.IPTCError
            self._table: Any = (iptc.Table if family is Family.V4 else iptc.Table6)(name, autocommit=False)
        except Exception as error:  # the module fails in its own ways when a shared object is missing
            raise KernelError(f"{self._what}: {error}") from error

    def read(self) -> list[bytes]:
        """The chain's entries as they are now."""
        with self._explained():
            self._table.refresh()
            return list(self._entries())

    def insert(self, raw: bytes, at: int) -> None:
        """Put an entry in place `at` (from 0); nothing happens before `commit`."""
        with self._explained():
            self._table.insert_entry(self._chain, ctypes.create_string_buffer(raw, len(raw)), at)

    def delete(self, at: int) -> None:
        """Take out the entry in place `at` (from 0); nothing happens before `commit`."""
        table = self._table
        with self._explained():
            if not table._iptc.iptc_delete_num_entry(self._chain.encode(), at, table._handle):  # noqa: SLF001
                raise self._error(f"can't delete rule {at + 1}: {table.strerror()}")

    def commit(self) -> None:
        """Exchange the table in the kernel for what was made of it since `read`."""
        with self._explained():
            self._table.commit()

    def _entries(self) -> Iterator[bytes]:
        entry = self._table.first_rule(self._chain)
        while entry:
            yield ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
            entry = self._table.next_rule(entry)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise KernelError(f"{self._what}: {error}") from error


class LegacyNat:
    """The legacy tables of one family. Raises KernelError when the kernel or the library has none."""

    name = "legacy"

    def __init__(self, family: Family) -> None:
        self._family = family
        self._nat = _Table(family, "nat", "POSTROUTING")
        self._mangle = _Table(family, "mangle", "FORWARD")
        # Looked at only where it is needed: looking makes the kernel load it.
        self._raw: dict[str, _Table] = {}

    def read(self) -> Chain:
        """POSTROUTING as it is. Raises KernelError."""
        return tuple(decode(self._family, raw) for raw in self._nat.read())

    def commit(self, steps: Sequence[NatOp]) -> None:
        """Carry out the steps in one commit, under the lock of the command line tools. Raises KernelError."""
        with _xtables_lock():
            chain = list(self.read())
            for step in steps:
                if step.verb == "insert":
                    at = min(step.position - 1, len(chain))
                    self._nat.insert(encode(step.rule), at)
                    chain.insert(at, step.rule)
                elif step.rule in chain:
                    at = chain.index(step.rule)
                    self._nat.delete(at)
                    del chain[at]
            self._nat.commit()

    def tracked(self, ours: Sequence[Tracking]) -> frozenset[Tracking]:
        """Which of these rules are in the mangle table. Raises KernelError."""
        entries = self._mangle.read()
        return frozenset(rule for rule in ours if any(same_tracking(rule, raw) for raw in entries))

    def track(self, step: TrackingOp) -> None:
        """Add or delete the tracking rule, under the lock of the command line tools. Raises KernelError."""
        raw = encode_tracking(step.rule)
        self._place(self._mangle, step.verb, raw, lambda entry: same_tracking(step.rule, entry))

    def exempt(self, ours: Sequence[Exemption]) -> frozenset[Exemption]:
        """Which of these rules are in the raw table. Raises KernelError."""
        chains = {rule.chain: self._raw_table(rule.chain).read() for rule in ours}
        return frozenset(
            rule for rule in ours if any(same_exemption(rule, raw) for raw in chains[rule.chain])
        )

    def change_exemption(self, step: ExemptOp) -> None:
        """Add or delete a rule of the raw table, under the lock of the command line tools. Raises KernelError."""
        raw, table = encode_exemption(step.rule), self._raw_table(step.rule.chain)
        self._place(table, step.verb, raw, lambda entry: same_exemption(step.rule, entry))

    def _place(self, table: _Table, verb: str, raw: bytes, same: Callable[[bytes], bool]) -> None:
        """Have an entry at the end of a chain once, or not at all."""
        with _xtables_lock():
            entries = table.read()
            places = [at for at, entry in enumerate(entries) if same(entry)]
            if verb == "add" and not places:
                table.insert(raw, len(entries))
            elif verb == "delete":
                for at in reversed(places):
                    table.delete(at)
            table.commit()

    def _raw_table(self, chain: str) -> _Table:
        if chain not in self._raw:
            self._raw[chain] = _Table(self._family, "raw", chain)
        return self._raw[chain]


def _prepare_environment() -> None:
    """Spare python-iptables the search for the extensions, which forks ldconfig and fails where there is none."""
    if "XTABLES_LIBDIR" in os.environ:
        return
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for folder in (f"/usr/lib/{multiarch}/xtables", "/usr/lib/xtables", "/usr/lib64/xtables", "/lib/xtables"):
        if Path(folder).is_dir():
            os.environ["XTABLES_LIBDIR"] = folder
            return


@contextlib.contextmanager
def _xtables_lock() -> Iterator[None]:
    """Hold the lock that iptables-legacy takes, which libiptc does not. Raises KernelError when it stays busy."""
    path = os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield  # a read-only /run: nobody else can lock there either
        return
    try:
        deadline = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise KernelError(f"{path} is held by another program") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)
