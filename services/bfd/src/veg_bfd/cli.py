"""`bfdd-control`: asks a running speaker over its light socket, without gRPC, so that it answers in a moment.

Output and vocabulary follow OpenBFDD's tool of the same name, which the specification shows.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from pathlib import Path
from typing import Any

import click

from veg_bfd.config import DEFAULT_RUN_DIR

_STATES = {"admin_down": "AdminDown", "down": "Down", "init": "Init", "up": "Up"}
_UNITS = {"us": 1, "ms": 1000, "s": 1_000_000}
_TIMERS = {"minrx": "min_rx_us", "mintx": "min_tx_us"}
_MAX_US = 3_600_000_000


class BadInputError(click.ClickException):
    """Input that can not be used: one line, exit code 2."""

    exit_code = 2


def ask(run_dir: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request and return its answer. Raises click exceptions, one line each."""
    path = run_dir / "bfd-control.sock"
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(15)
            sock.connect(str(path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as stream:
                text = stream.readline()
    except OSError as error:
        raise click.ClickException(f"veg-bfd does not answer on {path}: {error.strerror or error}") from None
    if not text:
        raise click.ClickException(f"veg-bfd does not answer on {path}")
    answer: dict[str, Any] = json.loads(text)
    if "error" in answer:
        raise (BadInputError if answer.get("bad_input") else click.ClickException)(answer["error"])
    return answer


def _addresses(_context: object, _parameter: object, values: tuple[str, ...]) -> list[str]:
    try:
        return [str(ipaddress.ip_address(value)) for value in values]
    except ValueError as error:
        raise BadInputError(str(error)) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--run-dir",
    envvar="VEG_BFD_RUN_DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_RUN_DIR,
    show_default=True,
    help="Run folder of the veg-bfd to ask.",
)
@click.pass_context
def cli(context: click.Context, run_dir: Path) -> None:
    """Show and steer the BFD sessions of this pod."""
    context.obj = run_dir


@cli.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@click.pass_obj
def status(run_dir: Path, output: str) -> None:
    """Print every session."""
    answer = ask(run_dir, {"command": "status"})
    if output == "json":
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"There are {len(answer['sessions'])} sessions:")
    for entry in answer["sessions"]:
        click.echo(f"Session {entry['id']}\n {summary(entry)}")


def summary(entry: dict[str, Any]) -> str:
    """The line that the specification shows."""
    role = "p" if entry["role"] == "passive" else "a"
    state = _STATES[entry["state"]]
    return f"id={entry['id']} local={entry['local']} ({role}) remote={entry['peer']} state={state}"


@cli.command()
@click.argument("addresses", metavar="IP…", nargs=-1, required=True, callback=_addresses)
@click.pass_obj
def allow(run_dir: Path, addresses: list[str]) -> None:
    """Let these peers begin a session with any address of this pod."""
    ask(run_dir, {"command": "allow", "peers": addresses})


@cli.command()
@click.argument("addresses", metavar="IP…", nargs=-1, required=True, callback=_addresses)
@click.pass_obj
def block(run_dir: Path, addresses: list[str]) -> None:
    """Take `allow` back; sessions that are there stay."""
    ask(run_dir, {"command": "block", "peers": addresses})


@cli.command("admin-down")
@click.argument("addresses", metavar="[PEER]…", nargs=-1, callback=_addresses)
@click.option("--reason", default="bfdd-control", show_default=True)
@click.pass_obj
def admin_down(run_dir: Path, addresses: list[str], reason: str) -> None:
    """Take the sessions with these peers administratively down; without any: all, and those to come."""
    ask(run_dir, {"command": "admin", "peers": addresses, "down": True, "reason": reason})


@cli.command("admin-up")
@click.argument("addresses", metavar="[PEER]…", nargs=-1, callback=_addresses)
@click.pass_obj
def admin_up(run_dir: Path, addresses: list[str]) -> None:
    """Let the sessions with these peers come up again; without any: all."""
    ask(run_dir, {"command": "admin", "peers": addresses, "down": False, "reason": ""})


@cli.command()
@click.argument("session_id", metavar="ID")
@click.argument("words", metavar="[ACTION]", nargs=-1)
@click.pass_obj
def session(run_dir: Path, session_id: str, words: tuple[str, ...]) -> None:
    """Show one session, or act on it.

    ACTION: state admin | state up | kill | set mintx|minrx VALUE us|ms|s | set multi N.
    With `new` as ID, `set` is for the sessions that `allow` makes.
    """
    if session_id == "new" and words[:1] == ("set",):
        ask(run_dir, {"command": "session-set", "id": None, "timers": _timers(words[1:])})
        return
    number = _number(session_id, "session id", 1, 0xFFFFFFFF)
    match words:
        case ():
            _show(run_dir, number)
        case ("state", "admin" | "up" as wanted):
            ask(run_dir, {"command": "session-admin", "id": number, "down": wanted == "admin"})
        case ("kill",):
            ask(run_dir, {"command": "session-kill", "id": number})
        case ("set", *rest):
            ask(run_dir, {"command": "session-set", "id": number, "timers": _timers(tuple(rest))})
        case _:
            raise BadInputError(f"unknown action {' '.join(words)!r}")


def _show(run_dir: Path, number: int) -> None:
    for entry in ask(run_dir, {"command": "status"})["sessions"]:
        if entry["id"] == number:
            click.echo(f"Session {number}\n {summary(entry)}")
            for key, value in entry.items():
                click.echo(f" {key}={value}")
            return
    raise BadInputError(f"there is no session {number}")


def _timers(words: tuple[str, ...]) -> dict[str, int]:
    match words:
        case ("multi", value):
            return {"multiplier": _number(value, "multi", 1, 255)}
        case ("mintx" | "minrx" as name, value, *unit):
            text = unit[0] if unit else ""
            if not text:
                digits = value.rstrip("msu")
                value, text = digits, value[len(digits) :]
            if text not in _UNITS or len(unit) > 1:
                raise BadInputError(f"{name}: the unit must be us, ms or s")
            return {_TIMERS[name]: _number(value, name, 1, _MAX_US) * _UNITS[text]}
        case _:
            raise BadInputError("set: expected mintx, minrx or multi and a value")


def _number(text: str, what: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
        raise BadInputError(f"{what}: {text!r} is no number in {low}..{high}")
    return int(text)


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="bfdd-control")
