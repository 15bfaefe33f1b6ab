# ruff: noqa: INP001 - a script
"""docs/reference: every field of the CRDs and every value of the chart, generated from what the API server and helm read.

`reference.py` writes the pages; `reference.py --check` only says which of them are not what would be written (exit 1).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts/vpc-egress-gateway"
PAGES = ROOT / "docs/reference"
# In the order of their pages.
CRDS = ("vpcegressgateways", "vpcs", "subnets", "ips", "networkattachmentdefinitions")
GENERATED = "<!-- Written by scripts/reference.py: change {source}, then run it. -->\n\n"

Schema = dict[str, Any]


class UndescribedError(Exception):
    """A field without a description."""


def main() -> int:
    """Write, or with --check compare. Returns the exit code."""
    pages = dict(wanted())
    stale = [name for name, text in pages.items() if _read(PAGES / name) != text]
    if "--check" in sys.argv[1:]:
        stale += [path.name for path in PAGES.glob("*.md") if path.name not in pages]
        if stale:
            print(f"docs/reference is out of date ({', '.join(stale)}): run scripts/reference.py")  # noqa: T201
        return 1 if stale else 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (PAGES / name).write_text(pages[name])
    return 0


def wanted() -> Iterator[tuple[str, str]]:
    """(file name, text) of every page."""
    entries = []
    for name in CRDS:
        source = CHART / f"files/crds/{name}.yaml"
        crd = yaml.safe_load(source.read_text())
        names = crd["spec"]["names"]
        entries.append((names["kind"], f"{name}.md"))
        yield f"{name}.md", GENERATED.format(source=source.relative_to(ROOT)) + crd_page(crd)
    yield (
        "values.md",
        GENERATED.format(source="values.yaml and values.schema.json of the chart") + values_page(),
    )
    lines = ["# Reference", "", *(f"- [{title}]({page})" for title, page in entries)]
    lines.append("- [values of the chart](values.md)")
    yield "README.md", GENERATED.format(source="the pages' sources") + "\n".join(lines) + "\n"


def crd_page(crd: Schema) -> str:
    """The page of one custom resource."""
    spec, names = crd["spec"], crd["spec"]["names"]
    version = spec["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    columns = version.get("additionalPrinterColumns", [])
    lines = [f"# {names['kind']}", "", schema["description"], ""]
    facts = {
        "API version": f"`{spec['group']}/{version['name']}`",
        "scope": "a namespace" if spec["scope"] == "Namespaced" else "the cluster",
        "names": ", ".join(f"`{n}`" for n in (names["plural"], names["singular"], *names["shortNames"])),
        "subresources": ", ".join(f"`{n}`" for n in version.get("subresources", {})) or "none",
        "columns": ", ".join(c["name"] + (" (wide)" if c.get("priority") else "") for c in columns)
        or "name, age",
    }
    lines += ["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in facts.items()), ""]
    for part in ("spec", "status"):
        if part not in schema["properties"]:
            continue
        top = schema["properties"][part]
        rows = list(_fields(top, part))
        lines += [f"## {part}", "", top["description"], ""]
        lines += [
            "| field | type | default | allowed | meaning |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    rules = [
        *_rules(schema, ""),
        *(r for part in ("spec",) for r in _rules(schema["properties"][part], part)),
    ]
    if rules:
        lines += ["## Refused by the API server, beyond types and ranges", ""]
        lines += ["| field | message |", "| --- | --- |", *dict.fromkeys(rules), ""]
    return "\n".join(lines)


def values_page() -> str:
    """The page of the chart's values."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = ["# Values of the chart", "", "What is not named here is refused.", ""]
    lines += ["| value | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    lines += _fields(schema, "", defaults)
    return "\n".join(lines) + "\n"


def _fields(schema: Schema, path: str, defaults: Any = None) -> Iterator[str]:
    """A row for every property below a schema, depth first. `defaults` are a chart's."""
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        default = field.get("default") if defaults is None else defaults.get(name)
        if "description" not in field:
            raise UndescribedError(where)
        nested = field.get("properties")
        if nested and defaults is not None:
            default = None  # told at its parts
        meaning = field["description"] + (" Required." if name in required else "")
        yield _row(where, field, default, meaning)
        items = field.get("items", {})
        if items.get("properties"):
            yield from _fields(items, f"{where}[]")
        elif nested:
            yield from _fields(field, where, None if defaults is None else defaults.get(name))


def _row(where: str, field: Schema, default: Any, meaning: str) -> str:
    shown = "" if default is None else f"`{json.dumps(default)}`"
    cells = (f"`{where}`", _type(field), shown, _allowed(field), meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(field: Schema) -> str:
    kind = field.get("type", "")
    if kind == "array":
        return f"array of {_type(field['items']) or 'any'}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return "map of strings"
    if not kind and "enum" in field:
        return "boolean or string" if True in field["enum"] else "string"
    return str(kind)


def _allowed(field: Schema) -> str:
    """Ranges, lengths, choices and patterns, of the field or of what it lists."""
    found = []
    if "enum" in field:
        found.append(", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in field["enum"]))
    if "minimum" in field:
        found.append(
            f"{field['minimum']} to {field['maximum']}"
            if "maximum" in field
            else f"at least {field['minimum']}"
        )
    for least, most, unit in (("minLength", "maxLength", "characters"), ("minItems", "maxItems", "entries")):
        if least in field and most in field:
            found.append(
                f"{field[least]} to {field[most]} {unit}"
                if field[least] != field[most]
                else f"{field[most]} {unit}"
            )
        elif most in field:
            found.append(f"at most {field[most]} {unit}")
        elif least in field:
            found.append(f"at least {field[least]} {unit}")
    if "maxProperties" in field:
        found.append(f"at most {field['maxProperties']} entries")
    if "pattern" in field:
        found.append(f"`{field['pattern']}`")
    if field.get("type") == "array" and (each := _allowed(field["items"])):
        found.append(f"each {each}")
    return "; ".join(found)


def _rules(schema: Schema, path: str) -> Iterator[str]:
    """Rows of CEL rules at a schema and below it."""
    for rule in schema.get("x-kubernetes-validations", ()):
        where = f"{path}{rule.get('fieldPath', '')}".lstrip(".")
        yield f"| `{where}` | {rule['message']} |"
    if not path:
        return
    for name, field in schema.get("properties", {}).items():
        yield from _rules(field, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
