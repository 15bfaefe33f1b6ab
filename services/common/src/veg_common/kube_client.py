"""HTTP to an API server: where it is, who we are, and what its refusals mean. Used by `veg_common.kube` only.

`kubernetes.aio` reads the kubeconfig or the service account and keeps the credentials fresh. Objects stay plain JSON: the
library's models would cost time, and lose fields that they do not know.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from veg_common.objects import Object, encode
from veg_common.store import (
    AlreadyExistsError,
    ConflictError,
    InvalidObjectError,
    NotFoundError,
    StoreError,
    UnavailableError,
)

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_AGENT = "vpc-egress-gateway"
_UNAUTHORIZED, _REFUSED = 401, 400
_CONNECT_S = 5.0
_REQUEST_S = 15.0
# Most streams carry a bookmark about once a minute. One that is silent for longer may have lost its other end.
_SILENCE_S = 150.0


class GoneError(StoreError):
    """The version to watch from, or to continue a list at, is too old: list again (HTTP 410)."""


@dataclass(frozen=True)
class Request:
    """One request: the path without the server, query parameters, the body as JSON."""

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    body: Object | None = None
    content_type: str = "application/json"


class KubeClient:
    """One API server. `kubeconfig` None: the service account of the pod, else the default kubeconfig."""

    def __init__(self, kubeconfig: Path | None = None, context: str | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._client: ApiClient | None = None
        self._opening = asyncio.Lock()

    async def aclose(self) -> None:
        """End all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def call(self, request: Request) -> Object:
        """One request, its JSON answer. Raises StoreError of the kind that the answer means."""
        for last in (False, True):
            try:
                async with asyncio.timeout(_REQUEST_S), await self._send(request) as response:
                    content = await response.read()
            except (aiohttp.ClientError, OSError) as error:
                raise UnavailableError(f"API server: {_text(error)}") from error
            if response.status == _UNAUTHORIZED and not last:
                await self._reopen()  # credentials may have been renewed
                continue
            if response.status >= _REFUSED:
                raise refusal(response.status, content, f"{request.method} {request.path}")
            break
        found: Object = _parsed(content)
        return found

    async def stream(self, request: Request) -> AsyncIterator[Object]:
        """The lines of a watch until the server ends it, or is silent for long. Raises StoreError."""
        try:
            async with asyncio.timeout(_REQUEST_S):
                response = await self._send(request, stream=True)
            async with response:
                if response.status == _UNAUTHORIZED:
                    await self._reopen()
                if response.status >= _REFUSED:
                    raise refusal(response.status, await response.read(), f"watch {request.path}")
                async for line in response.content:
                    yield _parsed(line)
        except aiohttp.SocketTimeoutError:
            return  # silent for long: whether the other end is still there shows when it is asked again
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UnavailableError(f"API server: {_text(error)}") from error

    async def _send(self, request: Request, *, stream: bool = False) -> aiohttp.ClientResponse:
        client = await self._opened()
        headers = {"Content-Type": request.content_type, "Accept": "application/json", "User-Agent": _AGENT}
        await client.update_params_for_auth(
            headers, [], ["BearerToken"], request.path, request.method, request.body
        )
        timeout = aiohttp.ClientTimeout(
            total=None if stream else _REQUEST_S,
            connect=_CONNECT_S,
            sock_read=_SILENCE_S if stream else None,
        )
        rest = client.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()  # noqa: SLF001 - its own request() does so too
        found: aiohttp.ClientResponse = await rest.pool_manager.request(
            request.method,
            f"{client.configuration.host}{request.path}?{urlencode(list(request.query))}",
            headers=headers,
            data=None if request.body is None else encode(request.body),
            timeout=timeout,
            server_hostname=client.configuration.tls_server_name or None,
        )
        return found

    async def _opened(self) -> ApiClient:
        async with self._opening:
            if self._client is None:
                settings = Configuration()
                try:
                    await self._load(settings)
                    self._client = ApiClient(settings)
                except (
                    config.ConfigException,
                    yaml.YAMLError,
                    OSError,
                    ValueError,
                    LookupError,
                    TypeError,
                    AttributeError,
                ) as error:
                    raise UnavailableError(f"no way to the API server: {_text(error)}") from error
            return self._client

    async def _load(self, settings: Configuration) -> None:
        if self._kubeconfig is not None:
            await config.load_kube_config(
                str(self._kubeconfig), self._context, client_configuration=settings, persist_config=False
            )
        elif "KUBERNETES_SERVICE_HOST" in os.environ and _SERVICE_ACCOUNT.is_file():
            config.load_incluster_config(client_configuration=settings)
        else:
            await config.load_kube_config(
                context=self._context, client_configuration=settings, persist_config=False
            )

    async def _reopen(self) -> None:
        """Read the credentials anew; streams in progress end with the old client."""
        async with self._opening:
            client, self._client = self._client, None
        if client is not None:
            await client.close()


def refusal(code: int, content: bytes, what: str) -> StoreError:
    """The error that an answer stands for: its HTTP code and, if it is one, its `Status` (meta/v1)."""
    try:
        status = json.loads(content)
    except ValueError:
        status = {}
    status = status if isinstance(status, dict) else {}
    reason = str(status.get("reason") or "")
    message = " ".join(str(status.get("message") or f"{what}: HTTP {code}").split())
    if code == 404:
        return NotFoundError(message)
    if code == 409:
        return AlreadyExistsError(message) if reason == "AlreadyExists" else ConflictError(message)
    if code == 410:
        return GoneError(message)
    if code in (400, 413, 415, 422):
        return InvalidObjectError(message)
    if code == 429 or code >= 500:
        return UnavailableError(message)
    return StoreError(message)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise UnavailableError(f"API server: an answer that is not JSON: {content[:80]!r}") from error


def _text(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
