"""The store that a text names: the same words for every process that has a `--store` flag."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from veg_common.folder import FolderStore
from veg_common.store import ObjectStore

if TYPE_CHECKING:
    from veg_common.kube import Selectors


def check_store(text: str) -> str | None:
    """What is wrong with the name of a store, in one line; None if nothing is."""
    scheme, colon, rest = text.partition(":")
    if (scheme == "folder" and rest) or (scheme == "kube" and (rest.partition("#")[0] or not colon)):
        return None
    return f"{text!r} is neither folder:DIR nor kube[:KUBECONFIG[#CONTEXT]]"


def open_store(text: str, selectors: Selectors | None = None) -> ObjectStore:
    """`folder:DIR`, `kube` (the pod's service account, else the default kubeconfig) or `kube:KUBECONFIG[#CONTEXT]`.

    `selectors` spares an API server's watches what nobody wants to see (KubernetesStore). Raises ValueError.
    """
    if problem := check_store(text):
        raise ValueError(problem)
    scheme, _, rest = text.partition(":")
    if scheme == "folder":
        return FolderStore(Path(rest))
    # A second and 50 MB of import that a folder does without.
    from veg_common.kube import KubernetesStore  # noqa: PLC0415

    kubeconfig, _, context = rest.partition("#")
    return KubernetesStore(Path(kubeconfig) if kubeconfig else None, context or None, selectors)
