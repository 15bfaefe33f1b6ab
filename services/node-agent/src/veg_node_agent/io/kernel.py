"""The kernel of this network namespace as one neighbour: read a snapshot, carry out a plan.

Blocking; the agent calls it from one thread of its own, the `plan` command directly.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from veg_node_agent.core.desired import sysctl_paths
from veg_node_agent.core.model import (
    OWN_PORTS,
    Chain,
    Config,
    Exemption,
    Family,
    Record,
    Snapshot,
    Tracking,
    exemptions,
    trackings,
)
from veg_node_agent.core.operations import (
    ExemptOp,
    NatOp,
    Operation,
    RouteOp,
    RuleOp,
    SysctlOp,
    TrackingOp,
    closes,
)
from veg_node_agent.errors import KernelError
from veg_node_agent.io import sysctl
from veg_node_agent.io.nat import BackendName, Nat
from veg_node_agent.io.netlink import Netlink


@dataclass(frozen=True)
class Outcome:
    """What became of a plan: the operations that were carried out, and one line for each that was refused."""

    done: tuple[Operation, ...]
    errors: tuple[str, ...]


class Kernel:
    """Routes, rules, NAT and sysctls. Methods raise KernelError when the kernel can not be read."""

    def __init__(self, nat_backend: BackendName = "auto") -> None:
        self._nat = Nat(nat_backend)
        self._netlink: Netlink | None = None
        self._routing: Snapshot | None = None

    @property
    def nat_backend(self) -> str:
        """Which tables hold the NAT rules; empty before the first read."""
        return self._nat.backend

    def close(self) -> None:
        """Give the netlink socket back; the next call opens another."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def read(self, config: Config, record: Record, *, routing: bool = True) -> Snapshot:
        """What is there. The nat table of a family is read only when the configuration or the record names it.

        Without `routing`, links, addresses, routes and rules are those of the last read: for a caller who knows that
        no notification came since.
        """
        if routing or self._routing is None:
            self._routing = self._read_routing()
        named = {entry.family for entry in config.families} | {rule.family for rule in record.nat}
        named |= record.tracked
        chains, unreadable, tracked = self._read_tables(sorted(named), config.external)
        return replace(
            self._routing,
            nat=chains,
            unreadable=unreadable,
            tracked=tracked,
            exempt=self._read_exemptions(config, record),
            sysctls={path: sysctl.read(path) for path in (*sysctl_paths(config), *record.sysctls)},
        )

    def apply(self, operations: Sequence[Operation]) -> Outcome:
        """Carry out the operations in order.

        After a failure the rest of the same family is left out, except for what only closes the source guard. A missing
        exemption holds nothing up: it is BFD's matter, not that of the traffic.
        """
        done: list[Operation] = []
        errors: list[str] = []
        failed: set[Family] = set()
        for (family, is_nat), group in itertools.groupby(
            operations, lambda op: (op.family, isinstance(op, NatOp))
        ):
            steps = list(group)
            batches = [steps] if is_nat else [[step] for step in steps]
            for batch in batches:
                if family in failed and not all(closes(step) for step in batch):
                    continue
                try:
                    self._carry_out(family, batch)
                    done += batch
                except KernelError as error:
                    errors.append(str(error))
                    if not isinstance(batch[0], ExemptOp):
                        failed.add(family)
        return Outcome(tuple(done), tuple(errors))

    def _read_routing(self) -> Snapshot:
        netlink = self._handle()
        return Snapshot(
            interfaces=netlink.interfaces(),
            routes=tuple(route for family in Family for route in netlink.routes(family)),
            rules=tuple(rule for family in Family for rule in netlink.rules(family)),
        )

    def _read_tables(
        self, families: Sequence[Family], external: str
    ) -> tuple[dict[Family, Chain], dict[Family, str], frozenset[Tracking]]:
        chains: dict[Family, Chain] = {}
        tracked: frozenset[Tracking] = frozenset()
        unreadable: dict[Family, str] = {}
        for family in families:
            try:
                chains[family] = self._nat.read(family)
                tracked |= self._nat.tracked(family, trackings(family, external))
            except KernelError as error:
                unreadable[family] = str(error)
        return chains, unreadable, tracked

    def _read_exemptions(self, config: Config, record: Record) -> frozenset[Exemption]:
        """Read only where some are wanted or recorded; a table that can not be read refuses when it is written."""
        named = {entry.family for entry in config.families if config.untracked_ports} | record.exempt
        found: frozenset[Exemption] = frozenset()
        for family in sorted(named):
            with contextlib.suppress(KernelError):
                found |= self._nat.exempt(family, exemptions(family, OWN_PORTS, config.internal))
        return found

    def _carry_out(self, family: Family, batch: Sequence[Operation]) -> None:
        first = batch[0]
        if isinstance(first, (RouteOp, RuleOp)):
            self._handle().change(first)
        elif isinstance(first, SysctlOp):
            sysctl.write(first)
        elif isinstance(first, TrackingOp):
            self._nat.track(first)
        elif isinstance(first, ExemptOp):
            self._nat.change_exemption(first)
        else:
            self._nat.commit(family, [step for step in batch if isinstance(step, NatOp)])

    def _handle(self) -> Netlink:
        if self._netlink is None:
            self._netlink = Netlink()
        return self._netlink
