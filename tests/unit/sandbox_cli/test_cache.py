"""The runtime's copy of the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from veg_common.folder import FolderStore
from veg_common.objects import Ref
from veg_sandbox.runtime.cache import Cache


def vpc(name: str, version: int, uid: str = "u") -> dict[str, Any]:
    """A Vpc at a version."""
    metadata = {"name": name, "resourceVersion": str(version), "uid": uid}
    return {"apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": metadata}


def test_older_versions_do_not_come_back() -> None:
    """An own write is not undone by the watch that tells of an earlier state; a successor of the name counts."""
    cache, ref = Cache(["Vpc"]), Ref("Vpc", "", "a")
    seen: list[Ref] = []
    cache.listen(seen.append)
    cache.put(vpc("a", 5))
    cache.put(vpc("a", 4))
    cache.put(vpc("a", 5))
    assert (cache.get(ref), len(seen)) == (vpc("a", 5), 1)
    cache.put(vpc("a", 1, "other"))
    assert cache.get(ref) == vpc("a", 1, "other")
    cache.drop(ref, "u")
    assert cache.get(ref) is not None
    cache.drop(ref, "other")
    assert cache.get(ref) is None


async def test_follows_the_store(tmp_path: Path) -> None:
    """Present objects are there once it is in sync, changes follow, and what went during a break is dropped."""
    store = FolderStore(tmp_path)
    await store.create(vpc("a", 0))
    cache = Cache(["Vpc"])
    cache.put(vpc("gone", 1))
    changed = asyncio.Event()
    cache.listen(lambda _: changed.set())
    following = asyncio.ensure_future(cache.follow(store))
    try:
        async with asyncio.timeout(10):
            await cache.synced.wait()
            assert [o["metadata"]["name"] for o in cache.all("Vpc")] == ["a"]
            await store.create(vpc("b", 0))
            await store.delete(Ref("Vpc", "", "a"))
            while [o["metadata"]["name"] for o in cache.all("Vpc")] != ["b"]:
                changed.clear()
                await changed.wait()
    finally:
        following.cancel()
