"""The agent's files in its run folder: what was last applied, the last good configuration, health.

The folder lives as long as the pod (an emptyDir): longer than this process, not longer than the network namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from veg_common import logs

from veg_node_agent.core.model import BOOT_PROTOCOL, Family, NatRule, Record, Route


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content: a reader, or a successor of a killed process, sees the old or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


class RecordFile:
    """`applied.json`: the ownership record of this network namespace."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "applied.json"

    def load(self) -> Record:
        """The record; an empty one when there is none, or it is of another namespace, or unreadable."""
        try:
            fields = json.loads(self._path.read_text())
            if fields["netns"] != _netns():
                return Record()
            return _decode(fields)
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, KeyError, TypeError) as error:
            logs.get("files").warning("record unreadable", path=str(self._path), error=str(error))
            return Record()

    def save(self, record: Record) -> None:
        """Replace the record. Raises OSError."""
        write_atomically(self._path, json.dumps(_encode(record), indent=1) + "\n")


def _encode(record: Record) -> dict[str, Any]:
    return {
        "netns": _netns(),
        "nat": sorted([int(rule.family), rule.cidr, rule.masquerade] for rule in record.nat),
        "defaults": sorted(
            [int(route.family), route.gateway, route.dev, route.metric] for route in record.defaults
        ),
        "tracked": sorted(int(family) for family in record.tracked),
        "exempt": sorted(int(family) for family in record.exempt),
        "sysctls": dict(sorted(record.sysctls.items())),
    }


def _decode(fields: dict[str, Any]) -> Record:
    return Record(
        nat=frozenset(
            NatRule(Family(family), cidr, masquerade) for family, cidr, masquerade in fields["nat"]
        ),
        defaults=frozenset(
            Route(Family(family), Family(family).everything, gateway, dev, metric, BOOT_PROTOCOL)
            for family, gateway, dev, metric in fields["defaults"]
        ),
        tracked=frozenset(Family(family) for family in fields["tracked"]),
        # A predecessor of the version before left none.
        exempt=frozenset(Family(family) for family in fields.get("exempt", ())),
        sysctls={str(path): str(value) for path, value in fields["sysctls"].items()},
    )


def _netns() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116 (a magic link: Path would do the same)


class LastGood:
    """`last-good.json`: the configuration in force, for a restart while the mounted file is broken."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "last-good.json"

    def load(self) -> str | None:
        """Its text, None when there is none."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._path.read_text()
        return None

    def save(self, text: str) -> None:
        """Replace it, if it differs. Raises OSError."""
        if self.load() != text:
            write_atomically(self._path, text)


class Health:
    """`healthy`: its modification time tells probes when all was last well; `problem`: one line on why it is not."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "healthy"
        self._problem_path = run_dir / "problem"
        self._problem: str | None = None

    def refresh(self) -> None:
        """Say "now". Raises OSError."""
        self._path.touch()

    def tell(self, problem: str) -> None:
        """Write down what is wrong; empty when nothing is. Raises OSError."""
        line = " ".join(problem.split())
        if line != self._problem:
            write_atomically(self._problem_path, f"{line}\n" if line else "")
            self._problem = line


class Flag:
    """A file that says something by being there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set(self) -> None:
        """Make it. A file system that refuses is logged: the other container then waits as long as it may."""
        try:
            self._path.touch()
        except OSError as error:
            logs.get("files").error("flag can not be set", path=str(self._path), error=str(error))

    def clear(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
