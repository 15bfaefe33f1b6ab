"""What ends a command: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

from typing import IO, Any

import click
from veg_common.objects import Kind

USAGE = 2
FAILED = 1


class CliError(click.ClickException):
    """A message for stderr, printed as it is; exits with 2 (bad input) unless told otherwise."""

    def __init__(self, message: str, exit_code: int = USAGE) -> None:
        super().__init__(message)
        # click reads it from the instance and declares it on the class
        self.__dict__["exit_code"] = exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the one line."""
        click.echo(self.format_message(), file=file, err=file is None)


def not_up() -> CliError:
    """Said by every command that needs a running sandbox."""
    return CliError("the sandbox is not up: run veg-sandbox up")


def resource(kind: Kind) -> str:
    """A kind's plural with its group, as the API server names it in messages: `deployments.apps`, `pods`."""
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def not_found(kind: Kind, name: str) -> CliError:
    """What kubectl says of an object that is not there."""
    return CliError(f'Error from server (NotFound): {resource(kind)} "{name}" not found')
