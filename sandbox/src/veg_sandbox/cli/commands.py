"""Commands about objects: apply, delete, get, describe, scale, wait. What they do is in `objects`."""

from __future__ import annotations

import datetime as dt
from typing import Any

import click
from veg_common.objects import ManifestError, Ref, ref_of

from veg_sandbox.cli import context, manifests, objects
from veg_sandbox.cli.errors import USAGE, CliError
from veg_sandbox.cli.objects import Scope

_NAMESPACE = click.option("-n", "--namespace", default="default", show_default=True, help="Namespace.")
_FILES = click.option(
    "-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", help="Manifests; may be given again."
)
_ARGS = click.argument("args", nargs=-1, metavar="KIND [NAME]...")


def now() -> dt.datetime:
    """The present moment."""
    return dt.datetime.now(dt.UTC)


@click.command()
@_FILES
@_NAMESPACE
@click.pass_obj
def apply(name: str, /, files: tuple[str, ...], namespace: str) -> int:
    """Create or update the objects of manifests; applying the same again changes nothing."""
    if not files:
        raise CliError("error: must specify -f FILE")
    store = context.store(name)
    return context.run(lambda: objects.apply_files(store, files, namespace, click.echo, objects.echo_error))


@click.command()
@_ARGS
@_FILES
@_NAMESPACE
@click.option(
    "--timeout", type=float, default=60, show_default=True, help="Seconds to wait until all is gone."
)
@click.option("--wait/--no-wait", "waits", default=True, help="Wait until all is gone.")
@click.option("--ignore-not-found", is_flag=True, help="What is not there is no error.")
@click.option("--all", "everything", is_flag=True, help="All objects of the kind in the namespace.")
@click.pass_obj
def delete(name: str, /, args: tuple[str, ...], files: tuple[str, ...], namespace: str, **flags: Any) -> int:
    """Delete objects, by manifests or by KIND NAME, and wait until they are gone."""
    if bool(args) == bool(files):
        raise CliError("error: give either -f FILE or KIND NAME")
    options = objects.DeleteOptions(flags["timeout"] if flags["waits"] else None, flags["ignore_not_found"])
    store = context.store(name)

    async def work() -> int:
        if files:
            refs = _refs_of_files(files, namespace)
        else:
            wanted = objects.targets(args)
            refs = [Scope(namespace).ref(kind, target) for kind, target in wanted if target]
            if flags["everything"]:
                refs = [
                    ref_of(o)
                    for kind, _ in wanted
                    for o in await store.list(kind.kind, Scope(namespace).of(kind))
                ]
            elif not refs:
                raise CliError("error: resource(s) were provided, but no name was specified")
        return await objects.delete(store, refs, options, click.echo, objects.echo_error)

    return context.run(work)


@click.command()
@_ARGS
@_NAMESPACE
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="In all namespaces.")
@click.option("-l", "--selector", help="Labels: a=b,c!=d,e in (f,g),h,!i")
@click.option(
    "-o", "--output", type=click.Choice(["", "wide", "name", "yaml", "json"]), default="", help="Format."
)
@click.pass_obj
def get(name: str, /, args: tuple[str, ...], selector: str | None, output: str, **where: Any) -> None:
    """Print objects as kubectl does."""
    wanted = objects.targets(args)
    scope = Scope(where["namespace"], where["everywhere"])
    store = context.store(name)
    found = context.run(lambda: objects.find(store, wanted, scope, selector))
    single = len(wanted) == 1 and wanted[0][1] is not None
    if output in ("", "wide", "name") and not any(listed for _, listed in found):
        click.echo(objects.nothing_found(found, scope), err=True)
        return
    click.echo(objects.show(found, output, scope, single=single, now=now()), nl=False)


@click.command()
@_ARGS
@_NAMESPACE
@click.pass_obj
def describe(name: str, /, args: tuple[str, ...], namespace: str) -> None:
    """Print objects with their conditions and events."""
    from veg_sandbox.cli.describe import describe as text_of  # noqa: PLC0415

    wanted, scope, store = objects.targets(args), Scope(namespace), context.store(name)

    async def work() -> list[str]:
        found = await objects.find(store, wanted, scope, None)
        return [
            text_of(obj, await objects.events_of(store, ref_of(obj)), now())
            for _, listed in found
            for obj in listed
        ]

    texts = context.run(work)
    click.echo("\n\n".join(texts) if texts else "No resources found", nl=not texts, err=not texts)


@click.command()
@_ARGS
@_NAMESPACE
@click.option("--replicas", type=int, required=True, help="How many gateway pods.")
@click.pass_obj
def scale(name: str, /, args: tuple[str, ...], namespace: str, replicas: int) -> None:
    """Set the number of replicas of a gateway (or Deployment)."""
    kind, ref = _one(args, namespace)
    store = context.store(name)
    click.echo(context.run(lambda: objects.scale(store, objects.kind_named(kind), ref, replicas)))


@click.command()
@_ARGS
@_NAMESPACE
@click.option("--timeout", type=float, default=60, show_default=True, help="Seconds to wait at most.")
@click.pass_obj
def wait(name: str, /, args: tuple[str, ...], namespace: str, timeout: float) -> None:
    """Wait until an object serves what its spec asks for; after the timeout exit 1 with the reason."""
    kind, ref = _one(args, namespace)
    store = context.store(name)
    click.echo(context.run(lambda: objects.wait(store, objects.kind_named(kind), ref, timeout)))


def _one(args: tuple[str, ...], namespace: str) -> tuple[str, Ref]:
    wanted = objects.targets(args)
    if len(wanted) != 1 or wanted[0][1] is None:
        raise CliError("error: exactly one KIND NAME must be given")
    kind, target = wanted[0]
    return kind.kind, Scope(namespace).ref(kind, target or "")


def _refs_of_files(files: tuple[str, ...], namespace: str) -> list[Ref]:
    try:
        loaded = [manifests.load(source, namespace) for file in files for source in manifests.sources(file)]
    except ManifestError as error:
        raise CliError(f"error: {error}", USAGE) from error
    # The last object first: what was applied later may stand on what was applied earlier.
    return [ref_of(obj) for listed in reversed(loaded) for obj in reversed(listed)]
