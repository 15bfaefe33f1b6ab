"""Which faults are active: a file each in the lab's directory, so that any process can heal, and `down` forgets."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from veg_sandbox.faults.kinds import Fault, Kind


class Book:
    """The faults of the lab in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "faults"

    def add(self, fault: Fault) -> None:
        """Remember it; the same again replaces it."""
        self._folder.mkdir(exist_ok=True)
        new = self._folder / f".{fault.key}"
        new.write_text(json.dumps(asdict(fault)))
        new.replace(self._folder / f"{fault.key}.json")

    def remove(self, fault: Fault) -> None:
        """Forget it."""
        (self._folder / f"{fault.key}.json").unlink(missing_ok=True)

    def all(self) -> list[Fault]:
        """All, the oldest first."""
        found = []
        for file in self._folder.glob("*.json"):
            try:
                data = json.loads(file.read_text())
                found.append(Fault(**{**data, "kind": Kind(data["kind"])}))
            except (OSError, ValueError, TypeError, KeyError):
                continue  # healed by somebody else at this moment, or not a fault
        return sorted(found, key=lambda fault: (fault.since, fault.key))
