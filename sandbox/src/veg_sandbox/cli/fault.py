"""`veg-sandbox fault`: break something on purpose, see what is broken, heal it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import click
from veg_common.objects import Ref, kind_of
from veg_common.store import NotFoundError

from veg_sandbox.cli import context
from veg_sandbox.cli.errors import CliError, not_found
from veg_sandbox.cli.table import age, render
from veg_sandbox.faults.kinds import ABOUT, POD_KINDS, SERVICE_KINDS, TARGETS, Fault, Kind, pod_service

if TYPE_CHECKING:
    from veg_sandbox.faults.injector import Injector

_KINDS = "\n".join(f"  {kind.value + ' ' + TARGETS[kind]:<24}{ABOUT[kind]}" for kind in Kind)
_HELP = f"""Break something on purpose, or heal it.

Without arguments: what is broken now. `--heal` alone heals everything.

\b
{_KINDS}

SERVICE is a name of `status`: api, ovn-programmer, runtime, node-agent@POD, bfdd@POD, ovn-controller@NODE, …
"""


@click.command(help=_HELP)
@click.argument("kind", required=False, type=click.Choice([kind.value for kind in Kind]), metavar="[KIND]")
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of a pod.")
@click.option(
    "--how",
    type=click.Choice(["path", "carrier"]),
    help="How a cut cuts: frames vanish, or the link is seen to go.",
)
@click.option("--heal", is_flag=True, help="Undo it instead.")
@click.pass_obj
def fault(name: str, /, kind: str | None, targets: tuple[str, ...], namespace: str, **options: Any) -> None:
    """See _HELP."""
    heal = bool(options["heal"])
    where, lab = context.running(name), context.lab(name)
    from veg_sandbox.faults.injector import Injector  # noqa: PLC0415

    injector = Injector(lab, where)
    if kind is None:
        _all(injector, heal=heal)
        return
    for item in _faults(name, Kind(kind), targets, namespace, options["how"]):
        if heal:
            injector.heal(item)
        elif item.kind is Kind.STOP_POD:
            _delete(name, item)
        else:
            injector.inject(item)
        click.echo(f"{item.shown}{' healed' if heal else ''}")


def _all(injector: Injector, *, heal: bool) -> None:
    active = injector.active()
    if not heal:
        click.echo(table(active) if active else "nothing is broken on purpose", nl=not active)
        return
    for item in active:
        injector.heal(item)
        click.echo(f"{item.shown} healed")


def table(active: list[Fault]) -> str:
    """Active faults with their age; "" without any."""
    now = dt.datetime.now(dt.UTC)
    rows = [[f.shown, age(dt.datetime.fromtimestamp(f.since, dt.UTC).isoformat(), now)] for f in active]
    return render(["FAULT", "AGE"], rows) if rows else ""


def _faults(name: str, kind: Kind, targets: tuple[str, ...], namespace: str, how: str | None) -> list[Fault]:
    """What the arguments mean. Raises CliError."""
    if how and kind not in (Kind.CUT_UPLINK, Kind.CUT_INTERNAL):
        raise CliError(f"error: --how means nothing to {kind.value}")
    if not TARGETS[kind]:
        if targets:
            raise CliError(f"error: {kind.value} takes no target")
        return [Fault(kind, "")]
    if not targets:
        raise CliError(f"error: {kind.value}: {TARGETS[kind]} is missing")
    found = []
    for target in targets:
        pod = target.removeprefix("pod/") if kind in POD_KINDS else ""
        if kind in SERVICE_KINDS and (inside := pod_service(target)):
            pod = inside[0]
        uid = _uid(name, pod, namespace) if pod else ""
        shown = pod if kind in POD_KINDS else target
        found.append(Fault(kind, shown, namespace if pod else "", uid, how or ""))
    return found


def _uid(name: str, pod: str, namespace: str) -> str:
    store = context.store(name)
    try:
        found = context.run(lambda: store.get(Ref("Pod", namespace, pod)))
    except NotFoundError:
        raise not_found(kind_of("Pod"), pod) from None
    return str(found["metadata"]["uid"])


def _delete(name: str, item: Fault) -> None:
    store = context.store(name)
    context.run(lambda: store.delete(Ref("Pod", item.namespace, item.target)))
