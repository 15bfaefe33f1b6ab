"""How the demo is told: commands with their output, expectations, and the table at the end."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from veg_sandbox.harness import CommandError, Sandbox


class NotHeldError(AssertionError):
    """Something that the demo was to prove did not hold."""


@dataclass(frozen=True)
class Step:
    """One thing to prove: a title, and a function that shows it and returns what it saw."""

    title: str
    prove: Callable[[Story], str]


@dataclass
class Story:
    """Tells steps on one sandbox."""

    sandbox: Sandbox
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))

    def tell(self, steps: Sequence[Step]) -> bool:
        """Take every step until one does not hold; print the table; say whether all held."""
        table = Table(title="What was proven", title_justify="left")
        for column, justify in (("step", "left"), ("held", "left"), ("seen", "left"), ("s", "right")):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        held = 0
        for step in steps:
            self.console.print(f"\n[bold]== {step.title}[/bold]")
            begun = time.monotonic()
            try:
                seen = step.prove(self)
            except (NotHeldError, CommandError, AssertionError, TimeoutError) as error:
                self.console.print(f"NOT HELD: {error}", style="bold red", markup=False)
                table.add_row(
                    step.title, "no", str(error).splitlines()[0][:80], f"{time.monotonic() - begun:.1f}"
                )
                break
            held += 1
            table.add_row(step.title, "yes", seen, f"{time.monotonic() - begun:.1f}")
        self.console.print()
        self.console.print(table)
        self.console.print(f"{held} of {len(steps)} steps held")
        return held == len(steps)

    def show(self, *args: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run `veg-sandbox ARGS…` in view of the reader and return its output."""
        self.console.print(f"$ veg-sandbox {shlex.join(args)}", style="cyan", markup=False)
        output = self.sandbox(*args, stdin=stdin, timeout=timeout)
        self.console.print(output.rstrip("\n"), markup=False)
        return output

    def watch(self, *args: str, timeout: float) -> None:
        """Run `veg-sandbox ARGS…` with its progress in view as it comes."""
        self.console.print(f"$ veg-sandbox {shlex.join(args)}", style="cyan", markup=False)
        sys.stdout.flush()
        self.sandbox.live(*args, timeout=timeout)

    def expect(self, output: str, pattern: str, what: str) -> re.Match[str]:
        """The first match of `pattern` (lines, free white space at their ends). Raises NotHeldError naming `what`."""
        if not (match := re.search(pattern, output, re.MULTILINE)):
            raise NotHeldError(f"{what}: expected {pattern!r} in: {output.strip()[:600]}")
        return match
