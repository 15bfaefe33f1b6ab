"""The process `veg-node-agent`: flags, wiring, signals."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from veg_common import logs
from veg_common.process import run_service
from veg_common.server import start_server

from veg_node_agent import rpc
from veg_node_agent.agent import Agent
from veg_node_agent.config import DEFAULT_CONFIG, DEFAULT_RUN_DIR, Settings
from veg_node_agent.core import diff
from veg_node_agent.errors import AgentError, ConfigError
from veg_node_agent.io.files import RecordFile
from veg_node_agent.io.kernel import Kernel
from veg_node_agent.io.nat import BackendName
from veg_node_agent.io.watch import read_config
from veg_node_agent.metrics import served

_config = click.option(
    "--config",
    envvar="VEG_NODE_AGENT_CONFIG",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="AgentConfig as JSON; watched.",
)
_run_dir = click.option(
    "--run-dir",
    envvar="VEG_NODE_AGENT_RUN_DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_RUN_DIR,
    show_default=True,
    help="Folder of the record, the health file and the socket; must live as long as the network namespace.",
)
_nat_backend = click.option(
    "--nat-backend",
    envvar="VEG_NODE_AGENT_NAT_BACKEND",
    type=click.Choice(["auto", "legacy", "nft"]),
    default="auto",
    show_default=True,
    help="Tables that hold the NAT rules; auto: legacy where the kernel has them.",
)


class BadInputError(click.ClickException):
    """Input that can not be used: one line, exit code 2."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Keep routes, rules, sysctls and NAT of a gateway pod as its configuration wants them."""


@cli.command()
@_config
@_run_dir
@_nat_backend
@click.option(
    "--drain-seconds",
    envvar="VEG_NODE_AGENT_DRAIN_SECONDS",
    type=click.FloatRange(0, 3600),
    default=20.0,
    show_default=True,
    help="On SIGTERM, wait at most this long until traffic goes elsewhere; a second SIGTERM ends at once.",
)
@click.option(
    "--metrics",
    envvar="VEG_NODE_AGENT_METRICS",
    default="",
    help="host:port for Prometheus metrics; none by default.",
)
@click.option(
    "--inspect",
    envvar="VEG_NODE_AGENT_INSPECT",
    default="",
    help="host:port for the debugging service beside its socket, e.g. for kubectl port-forward; none by default.",
)
@click.option(
    "--log-level",
    envvar="VEG_NODE_AGENT_LOG_LEVEL",
    type=click.Choice(logs.LEVELS),
    default="info",
    show_default=True,
)
@click.option(
    "--log-format",
    envvar="VEG_NODE_AGENT_LOG_FORMAT",
    type=click.Choice(["auto", "json", "console"]),
    default="auto",
    show_default=True,
)
def run(  # noqa: PLR0913, PLR0917  (one argument a flag)
    config: Path,
    run_dir: Path,
    nat_backend: BackendName,
    drain_seconds: float,
    metrics: str,
    inspect: str,
    log_level: str,
    log_format: logs.Format,
) -> None:
    """Run in this network namespace until SIGTERM, which drains and leaves the data path as it is."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"--run-dir {run_dir}: {error.strerror}") from None
    settings = Settings(
        config, run_dir, nat_backend, drain_seconds=drain_seconds, metrics=metrics, inspect=inspect
    )

    async def main(stop: asyncio.Event) -> None:
        agent = Agent(settings, rpc.parse_config, Kernel(nat_backend))
        with served(settings.metrics, agent):
            await serve(agent, stop)

    async def serve(agent: Agent, stop: asyncio.Event) -> None:
        servers = []
        for address in filter(None, (settings.socket, settings.inspect)):
            try:
                servers.append(await start_server(address, rpc.adder(agent), [rpc.SERVICE], read_only=True))
            except (OSError, RuntimeError) as error:
                # The service only shows; the data path does not depend on it.
                logs.get("main").error("debugging service not available", listen=address, error=str(error))
        try:
            await agent.run(stop)
        finally:
            await asyncio.gather(*(server.stop(0.2) for server in servers))

    run_service(main, service="node-agent", log_level=log_level, log_format=log_format)


@cli.command()
@_config
@_run_dir
@_nat_backend
def plan(config: Path, run_dir: Path, nat_backend: BackendName) -> None:
    """Print the operations that would make this network namespace match; nothing when it does."""
    logs.configure("node-agent", "error")
    try:
        wanted = rpc.parse_config(read_config(config))
    except ConfigError as error:
        raise BadInputError(str(error)) from None
    record = RecordFile(run_dir).load()
    kernel = Kernel(nat_backend)
    try:
        steps = diff.plan(wanted, kernel.read(wanted, record), record)
    except AgentError as error:
        raise click.ClickException(str(error)) from None
    finally:
        kernel.close()
    for step in steps.operations:
        click.echo(str(step))
    for text in (*(f"waiting: {w}" for w in steps.waiting), *steps.problems):
        click.echo(text, err=True)


@cli.command()
@_run_dir
def state(run_dir: Path) -> None:
    """Ask the agent that runs with this run folder how it stands."""
    logs.configure("node-agent", "error")
    try:
        text = asyncio.run(rpc.fetch_state(Settings(run_dir=run_dir).socket))
    except AgentError as error:
        raise click.ClickException(str(error)) from None
    click.echo(text)


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="veg-node-agent")


if __name__ == "__main__":
    main()
