"""What a kubelet asks an API server for beyond objects that it watches: secrets, tokens of service accounts, Services."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from veg_common.kube_client import KubeClient, Request
from veg_common.objects import Object

# A token is renewed when this share of its life is over, as a kubelet does.
_RENEW_AT = 0.8


class ClusterApi:
    """One API server, of the kubeconfig that the store's name holds. Every call raises StoreError."""

    def __init__(self, kubeconfig: Path, context: str | None = None) -> None:
        self._client = KubeClient(kubeconfig, context)
        self.server = _server(kubeconfig, context)
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._asking = asyncio.Lock()

    async def aclose(self) -> None:
        """End all connections."""
        await self._client.aclose()

    def environment(self) -> dict[str, str]:
        """What tells a pod where the API server is."""
        parts = urlsplit(self.server)
        return {
            "KUBERNETES_SERVICE_HOST": parts.hostname or "",
            "KUBERNETES_SERVICE_PORT": str(parts.port or 443),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(parts.port or 443),
        }

    async def secret(self, namespace: str, name: str) -> dict[str, bytes]:
        """The data of a Secret."""
        found = await self._client.call(Request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}"))
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}

    async def services(self) -> list[Object]:
        """All Services."""
        found = await self._client.call(Request("GET", "/api/v1/services"))
        items: list[Object] = found.get("items") or []
        return items

    async def token(self, pod: Object, source: Mapping[str, Any]) -> str:
        """A token of the pod's service account as a projected volume asks for it, kept while it is fresh."""
        metadata = pod["metadata"]
        audience = str(source.get("audience") or "")
        seconds = int(source.get("expirationSeconds") or 3600)
        key = (str(metadata["uid"]), audience)
        async with self._asking:
            text, renew_at = self._tokens.get(key, ("", 0.0))
            if text and time.time() < renew_at:
                return text
            account = pod["spec"].get("serviceAccountName") or "default"
            bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
            spec: Object = {"expirationSeconds": seconds, "boundObjectRef": bound}
            if audience:
                spec["audiences"] = [audience]
            path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token"
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            answer = await self._client.call(Request("POST", path, body=body))
            text = str(answer["status"]["token"])
            self._tokens[key] = (text, time.time() + seconds * _RENEW_AT)
            return text

    def forget(self, uid: str) -> None:
        """Drop the tokens of a pod that is gone."""
        self._tokens = {key: value for key, value in self._tokens.items() if key[0] != uid}


def cluster_api(store: str) -> ClusterApi | None:
    """The API server behind a store's name (`kube:KUBECONFIG[#CONTEXT]`), None for a folder."""
    scheme, _, rest = store.partition(":")
    if scheme != "kube":
        return None
    path, _, context = rest.partition("#")
    found = path or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return ClusterApi(Path(found), context or None)


def _server(kubeconfig: Path, context: str | None) -> str:
    """URL of the API server that the kubeconfig's context names. Raises OSError, ValueError."""
    text = kubeconfig.read_text()
    config = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    wanted = context or config.get("current-context")
    chosen = next((c["context"]["cluster"] for c in config["contexts"] if c["name"] == wanted), None)
    for cluster in config["clusters"]:
        if cluster["name"] == chosen:
            return str(cluster["cluster"]["server"])
    raise ValueError(f"{kubeconfig}: no cluster for context {wanted!r}")
