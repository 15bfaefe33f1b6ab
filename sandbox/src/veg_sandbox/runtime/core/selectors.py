"""Label and node selectors as Kubernetes matches them. Pure.

Wrong types in a manifest match nothing: an object that can not be understood must not run anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veg_common.objects import Object


def matches_labels(selector: Any, labels: Mapping[str, str]) -> bool:
    """A metav1.LabelSelector (matchLabels and matchExpressions); an empty one matches everything."""
    if not isinstance(selector, dict):
        return False
    wanted = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or []
    if not isinstance(wanted, dict) or not isinstance(expressions, list):
        return False
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        matches_expression(expression, labels) for expression in expressions
    )


def matches_expression(expression: Any, values: Mapping[str, str]) -> bool:
    """One requirement: In, NotIn, Exists, DoesNotExist, Gt, Lt. NotIn matches an absent key, as in Kubernetes."""
    if not isinstance(expression, dict):
        return False
    value = values.get(str(expression.get("key")))
    listed = expression.get("values")
    wanted = [str(item) for item in listed] if isinstance(listed, list) else []
    holds = {
        "In": value in wanted,
        "NotIn": value not in wanted,
        "Exists": value is not None,
        "DoesNotExist": value is None,
        "Gt": _compares("Gt", value, wanted),
        "Lt": _compares("Lt", value, wanted),
    }
    return holds.get(str(expression.get("operator")), False)


def matches_node_selector(selector: Any, node: Object) -> bool:
    """A core/v1 NodeSelector: any of its terms; a term without requirements matches nothing."""
    terms = selector.get("nodeSelectorTerms") if isinstance(selector, dict) else None
    return isinstance(terms, list) and any(_matches_term(term, node) for term in terms)


def parse_selector(text: str) -> Object:
    """Kubectl's `-l` syntax as a LabelSelector: `a=b,c!=d,e,!f,g in (h,i),j notin (k)`. Raises ValueError."""
    expressions = [_requirement(part) for part in _split(text) if part]
    return {"matchExpressions": expressions}


def _matches_term(term: Any, node: Object) -> bool:
    if not isinstance(term, dict):
        return False
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not isinstance(expressions, list) or not isinstance(fields, list) or not (expressions or fields):
        return False
    labels = node["metadata"].get("labels") or {}
    names = {"metadata.name": node["metadata"]["name"]}
    return all(matches_expression(e, labels) for e in expressions) and all(
        matches_expression(f, names) for f in fields
    )


def _compares(operator: str, value: str | None, wanted: list[str]) -> bool:
    try:
        number, bound = int(value or ""), int(wanted[0] if len(wanted) == 1 else "")
    except ValueError:
        return False
    return number > bound if operator == "Gt" else number < bound


def _split(text: str) -> list[str]:
    """At commas outside parentheses."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    if depth:
        raise ValueError(f"unbalanced parentheses in selector {text!r}")
    return [part.strip() for part in parts]


def _requirement(part: str) -> Object:
    words = part.split(None, 2)
    if (
        len(words) == 3
        and words[1] in ("in", "notin")
        and words[2].startswith("(")
        and words[2].endswith(")")
    ):
        values = [value.strip() for value in words[2][1:-1].split(",")]
        return {"key": words[0], "operator": "In" if words[1] == "in" else "NotIn", "values": values}
    if "!=" in part:
        key, _, value = part.partition("!=")
        return _checked({"key": key.strip(), "operator": "NotIn", "values": [value.strip()]}, part)
    if "=" in part:
        key, _, value = part.replace("==", "=", 1).partition("=")
        return _checked({"key": key.strip(), "operator": "In", "values": [value.strip()]}, part)
    if part.startswith("!"):
        return _checked({"key": part[1:].strip(), "operator": "DoesNotExist"}, part)
    return _checked({"key": part, "operator": "Exists"}, part)


def _checked(requirement: Object, part: str) -> Object:
    if not requirement["key"] or " " in requirement["key"]:
        raise ValueError(f"cannot parse selector part {part!r}")
    return requirement
