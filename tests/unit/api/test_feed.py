"""News of the watch and answers to writes, in whatever order they come."""

from typing import Any

import pytest
from veg_api.io.feed import Feed
from veg_common.folder import FolderStore
from veg_common.objects import Object, Ref
from veg_common.store import WatchEvent

REF = Ref("Vpc", "", "v")


def vpc(version: int, uid: str = "u") -> Object:
    """A Vpc of some version."""
    metadata = {"name": "v", "uid": uid, "resourceVersion": str(version)}
    return {"apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": metadata, "spec": {}}


@pytest.fixture
def feed(tmp_path: Any) -> Feed:
    """A feed that has heard of version 5, and then that the object is gone, with version 9."""
    made = Feed(FolderStore(tmp_path), ["Vpc"], lambda: None)
    made._handle(WatchEvent("ADDED", REF, vpc(5)))
    made._handle(WatchEvent("DELETED", REF, vpc(9)))
    assert made.take() == {REF: None}
    return made


@pytest.mark.parametrize(
    ("version", "uid", "read", "kept"),
    [
        pytest.param(8, "u", False, False, id="an answer from before"),
        pytest.param(9, "u", False, False, id="the answer to the write that let it go"),
        pytest.param(9, "u", True, True, id="read: it only lost its label"),
        pytest.param(8, "u", True, False, id="read before it went"),
        pytest.param(10, "u", False, True, id="changed since: it has its label again"),
        pytest.param(3, "another", False, True, id="another of the same name"),
    ],
)
def test_what_is_gone_stays_gone(feed: Feed, version: int, uid: str, read: bool, kept: bool) -> None:
    """A late answer brings nothing back; what is there is found, however it left the watch."""
    feed.put(REF, vpc(version, uid), read=read)
    assert feed.take() == ({REF: vpc(version, uid)} if kept else {})


def test_a_write_of_our_own_is_ahead_of_the_watch(tmp_path: Any) -> None:
    """What the watch tells of an older version does not undo it."""
    feed = Feed(FolderStore(tmp_path), ["Vpc"], lambda: None)
    feed.put(REF, vpc(7))
    feed._handle(WatchEvent("MODIFIED", REF, vpc(6)))
    assert feed.take() == {REF: vpc(7)}
