"""The `veg-sandbox` command."""

from __future__ import annotations

from veg_sandbox.cli.app import cli


def main() -> None:
    """Run the command line of this process and exit."""
    cli.main(prog_name="veg-sandbox")


if __name__ == "__main__":
    main()
