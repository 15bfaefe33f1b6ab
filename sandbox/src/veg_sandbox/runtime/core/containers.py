"""What a container of a pod is to run: command, environment, mounts, probes. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from veg_common.objects import Object

from veg_sandbox.runtime.core.pods import (
    annotations_of,
    container_specs,
    labels_of,
    node_of,
    spec_of,
    status_of,
)


@dataclass(frozen=True)
class HttpGet:
    """What is asked for over HTTP. An empty host is the pod's own address."""

    port: int
    path: str = "/"
    host: str = ""


@dataclass(frozen=True)
class Probe:
    """A command to run (exec) or a page to get (httpGet); times in s."""

    command: tuple[str, ...] = ()
    http: HttpGet | None = None
    period: float = 10
    timeout: float = 1
    failures: int = 3
    delay: float = 0
    """Before the first one."""


@dataclass(frozen=True)
class Container:
    """One container. An empty command is a pause: there is nothing to run, it counts as running."""

    name: str
    image: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Volume name -> absolute path in the pod."""
    readiness: Probe | None = None
    liveness: Probe | None = None
    startup: Probe | None = None
    """The others wait for it."""
    restart: str = "Always"
    """The pod's restartPolicy."""

    def starts_again(self, exit_code: int | None) -> bool:
        """Whether it is to be started again after it ended like this (None: nobody knows how)."""
        return self.restart == "Always" or (self.restart == "OnFailure" and exit_code != 0)


def is_on_host(pod: Object) -> bool:
    """Whether it shares the network of its node."""
    return spec_of(pod).get("hostNetwork") is True


def init_containers_of(pod: Object, which: Callable[[str], str | None], *, must_run: bool) -> list[Container]:
    """The containers that have to end well, one after the other, before the others start."""
    specs = [s for s in _list(spec_of(pod).get("initContainers")) if isinstance(s, dict) and s.get("name")]
    return [_container(pod, spec, which, must_run=must_run) for spec in specs]


def containers_of(pod: Object, which: Callable[[str], str | None], *, must_run: bool) -> list[Container]:
    """The containers; `which` finds a program on the host.

    A client pod's program that the host has not becomes a pause; with `must_run` it stays, to fail visibly.
    """
    return [_container(pod, spec, which, must_run=must_run) for spec in container_specs(pod)]


def volumes_of(pod: Object) -> dict[str, Object]:
    """spec.volumes by name."""
    found = spec_of(pod).get("volumes")
    volumes = found if isinstance(found, list) else []
    return {str(v["name"]): v for v in volumes if isinstance(v, dict) and v.get("name")}


def config_map_of(volume: Object) -> str:
    """Name of the ConfigMap behind a volume, "" for another kind of volume."""
    source = volume.get("configMap")
    return str(source.get("name", "")) if isinstance(source, dict) else ""


def _container(pod: Object, spec: Object, which: Callable[[str], str | None], *, must_run: bool) -> Container:
    env = _env(pod, spec)
    words = (*_list(spec.get("command")), *_list(spec.get("args")))
    command = [expanded(str(word), env) for word in words]
    if not _list(spec.get("command")):
        command = []  # the image's entry point, and there is no image
    elif found := which(command[0]):
        command[0] = found
    elif not must_run:
        command = []
    mounts = {
        str(mount["name"]): str(mount["mountPath"])
        for mount in _list(spec.get("volumeMounts"))
        if isinstance(mount, dict) and mount.get("name") and str(mount.get("mountPath", "")).startswith("/")
    }
    return Container(
        name=str(spec["name"]),
        image=str(spec.get("image", "")),
        command=tuple(command),
        env=env,
        mounts=mounts,
        readiness=_probe(spec, "readinessProbe"),
        liveness=_probe(spec, "livenessProbe"),
        startup=_probe(spec, "startupProbe"),
        restart=str(spec_of(pod).get("restartPolicy") or "Always"),
    )


def expanded(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` of a command line replaced where there is such a variable; `$$(NAME)` is a plain `$(NAME)`."""

    def value(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        return env.get(match[1], match[0])

    return re.sub(r"\$?\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)", value, text)


def _env(pod: Object, spec: Object) -> dict[str, str]:
    env = {}
    for entry in _list(spec.get("env")):
        if not isinstance(entry, dict) or not entry.get("name"):
            continue
        source = entry.get("valueFrom")
        path = (source.get("fieldRef") or {}).get("fieldPath", "") if isinstance(source, dict) else None
        env[str(entry["name"])] = str(entry.get("value", "")) if path is None else field_value(pod, str(path))
    return env


def field_value(pod: Object, path: str) -> str:
    """The downward API's fields that pods use; "" for others."""
    metadata = pod["metadata"]
    simple = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": node_of(pod),
        "status.hostIP": status_of(pod).get("hostIP", ""),
        "status.podIP": status_of(pod).get("podIP", ""),
        "status.podIPs": ",".join(ip["ip"] for ip in status_of(pod).get("podIPs") or []),
    }
    if path in simple:
        return str(simple[path] or "")
    for prefix, values in (
        ("metadata.labels", labels_of(pod)),
        ("metadata.annotations", annotations_of(pod)),
    ):
        if path.startswith(f"{prefix}['") and path.endswith("']"):
            return str(values.get(path[len(prefix) + 2 : -2], ""))
    return ""


def _probe(container: Object, kind: str) -> Probe | None:
    found = container.get(kind)
    spec: Object = found if isinstance(found, dict) else {}
    action = spec.get("exec")
    command = tuple(str(word) for word in _list(action.get("command"))) if isinstance(action, dict) else ()
    http = _http(container, spec.get("httpGet"))
    if not command and http is None:
        return None
    return Probe(
        command,
        http,
        period=float(spec.get("periodSeconds") or 10),
        timeout=float(spec.get("timeoutSeconds") or 1),
        failures=int(spec.get("failureThreshold") or 3),
        delay=float(spec.get("initialDelaySeconds") or 0),
    )


def _http(container: Object, action: Any) -> HttpGet | None:
    if not isinstance(action, dict):
        return None
    ports = {
        p.get("name"): p.get("containerPort") for p in _list(container.get("ports")) if isinstance(p, dict)
    }
    port = ports.get(action.get("port"), action.get("port"))
    if not isinstance(port, int):
        return None
    return HttpGet(port, str(action.get("path") or "/"), str(action.get("host") or ""))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
