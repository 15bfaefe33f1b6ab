"""The process `veg-bfd`: flags, wiring. It is the packet loop; the control process is its child."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import click

from veg_bfd.cli import BadInputError
from veg_bfd.config import DEFAULT_RUN_DIR, Settings, checked_address
from veg_bfd.core.engine import Engine
from veg_bfd.errors import ConfigError
from veg_bfd.io import memory
from veg_bfd.io.child import Child
from veg_bfd.io.loop import PacketLoop, clock
from veg_bfd.io.priority import raise_descriptor_limit, schedule
from veg_bfd.io.udp import PORT, Receiver


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Bidirectional Forwarding Detection (RFC 5880, 5881) for a gateway pod."""


# VEG_BFD_RUN_DIR and so on, without the command's own name.
@cli.command(context_settings={"auto_envvar_prefix": "VEG_BFD"})
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_RUN_DIR,
    show_default=True,
    help="Folder of the sockets and of the files sessions-up and drained.",
)
@click.option("--listen", default="", help="gRPC address.  [default: unix:RUN_DIR/bfd.sock]")
@click.option(
    "--metrics",
    default="",
    help="HOST:PORT of Prometheus metrics; none by default.",
)
@click.option(
    "--inspect",
    default="",
    help="HOST:PORT of a gRPC address that only reads, e.g. for kubectl port-forward; none by default.",
)
@click.option(
    "--linger",
    type=click.FloatRange(0, 3600),
    default=20.0,
    show_default=True,
    help="Seconds after SIGTERM for which sessions are kept AdminDown, unless RUN_DIR/drained appears.",
)
@click.option(
    "--priority",
    type=click.IntRange(0, 99),
    default=20,
    show_default=True,
    help="Of SCHED_FIFO, where it is permitted; 0: normal scheduling.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "console"]),
    default="auto",
    show_default=True,
)
def run(  # noqa: PLR0913, PLR0917 (click passes every flag)
    run_dir: Path,
    listen: str,
    metrics: str,
    inspect: str,
    linger: float,
    priority: int,
    log_level: str,
    log_format: str,
) -> None:
    """Run in this network namespace until SIGTERM, which takes every session AdminDown first."""
    try:
        settings = Settings(
            run_dir,
            listen,
            metrics=_address("--metrics", metrics),
            inspect=_address("--inspect", inspect),
            linger=linger,
            priority=priority,
            log_level=log_level,
            log_format=log_format,
        )
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "drained").unlink(missing_ok=True)  # of an earlier life of the gateway container
    except OSError as error:
        raise BadInputError(f"--run-dir {run_dir}: {error.strerror}") from None
    raise_descriptor_limit()
    engine = Engine(random.Random(), random.SystemRandom())  # noqa: S311 (jitter)
    receivers = _receivers(engine)
    memory.restore(engine, memory.read(run_dir), clock())
    scheduling = schedule(priority)
    PacketLoop(engine, receivers, Child(settings), scheduling, linger).run()


def _address(flag: str, text: str) -> str:
    try:
        return checked_address(text)
    except ConfigError as error:
        raise BadInputError(f"{flag} {error}") from None


def _receivers(engine: Engine) -> list[Receiver]:
    """One a family; a family that the kernel lacks is left out."""
    found, problems = [], []
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            found.append(Receiver(family, engine))
        except OSError as error:
            if family == socket.AF_INET6 and not _has_ipv6():
                continue
            problems.append(f"UDP port {PORT}: {error.strerror}")
    if problems or not found:
        raise click.ClickException(problems[0] if problems else "no IP")
    return found


def _has_ipv6() -> bool:
    return Path("/proc/net/if_inet6").exists()


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="veg-bfd")


if __name__ == "__main__":
    main()
