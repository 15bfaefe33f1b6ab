"""The process `veg-ovn-programmer`: flags, wiring, signals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import click
from veg_common import logs, metrics
from veg_common.process import run_service
from veg_common.server import start_server
from veg_common.tls import TlsError, tls_files, tls_options

from veg_ovn_programmer import rpc
from veg_ovn_programmer.config import BFD_VARIANTS, TOPOLOGIES, BfdVariantChoice, Settings, Topology
from veg_ovn_programmer.io.northbound import Northbound
from veg_ovn_programmer.io.streams import Tls
from veg_ovn_programmer.worker import Worker

_pem = click.Path(path_type=Path, dir_okay=False, exists=True)


class SettingsError(click.ClickException):
    """Flags that make no sense: one line and exit code 2."""

    exit_code = 2


@click.group(
    context_settings={"auto_envvar_prefix": "VEG_OVN_PROGRAMMER", "help_option_names": ["-h", "--help"]}
)
def cli() -> None:
    """Write the rows of egress gateways into the OVN Northbound database, and keep them true."""


@cli.command()
@click.option(
    "--nb",
    required=True,
    help="OVSDB remotes of the Northbound database: unix:/run/ovn/ovnnb_db.sock, or all servers of a cluster:"
    " ssl:10.0.0.1:6641,ssl:10.0.0.2:6641,ssl:10.0.0.3:6641. The leader is found and followed.",
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
    " auto: what OVN understands by --sb; without it k in the topology kube-ovn, s3 in managed.",
)
@click.option("--metrics-listen", default="", help="host:port for Prometheus metrics; none by default.")
@tls_options
@click.option("--ovsdb-key", type=_pem, help="Private key (PEM) for ssl: remotes.")
@click.option("--ovsdb-cert", type=_pem, help="Certificate (PEM) for ssl: remotes.")
@click.option(
    "--ovsdb-ca", type=_pem, help="Authority (PEM) of ssl: remotes. All three are read at every connection."
)
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
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    ovsdb_key: Path | None,
    ovsdb_cert: Path | None,
    ovsdb_ca: Path | None,
    log_level: str,
    log_format: logs.Format,
) -> None:
    """Serve until SIGTERM, which leaves the rows as they are."""
    given = [path for path in (ovsdb_key, ovsdb_cert, ovsdb_ca) if path is not None]
    if len(given) in {1, 2}:
        raise SettingsError("--ovsdb-key, --ovsdb-cert and --ovsdb-ca: all three or none")
    ovsdb_tls = Tls(*given) if given else None
    try:
        tls = tls_files(tls_cert, tls_key, tls_ca)
    except TlsError as error:
        raise SettingsError(str(error)) from error
    settings = Settings(nb, listen, topology, sb, bfd_variant, metrics_listen, ovsdb_tls, tls)
    if problem := settings.problem():
        raise SettingsError(problem)
    run_service(
        lambda stop: serve(settings, stop),
        service="ovn-programmer",
        log_level=log_level,
        log_format=log_format,
    )


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run worker and service until `stop` is set. Raises OSError or RuntimeError when an address can not be bound."""
    managed = settings.topology == "managed"

    def connect(wake: Callable[[], None]) -> Northbound:
        return Northbound(
            settings.nb,
            managed=managed,
            wake=wake,
            tls=settings.ovsdb_tls,
            variant=settings.variant,
            sb=settings.sb,
        )

    log = logs.get("main")
    worker = Worker(connect)

    def ready() -> str:
        return worker.database.trouble

    with metrics.serving(settings.metrics_listen, ready=ready):
        server = await start_server(settings.listen, rpc.adder(worker), [rpc.SERVICE], settings.tls)
        log.info("serving", listen=settings.listen, nb=settings.nb, topology=settings.topology)
        if settings.is_open:
            log.warning(
                "whoever reaches this address may change routes: give --tls-cert, --tls-key and --tls-ca"
            )
        try:
            await worker.run(stop)
        finally:
            await server.stop(0.2)


def main() -> None:
    """The console script."""
    cli()


if __name__ == "__main__":
    main()
