"""ConfigMap (and Secret) volumes the Kubernetes way: files are links through `..data`, which one rename switches.

A reader in the pod sees the old set of files or the new one, never a mixture; a watcher sees the rename.
"""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

from veg_common.objects import Object

_DATA = "..data"


def content(config_map: Object, items: Any = None) -> dict[str, bytes]:
    """File name -> bytes of a ConfigMap; `items` chooses and renames keys as volume.configMap.items does."""
    files = {key: str(value).encode() for key, value in (config_map.get("data") or {}).items()}
    files |= {key: base64.b64decode(value) for key, value in (config_map.get("binaryData") or {}).items()}
    return chosen(files, items)


def chosen(files: dict[str, bytes], items: Any) -> dict[str, bytes]:
    """The files that a volume's `items` choose, under their paths; without items all of them."""
    if not items:
        return files
    return {item["path"]: files[item["key"]] for item in items if item.get("key") in files}


def write(folder: Path, files: dict[str, bytes], version: str) -> bool:
    """Make the folder hold exactly these files; `version` names their set. Returns whether anything changed."""
    if read(folder) == files and (folder / _DATA).is_symlink():
        return False
    folder.mkdir(parents=True, exist_ok=True)
    before = (folder / _DATA).readlink().name if (folder / _DATA).is_symlink() else ""
    fresh = folder / f"..{version}{'' if before != f'..{version}' else '_'}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name, data in files.items():
        (fresh / name).write_bytes(data)
    link = folder / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.replace(folder / _DATA)
    _link_names(folder, files)
    for old in folder.glob("..*"):
        if old.is_dir() and not old.is_symlink() and old != fresh:
            shutil.rmtree(old, ignore_errors=True)
    return True


def read(folder: Path) -> dict[str, bytes]:
    """The files that a reader in the pod sees."""
    if not (folder / _DATA).is_dir():
        return {}
    return {file.name: file.read_bytes() for file in (folder / _DATA).iterdir()}


def _link_names(folder: Path, files: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        if path.is_symlink() and not path.name.startswith("..") and path.name not in files:
            path.unlink()
    for name in files:
        path = folder / name
        if not path.is_symlink():
            path.symlink_to(Path(_DATA) / name)
