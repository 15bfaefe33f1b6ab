"""The process `veg-ovn-programmer`: flags, wiring, signals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import click
from veg_common import logs, metrics
from veg_common.process import run_service
from veg_common.server import start_server

from veg_ovn_programmer import rpc
from veg_ovn_programmer.config import BFD_VARIANTS, TOPOLOGIES, BfdVariantChoice, Settings, Topology
from veg_ovn_programmer.io.northbound import Northbound, Tls
from veg_ovn_programmer.worker import Worker

_pem = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group(
    context_settings={"auto_envvar_prefix": "VEG_OVN_PROGRAMMER", "help_option_names": ["-h", "--help"]}
)
def cli() -> None:
    """Write the rows of egress gateways into the OVN Northbound database, and keep them true."""


@cli.command()
@click.option(
    "--nb", required=True, help="OVSDB remotes of the Northbound database, e.g. unix:/run/ovn/ovnnb_db.sock."
)
@click.option(
    "--sb", default="", help="OVSDB remotes of the Southbound database: helps --bfd-variant auto to find out."
)
@click.option("--listen", required=True, help="gRPC address: unix:/path or host:port.")
@click.option(
    "--topology",
    type=click.Choice(TOPOLOGIES),
    default="kube-ovn",
    show_default=True,
    help="managed: routers, switches and ports are made here; kube-ovn: they are Kube-OVN's.",
)
@click.option(
    "--bfd-variant",
    type=click.Choice(BFD_VARIANTS),
    default="auto",
    show_default=True,
    help="k: the BFD port is a port of the VPC's router (Kube-OVN's OVN); s3: it has a router of its own (stock OVN);"
    " auto: k in the topology kube-ovn; in managed what OVN understands by --sb, else s3.",
)
@click.option("--metrics-listen", default="", help="host:port for Prometheus metrics; none by default.")
@click.option("--nb-key", type=_pem, help="Private key (PEM) for an ssl: remote.")
@click.option("--nb-cert", type=_pem, help="Certificate (PEM) for an ssl: remote.")
@click.option("--nb-ca", type=_pem, help="Authority (PEM) of an ssl: remote.")
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
@click.option(
    "--log-format", type=click.Choice(["auto", "json", "console"]), default="auto", show_default=True
)
def run(  # noqa: PLR0913, PLR0917  # click gives one argument a flag
    nb: str,
    sb: str,
    listen: str,
    topology: Topology,
    bfd_variant: BfdVariantChoice,
    metrics_listen: str,
    nb_key: Path | None,
    nb_cert: Path | None,
    nb_ca: Path | None,
    log_level: str,
    log_format: logs.Format,
) -> None:
    """Serve until SIGTERM, which leaves the rows as they are."""
    settings = Settings(nb, listen, topology, sb, bfd_variant, metrics_listen, nb_key, nb_cert, nb_ca)
    if problem := settings.problem():
        raise click.UsageError(problem)
    run_service(
        lambda stop: serve(settings, stop),
        service="ovn-programmer",
        log_level=log_level,
        log_format=log_format,
    )


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run worker and service until `stop` is set. Raises OSError or RuntimeError when an address can not be bound."""
    tls = None
    if settings.nb_key and settings.nb_certificate and settings.nb_authority:
        tls = Tls(settings.nb_key, settings.nb_certificate, settings.nb_authority)

    managed = settings.topology == "managed"

    def connect(wake: Callable[[], None]) -> Northbound:
        return Northbound(
            settings.nb, managed=managed, wake=wake, tls=tls, variant=settings.variant, sb=settings.sb
        )

    worker = Worker(connect)
    with metrics.serving(settings.metrics_listen):
        server = await start_server(settings.listen, rpc.adder(worker), [rpc.SERVICE])
        logs.get("main").info("serving", listen=settings.listen, nb=settings.nb, topology=settings.topology)
        try:
            await worker.run(stop)
        finally:
            await server.stop(0.2)


def main() -> None:
    """The console script."""
    cli()


if __name__ == "__main__":
    main()
