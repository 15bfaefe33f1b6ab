"""spec.nodeSelector: an array of terms, as the specification's example and table have it. Pure.

Decision: the entries of the array are alternatives, as nodeSelectorTerms are in Kubernetes; matchLabels,
matchExpressions and matchFields of one entry must all match. The field is called a selector of nodes and its entry has
the three parts of a NodeSelectorTerm (matchLabels being short for `In` with one value), so it is read as one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from veg_common.objects import Object

from veg_api.core.gateway import Requirement, SelectorTerm
from veg_api.core.problems import Problem

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")


def problems(terms: Sequence[SelectorTerm]) -> Iterator[Problem]:
    """What a real API server would refuse in the pods' affinity."""
    for index, term in enumerate(terms):
        where = f"spec.nodeSelector[{index}]"
        if not (term.labels or term.expressions or term.fields):
            yield Problem(where, "InvalidNodeSelector", "is empty: it would match no node")
        for key, value in term.labels:
            yield from _label_problems(f"{where}.matchLabels", key, (value,))
        for position, requirement in enumerate(term.expressions):
            field = f"{where}.matchExpressions[{position}]"
            yield from _requirement_problems(field, requirement)
            yield from _label_problems(field, requirement.key, requirement.values)
        for position, requirement in enumerate(term.fields):
            field = f"{where}.matchFields[{position}]"
            if requirement.key != "metadata.name":
                message = f"key must be metadata.name, not {requirement.key!r}"
                yield Problem(field, "InvalidNodeSelector", message)
            if requirement.operator not in ("In", "NotIn") or len(requirement.values) != 1:
                message = "operator must be In or NotIn, with exactly one value"
                yield Problem(field, "InvalidNodeSelector", message)


def terms_json(terms: Sequence[SelectorTerm]) -> str:
    """NodeSelectorTerms of the pods' required node affinity as JSON; "" when there is no selector."""
    return json.dumps([_term(term) for term in terms], separators=(",", ":")) if terms else ""


def _term(term: SelectorTerm) -> Object:
    labels = [Requirement(key, "In", (value,)) for key, value in term.labels]
    result: Object = {}
    if expressions := [*labels, *term.expressions]:
        result["matchExpressions"] = [_requirement(r) for r in expressions]
    if term.fields:
        result["matchFields"] = [_requirement(r) for r in term.fields]
    return result


def _requirement(requirement: Requirement) -> Object:
    result: Object = {"key": requirement.key, "operator": requirement.operator}
    if requirement.values:
        result["values"] = list(requirement.values)
    return result


def _requirement_problems(field: str, requirement: Requirement) -> Iterator[Problem]:
    operator, values = requirement.operator, requirement.values
    if operator not in _OPERATORS:
        message = f"operator {operator!r} is not one of {', '.join(_OPERATORS)}"
        yield Problem(f"{field}.operator", "InvalidNodeSelector", message)
    elif operator in ("In", "NotIn") and not values:
        yield Problem(f"{field}.values", "InvalidNodeSelector", f"operator {operator} needs values")
    elif operator in ("Exists", "DoesNotExist") and values:
        yield Problem(f"{field}.values", "InvalidNodeSelector", f"operator {operator} takes no values")
    elif operator in ("Gt", "Lt") and (len(values) != 1 or not values[0].lstrip("-").isdigit()):
        yield Problem(f"{field}.values", "InvalidNodeSelector", f"operator {operator} needs one integer")


def _label_problems(field: str, key: str, values: Sequence[str]) -> Iterator[Problem]:
    prefix, slash, name = key.rpartition("/")
    if not _NAME.match(name) or (slash and not _PREFIX.match(prefix)):
        yield Problem(field, "InvalidNodeSelector", f"{key!r} is not a label key")
    for value in values:
        if value and not _NAME.match(value):
            yield Problem(field, "InvalidNodeSelector", f"{value!r} is not a label value")
