"""`veg-sandbox demo`: the specification's examples and a failover, shown and proven with real packets."""

from __future__ import annotations

import sys

import click

from veg_sandbox.demo.steps import STEPS
from veg_sandbox.demo.story import Story
from veg_sandbox.harness import Sandbox


@click.command("demo")
@click.option(
    "--name", default="demo", show_default=True, help="The sandbox that the demo builds and takes down."
)
@click.option("--keep", is_flag=True, help="Leave the sandbox up, to look around in it.")
def command(name: str, *, keep: bool) -> None:
    """Show the specification's examples and a live failover. Exits 0 only if every step held."""
    story = Story(Sandbox(name))
    try:
        held = story.tell(STEPS)
    finally:
        if keep:
            click.echo(f"\nThe sandbox stays up: VEG_SANDBOX={name} veg-sandbox status; … veg-sandbox down")
        else:
            story.sandbox("down", timeout=120)
    sys.exit(0 if held else 1)
