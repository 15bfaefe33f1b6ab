"""A cluster in memory: objects as the store would keep them, pods as the Deployment controller would make them."""

import copy
import json
from collections.abc import Iterable
from typing import Any

import pytest
from veg_api.core.change import Change, Create, Delete, Patch
from veg_api.core.intents import Intent, IntentKey, Outcome, ProgrammerView, Session
from veg_api.core.planner import GatewayPlan, gateway_keys, plan_gateway
from veg_api.core.pools import Pools
from veg_api.core.snapshot import COURTESY_KINDS, KINDS, Snapshot
from veg_api.core.topology import TopologyPlan, plan_topology
from veg_api.core.workload import Defaults
from veg_common.objects import Object, Ref, kind_of, merge_patch, ref_of

EXTERNAL = ("eth1", "default")


def obj(kind: str, name: str, namespace: str = "", **content: Any) -> Object:
    """An object of a known kind."""
    metadata = {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        **content.pop("metadata", {}),
    }
    return {"apiVersion": kind_of(kind).api_version, "kind": kind, "metadata": metadata, **content}


def nad(name: str = "eth1", namespace: str = "default") -> Object:
    """The specification's NetworkAttachmentDefinition."""
    provider = f"{name}.{namespace}"
    config = {"cniVersion": "0.3.0", "type": "macvlan", "master": "eth1", "ipam": {"provider": provider}}
    return obj("NetworkAttachmentDefinition", name, namespace, spec={"config": json.dumps(config)})


def subnet(name: str, cidr: str, **spec: Any) -> Object:
    """A Subnet."""
    return obj("Subnet", name, spec={"cidrBlock": cidr, **spec})


def macvlan(cidr: str = "172.17.0.0/16", name: str = "macvlan1", **spec: Any) -> Object:
    """The specification's external Subnet, of other families on demand."""
    excluded = ["172.17.0.0..172.17.0.10"] if "172.17.0.0/16" in cidr else []
    return subnet(name, cidr, **{"provider": "eth1.default", "excludeIps": excluded, **spec})


def gateway(name: str = "gateway1", namespace: str = "default", **spec: Any) -> Object:
    """The specification's first gateway, with other fields on demand; None removes one."""
    base = {
        "vpc": "ovn-cluster",
        "replicas": 1,
        "externalSubnet": "macvlan1",
        "policies": [{"snat": True, "subnets": ["ovn-default"]}],
    }
    merged = {k: v for k, v in {**base, **spec}.items() if v is not None}
    return obj("VpcEgressGateway", name, namespace, spec=merged)


def node(name: str, *, ready: bool = True) -> Object:
    """A node."""
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return obj("Node", name, status={"conditions": conditions})


def pod(name: str, namespace: str = "default", node_name: str = "node1", **annotations: str) -> Object:
    """A client pod."""
    metadata = {"annotations": annotations} if annotations else {}
    return obj("Pod", name, namespace, metadata=metadata, spec={"nodeName": node_name})


def pod_status(item: Object, *unready: str) -> Object:
    """What the kubelet says of a pod whose containers are ready but for some."""
    names = [c["name"] for c in item["spec"].get("containers", ())]
    ready = "False" if unready else "True"
    status: Object = {"conditions": [{"type": "Ready", "status": ready}]}
    if names:
        status["containerStatuses"] = [{"name": n, "ready": n not in unready} for n in names]
    return status


def cluster(family: str = "ipv4") -> list[Object]:
    """What a fresh cluster has."""
    cidrs = {"ipv4": "10.16.0.0/16", "ipv6": "fd00:10:16::/112", "dual": "10.16.0.0/16,fd00:10:16::/112"}
    outside = {"ipv4": "172.17.0.0/16", "ipv6": "fd17::/64", "dual": "172.17.0.0/16,fd17::/64"}
    return [
        obj("Vpc", "ovn-cluster", spec={}),
        obj("Namespace", "default"),
        subnet("ovn-default", cidrs[family], default=True),
        nad(),
        macvlan(outside[family]),
        node("node1"),
        node("node2"),
        node("node3"),
    ]


class World:
    """Objects, a clock and a programmer that commits what it is asked for (unless told otherwise)."""

    def __init__(self, *objects: Object) -> None:
        self.objects: dict[Ref, Object] = {}
        self._snapshot = Snapshot()
        self._pending: list[tuple[Ref, Object | None]] = []
        self._kinds: dict[str, dict[Ref, Object]] = {}
        self.link = "connected"
        self.outcomes: dict[IntentKey, Outcome] = {}
        # OVN's BFD sessions by gateway and address. Those of new nexthops come Up by themselves unless told otherwise.
        self.sessions: dict[str, dict[str, Session]] = {}
        self.sessions_come_up = True
        self.settling = False
        self.hidden: frozenset[Ref] = frozenset()
        self.clock = 0
        self.events: list[Any] = []
        self.deleted: list[Ref] = []
        self._uid = 0
        self.defaults = Defaults()
        for item in objects:
            self.put(item)

    def put(self, item: Object) -> None:
        """Create or replace, as `kubectl apply` would."""
        ref = ref_of(item)
        old = self.objects.get(ref)
        if old is None:
            self._uid += 1
            birth = {"uid": f"uid-{ref.kind}-{ref.name}-{self._uid}", "generation": 1, "resourceVersion": "1"}
            # A later object is a younger one.
            birth["creationTimestamp"] = f"2026-01-01T00:{self._uid // 60 % 60:02}:{self._uid % 60:02}Z"
            new = {**copy.deepcopy(item), "metadata": {**birth, **item["metadata"]}}
        else:
            new = copy.deepcopy(old)
            new["spec"] = copy.deepcopy(item.get("spec"))
            new["metadata"]["generation"] += 1
        self._store(ref, new)

    @property
    def snapshot(self) -> Snapshot:
        """What api knows."""
        if self._pending:
            self._snapshot, _ = self._snapshot.with_objects(self._pending)
            self._pending = []
        return self._snapshot

    def _store(self, ref: Ref, new: Object | None) -> None:
        if new is not None:
            metadata = new["metadata"]
            if "deletionTimestamp" in metadata and not metadata.get("finalizers") and ref.kind != "Pod":
                new = None
        if new is None:
            self.objects.pop(ref, None)
            self._kinds.get(ref.kind, {}).pop(ref, None)
        else:
            self.objects[ref] = new
            self._kinds.setdefault(ref.kind, {})[ref] = new
        if ref.kind in (*KINDS, *COURTESY_KINDS):
            self._pending.append((ref, new))

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """One object."""
        return self.objects[Ref(kind, namespace if kind_of(kind).namespaced else "", name)]

    def all(self, kind: str) -> list[Object]:
        """Objects of a kind, by name."""
        return [item for _, item in sorted(self._kinds.get(kind, {}).items(), key=lambda pair: pair[0])]

    def update(self, kind: str, name: str, patch: Object, namespace: str = "default") -> None:
        """Merge a patch of anything."""
        ref = Ref(kind, namespace if kind_of(kind).namespaced else "", name)
        new = merge_patch(self.objects[ref], patch)
        if "spec" in patch:
            new["metadata"]["generation"] = new["metadata"].get("generation", 0) + 1
        self._store(ref, new)

    def remove(self, kind: str, name: str, namespace: str = "default") -> None:
        """Delete as a user would: finalizers hold it back, a pod terminates."""
        ref = Ref(kind, namespace if kind_of(kind).namespaced else "", name)
        metadata = self.objects[ref]["metadata"]
        if metadata.get("finalizers") or kind == "Pod":
            self.update(kind, name, {"metadata": {"deletionTimestamp": self.now}}, namespace)
        else:
            self._store(ref, None)

    def vanish(self, kind: str, name: str, namespace: str = "default") -> None:
        """Remove the object itself."""
        self._store(Ref(kind, namespace if kind_of(kind).namespaced else "", name), None)

    @property
    def now(self) -> str:
        """The clock, RFC 3339."""
        return f"2026-01-01T10:{self.clock // 60 % 60:02}:{self.clock % 60:02}Z"

    def view(self) -> Snapshot:
        """The snapshot that a plan sees now."""
        import dataclasses

        programmer = ProgrammerView(
            self.link,  # type: ignore[arg-type]
            "",
            dict(self.outcomes),
            copy.deepcopy(self.sessions),
            settling=self.settling,
        )
        return dataclasses.replace(self.snapshot, programmer=programmer, now=self.now, hidden=self.hidden)

    def plans(self) -> tuple[dict[tuple[str, str], GatewayPlan], TopologyPlan]:
        """Everything that is to be done now."""
        snapshot = self.view()
        pools = Pools(snapshot)
        plans = {
            key: plan_gateway(snapshot, key, pools, self.defaults) for key in sorted(gateway_keys(snapshot))
        }
        return plans, TopologyPlan() if self.defaults.kube_ovn else plan_topology(snapshot, pools)

    def plan(self, name: str = "gateway1", namespace: str = "default") -> GatewayPlan:
        """The plan of one gateway."""
        return plan_gateway(self.view(), (namespace, name), defaults=self.defaults)

    def carry_out(self, changes: Iterable[Change]) -> None:
        """What the store would do."""
        for change in changes:
            ref = change.ref
            if isinstance(change, Create):
                assert ref not in self.objects, f"{ref} exists"
                self.put(change.object)
            elif isinstance(change, Delete):
                self.deleted.append(ref)
                if ref in self.objects:
                    self.remove(ref.kind, ref.name, ref.namespace)
            elif isinstance(change, Patch):
                self.update(ref.kind, ref.name, change.patch, ref.namespace)
            else:
                self.update(ref.kind, ref.name, {"status": change.patch["status"]}, ref.namespace)

    def step(self) -> bool:
        """One pass of api and programmer; whether there was anything to do."""
        self.clock += 1
        plans, topology = self.plans()
        todo = False
        for plan in plans.values():
            todo |= bool(plan.changes)
            self.events += plan.events
            self.carry_out(plan.changes)
            todo |= self._programme(plan)
        self.events += topology.events
        self.carry_out(topology.changes)
        if self.link == "connected":
            for key, intent in topology.intents.items():
                todo |= self.outcomes.get(key) != Outcome(intent, "COMMITTED")
                self.outcomes[key] = Outcome(intent, "COMMITTED")
        return todo or bool(topology.changes)

    def _programme(self, plan: GatewayPlan) -> bool:
        if self.link != "connected" or (plan.intent is None and not plan.withdraw):
            return False
        outcome = Outcome(plan.intent, "COMMITTED")
        before = self.outcomes.get(plan.intent_key)
        self.outcomes[plan.intent_key] = outcome
        return self._speak(plan) or before != outcome

    def _speak(self, plan: GatewayPlan) -> bool:
        """OVN's sessions of a gateway: one for each nexthop."""
        name = "/".join(plan.key)
        before = dict(self.sessions.get(name, {}))
        intent = plan.intent
        if intent is None or intent.bfd is None:
            self.sessions.pop(name, None)
            return bool(before)
        fresh = Session("Up", serving=True) if self.sessions_come_up else Session("Down", serving=False)
        hops = [h for family in intent.families for h in family.nexthops if h not in intent.bfd.silent]
        self.sessions[name] = {hop: before.get(hop, fresh) for hop in hops}
        return self.sessions[name] != before

    def settle(self, *, ready: bool = True) -> None:
        """Pods as the Deployments want them, plugged and (if told) ready; plans until nothing is left to do."""
        for _ in range(60):
            busy = self.step()
            busy |= self._kubelet(ready=ready)
            if not busy:
                return
        raise AssertionError("does not settle")

    def _kubelet(self, *, ready: bool) -> bool:
        busy = False
        for pod_object in self.all("Pod"):
            metadata = pod_object["metadata"]
            owner = (metadata.get("ownerReferences") or [{}])[0]
            orphan = owner and Ref("Deployment", metadata["namespace"], owner["name"]) not in self.objects
            if "deletionTimestamp" in metadata or orphan:
                self.vanish("Pod", metadata["name"], metadata["namespace"])
                busy = True
                continue
            allocated = metadata.get("annotations", {}).get("ovn.kubernetes.io/allocated") == "true"
            status = pod_status(pod_object)
            current = pod_object.get("status", {})
            if ready and allocated and any(current.get(k) != v for k, v in status.items()):
                self.update("Pod", metadata["name"], {"status": status}, metadata["namespace"])
                busy = True
        owned: dict[str, list[Object]] = {}
        for pod_object in self.all("Pod"):
            for owner in pod_object["metadata"].get("ownerReferences") or ():
                owned.setdefault(owner["name"], []).append(pod_object)
        for deployment in self.all("Deployment"):
            busy |= self._roll(deployment, owned.get(deployment["metadata"]["name"], []))
        return busy

    def _roll(self, deployment: Object, owned: list[Object]) -> bool:
        metadata, spec = deployment["metadata"], deployment["spec"]
        template = json.dumps(spec["template"], sort_keys=True)
        old = [p for p in owned if p["metadata"]["template"] != template]
        new = [p for p in owned if p["metadata"]["template"] == template]
        if old or len(new) > spec["replicas"]:
            self.remove("Pod", (old or new[-1:])[0]["metadata"]["name"], metadata["namespace"])
            return True
        used = [p["spec"]["nodeName"] for p in owned]
        for _ in range(spec["replicas"] - len(new)):
            used.append(
                self.get("Pod", self.spawn(deployment, used), metadata["namespace"])["spec"]["nodeName"]
            )
        return len(new) < int(spec["replicas"])

    def spawn(self, deployment: Object, used: Iterable[str] = ("node1",)) -> str:
        """One more pod of a Deployment, on the first node that is not used."""
        metadata = deployment["metadata"]
        number = self._uid + 1
        name = f"{metadata['name']}-{number:04}"
        owner = {"kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"], "controller": True}
        template = deployment["spec"]["template"]
        body = {
            "labels": template["metadata"]["labels"],
            "annotations": dict(template["metadata"]["annotations"]),
            "ownerReferences": [owner],
            "template": json.dumps(template, sort_keys=True),
        }
        free = [f"node{i}" for i in range(1, 12) if f"node{i}" not in set(used)]
        containers = [{"name": c["name"]} for c in template["spec"]["containers"]]
        spec = {"nodeName": free[0], "containers": containers}
        self.put(obj("Pod", name, metadata["namespace"], metadata=body, spec=spec))
        return name

    def condition(self, kind: str, name: str = "gateway1") -> Object:
        """A condition of a gateway; {} without one."""
        conditions = self.get("VpcEgressGateway", name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def condition_of(self, kind: str, name: str) -> tuple[str, str, str]:
        """(status, reason, message) of a condition."""
        found = self.condition(kind, name)
        return found["status"], found["reason"], found["message"]

    def status(self, name: str = "gateway1") -> Object:
        """The status of a gateway."""
        found: Object = self.get("VpcEgressGateway", name).get("status", {})
        return found

    def intent(self, name: str = "gateway1") -> Intent | None:
        """What the programmer holds for a gateway."""
        return self.outcomes[IntentKey("GATEWAY", f"default/{name}")].intent

    def gateway_pods(self, name: str = "gateway1") -> list[Object]:
        """The pods of a gateway."""
        label = "ovn.kubernetes.io/vpc-egress-gateway"
        return [p for p in self.all("Pod") if p["metadata"].get("labels", {}).get(label) == name]


@pytest.fixture
def world() -> World:
    """A fresh IPv4 cluster."""
    return World(*cluster())
