"""What a gateway's pools of addresses are remembered by: an annotation of its ConfigMap. Pure; topology kube-ovn only.

JSON, by Subnet: {"subnet1": ["192.168.0.2", "192.168.0.3"], "macvlan1": ["172.17.0.11", "172.17.0.12"]}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from veg_common.objects import Object

from veg_api.core import addresses
from veg_api.core.addresses import AddressError
from veg_api.core.names import GATEWAY_LABEL, POOLS_ANNOTATION

# Entries (addresses of one or both families) by Subnet.
Record = Mapping[str, Sequence[tuple[str, ...]]]


def write(record: Record) -> str:
    """The annotation."""
    found = {subnet: [addresses.joined(texts) for texts in entries] for subnet, entries in record.items()}
    return json.dumps(found, separators=(",", ":"))


def read(config_map: Object | None) -> Record:
    """What `write` wrote; entries that are damaged are left out."""
    annotations = (config_map or {}).get("metadata", {}).get("annotations") or {}
    try:
        found = json.loads(annotations.get(POOLS_ANNOTATION, "{}"))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        subnet: [texts for item in items if (texts := _entry(item))]
        for subnet, items in found.items()
        if isinstance(items, list)
    }


def reserved(items: Mapping[tuple[str, str], Object]) -> dict[tuple[str, str], str]:
    """An index of ConfigMaps: (subnet, address) to whose pool it is in, for people."""
    found = {}
    for (namespace, _), config_map in items.items():
        for subnet, entries in read(config_map).items():
            name = (config_map["metadata"].get("labels") or {}).get(GATEWAY_LABEL, "")
            found.update(
                {(subnet, text): f"gateway {namespace}/{name}" for texts in entries for text in texts}
            )
    return found


def _entry(item: object) -> tuple[str, ...]:
    try:
        return addresses.by_family(addresses.parts(str(item)))
    except AddressError:
        return ()
