"""Pods on the host's network: an address of loopback for each, and what the names of Services mean to them. Pure.

In a cluster such pods have their nodes' addresses. The nodes of a sandbox share one machine, so that each pod has an
address of 127.0.0.0/8 instead; it depends on what the pod is a replica of, so that a successor has the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from veg_common.objects import Object

from veg_sandbox.runtime.core.containers import is_on_host
from veg_sandbox.runtime.core.pods import is_finished, is_ready, is_terminating, labels_of, spec_of, status_of

# What differs between the pods of one Deployment.
_OWN_LABELS = ("pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/pod-name")


def address_for(pod: Object, lab: str, taken: Iterable[str]) -> str:
    """An address that none of `taken` is; `lab` names the sandbox."""
    labels = sorted((k, v) for k, v in labels_of(pod).items() if k not in _OWN_LABELS)
    told = (lab, pod["metadata"].get("namespace"), labels or pod["metadata"]["name"])
    digest = hashlib.sha256(repr(told).encode()).digest()
    used = set(taken)
    first = f"127.{64 + digest[0] % 64}.{digest[1]}"
    return next(text for last in range(1, 255) if (text := f"{first}.{last}") not in used)


def hosts_text(namespace: str, services: Sequence[Object], pods: Sequence[Object]) -> str:
    """An /etc/hosts for pods of a namespace: every Service stands for one pod, a ready one if there is one."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    for service in services:
        name, home = service["metadata"]["name"], service["metadata"].get("namespace", "")
        address = _address_of(service, pods)
        if address:
            names = [f"{name}.{home}.svc.cluster.local", f"{name}.{home}.svc", f"{name}.{home}"]
            lines.append("\t".join([address, *names, *([name] if home == namespace else [])]))
    return "".join(f"{line}\n" for line in lines)


def _address_of(service: Object, pods: Sequence[Object]) -> str:
    selector = spec_of(service).get("selector")
    if not isinstance(selector, dict) or not selector:
        return ""
    home = service["metadata"].get("namespace")
    behind = [
        pod
        for pod in pods
        if pod["metadata"].get("namespace") == home
        and is_on_host(pod)
        and _matches(selector, labels_of(pod))
        and not is_finished(pod)
        and status_of(pod).get("podIP")
    ]
    behind.sort(key=lambda pod: (is_terminating(pod), not is_ready(pod), pod["metadata"]["name"]))
    return str(status_of(behind[0])["podIP"]) if behind else ""


def _matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())
