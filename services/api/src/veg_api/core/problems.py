"""Faults of a resource: which field, what is wrong, and whether it runs nevertheless. Pure.

pydantic finds faults of type; this module turns them into the same values that validation produces, with the path
spelt as people read it in YAML: `spec.policies[0].ipBlocks[1]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError


@dataclass(frozen=True, order=True)
class Problem:
    """One fault. `reason` is CamelCase, for conditions; a `warning` is reported and does not stop the gateway."""

    field: str
    reason: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        """`field: message`."""
        return f"{self.field}: {self.message}" if self.field else self.message


def errors(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Those that keep the resource from being used."""
    return tuple(p for p in problems if not p.warning)


def summary(problems: Iterable[Problem], limit: int = 8) -> str:
    """One line for a condition's message; many problems are counted, not listed."""
    texts = [str(p) for p in problems]
    more = f"; and {len(texts) - limit} more" if len(texts) > limit else ""
    return "; ".join(texts[:limit]) + more


def named(names: Sequence[str], limit: int = 5) -> str:
    """The first few names for a message; the others are counted."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def path(location: Iterable[int | str]) -> str:
    """A pydantic location as a path: `("spec", "policies", 0, "snat")` is `spec.policies[0].snat`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def type_problems(error: ValidationError, root: str = "spec") -> tuple[Problem, ...]:
    """Pydantic's findings, one problem each."""
    return tuple(_type_problem(entry, root) for entry in error.errors(include_url=False))


def unknown_fields(model: type[BaseModel], data: Any, root: str) -> Iterator[Problem]:
    """A warning for every key that the model does not know: a misspelt field must not be ignored in silence."""
    if not isinstance(data, Mapping):
        return
    known = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
    for key in sorted(data, key=str):
        field = f"{root}.{key}"
        if key not in known:
            yield Problem(field, "UnknownField", "unknown field, ignored", warning=True)
            continue
        nested = _model_in(known[key])
        if nested is None:
            continue
        if isinstance(data[key], list):
            for index, item in enumerate(data[key]):
                yield from unknown_fields(nested, item, f"{field}[{index}]")
        else:
            yield from unknown_fields(nested, data[key], field)


def without_nulls(value: Any) -> Any:
    """Mappings without keys whose value is null: Kubernetes treats them as absent."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def _type_problem(entry: Any, root: str) -> Problem:
    field = path((root, *entry["loc"]))
    kind, value = entry["type"], entry["input"]
    if kind == "missing":
        return Problem(field, "FieldRequired", "is required")
    wanted = {
        "int_type": "an integer",
        "bool_type": "true or false",
        "string_type": "a string",
        "list_type": "a list",
        "tuple_type": "a list",
        "dict_type": "a mapping",
        "model_type": "a mapping",
        "model_attributes_type": "a mapping",
    }.get(kind)
    if wanted is None:
        return Problem(field, "InvalidValue", f"{entry['msg']} (got {_shown(value)})")
    return Problem(field, "InvalidType", f"must be {wanted}, not {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field's annotation holds, alone, in an Optional or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
