# ruff: noqa: INP001 - a script
"""requirements/<image>.lock: what one image needs of requirements/dev.lock, with its versions and hashes.

build.lock is what builds the project itself.

Which packages need which is read from the environment that it runs in. `--check` only says whether the files are right.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parents[1] / "requirements"
PROJECT = "vpc-egress-gateway"
# (package, extra) that each file stands for; images are named after the extras of pyproject.toml.
ROOTS = {
    **{image: {(PROJECT, ""), (PROJECT, image)} for image in ("api", "ovn-programmer", "node-agent")},
    "build": {("hatchling", ""), ("editables", "")},
}


def main() -> int:
    """Write, or with --check compare. Returns the exit code."""
    blocks = dict(_blocks((FOLDER / "dev.lock").read_text()))
    stale = []
    for image, roots in ROOTS.items():
        needed = closure(roots)
        text = "".join(block for name, block in sorted(blocks.items()) if name in needed)
        path = FOLDER / f"{image}.lock"
        if not path.is_file() or path.read_text() != text:
            stale.append(path.name)
            if "--check" not in sys.argv[1:]:
                path.write_text(text)
    if stale and "--check" in sys.argv[1:]:
        print(f"requirements: {', '.join(stale)} out of date: run scripts/image_locks.py")  # noqa: T201
        return 1
    return 0


def closure(roots: set[tuple[str, str]]) -> set[str]:
    """Canonical names of all packages that these need on this machine, themselves included."""
    found: set[tuple[str, str]] = set()
    todo = set(roots)
    while todo:
        name, chosen = todo.pop()
        found.add((name, chosen))
        for text in metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": chosen}):
                continue
            below = canonicalize_name(requirement.name)
            todo |= {(below, part) for part in ("", *requirement.extras)} - found
    return {name for name, _ in found} - {PROJECT}


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """(name, lines with the hashes) of every package of a lock file; comments are left out."""
    name, lines = "", []
    for line in text.splitlines(keepends=True):
        if line[0].isalnum():
            if name:
                yield name, "".join(lines)
            name, lines = canonicalize_name(line.split("==")[0].split("[")[0]), []
        if not line.lstrip().startswith("#"):
            lines.append(line)
    yield name, "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
