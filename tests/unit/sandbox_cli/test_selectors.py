"""Label and node selectors match as Kubernetes matches."""

from __future__ import annotations

from typing import Any

import pytest
from veg_sandbox.runtime.core.selectors import matches_labels, matches_node_selector, parse_selector

LABELS = {"a": "1", "zone": "east", "n": "5"}


def expr(key: str, operator: str, *values: str) -> dict[str, Any]:
    """A requirement."""
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("requirement", "matches"),
    [
        (expr("a", "In", "1", "2"), True),
        (expr("a", "In", "2"), False),
        (expr("b", "In", "2"), False),
        (expr("a", "NotIn", "2"), True),
        (expr("a", "NotIn", "1"), False),
        (expr("b", "NotIn", "1"), True),
        (expr("a", "Exists"), True),
        (expr("b", "Exists"), False),
        (expr("a", "DoesNotExist"), False),
        (expr("b", "DoesNotExist"), True),
        (expr("n", "Gt", "4"), True),
        (expr("n", "Gt", "5"), False),
        (expr("n", "Lt", "6"), True),
        (expr("zone", "Gt", "4"), False),
        (expr("n", "Gt", "x"), False),
        (expr("n", "Gt"), False),
        (expr("a", "Near", "1"), False),
        ("a", False),
    ],
)
def test_expressions(requirement: Any, matches: bool) -> None:
    """Each operator, present and absent keys; what can not be understood matches nothing."""
    assert matches_labels({"matchExpressions": [requirement]}, LABELS) is matches


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("a=1", True),
        ("a==1", True),
        ("a=2", False),
        ("a!=2", True),
        ("b!=2", True),
        ("a", True),
        ("!a", False),
        ("!b", True),
        ("zone in (east, west)", True),
        ("zone notin (east,west),a", False),
        ("a=1,zone=east", True),
        ("a=1,zone=west", False),
        ("", True),
    ],
)
def test_kubectl_syntax(text: str, matches: bool) -> None:
    """`-l` takes equality, set and existence requirements, all of which must hold."""
    assert matches_labels(parse_selector(text), LABELS) is matches


@pytest.mark.parametrize("text", ["=1", "a in (x", "a b c d", "!"])
def test_malformed_selectors(text: str) -> None:
    """Nonsense is refused instead of matching everything."""
    with pytest.raises(ValueError, match="selector"):
        parse_selector(text)


def test_node_terms() -> None:
    """Terms are alternatives, requirements within a term are not; an empty term matches no node."""
    node = {"metadata": {"name": "w1", "labels": LABELS}}
    by_name = {"matchFields": [expr("metadata.name", "In", "w1")]}
    by_label = {"matchExpressions": [expr("a", "In", "2")]}
    assert matches_node_selector({"nodeSelectorTerms": [by_label, by_name]}, node)
    assert not matches_node_selector({"nodeSelectorTerms": [{**by_label, **by_name}]}, node)
    assert not matches_node_selector({"nodeSelectorTerms": [{}]}, node)
    assert not matches_node_selector({"nodeSelectorTerms": []}, node)
