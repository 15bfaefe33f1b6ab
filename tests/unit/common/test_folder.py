"""The folder store behaves like a small API server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from veg_common.folder import FolderStore
from veg_common.objects import Object, Ref
from veg_common.store import InvalidObjectError, WatchEvent

from tests.unit.common.store_contract import StoreContract

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


class TestFolderStore(StoreContract):
    """What every store does, in a folder."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> FolderStore:
        return FolderStore(tmp_path)

    @pytest.fixture
    def other(self, tmp_path: Path) -> FolderStore:
        return FolderStore(tmp_path)

    @pytest.fixture
    def namespace(self) -> str:
        return "default"


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
