"""Names, labels and annotations that the custom resources and Kube-OVN prescribe. Pure.

Everything that another component reads by name is spelt here and nowhere else.
"""

from __future__ import annotations

DEFAULT_VPC = "ovn-cluster"
DEFAULT_SUBNET = "ovn-default"

GATEWAY_API_VERSION = "kubeovn.io/v1"
GATEWAY_KIND = "VpcEgressGateway"
FINALIZER = "kubeovn.io/vpc-egress-gateway"

# On Deployments, pods and IP objects of a gateway (the specification's listings select by it).
GATEWAY_LABEL = "ovn.kubernetes.io/vpc-egress-gateway"
# On IP objects of a gateway's ledger: which entry, and which interface of it ("eth0" or "net1").
INDEX_LABEL = "ovn.kubernetes.io/vpc-egress-gateway-index"
INTERFACE_LABEL = "ovn.kubernetes.io/vpc-egress-gateway-interface"
SUBNET_LABEL = "ovn.kubernetes.io/subnet"
# On the ConfigMap, beside the configuration it explains: the last good state of the gateway, as JSON.
APPLIED_ANNOTATION = "ovn.kubernetes.io/vpc-egress-gateway-applied"
# On the ConfigMap too, where Kube-OVN gives addresses: the pools that it is asked to choose from.
POOLS_ANNOTATION = "ovn.kubernetes.io/vpc-egress-gateway-pools"
# On a client pod that can not get an address: why.
ALLOCATION_ERROR_ANNOTATION = "ovn.kubernetes.io/allocation_error"

# On a gateway's pods: a mark of the configuration. Kubelet looks at a pod that changes, and refreshes its volumes at
# once instead of within a minute.
CONFIG_ANNOTATION = "vpc-egress-gateway/config-generation"
NETWORKS_ANNOTATION = "k8s.v1.cni.cncf.io/networks"
# On a gateway: "false" keeps its agents from probing the way out.
UPLINK_ANNOTATION = "ovn.kubernetes.io/uplink-probe"
NUDGE_ANNOTATION = "ovn.kubernetes.io/bfd-nudge"
OVN_PROVIDER = "ovn"
OVN_PREFIX = "ovn.kubernetes.io"

INTERNAL_INTERFACE = "eth0"
EXTERNAL_INTERFACE = "net1"

CONFIG_KEY = "agent.json"
CONFIG_MOUNT = "/etc/veg"
RUN_MOUNT = "/run/veg"

MAX_LABEL = 63
MAX_REPLICAS = 10


# Containers of a gateway pod: the second one only with BFD.
GATEWAY_CONTAINER = "gateway"
BFD_CONTAINER = "bfdd"


def bfd_port_name(vpc: str) -> str:
    """Name of the logical router port that speaks BFD for a VPC."""
    return f"bfd@{vpc}"


def deployment_name(prefix: str, gateway: str) -> str:
    """Name of a gateway's Deployment."""
    return f"{prefix}{gateway}"


def config_map_name(deployment: str) -> str:
    """Name of the ConfigMap with the agents' configuration."""
    return f"{deployment}-config"


def annotation_prefix(provider: str) -> str:
    """Prefix of a network's address annotations: Kube-OVN's own network has the bare one."""
    return OVN_PREFIX if provider in ("", OVN_PROVIDER) else f"{provider}.kubernetes.io"


def port_name(namespace: str, pod: str) -> str:
    """Logical switch port and iface-id of a pod's eth0; also the name of its IP object."""
    return f"{pod}.{namespace}"


def entry_name(deployment: str, namespace: str, index: int, provider: str) -> str:
    """Name of the IP object of one interface of one ledger entry."""
    base = f"{deployment}-{index}.{namespace}"
    return base if provider == OVN_PROVIDER else f"{base}.{provider}"
