"""A pod's interfaces through the lab: the calls of one CNI ADD, blocking, for a thread."""

from __future__ import annotations

import json
from collections.abc import Sequence

from veg_sandbox.net.lab import Lab
from veg_sandbox.runtime.core.network import Interface


def plug(lab: Lab, uid: str, node: str, port: str, interfaces: Sequence[Interface]) -> dict[str, str]:
    """Make namespace and interfaces, eth0 (logical switch port `port`) last; what is there already stays as it is.

    The gateways of eth0 become default routes. Returns interface name -> hardware address. Raises LabError.
    """
    primary, *others = interfaces
    lab.create_pod_netns(uid)
    for interface in others:
        lab.plug_external(
            uid,
            node,
            interface.name,
            master=interface.master,
            addresses=interface.addresses,
            mac=interface.mac or None,
        )
    lab.plug_internal(
        uid,
        node,
        lsp_name=port,
        mac=primary.mac,
        addresses=primary.addresses,
        gateways=primary.gateways,
    )
    return _macs(lab, uid)


def _macs(lab: Lab, uid: str) -> dict[str, str]:
    done = lab.pod_exec(uid, ["ip", "-j", "link", "show"], timeout=5)
    links = json.loads(done.stdout) if done.returncode == 0 else []
    return {str(link["ifname"]): str(link.get("address", "")) for link in links if link["ifname"] != "lo"}
