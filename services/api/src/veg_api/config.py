"""Settings of api, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field

from veg_common.stores import check_store
from veg_common.tls import TlsFiles

from veg_api.core.workload import Defaults


class ConfigError(ValueError):
    """A setting that makes no sense; one line that names it."""


@dataclass(frozen=True)
class Settings:
    """Where the neighbours are, and what gateways get that say nothing of it.

    `elect_in` is the namespace of the Lease that leaders are elected by; "" for a process that is alone.
    """

    store: str
    programmer: str
    listen: str
    elect_in: str = ""
    tls: TlsFiles | None = None
    defaults: Defaults = field(default_factory=Defaults)


def check(settings: Settings, *, leader_elect: bool = False) -> Settings:
    """The settings if they make sense. Raises ConfigError."""
    if problem := check_store(settings.store):
        raise ConfigError(f"--store: {problem}")
    for flag, value in (("--programmer", settings.programmer), ("--listen", settings.listen)):
        if problem := check_address(value):
            raise ConfigError(f"{flag}: {problem}")
    if leader_elect and not settings.elect_in:
        raise ConfigError("--leader-elect: --namespace must be given too")
    return settings


def check_address(value: str) -> str | None:
    """What is wrong with a gRPC address; None if nothing is."""
    if value.startswith("unix:") or value.rpartition(":")[2].isdigit():
        return None
    return f"{value!r} is neither unix:/path nor host:port"
