"""The one interface through which resources are read and written, whatever keeps them.

Implementations: `veg_common.folder.FolderStore` (manifest files) and `veg_common.kube.KubernetesStore` (an API
server); `veg_common.stores.open_store` takes the one that a text names. Semantics follow the Kubernetes API: merge
patches, resourceVersion, generation, finalizers, graceful deletion of pods.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from veg_common.objects import Object, Ref

EventType = Literal["ADDED", "MODIFIED", "DELETED", "SYNCED", "BROKEN"]


class StoreError(Exception):
    """A request that the store refused; the text is one line for people."""


class NotFoundError(StoreError):
    """There is no such object."""


class AlreadyExistsError(StoreError):
    """An object of that name is there already."""


class ConflictError(StoreError):
    """The object changed since it was read: read again and retry."""


class InvalidObjectError(StoreError):
    """The object can not be stored: unknown kind, no name, too large."""


class UnavailableError(StoreError):
    """Nothing is said of the request: the store can not be reached, or has no time. The same may succeed later."""


@dataclass(frozen=True)
class WatchEvent:
    """One change.

    SYNCED carries nothing: all that was there at the start has been sent. BROKEN carries the reference and a
    message: the object's source can not be read; what was last sent stays valid. DELETED carries the last object.
    """

    type: EventType
    ref: Ref | None = None
    object: Object | None = None
    message: str = ""


class ObjectStore(Protocol):
    """Plain objects by kind, namespace and name. Returned objects belong to the caller."""

    async def list(self, kind: str, namespace: str | None = None) -> list[Object]:
        """Objects of a kind (of one namespace), sorted by namespace and name."""
        ...

    async def get(self, ref: Ref) -> Object:
        """One object. Raises NotFoundError."""
        ...

    async def create(self, obj: Object) -> Object:
        """Store a new object; status in it is kept. Raises AlreadyExistsError, InvalidObjectError."""
        ...

    async def update(self, ref: Ref, patch: Object) -> Object:
        """Merge `patch` (RFC 7386) into everything but status; spec changes raise metadata.generation.

        A `metadata.resourceVersion` in the patch must match (ConflictError). Removing the last finalizer of a
        deleted object removes the object. Raises NotFoundError.
        """
        ...

    async def update_status(self, ref: Ref, patch: Object) -> Object:
        """Merge `patch["status"]` into the object's status and nothing else. Raises NotFoundError."""
        ...

    async def delete(self, ref: Ref, *, grace_seconds: int | None = None) -> None:
        """Delete, or set deletionTimestamp where finalizers (or a kubelet, for a bound pod) come first.

        `grace_seconds=0` removes a pod at once. Raises NotFoundError.
        """
        ...

    def watch(self, kinds: Iterable[str]) -> AsyncIterator[WatchEvent]:
        """Present objects as ADDED, one SYNCED, then every change until the iterator is closed."""
        ...

    async def aclose(self) -> None:
        """End what is open towards other processes; the store can be used again after it."""
        ...
