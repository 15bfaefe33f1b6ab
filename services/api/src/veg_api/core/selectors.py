"""spec.nodeSelector: an array of terms, as the specification's example and table have it. Pure.

Decision: the entries of the array are alternatives, as nodeSelectorTerms are in Kubernetes; matchLabels,
matchExpressions and matchFields of one entry must all match. The field is called a selector of nodes and its entry has
the three parts of a NodeSelectorTerm (matchLabels being short for `In` with one value), so it is read as one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from veg_common.objects import Object

from veg_api.core.gateway import SelectorTerm
from veg_api.core.labels import NODE_OPERATORS, Requirement, label_problems
from veg_api.core.problems import Problem


def problems(terms: Sequence[SelectorTerm]) -> Iterator[Problem]:
    """What a real API server would refuse in the pods' affinity."""
    for index, term in enumerate(terms):
        where = f"spec.nodeSelector[{index}]"
        if not (term.labels or term.expressions or term.fields):
            yield Problem(where, "InvalidNodeSelector", "is empty: it would match no node")
        yield from label_problems(where, term.labels, term.expressions, NODE_OPERATORS)
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
