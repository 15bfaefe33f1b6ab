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
import ipaddress
import os
import struct
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veg_node_agent.core.model import Chain, Family, NatRule, network
from veg_node_agent.core.operations import TRACKING_COMMENT, NatOp, TrackingOp
from veg_node_agent.errors import KernelError

_LOCK_WAIT = 3.0  # s
# NF_NAT_RANGE_PROTO_RANDOM_FULLY of linux/netfilter/nf_nat.h
_RANDOM_FULLY = 1 << 4
_RETURN_VERDICT = -5  # XT_RETURN: -NF_REPEAT - 1


@dataclass(frozen=True)
class _Layout:
    """Where things stand in struct ipt_entry or ip6t_entry; sizes in bytes."""

    address: int  # of an address and of a mask; order: src, dst, smsk, dmsk
    header: int  # struct ipt_ip or ip6t_ip
    entry: int  # up to the target, which starts here when there are no matches
    masquerade: bytes  # the target's data: nf_nat_ipv4_multi_range_compat, or nf_nat_range


_LAYOUTS = {
    Family.V4: _Layout(4, 84, 112, struct.pack("=II4s4sHHxxxx", 1, _RANDOM_FULLY, b"", b"", 0, 0)),
    Family.V6: _Layout(16, 136, 168, struct.pack("=I16s16sHH", _RANDOM_FULLY, b"", b"", 0, 0)),
}
_TARGET = struct.Struct("=H29sB")  # struct xt_entry_target: size, name, revision
_OFFSETS = struct.Struct("=IHHI")  # nfcache, target_offset, next_offset, comefrom


def encode(rule: NatRule) -> bytes:
    """The rule as the kernel's entry with its target."""
    layout = _LAYOUTS[rule.family]
    net = network(rule.cidr)
    addresses = net.network_address.packed + bytes(layout.address)
    masks = net.netmask.packed + bytes(layout.address)
    # A target without a name is a verdict (xt_standard_target); libiptc resolves the name RETURN itself.
    name, data = (
        (b"MASQUERADE", layout.masquerade) if rule.masquerade else (b"RETURN", struct.pack("=ixxxx", 0))
    )
    target = _TARGET.pack(_TARGET.size + len(data), name, 0) + data
    offsets = _OFFSETS.pack(0, layout.entry, layout.entry + len(target), 0)
    header = (addresses + masks).ljust(layout.header, b"\0")
    return (header + offsets).ljust(layout.entry, b"\0") + target


def encode_tracking(family: Family) -> bytes:
    """The tracking rule: matches `conntrack` (--ctstate INVALID) and `comment`, and no target, which means go on."""
    layout = _LAYOUTS[family]
    # struct xt_conntrack_mtinfo3: addresses and ports that are not looked at, then match_flags (XT_CONNTRACK_STATE),
    # invert_flags, state_mask (XT_CONNTRACK_STATE_INVALID), status_mask.
    conntrack = bytes(146) + struct.pack("=HHHH", 1, 0, 1, 0)
    matches = b"".join(
        _TARGET.pack(_TARGET.size + len(data), name, revision) + data
        for name, revision, data in (
            (b"conntrack", 3, conntrack.ljust(168, b"\0")),
            (b"comment", 0, TRACKING_COMMENT.encode().ljust(256, b"\0")),
        )
    )
    data = struct.pack("=ixxxx", 0)
    target = _TARGET.pack(_TARGET.size + len(data), b"", 0) + data
    start = layout.entry + len(matches)
    offsets = _OFFSETS.pack(0, start, start + len(target), 0)
    return (bytes(layout.header) + offsets).ljust(layout.entry, b"\0") + matches + target


def decode(family: Family, raw: bytes) -> NatRule | None:
    """The rule that an entry of the kernel is, or None when it is not of our shape in every bit."""
    layout = _LAYOUTS[family]
    size = layout.address
    _, target_offset, _, _ = _OFFSETS.unpack_from(raw, layout.header)
    source, destination = raw[:size], raw[size : 2 * size]
    mask, rest = raw[2 * size : 3 * size], raw[3 * size : layout.header]
    if target_offset != layout.entry or any(destination) or any(rest):
        return None
    bits = int.from_bytes(mask, "big")
    length = bits.bit_count()
    if bits != ((1 << length) - 1) << (8 * size - length):
        return None
    _, name, revision = _TARGET.unpack_from(raw, target_offset)
    data = raw[target_offset + _TARGET.size :]
    name = name.split(b"\0")[0]
    if name == b"MASQUERADE" and revision == 0 and data[: len(layout.masquerade)] == layout.masquerade:
        masquerade = True
    elif name == b"" and struct.unpack_from("=i", data)[0] == _RETURN_VERDICT:
        masquerade = False
    else:
        return None
    try:
        return NatRule(family, str(ipaddress.ip_network((source, length))), masquerade)
    except ValueError:  # host bits: not written by us
        return None


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

    def tracked(self) -> bool:
        """Whether our tracking rule is in the mangle table. Raises KernelError."""
        return any(_is_tracking(raw) for raw in self._mangle.read())

    def track(self, step: TrackingOp) -> None:
        """Add or delete the tracking rule, under the lock of the command line tools. Raises KernelError."""
        with _xtables_lock():
            entries = self._mangle.read()
            places = [at for at, raw in enumerate(entries) if _is_tracking(raw)]
            if step.verb == "add" and not places:
                self._mangle.insert(encode_tracking(self._family), len(entries))
            elif step.verb == "delete":
                for at in reversed(places):
                    self._mangle.delete(at)
            self._mangle.commit()


def _is_tracking(raw: bytes) -> bool:
    return TRACKING_COMMENT.encode() + b"\0" in raw


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
