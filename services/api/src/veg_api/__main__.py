"""The api process: flags, wiring, signals."""

from __future__ import annotations

import asyncio

import click
from veg_common import logs, metrics, process, server
from veg_common.folder import FolderStore

from veg_api import config
from veg_api.config import ConfigError, Settings
from veg_api.controller import Controller
from veg_api.core.workload import Defaults
from veg_api.link import Link
from veg_api.rpc import SERVICE_NAME, GatewayService, ProgrammerClient
from veg_api.views import GatewayViews


@click.group(context_settings={"auto_envvar_prefix": "VEG_API"})
@click.version_option(package_name="vpc-egress-gateway")
def main() -> None:
    """Custom resources in; workloads, addresses, OVN intents and status out."""


@main.command()
@click.option("--store", required=True, help="Where the resources are: folder:<dir>.")
@click.option("--programmer", required=True, help="gRPC target of ovn-programmer: unix:/path or host:port.")
@click.option("--listen", required=True, help="gRPC address to serve on: unix:/path or host:port.")
@click.option("--image", default="", help="Image of gateways that name none.")
@click.option(
    "--bfd-min-ttl",
    type=click.IntRange(1, 255),
    default=253,
    show_default=True,
    help="Gateways discard OVN's BFD packets that arrive with a smaller TTL or hop limit: 255 less the routers between.",
)
@click.option("--metrics", "metrics_listen", default="", help="Serve Prometheus metrics on host:port.")
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), default="auto")
def run(  # noqa: PLR0913, PLR0917 - click passes every flag as an argument
    store: str,
    programmer: str,
    listen: str,
    image: str,
    bfd_min_ttl: int,
    metrics_listen: str,
    log_level: str,
    log_format: logs.Format,
) -> None:
    """Reconcile until told to stop."""
    try:
        settings = config.parse(store, programmer, listen, image, bfd_min_ttl)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error

    async def serve(stop: asyncio.Event) -> None:
        with metrics.serving(metrics_listen):
            await _serve(settings, stop)

    process.run_service(serve, service="api", log_level=log_level, log_format=log_format)


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    log = logs.get("main")
    channel = server.channel(settings.programmer)
    client = ProgrammerClient(channel)
    defaults = Defaults(settings.image, settings.bfd_min_ttl)
    controller = Controller(
        FolderStore(settings.store), lambda on_change: Link(client, on_change), defaults=defaults
    )
    service = GatewayService(GatewayViews(controller, defaults))
    grpc_server = await server.start_server(settings.listen, service.add_to, [SERVICE_NAME])
    log.info("serving", listen=settings.listen, store=str(settings.store), programmer=settings.programmer)
    work = asyncio.create_task(controller.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        for task in (work, stopping):
            task.cancel()
        await asyncio.gather(work, stopping, return_exceptions=True)
        await grpc_server.stop(grace=0.5)
        await channel.close()


if __name__ == "__main__":
    main()
