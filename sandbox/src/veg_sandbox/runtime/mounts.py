"""The volumes of one pod on disk: ConfigMaps, Secrets, tokens and fields as files, empty folders, folders of the host."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from veg_common.logs import get
from veg_common.objects import Object
from veg_common.store import NotFoundError, StoreError

from veg_sandbox.runtime import volumes
from veg_sandbox.runtime.clusterapi import ClusterApi
from veg_sandbox.runtime.core.containers import field_value, volumes_of

log = get("mounts")


class MissingError(Exception):
    """Something that a volume is made of is not there; the text says what."""


class Mounter:
    """Brings a pod's volumes up to date, in folders below `folder`. Without `api` there are no secrets and tokens."""

    def __init__(
        self, folder: Path, config_map: Callable[[str], Object | None], api: ClusterApi | None
    ) -> None:
        """`config_map` finds one of the pod's namespace by name."""
        self._folder = folder
        self._config_map = config_map
        self._api = api

    def source(self, volume: str, spec: Object) -> Path:
        """What is to be mounted for a volume."""
        host = spec.get("hostPath")
        return Path(str(host["path"])) if isinstance(host, dict) else self._folder / volume

    async def refresh(self, pod: Object, *, lenient: bool) -> None:
        """Write what changed. Raises MissingError; with `lenient` what is there stays, as with a kubelet."""
        for name, volume in volumes_of(pod).items():
            folder = self._folder / name
            try:
                files = await self._files(pod, volume)
            except MissingError:
                if lenient:
                    continue
                raise
            if files is None:
                if "hostPath" not in volume:
                    folder.mkdir(parents=True, exist_ok=True)
                continue
            if volumes.write(folder, files, _version(files)):
                log.info("volume written", volume=name, pod=pod["metadata"]["name"])

    async def _files(self, pod: Object, volume: Object) -> dict[str, bytes] | None:
        """What the volume holds; None for one that is just a folder."""
        if isinstance(projected := volume.get("projected"), dict):
            found: dict[str, bytes] = {}
            for source in projected.get("sources") or []:
                found |= await self._source(pod, source) or {}
            return found
        return await self._source(pod, volume)

    async def _source(self, pod: Object, volume: Object) -> dict[str, bytes] | None:
        kinds: dict[str, Any] = {
            "configMap": self._of_config_map,
            "secret": self._of_secret,
            "serviceAccountToken": self._of_token,
            "downwardAPI": self._of_fields,
        }
        for kind, read in kinds.items():
            if isinstance(spec := volume.get(kind), dict):
                try:
                    found: dict[str, bytes] = await read(pod, spec)
                except NotFoundError as error:
                    if spec.get("optional"):
                        return {}
                    raise MissingError(str(error)) from error
                except StoreError as error:
                    raise MissingError(str(error)) from error
                return found
        return None

    async def _of_config_map(self, _pod: Object, spec: Object) -> dict[str, bytes]:
        found = self._config_map(str(spec.get("name", "")))
        if found is None:
            raise NotFoundError(f'configmap "{spec.get("name")}" not found')
        return volumes.content(found, spec.get("items"))

    async def _of_secret(self, pod: Object, spec: Object) -> dict[str, bytes]:
        name = str(spec.get("secretName") or spec.get("name") or "")
        if self._api is None:
            raise NotFoundError(f'secret "{name}" not found: the objects of this sandbox have no secrets')
        return volumes.chosen(
            await self._api.secret(str(pod["metadata"]["namespace"]), name), spec.get("items")
        )

    async def _of_token(self, pod: Object, spec: Object) -> dict[str, bytes]:
        if self._api is None:
            raise NotFoundError("no tokens of service accounts in this sandbox")
        return {str(spec.get("path") or "token"): (await self._api.token(pod, spec)).encode()}

    async def _of_fields(self, pod: Object, spec: Object) -> dict[str, bytes]:
        fields = [item for item in spec.get("items") or [] if isinstance(item.get("fieldRef"), dict)]
        return {
            str(i["path"]): field_value(pod, str(i["fieldRef"].get("fieldPath"))).encode() for i in fields
        }


def _version(files: dict[str, bytes]) -> str:
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]
