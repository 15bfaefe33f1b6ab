"""KubernetesStore on a real API server: the contract of every store, and what only a server does."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from veg_common.kube import KubernetesStore
from veg_common.objects import Object, Ref
from veg_common.store import StoreError, UnavailableError
from veg_common.stores import open_store

from tests.kube.api_lab import ApiLab
from tests.kube.cluster import Cluster
from tests.unit.common.store_contract import StoreContract, gateway, take, watching


@pytest.fixture(scope="module")
def crds(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster with the chart's kinds."""
    ApiLab(cluster, tmp_path_factory.mktemp("crds"))._install()
    return cluster


class TestKubernetesStore(StoreContract):
    """What every store does, on an API server; and more."""

    @pytest.fixture
    async def store(self, crds: Cluster) -> AsyncIterator[KubernetesStore]:
        made = KubernetesStore(crds.kubeconfig)
        yield made
        await made.aclose()

    @pytest.fixture
    async def other(self, crds: Cluster) -> AsyncIterator[KubernetesStore]:
        made = open_store(f"kube:{crds.kubeconfig}")
        assert isinstance(made, KubernetesStore)
        yield made
        await made.aclose()

    @pytest.fixture
    async def namespace(self, crds: Cluster, store: KubernetesStore) -> AsyncIterator[str]:
        name = f"store-{uuid.uuid4().hex[:8]}"
        await store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await asyncio.to_thread(
            crds.until, lambda: crds.items("serviceaccounts", "-n", name), what="the account is there"
        )
        yield name
        for obj in await store.list("veg", name):
            if obj["metadata"].get("finalizers"):
                await store.update(
                    Ref("VpcEgressGateway", name, obj["metadata"]["name"]), {"metadata": {"finalizers": None}}
                )
        await store.delete(Ref("Namespace", "", name))

    async def test_a_patch_leaves_the_fields_of_others_alone(
        self, store: KubernetesStore, crds: Cluster, namespace: str
    ) -> None:
        """A field is ours because we wrote it: kubectl's annotation, and another writer's label, stay."""
        await store.create(gateway(namespace))
        crds.kubectl("label", "veg", "gateway1", "-n", namespace, "theirs=1")
        ref = Ref("VpcEgressGateway", namespace, "gateway1")
        await store.update(ref, {"metadata": {"labels": {"ours": "1"}}})
        assert (await store.get(ref))["metadata"]["labels"] == {"theirs": "1", "ours": "1"}
        raw = crds.kubectl("get", "veg", "gateway1", "-n", namespace, "-o", "json", "--show-managed-fields")
        assert '"manager": "vpc-egress-gateway"' in raw

    async def test_an_expired_version_is_listed_again(
        self, store: KubernetesStore, other: KubernetesStore, crds: Cluster, namespace: str
    ) -> None:
        """After 410 a listener hears what came, what changed and what went meanwhile, each once."""
        for name in ("stays", "changes", "goes"):
            await store.create(gateway(namespace, name))
        async with watching(store, namespace, "VpcEgressGateway") as queue:
            for _ in range(4):
                await take(queue)
            crds.kill_apiserver()
            crds.start_apiserver()  # in this thread: it ends with the one that started it
            await other.aclose()
            await other.update(Ref("VpcEgressGateway", namespace, "changes"), {"spec": {"replicas": 2}})
            await other.delete(Ref("VpcEgressGateway", namespace, "goes"))
            await other.create(gateway(namespace, "comes"))
            await asyncio.to_thread(crds.compact)
            seen: dict[str, str] = {}
            while len(seen) < 3:
                event = await asyncio.wait_for(queue.get(), 60)
                assert event.ref is not None
                assert event.ref.name not in seen
                seen[event.ref.name] = event.type
            assert seen == {"changes": "MODIFIED", "goes": "DELETED", "comes": "ADDED"}
            await other.create(gateway(namespace, "later"))
            assert (await take(queue)).type == "ADDED"

    async def test_a_kind_that_may_not_be_seen_holds_up_only_the_end_of_the_picture(
        self, crds: Cluster, store: KubernetesStore, namespace: str
    ) -> None:
        """Without permission there is no SYNCED, so that nobody concludes anything from what is missing."""
        await store.create(gateway(namespace))
        nobody = KubernetesStore(crds.token_kubeconfig("alice"))
        with pytest.raises(StoreError, match="forbidden"):
            await nobody.list("veg", namespace)
        async with watching(nobody, namespace, "VpcEgressGateway") as queue:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(queue.get(), 2)
        await nobody.aclose()

    async def test_a_server_that_is_not_there_is_told_in_one_line(self, tmp_path: Path) -> None:
        """Nothing hangs and nothing is a traceback."""
        config = tmp_path / "kubeconfig"
        for content in ("", "clusters: [", _kubeconfig("https://127.0.0.1:9")):
            config.write_text(content)
            store = KubernetesStore(config)
            with pytest.raises(UnavailableError) as error:
                await store.list("Pod")
            assert "\n" not in str(error.value)
            await store.aclose()

    async def test_selectors_spare_a_watch_what_nobody_asked_for(
        self, crds: Cluster, store: KubernetesStore, namespace: str
    ) -> None:
        """An object that loses the label is gone for the listener."""
        some = KubernetesStore(crds.kubeconfig, selectors={"ConfigMap": {"labelSelector": "ours"}})
        for name, labels in (("mine", {"ours": "1"}), ("theirs", {})):
            await store.create(_config_map(namespace, name, labels))
        async with watching(some, namespace, "ConfigMap") as queue:
            assert (event := await take(queue)).ref == Ref("ConfigMap", namespace, "mine")
            assert event.type == "ADDED"
            assert (await take(queue)).type == "SYNCED"
            await store.update(Ref("ConfigMap", namespace, "mine"), {"metadata": {"labels": {"ours": None}}})
            assert (await take(queue)).type == "DELETED"
        await some.aclose()


def _config_map(namespace: str, name: str, labels: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
    }


def _kubeconfig(server: str) -> str:
    return (
        f"apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n"
        "users: [{name: u, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
    )
