"""Label selectors as Kubernetes has them (metav1.LabelSelector): their faults, and whom they match. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from veg_api.core.problems import Problem

# metav1.LabelSelectorOperator, and what a NodeSelectorTerm knows beyond it.
LABEL_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
NODE_OPERATORS = (*LABEL_OPERATORS, "Gt", "Lt")

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")


@dataclass(frozen=True)
class Requirement:
    """An entry of matchExpressions or matchFields."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelSelector:
    """matchLabels and matchExpressions: all of it must match; an empty one matches everything."""

    labels: tuple[tuple[str, str], ...] = ()
    expressions: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        wanted = all(labels.get(key) == value for key, value in self.labels)
        return wanted and all(_holds(requirement, labels) for requirement in self.expressions)


def label_problems(
    field: str,
    labels: Sequence[tuple[str, str]],
    expressions: Sequence[Requirement],
    operators: Sequence[str] = LABEL_OPERATORS,
) -> Iterator[Problem]:
    """What a real API server would refuse in matchLabels and matchExpressions."""
    for key, value in labels:
        yield from _key_problems(f"{field}.matchLabels", key, (value,))
    for position, requirement in enumerate(expressions):
        where = f"{field}.matchExpressions[{position}]"
        yield from _requirement_problems(where, requirement, operators)
        yield from _key_problems(where, requirement.key, requirement.values)


def _requirement_problems(
    field: str, requirement: Requirement, operators: Sequence[str]
) -> Iterator[Problem]:
    """An operator that is none of `operators`, or values that do not fit it."""
    operator, values = requirement.operator, requirement.values
    if operator not in operators:
        message = f"operator {operator!r} is not one of {', '.join(operators)}"
        yield Problem(f"{field}.operator", "InvalidNodeSelector", message)
    elif operator in ("In", "NotIn") and not values:
        yield Problem(f"{field}.values", "InvalidNodeSelector", f"operator {operator} needs values")
    elif operator in ("Exists", "DoesNotExist") and values:
        yield Problem(f"{field}.values", "InvalidNodeSelector", f"operator {operator} takes no values")
    elif operator in ("Gt", "Lt") and (len(values) != 1 or not values[0].lstrip("-").isdigit()):
        yield Problem(f"{field}.values", "InvalidNodeSelector", f"operator {operator} needs one integer")


def _key_problems(field: str, key: str, values: Sequence[str]) -> Iterator[Problem]:
    """A key or values that no label can have."""
    prefix, slash, name = key.rpartition("/")
    if not _NAME.match(name) or (slash and not _PREFIX.match(prefix)):
        yield Problem(field, "InvalidNodeSelector", f"{key!r} is not a label key")
    for value in values:
        if value and not _NAME.match(value):
            yield Problem(field, "InvalidNodeSelector", f"{value!r} is not a label value")


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    """As Kubernetes' labels.Requirement: NotIn holds for objects without the label too."""
    value = labels.get(requirement.key)
    if requirement.operator == "In":
        return value in requirement.values
    if requirement.operator == "NotIn":
        return value not in requirement.values
    return (value is not None) == (requirement.operator == "Exists")
