"""The folder store behaves like a small API server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from veg_common.folder import FolderStore
from veg_common.objects import Object, Ref
from veg_common.store import (
    AlreadyExistsError,
    ConflictError,
    InvalidObjectError,
    NotFoundError,
    WatchEvent,
)

GATEWAY = Ref("VpcEgressGateway", "default", "gateway1")


def gateway(name: str = "gateway1", **spec: object) -> Object:
    return {
        "apiVersion": "kubeovn.io/v1",
        "kind": "VpcEgressGateway",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


@contextlib.asynccontextmanager
async def watching(store: FolderStore, *kinds: str) -> AsyncIterator["asyncio.Queue[WatchEvent]"]:
    queue: asyncio.Queue[WatchEvent] = asyncio.Queue()

    async def pump() -> None:
        async for event in store.watch(kinds):
            queue.put_nowait(event)

    task = asyncio.create_task(pump())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def take(queue: "asyncio.Queue[WatchEvent]") -> WatchEvent:
    return await asyncio.wait_for(queue.get(), 5)


async def test_create_fills_server_metadata_and_refuses_a_second(store: FolderStore) -> None:
    """A created object gets uid, generation 1 and a creation time; its name is then taken."""
    made = await store.create(gateway(replicas=1))
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["uid"]
    assert await store.get(GATEWAY) == made
    with pytest.raises(AlreadyExistsError):
        await store.create(gateway())


async def test_update_merges_and_counts_generations_only_for_spec(store: FolderStore) -> None:
    """Spec changes raise generation; labels and status do not; each subresource keeps to its own."""
    await store.create(gateway(replicas=1))
    changed = await store.update(GATEWAY, {"spec": {"replicas": 2}, "status": {"ready": True}})
    assert (changed["metadata"]["generation"], changed.get("status")) == (2, None)
    labelled = await store.update(GATEWAY, {"metadata": {"labels": {"a": "b"}, "uid": "forged"}})
    assert labelled["metadata"]["generation"] == 2
    assert labelled["metadata"]["uid"] == changed["metadata"]["uid"]
    ready = await store.update_status(GATEWAY, {"spec": {"replicas": 9}, "status": {"ready": True}})
    assert (ready["spec"], ready["status"], ready["metadata"]["generation"]) == (
        {"replicas": 2},
        {"ready": True},
        2,
    )


async def test_stale_resource_version_conflicts(store: FolderStore) -> None:
    """An update that names an old resourceVersion changes nothing."""
    made = await store.create(gateway(replicas=1))
    await store.update(GATEWAY, {"spec": {"replicas": 2}})
    with pytest.raises(ConflictError):
        await store.update(GATEWAY, {"metadata": made["metadata"], "spec": {"replicas": 3}})
    assert (await store.get(GATEWAY))["spec"] == {"replicas": 2}


async def test_finalizers_hold_an_object_until_the_last_is_removed(store: FolderStore) -> None:
    """Deleting marks, removing the finalizer removes."""
    made = gateway()
    made["metadata"]["finalizers"] = ["x/y"]
    await store.create(made)
    await store.delete(GATEWAY)
    assert "deletionTimestamp" in (await store.get(GATEWAY))["metadata"]
    await store.update(GATEWAY, {"metadata": {"finalizers": None}})
    with pytest.raises(NotFoundError):
        await store.get(GATEWAY)


async def test_a_bound_pod_waits_for_its_kubelet(store: FolderStore) -> None:
    """A pod on a node is marked, and removed by the node with a grace of 0; an unbound one goes at once."""
    for name, spec in (("bound", {"nodeName": "n1"}), ("free", {})):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec,
        }
        await store.create(pod)
        await store.delete(Ref("Pod", "default", name))
    assert [p["metadata"]["name"] for p in await store.list("Pod")] == ["bound"]
    await store.update(Ref("Pod", "default", "bound"), {"metadata": {"labels": {"still": "here"}}})
    await store.delete(Ref("Pod", "default", "bound"), grace_seconds=0)
    assert await store.list("Pod") == []


async def test_watch_sends_present_then_synced_then_changes(store: FolderStore) -> None:
    """A listener sees the present state, one SYNCED, and every change, also of another process's writes."""
    await store.create(gateway("old"))
    async with watching(store, "VpcEgressGateway", "Vpc") as queue:
        assert [(await take(queue)).type for _ in range(2)] == ["ADDED", "SYNCED"]
        other = FolderStore(store._root)
        await other.create(gateway("new"))
        assert ((event := await take(queue)).type, event.ref and event.ref.name) == ("ADDED", "new")
        await other.update(Ref("VpcEgressGateway", "default", "new"), {"spec": {"replicas": 2}})
        assert (event := await take(queue)).type == "MODIFIED"
        assert event.object is not None
        assert event.object["spec"] == {"replicas": 2}
        await other.delete(Ref("VpcEgressGateway", "default", "new"))
        assert (await take(queue)).type == "DELETED"


async def test_first_object_of_a_new_namespace_is_seen(store: FolderStore) -> None:
    """A namespace folder that appears with its object already in it is not missed."""
    async with watching(store, "VpcEgressGateway") as queue:
        assert (await take(queue)).type == "SYNCED"
        for name in ("a", "b", "c"):
            obj = gateway(name)
            obj["metadata"]["namespace"] = f"ns-{name}"
            await store.create(obj)
        seen = [(await take(queue)) for _ in range(3)]
        assert sorted(e.ref.name for e in seen if e.ref) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("kind: [", "malformed YAML", id="yaml"),
        pytest.param("kind: Nothing\napiVersion: v1\nmetadata: {name: a}", "no matches for kind", id="kind"),
        pytest.param(
            "apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: {name: other}", "its name says", id="name"
        ),
        pytest.param("x" * 3_100_000, "the limit is", id="size"),
        pytest.param("\udc80", "utf-8", id="encoding"),
    ],
)
async def test_a_broken_file_is_reported_and_the_others_live(
    store: FolderStore, content: str, reason: str
) -> None:
    """BROKEN names file and reason; what the file held before stays; repairing it is a plain change."""
    vpc = {"apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": {"name": "v"}, "spec": {}}
    await store.create(vpc)
    async with watching(store, "Vpc") as queue:
        assert [(await take(queue)).type for _ in range(2)] == ["ADDED", "SYNCED"]
        path = store._path(Ref("Vpc", "", "v"))
        good = path.read_text()
        path.write_bytes(content.encode(errors="surrogateescape"))
        event = await take(queue)
        assert (event.type, event.ref) == ("BROKEN", Ref("Vpc", "", "v"))
        assert reason in event.message
        assert str(path) in event.message
        with pytest.raises(InvalidObjectError):
            await store.get(Ref("Vpc", "", "v"))
        assert await store.list("Vpc") == []
        path.write_text(good.replace("spec: {}", "spec: {a: 1}"))
        while (event := await take(queue)).type == "BROKEN":  # the truncated file between two writes
            pass
        assert event.type == "MODIFIED"
        assert event.object is not None
        assert event.object["metadata"]["generation"] == 2


async def test_an_odd_spec_can_be_deleted(store: FolderStore) -> None:
    """Whatever spec holds, the object can go."""
    await store.create({**gateway(), "spec": "text"})
    await store.delete(GATEWAY)
    assert await store.list("veg") == []


async def test_what_is_no_file_is_reported(store: FolderStore) -> None:
    """A FIFO, a folder and a dangling link in the place of a manifest block nobody."""
    import os

    folder = store._path(Ref("Vpc", "", "v")).parent
    os.mkfifo(folder / "fifo.yaml")
    (folder / "folder.yaml").mkdir()
    (folder / "link.yaml").symlink_to("/nonexistent")
    async with watching(store, "Vpc") as queue:
        seen = [await take(queue) for _ in range(3)]
    assert [(e.type, e.ref and e.ref.name) for e in seen] == [
        ("BROKEN", "fifo"),
        ("BROKEN", "folder"),
        ("SYNCED", None),
    ]
    assert await store.list("Vpc") == []


async def test_a_file_written_by_hand_is_adopted(store: FolderStore) -> None:
    """A manifest dropped into the folder gets the metadata a server would give it."""
    async with watching(store, "Vpc") as queue:
        assert (await take(queue)).type == "SYNCED"
        path = store._path(Ref("Vpc", "", "hand"))
        path.write_text("apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: {name: hand}\nspec: {}\n")
        event = await take(queue)
        assert event.type == "ADDED"
    assert event.object is not None
    assert event.object["metadata"]["generation"] == 1
    assert (await store.get(Ref("Vpc", "", "hand"))) == event.object


async def test_concurrent_writers_lose_nothing(store: FolderStore) -> None:
    """Patches of different fields from several processes all arrive."""
    await store.create(gateway())
    script = (
        "import asyncio,sys;from pathlib import Path;from veg_common.folder import FolderStore;"
        "from veg_common.objects import Ref\n"
        "async def main():\n"
        " s=FolderStore(Path(sys.argv[1]))\n"
        " for i in range(20): await s.update(Ref('VpcEgressGateway','default','gateway1'),"
        "{'metadata':{'labels':{f'{sys.argv[2]}-{i}':'x'}}})\n"
        "asyncio.run(main())"
    )
    import sys

    writers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(store._root), str(n))
        for n in range(3)
    ]
    assert [await asyncio.wait_for(w.wait(), 30) for w in writers] == [0, 0, 0]
    assert len((await store.get(GATEWAY))["metadata"]["labels"]) == 60
