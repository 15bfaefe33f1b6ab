"""The names of Services for pods on the host's network: an /etc/hosts a namespace, kept up to date in place.

In a cluster a name service and kube-proxy do this. The file is written, not replaced: pods have it mounted.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from veg_common.logs import get
from veg_common.store import StoreError

from veg_sandbox.runtime.cache import Cache
from veg_sandbox.runtime.clusterapi import ClusterApi
from veg_sandbox.runtime.core.hostnet import hosts_text

_POLL_SECONDS = 0.5
log = get("names")


class ServiceNames:
    """Files below `folder`, one a namespace that was asked for."""

    def __init__(self, folder: Path, api: ClusterApi, cache: Cache) -> None:
        self._folder = folder
        self._api = api
        self._cache = cache
        self._namespaces: set[str] = set()

    async def file(self, namespace: str) -> Path:
        """The file for pods of a namespace, written. Raises StoreError."""
        self._namespaces.add(namespace)
        await self._pass()
        return self._folder / namespace

    async def run(self) -> None:
        """Keep the files up to date until cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                if self._namespaces:
                    await self._pass()
            except StoreError as error:
                log.debug("services not read", error=str(error))
            except Exception:
                log.exception("failed, trying again")

    async def _pass(self) -> None:
        services, pods = await self._api.services(), self._cache.all("Pod")
        self._folder.mkdir(parents=True, exist_ok=True)
        for namespace in self._namespaces:
            _write_in_place(self._folder / namespace, hosts_text(namespace, services, pods))


def _write_in_place(file: Path, text: str) -> None:
    """Write the file unless it holds the text; with one call, so that a reader sees the old or the new."""
    data = text.encode()
    if not file.exists():
        file.write_bytes(data)
    elif file.read_bytes() != data:
        with file.open("r+b", buffering=0) as out:
            out.write(data)
            out.truncate()
