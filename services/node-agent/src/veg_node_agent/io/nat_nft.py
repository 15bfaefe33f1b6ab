"""NAT rules where the kernel has no legacy tables: the nft variant of iptables-save and iptables-restore."""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import TypeVar

from veg_node_agent.core.model import Chain, Exemption, Family, NatRule, Tracking
from veg_node_agent.core.operations import ExemptOp, NatOp, TrackingOp
from veg_node_agent.errors import KernelError

_OURS = re.compile(r"-A POSTROUTING(?: -s (\S+))? -j (?:(MASQUERADE --random-fully)|RETURN)")
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_Rule = TypeVar("_Rule", Exemption, Tracking)
_TIMEOUT = 10.0  # s; the tools wait up to 5 s for their lock


class NftNat:
    """The nat table of one family in nf_tables, as iptables-nft keeps it."""

    name = "nft"

    def __init__(self, family: Family) -> None:
        self._family = family
        self._tool = "iptables-nft" if family is Family.V4 else "ip6tables-nft"

    def read(self) -> Chain:
        """POSTROUTING as it is. Raises KernelError."""
        lines = self._run("-save", ["-t", "nat"]).splitlines()
        return tuple(self._parse(line) for line in lines if line.startswith("-A POSTROUTING "))

    def commit(self, steps: Sequence[NatOp]) -> None:
        """Carry out the steps in one transaction. Raises KernelError."""
        script = "\n".join(["*nat", *(step.line for step in steps), "COMMIT", ""])
        self._run("-restore", ["--noflush", "-w", "5"], script)

    def tracked(self, ours: Sequence[Tracking]) -> frozenset[Tracking]:
        """Which of these rules are in the mangle table. Raises KernelError."""
        return self._present("mangle", ours)

    def track(self, step: TrackingOp) -> None:
        """Add or delete the tracking rule. Raises KernelError."""
        self._run("-restore", ["--noflush", "-w", "5"], f"*mangle\n{step.line}\nCOMMIT\n")

    def exempt(self, ours: Sequence[Exemption]) -> frozenset[Exemption]:
        """Which of these rules are in the raw table. Raises KernelError."""
        return self._present("raw", ours)

    def change_exemption(self, step: ExemptOp) -> None:
        """Add or delete a rule of the raw table. Raises KernelError."""
        self._run("-restore", ["--noflush", "-w", "5"], f"*raw\n{step.line}\nCOMMIT\n")

    def _present(self, table: str, ours: Sequence[_Rule]) -> frozenset[_Rule]:
        lines = {line.strip() for line in self._run("-save", ["-t", table]).splitlines()}
        return frozenset(rule for rule in ours if str(rule) in lines)

    def _parse(self, line: str) -> NatRule | None:
        match = _OURS.fullmatch(line.strip())
        if match is None:
            return None
        # The tools write ::ffff:10.0.0.0 where the configuration has ::ffff:a00:0.
        cidr = str(ipaddress.ip_network(match[1], strict=False)) if match[1] else self._family.everything
        return NatRule(self._family, cidr, bool(match[2]))

    def _run(self, tool: str, arguments: list[str], script: str = "") -> str:
        program = shutil.which(self._tool + tool, path=_PATH)
        if program is None:
            raise KernelError(f"{self._tool}{tool} is not installed")
        try:
            done = subprocess.run(
                [program, *arguments],
                input=script,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KernelError(f"{self._tool}{tool}: {error}") from error
        if done.returncode:
            first = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
            raise KernelError(f"{self._tool}{tool}: {first}")
        return done.stdout
