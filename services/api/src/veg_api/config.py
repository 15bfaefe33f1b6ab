"""Settings of api, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class ConfigError(ValueError):
    """A setting that makes no sense; one line that names it."""


@dataclass(frozen=True)
class Settings:
    """Where the neighbours are. `image` runs in gateways that name none; BFD packets of OVN need `bfd_min_ttl`."""

    store: Path
    programmer: str
    listen: str
    image: str = ""
    bfd_min_ttl: int = 253


def parse(store: str, programmer: str, listen: str, image: str = "", bfd_min_ttl: int = 253) -> Settings:
    """Settings from flags. Raises ConfigError."""
    scheme, colon, rest = store.partition(":")
    if not colon or scheme != "folder" or not rest:
        raise ConfigError(f"--store: {store!r} is not folder:<dir>")
    for flag, value in (("--programmer", programmer), ("--listen", listen)):
        if not value.startswith("unix:") and not value.rpartition(":")[2].isdigit():
            raise ConfigError(f"{flag}: {value!r} is neither unix:/path nor host:port")
    return Settings(Path(rest), programmer, listen, image, bfd_min_ttl)
