"""The nat tables of both families, in whichever of the kernel's two implementations is at hand.

`legacy` (ip_tables, what `iptables-legacy` shows) is preferred; where the kernel has none, `nft` (nf_tables, through
the iptables-nft tools, same printed form). Both read POSTROUTING as a `Chain` and commit a list of steps atomically.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from veg_common import logs

from veg_node_agent.core.model import Chain, Exemption, Family, Tracking
from veg_node_agent.core.operations import ExemptOp, NatOp, TrackingOp
from veg_node_agent.errors import KernelError
from veg_node_agent.io.nat_legacy import LegacyNat
from veg_node_agent.io.nat_nft import NftNat

BackendName = Literal["auto", "legacy", "nft"]


class NatBackend(Protocol):
    """One implementation of one family's nat table."""

    name: str

    def read(self) -> Chain:
        """POSTROUTING as it is. Raises KernelError."""

    def commit(self, steps: Sequence[NatOp]) -> None:
        """Carry out the steps, all or none. Raises KernelError."""

    def tracked(self, ours: Sequence[Tracking]) -> frozenset[Tracking]:
        """Which of these rules are in the mangle table. Raises KernelError."""

    def track(self, step: TrackingOp) -> None:
        """Add or delete the tracking rule. Raises KernelError."""

    def exempt(self, ours: Sequence[Exemption]) -> frozenset[Exemption]:
        """Which of these rules are in the raw table. Raises KernelError."""

    def change_exemption(self, step: ExemptOp) -> None:
        """Add or delete a rule of the raw table. Raises KernelError."""


class Nat:
    """Chooses a backend for each family when it is first needed, so that an unused family is not even looked at."""

    def __init__(self, choice: BackendName = "auto") -> None:
        self._choice = choice
        self._chosen: dict[Family, NatBackend] = {}

    @property
    def backend(self) -> str:
        """The name: legacy or nft ("legacy,nft" should the families differ); empty before the first use."""
        return ",".join(sorted({backend.name for backend in self._chosen.values()}))

    def read(self, family: Family) -> Chain:
        """POSTROUTING of a family. Raises KernelError."""
        return self._backend(family).read()

    def commit(self, family: Family, steps: Sequence[NatOp]) -> None:
        """Carry out the steps of a family, all or none. Raises KernelError."""
        self._backend(family).commit(steps)

    def tracked(self, family: Family, ours: Sequence[Tracking]) -> frozenset[Tracking]:
        """Which of these rules are in a family's mangle table. Raises KernelError."""
        return self._backend(family).tracked(ours)

    def track(self, step: TrackingOp) -> None:
        """Add or delete the tracking rule of a family. Raises KernelError."""
        self._backend(step.family).track(step)

    def exempt(self, family: Family, ours: Sequence[Exemption]) -> frozenset[Exemption]:
        """Which of these rules are in a family's raw table. Raises KernelError."""
        return self._backend(family).exempt(ours)

    def change_exemption(self, step: ExemptOp) -> None:
        """Add or delete a rule of the raw table. Raises KernelError."""
        self._backend(step.family).change_exemption(step)

    def _backend(self, family: Family) -> NatBackend:
        if family not in self._chosen:
            self._chosen[family] = self._choose(family)
            logs.get("nat").info("nat backend", family=family.label, backend=self._chosen[family].name)
        return self._chosen[family]

    def _choose(self, family: Family) -> NatBackend:
        if self._choice == "nft":
            return NftNat(family)
        try:
            legacy = LegacyNat(family)
            legacy.read()
        except KernelError as error:
            if self._choice == "legacy":
                raise
            nft = NftNat(family)
            try:
                nft.read()
            except KernelError as second:
                raise KernelError(f"{family.label} NAT is not possible: {error}; {second}") from second
            return nft
        return legacy
