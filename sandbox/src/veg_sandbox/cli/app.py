"""The click group: loads a command's module only when that command runs, and ends every failure in one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

# Command -> module and attribute, in the order of the help text. Loading all of them would cost half a second.
COMMANDS = {
    "up": "veg_sandbox.cli.lifecycle:up",
    "down": "veg_sandbox.cli.lifecycle:down",
    "status": "veg_sandbox.cli.status:status",
    "apply": "veg_sandbox.cli.commands:apply",
    "delete": "veg_sandbox.cli.commands:delete",
    "get": "veg_sandbox.cli.commands:get",
    "describe": "veg_sandbox.cli.commands:describe",
    "scale": "veg_sandbox.cli.commands:scale",
    "wait": "veg_sandbox.cli.commands:wait",
    "exec": "veg_sandbox.cli.inside:exec_",
    "host": "veg_sandbox.cli.inside:host",
    "nbctl": "veg_sandbox.cli.inside:nbctl",
    "sbctl": "veg_sandbox.cli.inside:sbctl",
    "logs": "veg_sandbox.cli.inside:logs",
    "restart": "veg_sandbox.cli.lifecycle:restart",
    "stop": "veg_sandbox.cli.lifecycle:stop",
    "fault": "veg_sandbox.cli.fault:fault",
    "failover": "veg_sandbox.cli.failover:failover",
    "demo": "veg_sandbox.demo:command",
    "runtime": "veg_sandbox.runtime.service:command",
}
HELP = {
    "up": "Build the sandbox and start every service.",
    "down": "Take everything down, also what a crash left.",
    "status": "Services: pid, since when, healthy.",
    "apply": "Create or update the objects of manifests.",
    "delete": "Delete objects and wait until they are gone.",
    "get": "Print objects as kubectl does.",
    "describe": "One object with its conditions and events.",
    "scale": "Set the replicas of a gateway.",
    "wait": "Wait until an object is ready.",
    "exec": "Run a command in a pod.",
    "host": "Run a command on the outside host.",
    "nbctl": "ovn-nbctl on the Northbound database.",
    "sbctl": "ovn-sbctl on the Southbound database.",
    "logs": "Print the log of a service or pod.",
    "restart": "Restart one service.",
    "stop": "Stop one service.",
    "fault": "Break something on purpose, see what is broken, heal it.",
    "failover": "Measure how long traffic is away when a replica fails.",
    "demo": "Show and prove the examples of the specification, and a live failover.",
}
# In the environment, so that it holds before the command line is parsed and in what a command becomes.
_DEBUG = "VEG_SANDBOX_DEBUG"


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """All but the hidden ones."""
        return list(HELP)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command's module. None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, HELP[name]) for name in self.list_commands(ctx)])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002, FBT001, FBT002
        **extra: Any,
    ) -> Any:
        """Run a command and exit: its return value is the exit code; a failure is one line on stderr."""
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.exceptions.Abort:
            sys.exit(130)
        except click.exceptions.NoArgsIsHelpError as error:
            # The help is the message here: it keeps its lines.
            click.echo(error.format_message())
            sys.exit(0)
        except click.UsageError as error:
            _say(f"error: {error.format_message()}{_hint(error.ctx)}")
            sys.exit(error.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except BrokenPipeError:
            # Nobody reads on: the interpreter must not complain about it when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(1)
        except Exception as error:
            if _debugging():
                raise
            _say(f"error: {error if _is_expected(error) else _unexpected(error)}")
            sys.exit(1)
        sys.exit(result if isinstance(result, int) else 0)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--name",
    envvar="VEG_SANDBOX",
    default="default",
    show_default=True,
    show_envvar=True,
    help="Which sandbox: several can be up at the same time.",
)
@click.option(
    "--debug",
    is_flag=True,
    help=f"Print the traceback of a failure (also with {_DEBUG}=1 in the environment).",
)
@click.pass_context
def cli(ctx: click.Context, name: str, *, debug: bool) -> None:
    """VPC Egress Gateway on one machine: real OVN, real gateway pods, an outside host."""
    ctx.obj = name or "default"
    if debug:
        os.environ[_DEBUG] = "1"


def _hint(ctx: click.Context | None) -> str:
    return f" (see {ctx.command_path} --help)" if ctx else ""


def _say(text: str) -> None:
    click.echo(" ".join(text.split("\n")), err=True)


def _debugging() -> bool:
    return os.environ.get(_DEBUG, "") not in ("", "0")


def _unexpected(error: Exception) -> str:
    return f"{type(error).__name__}: {error} (--debug tells where)"


def _is_expected(error: Exception) -> bool:
    """Whether it is a failure with a text for people. Looked up late: these modules are not loaded otherwise."""
    known = (
        ("veg_common.store", "StoreError"),
        ("veg_sandbox.net.errors", "LabError"),
        ("veg_sandbox.ovn.root", "OvnRootError"),
        ("veg_sandbox.proc", "ProcessError"),
    )
    classes = tuple(getattr(sys.modules[m], c) for m, c in known if m in sys.modules)
    return isinstance(error, classes)
