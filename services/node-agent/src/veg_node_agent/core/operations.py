"""The steps that change the kernel, as values that print as the commands that would do the same.

`diff` makes them, `io.kernel` carries them out, `rpc` shows them. Their order in a plan is the order of execution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from veg_node_agent.core.model import Exemption, Family, NatRule, Route, Rule, Tracking

Action = Literal["create", "update", "delete"]


@dataclass(frozen=True)
class RouteOp:
    """Adds, replaces (same prefix and metric, atomically) or deletes a route of the main table."""

    verb: Literal["add", "replace", "delete"]
    route: Route

    @property
    def family(self) -> Family:
        """The family it belongs to."""
        return self.route.family

    @property
    def action(self) -> Action:
        """What happens to the target."""
        return "create" if self.verb == "add" else "update" if self.verb == "replace" else "delete"

    @property
    def target(self) -> tuple[str, str]:
        """Kind and name."""
        return "route", "default" if self.route.is_default else self.route.dst

    def __str__(self) -> str:
        return f"ip -{int(self.family)} route {self.verb} {self.route}"


@dataclass(frozen=True)
class _Presence:
    """A step after which its target is there, or is not; nothing of it is changed in place."""

    verb: Literal["add", "delete"]

    @property
    def action(self) -> Action:
        """What happens to the target."""
        return "create" if self.verb == "add" else "delete"


@dataclass(frozen=True)
class RuleOp(_Presence):
    """Adds or deletes a policy routing rule."""

    rule: Rule

    @property
    def family(self) -> Family:
        """The family it belongs to."""
        return self.rule.family

    @property
    def target(self) -> tuple[str, str]:
        """Kind and name."""
        return "rule", f"{self.rule.priority}: {self.rule}"

    def __str__(self) -> str:
        return f"ip -{int(self.family)} rule {self.verb} pref {self.rule.priority} {self.rule}"


@dataclass(frozen=True)
class NatOp:
    """Inserts a rule into POSTROUTING at `position` (from 1), or deletes the first one equal to it.

    Neighbouring ones of a family are committed together.
    """

    verb: Literal["insert", "delete"]
    rule: NatRule
    position: int = 0

    @property
    def family(self) -> Family:
        """The family it belongs to."""
        return self.rule.family

    @property
    def action(self) -> Action:
        """What happens to the target."""
        return "create" if self.verb == "insert" else "delete"

    @property
    def target(self) -> tuple[str, str]:
        """Kind and name."""
        return "nat", self.rule.cidr

    @property
    def line(self) -> str:
        """The step in the words of iptables and iptables-restore."""
        if self.verb == "insert":
            return f"-I POSTROUTING {self.position} {self.rule.spec}"
        return f"-D POSTROUTING {self.rule.spec}"

    def __str__(self) -> str:
        return f"{_tool(self.family)} -t nat {self.line}"


@dataclass(frozen=True)
class SysctlOp:
    """Sets a kernel parameter; `was` is its value before, None when it is not there."""

    family: Family
    path: str
    value: str
    was: str | None

    @property
    def action(self) -> Action:
        """What happens to the target."""
        return "update"

    @property
    def target(self) -> tuple[str, str]:
        """Kind and name."""
        return "sysctl", self.path

    def __str__(self) -> str:
        return f"sysctl -w {self.path}={self.value}"


@dataclass(frozen=True)
class TrackingOp(_Presence):
    """Adds or deletes a rule of the mangle table."""

    rule: Tracking

    @property
    def family(self) -> Family:
        """The family it belongs to."""
        return self.rule.family

    @property
    def target(self) -> tuple[str, str]:
        """Kind and name."""
        return "tracking", self.family.label

    @property
    def line(self) -> str:
        """The step in the words of iptables and iptables-restore."""
        return f"{'-A' if self.verb == 'add' else '-D'} {self.rule.spec}"

    def __str__(self) -> str:
        return f"{_tool(self.family)} -t mangle {self.line}"


@dataclass(frozen=True)
class ExemptOp(_Presence):
    """Adds or deletes a rule of the raw table."""

    rule: Exemption

    @property
    def family(self) -> Family:
        """The family it belongs to."""
        return self.rule.family

    @property
    def target(self) -> tuple[str, str]:
        """Kind and name."""
        return "exemption", f"{self.rule.chain} udp {self.rule.port}"

    @property
    def line(self) -> str:
        """The step in the words of iptables and iptables-restore."""
        return f"{'-A' if self.verb == 'add' else '-D'} {self.rule.chain} {self.rule.spec}"

    def __str__(self) -> str:
        return f"{_tool(self.family)} -t raw {self.line}"


Operation = RouteOp | RuleOp | NatOp | SysctlOp | TrackingOp | ExemptOp


def _tool(family: Family) -> str:
    return "iptables" if family is Family.V4 else "ip6tables"


def closes(op: Operation) -> bool:
    """Whether a step only takes away the right to be forwarded.

    Such steps are carried out even after an earlier one of their family failed: the guard fails closed.
    """
    return isinstance(op, RuleOp) and op.verb == "delete" and op.rule.opens


def detail(op: Operation) -> str:
    """What an operation does, as the command that would do the same."""
    return str(op)
