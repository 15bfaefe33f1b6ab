"""The kinds of faults, what each is done to, and how an active one is remembered. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# Service name of a gateway pod's container -> the container.
POD_SERVICES = {"node-agent": "gateway", "bfdd": "bfdd"}


class Kind(StrEnum):
    """What is done."""

    KILL_POD = "kill-pod"
    STOP_POD = "stop-pod"
    CUT_UPLINK = "cut-uplink"
    CUT_INTERNAL = "cut-internal"
    KILL_CHASSIS = "kill-chassis"
    KILL_SERVICE = "kill-service"
    PAUSE_SERVICE = "pause-service"
    RESTART_OVN = "restart-ovn"


POD_KINDS = (Kind.KILL_POD, Kind.STOP_POD, Kind.CUT_UPLINK, Kind.CUT_INTERNAL)
SERVICE_KINDS = (Kind.KILL_SERVICE, Kind.PAUSE_SERVICE)
TARGETS = {
    **dict.fromkeys(POD_KINDS, "POD"),
    **dict.fromkeys(SERVICE_KINDS, "SERVICE"),
    Kind.KILL_CHASSIS: "NODE",
    Kind.RESTART_OVN: "",
}
ABOUT = {
    Kind.KILL_POD: "all processes of the pod killed, its interfaces gone, until it is healed",
    Kind.STOP_POD: "the pod deleted gracefully; its Deployment makes another",
    Kind.CUT_UPLINK: "net1 of the pod cut: its path (--how path, the default) or its carrier",
    Kind.CUT_INTERNAL: "eth0 of the pod cut: its carrier (--how carrier, the default) or its path",
    Kind.KILL_CHASSIS: "power loss of a node: cables dead, OVS, ovn-controller and pods killed; NotReady 5 s later",
    Kind.KILL_SERVICE: "SIGKILL; a pod's container is started again as a kubelet does, others stay down",
    Kind.PAUSE_SERVICE: "SIGSTOP: it is there and does nothing",
    Kind.RESTART_OVN: "both central databases and ovn-northd killed and started again",
}


@dataclass(frozen=True)
class Fault:
    """An active fault. `since` is Unix time; `uid` that of a pod."""

    kind: Kind
    target: str
    namespace: str = ""
    uid: str = ""
    detail: str = ""
    since: float = 0.0

    @property
    def key(self) -> str:
        """File name that tells it apart."""
        return ".".join(part for part in (self.kind.value, self.namespace, self.target) if part)

    @property
    def shown(self) -> str:
        """`kill-pod gateway2-…`, for a line of `status`."""
        return " ".join(part for part in (self.kind.value, self.target, self.detail) if part)


def pod_service(service: str) -> tuple[str, str] | None:
    """(pod, container) of `node-agent@POD` or `bfdd@POD`, None for a service that runs in no pod."""
    name, at, pod = service.partition("@")
    return (pod, POD_SERVICES[name]) if at and name in POD_SERVICES else None
