"""What every ObjectStore must do, whatever keeps the objects: each implementation runs these tests with its own fixtures.

`store` and `other` are two stores on the same objects; `namespace` is the name of a namespace that is this test's alone.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from veg_common.objects import Object, Ref
from veg_common.store import (
    AlreadyExistsError,
    ConflictError,
    InvalidObjectError,
    NotFoundError,
    ObjectStore,
    WatchEvent,
)


def gateway(namespace: str, name: str = "gateway1", **spec: object) -> Object:
    """A gateway that any API server takes."""
    base = {"externalSubnet": "macvlan1", "policies": [{"snat": True, "ipBlocks": ["10.16.0.0/16"]}]}
    return {
        "apiVersion": "kubeovn.io/v1",
        "kind": "VpcEgressGateway",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**base, **spec},
    }


@contextlib.asynccontextmanager
async def watching(
    store: ObjectStore, namespace: str, *kinds: str
) -> AsyncIterator["asyncio.Queue[WatchEvent]"]:
    """The events of a namespace, and SYNCED."""
    queue: asyncio.Queue[WatchEvent] = asyncio.Queue()

    async def pump() -> None:
        async for event in store.watch(kinds):
            if event.ref is None or event.ref.namespace == namespace:
                queue.put_nowait(event)

    task = asyncio.create_task(pump())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def take(queue: "asyncio.Queue[WatchEvent]") -> WatchEvent:
    """The next event, soon."""
    return await asyncio.wait_for(queue.get(), 15)


class StoreContract:
    """The tests; a subclass has the fixtures."""

    @pytest.fixture
    def ref(self, namespace: str) -> Ref:
        return Ref("VpcEgressGateway", namespace, "gateway1")

    async def test_create_fills_server_metadata_and_refuses_a_second(
        self, store: ObjectStore, namespace: str, ref: Ref
    ) -> None:
        """A created object gets uid, generation 1 and a creation time; its name is then taken."""
        made = await store.create(gateway(namespace, replicas=1))
        assert made["metadata"]["generation"] == 1
        assert made["metadata"]["uid"]
        assert made["metadata"]["creationTimestamp"].endswith("Z")
        assert await store.get(ref) == made
        assert await store.list("veg", namespace) == [made]
        with pytest.raises(AlreadyExistsError):
            await store.create(gateway(namespace))

    async def test_a_status_given_at_creation_is_kept(
        self, store: ObjectStore, namespace: str, ref: Ref
    ) -> None:
        """Copying an object with its status needs no second call."""
        made = await store.create({**gateway(namespace), "status": {"ready": True}})
        assert (await store.get(ref)) == made
        assert made["status"]["ready"] is True

    async def test_what_is_not_there_is_not_found(self, store: ObjectStore, ref: Ref) -> None:
        """Every call about an absent object says so."""
        with pytest.raises(NotFoundError):
            await store.get(ref)
        with pytest.raises(NotFoundError):
            await store.update(ref, {"spec": {}})
        with pytest.raises(NotFoundError):
            await store.update_status(ref, {"status": {}})
        with pytest.raises(NotFoundError):
            await store.delete(ref)

    async def test_what_is_no_object_is_refused(self, store: ObjectStore, namespace: str) -> None:
        """An object without a name, and one of an unknown kind, are refused as invalid."""
        nameless = gateway(namespace)
        nameless["metadata"].pop("name")
        for obj in (nameless, {**gateway(namespace), "kind": "Nothing"}):
            with pytest.raises(InvalidObjectError):
                await store.create(obj)

    async def test_update_merges_and_counts_generations_only_for_spec(
        self, store: ObjectStore, namespace: str, ref: Ref
    ) -> None:
        """Spec changes raise generation; labels and status do not; each subresource keeps to its own."""
        await store.create(gateway(namespace, replicas=1))
        changed = await store.update(ref, {"spec": {"replicas": 2}, "status": {"ready": True}})
        assert changed["metadata"]["generation"] == 2
        assert not (changed.get("status") or {}).get("ready")
        labelled = await store.update(ref, {"metadata": {"labels": {"a": "b"}, "uid": "forged"}})
        assert labelled["metadata"]["generation"] == 2
        assert labelled["metadata"]["uid"] == changed["metadata"]["uid"]
        ready = await store.update_status(ref, {"spec": {"replicas": 9}, "status": {"ready": True}})
        assert (ready["spec"]["replicas"], ready["metadata"]["generation"]) == (2, 2)
        assert ready["status"]["ready"] is True
        cleared = await store.update(ref, {"spec": {"replicas": None}, "metadata": {"labels": None}})
        assert cleared["metadata"].get("labels") is None
        assert cleared["metadata"]["generation"] == 3

    async def test_stale_resource_version_conflicts(
        self, store: ObjectStore, namespace: str, ref: Ref
    ) -> None:
        """An update that names an old resourceVersion changes nothing."""
        made = await store.create(gateway(namespace, replicas=1))
        await store.update(ref, {"spec": {"replicas": 2}})
        with pytest.raises(ConflictError):
            await store.update(ref, {"metadata": made["metadata"], "spec": {"replicas": 3}})
        assert (await store.get(ref))["spec"]["replicas"] == 2

    async def test_an_update_that_changes_nothing_is_no_change(
        self, store: ObjectStore, namespace: str, ref: Ref
    ) -> None:
        """The same written again leaves the version as it is, so that nobody is told."""
        await store.create(gateway(namespace, replicas=1))
        written = await store.update(ref, {"spec": {"replicas": 2}})
        again = await store.update(ref, {"spec": {"replicas": 2}})
        assert again == written, (again, written)

    async def test_finalizers_hold_an_object_until_the_last_is_removed(
        self, store: ObjectStore, namespace: str, ref: Ref
    ) -> None:
        """Deleting marks, removing the finalizer removes."""
        made = gateway(namespace)
        made["metadata"]["finalizers"] = ["kubeovn.io/x"]
        await store.create(made)
        await store.delete(ref)
        assert "deletionTimestamp" in (await store.get(ref))["metadata"]
        await store.update(ref, {"metadata": {"finalizers": None}})
        with pytest.raises(NotFoundError):
            await store.get(ref)

    async def test_a_bound_pod_waits_for_its_kubelet(self, store: ObjectStore, namespace: str) -> None:
        """A pod on a node is marked, and removed by the node with a grace of 0; an unbound one goes at once."""
        for name, spec in (("bound", {"nodeName": "n1"}), ("free", {"schedulerName": "nobody"})):
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"containers": [{"name": "c", "image": "i"}], **spec},
            }
            await store.create(pod)
            await store.delete(Ref("Pod", namespace, name))
        assert [p["metadata"]["name"] for p in await store.list("Pod", namespace)] == ["bound"]
        bound = Ref("Pod", namespace, "bound")
        await store.update(bound, {"metadata": {"labels": {"still": "here"}}})
        await store.delete(bound, grace_seconds=0)
        assert await store.list("Pod", namespace) == []

    async def test_watch_sends_present_then_synced_then_changes(
        self, store: ObjectStore, other: ObjectStore, namespace: str
    ) -> None:
        """A listener sees the present state, one SYNCED, and every change, also of another process's writes."""
        await store.create(gateway(namespace, "old"))
        async with watching(store, namespace, "VpcEgressGateway", "Vpc") as queue:
            assert [(await take(queue)).type for _ in range(2)] == ["ADDED", "SYNCED"]
            await other.create(gateway(namespace, "new"))
            assert ((event := await take(queue)).type, event.ref and event.ref.name) == ("ADDED", "new")
            await other.update(Ref("VpcEgressGateway", namespace, "new"), {"spec": {"replicas": 2}})
            assert (event := await take(queue)).type == "MODIFIED"
            assert event.object is not None
            assert event.object["spec"]["replicas"] == 2
            assert event.object["kind"] == "VpcEgressGateway"
            await other.delete(Ref("VpcEgressGateway", namespace, "new"))
            assert (event := await take(queue)).type == "DELETED"
            assert event.object is not None

    async def test_a_watcher_may_do_what_it_likes_with_an_object(
        self, store: ObjectStore, namespace: str, ref: Ref
    ) -> None:
        """What a listener does to an object that it was given changes nothing that it is told later."""
        async with watching(store, namespace, "VpcEgressGateway") as queue:
            assert (await take(queue)).type == "SYNCED"
            await store.create(gateway(namespace, replicas=1))
            event = await take(queue)
            assert event.object is not None
            event.object["spec"] = {}
            await store.update(ref, {"metadata": {"labels": {"a": "b"}}})
            event = await take(queue)
            assert event.type == "MODIFIED"
            assert event.object is not None
            assert event.object["spec"]["replicas"] == 1
