"""From a Deployment's template to pods: the template's hash, names, and the pod object. Pure."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from veg_common.objects import Object

HASH_LABEL = "pod-template-hash"
# k8s.io/apimachinery/pkg/util/rand: no vowels and no look-alikes, so that no word comes out.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: Object) -> str:
    """9 or 10 characters that change with any change of the template, and with nothing else."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return safe_encode(str(_fnv1a32(text.encode())))


def safe_encode(text: str) -> str:
    """Kubernetes' SafeEncodeString: each byte becomes a letter of the alphabet above."""
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in text.encode())


def pod_name(deployment: str, digest: str, rng: random.Random) -> str:
    """`<deployment>-<hash>-<5 letters>`, cut as generateName does where it would grow beyond 63 letters."""
    suffix = "".join(rng.choice(_ALPHABET) for _ in range(5))
    return f"{f'{deployment}-{digest}-'[:58]}{suffix}"


def pod_from(deployment: Object, rng: random.Random) -> Object:
    """A new pod of a Deployment, owned by it."""
    template: Any = copy.deepcopy(deployment["spec"]["template"])
    digest = template_hash(deployment["spec"]["template"])
    owner, metadata = deployment["metadata"], template.get("metadata") or {}
    reference = {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": owner["name"],
        "uid": owner.get("uid", ""),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    pod_metadata: Object = {
        "name": pod_name(owner["name"], digest, rng),
        "generateName": f"{owner['name']}-{digest}-",
        "namespace": owner["namespace"],
        "labels": {**(metadata.get("labels") or {}), HASH_LABEL: digest},
        "ownerReferences": [reference],
    }
    if annotations := metadata.get("annotations"):
        pod_metadata["annotations"] = annotations
    status = {"phase": "Pending"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": pod_metadata,
        "spec": template["spec"],
        "status": status,
    }


def _fnv1a32(data: bytes) -> int:
    digest = 0x811C9DC5
    for byte in data:
        digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
    return digest
