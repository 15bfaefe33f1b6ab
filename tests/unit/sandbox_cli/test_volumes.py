"""ConfigMap volumes change as Kubernetes changes them."""

from __future__ import annotations

from pathlib import Path

from veg_sandbox.runtime import volumes


def visible(folder: Path) -> dict[str, bytes]:
    """What a program in the pod sees: the names that do not begin with two dots."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("..")}


def test_switch(tmp_path: Path) -> None:
    """Files appear, change and vanish with one rename of `..data`; nothing old is left behind."""
    folder = tmp_path / "v"
    assert volumes.write(folder, {"a": b"1", "b": b"2"}, "7")
    assert visible(folder) == {"a": b"1", "b": b"2"}
    inode = (folder / "..data").lstat().st_ino
    assert volumes.write(folder, {"a": b"3", "c": b"4"}, "8")
    assert visible(folder) == {"a": b"3", "c": b"4"}
    assert (folder / "..data").lstat().st_ino != inode
    assert sorted(path.name for path in folder.iterdir()) == ["..8", "..data", "a", "c"]


def test_unchanged_is_not_touched(tmp_path: Path) -> None:
    """The same content is no event for a watcher, also after a restart and under a new version."""
    folder = tmp_path / "v"
    assert volumes.write(folder, {"a": b"1"}, "7")
    before = (folder / "..data").lstat()
    assert not volumes.write(folder, {"a": b"1"}, "9")
    assert (folder / "..data").lstat() == before


def test_interrupted_write_is_finished(tmp_path: Path) -> None:
    """What a killed runtime left half-made does not keep the next one from writing."""
    folder = tmp_path / "v"
    volumes.write(folder, {"a": b"1"}, "7")
    (folder / "..8").mkdir()
    (folder / "..data_tmp").symlink_to("..8")
    assert volumes.write(folder, {"a": b"2"}, "8")
    assert volumes.write(folder, {"a": b"3"}, "8")
    assert visible(folder) == {"a": b"3"}


def test_content() -> None:
    """Text, binary data and chosen items become files."""
    config_map = {"data": {"a": "x"}, "binaryData": {"b": "AAE="}}
    assert volumes.content(config_map) == {"a": b"x", "b": b"\x00\x01"}
    assert volumes.content(config_map, [{"key": "b", "path": "c"}, {"key": "lost", "path": "d"}]) == {
        "c": b"\x00\x01"
    }
