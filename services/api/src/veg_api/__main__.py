"""The api process: flags, wiring, signals."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from veg_common import logs, process
from veg_common.tls import TlsError, tls_files, tls_options

from veg_api import check as health
from veg_api import config
from veg_api.config import ConfigError, Settings
from veg_api.core.workload import Defaults
from veg_api.process import Process


@click.group(context_settings={"auto_envvar_prefix": "VEG_API"})
@click.version_option(package_name="vpc-egress-gateway")
def main() -> None:
    """Custom resources in; workloads, addresses, OVN intents and status out."""


@main.command()
@click.option(
    "--store",
    required=True,
    help="Where the resources are: folder:DIR, kube (service account or default kubeconfig), kube:KUBECONFIG[#CONTEXT].",
)
@click.option("--programmer", required=True, help="gRPC target of ovn-programmer: unix:/path or host:port.")
@click.option("--listen", required=True, help="gRPC address to serve on: unix:/path or host:port.")
@click.option(
    "--topology",
    type=click.Choice(["managed", "kube-ovn"]),
    default="managed",
    show_default=True,
    help="Whose Vpc, Subnet and IP objects are: ours, or Kube-OVN's.",
)
@click.option("--leader-elect", is_flag=True, help="Of several processes one writes: elected by a Lease.")
@click.option("--namespace", default="", help="Namespace of the Lease.")
@click.option("--image", default="", help="Image of gateways that name none.")
@click.option(
    "--bfd-min-ttl",
    type=click.IntRange(1, 255),
    default=253,
    show_default=True,
    help="Gateways discard OVN's BFD packets that arrive with a smaller TTL or hop limit: 255 less the routers between.",
)
@tls_options
@click.option(
    "--metrics",
    "metrics_listen",
    default="",
    help="Serve /metrics (Prometheus), /healthz and /readyz over HTTP on host:port.",
)
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), default="auto")
def run(  # noqa: PLR0913, PLR0917 - click passes every flag as an argument
    store: str,
    programmer: str,
    listen: str,
    topology: str,
    leader_elect: bool,  # noqa: FBT001
    namespace: str,
    image: str,
    bfd_min_ttl: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    metrics_listen: str,
    log_level: str,
    log_format: logs.Format,
) -> None:
    """Reconcile until told to stop."""
    try:
        settings = config.check(
            Settings(
                store,
                programmer,
                listen,
                namespace if leader_elect else "",
                tls_files(tls_cert, tls_key, tls_ca),
                Defaults(image, bfd_min_ttl, kube_ovn=topology == "kube-ovn"),
            ),
            leader_elect=leader_elect,
        )
    except (ConfigError, TlsError) as error:
        raise click.UsageError(str(error)) from error
    api = Process(settings)
    process.run_service(
        lambda stop: api.serve(metrics_listen, stop),
        service="api",
        log_level=log_level,
        log_format=log_format,
    )


@main.command()
@click.option("--target", required=True, help="gRPC address of any service of ours: unix:/path or host:port.")
@click.option(
    "--service", default="", help="Full name of one gRPC service; the process as a whole without it."
)
@click.option("--timeout", default=10.0, show_default=True, help="Seconds.")
@tls_options
def check(  # noqa: PLR0913, PLR0917 - click passes every flag as an argument
    target: str,
    service: str,
    timeout: float,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
) -> None:
    """Ask a process for its gRPC health: exit code 0 and SERVING, or 1 and why not."""
    if problem := config.check_address(target):
        raise click.UsageError(f"--target: {problem}")
    try:
        tls = tls_files(tls_cert, tls_key, tls_ca)
    except TlsError as error:
        raise click.UsageError(str(error)) from error
    problem = asyncio.run(health.ask(target, service, timeout, tls))
    if problem:
        raise click.ClickException(f"{target}: {problem}")
    click.echo(f"{target}: SERVING")


if __name__ == "__main__":
    main()
