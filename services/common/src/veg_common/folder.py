"""An ObjectStore in a folder of manifests: `<plural>/[<namespace>/]<name>.yaml`, one object a file.

The embedded default that needs no cluster. Several processes share one folder: every write holds a lock, goes to a
temporary file and is renamed into place, so that a reader sees an object whole or not at all, and a kill at any
moment loses nothing that was answered. People may write files too: an object without uid is adopted, a file that
can not be read is reported as BROKEN while what it held before stays valid.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import stat
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from asyncinotify import Event, Inotify, Mask

from veg_common.objects import (
    KINDS,
    MAX_OBJECT_BYTES,
    ManifestError,
    Object,
    Ref,
    check_object,
    encode,
    kind_of,
    merge_patch,
    parse_manifests,
    ref_of,
)
from veg_common.store import (
    AlreadyExistsError,
    ConflictError,
    InvalidObjectError,
    NotFoundError,
    WatchEvent,
)

_SUFFIX = ".yaml"
_WATCHED = Mask.MOVED_TO | Mask.MOVED_FROM | Mask.CLOSE_WRITE | Mask.DELETE | Mask.CREATE


class FolderStore:
    """See the module. `root` is created when it does not exist."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    async def aclose(self) -> None:
        """Nothing is open between calls."""

    async def list(self, kind: str, namespace: str | None = None) -> list[Object]:
        """Objects of a kind, sorted by namespace and name; files that can not be read are left out."""
        found = []
        for path in sorted(self._files(kind_of(kind).kind)):
            with contextlib.suppress(NotFoundError, InvalidObjectError):
                obj = self._read(path)
                if namespace is None or obj["metadata"].get("namespace", "") == namespace:
                    found.append(obj)
        return sorted(found, key=ref_of)

    async def get(self, ref: Ref) -> Object:
        """One object. Raises NotFoundError, and InvalidObjectError when its file can not be read."""
        return self._read(self._path(ref))

    async def create(self, obj: Object) -> Object:
        """Store a new object; a file that can not be read is replaced."""
        if problem := check_object(obj):
            raise InvalidObjectError(problem)
        ref = ref_of(obj)
        with self._locked():
            with contextlib.suppress(NotFoundError, InvalidObjectError):
                self._read(self._path(ref))
                raise AlreadyExistsError(f"{ref} already exists")
            return self._write({**obj, "metadata": {**obj["metadata"], **_birth()}})

    async def update(self, ref: Ref, patch: Object) -> Object:
        """Merge everything but status; see ObjectStore.update."""
        with self._locked():
            current = self._read(self._path(ref))
            expected = patch.get("metadata", {}).get("resourceVersion")
            if expected is not None and expected != current["metadata"]["resourceVersion"]:
                raise ConflictError(f"{ref} has been modified")
            merged: Object = merge_patch(current, {k: v for k, v in patch.items() if k != "status"})
            identity = {
                k: current["metadata"][k] for k in ("name", "uid", "creationTimestamp", "resourceVersion")
            }
            merged["metadata"] = {**merged["metadata"], **identity}
            if merged == current:
                return current
            return self._write(_bumped(merged, current))

    async def update_status(self, ref: Ref, patch: Object) -> Object:
        """Merge status and nothing else; see ObjectStore.update_status."""
        with self._locked():
            current = self._read(self._path(ref))
            merged: Object = merge_patch(current, {"status": patch.get("status")})
            return current if merged == current else self._write(merged)

    async def delete(self, ref: Ref, *, grace_seconds: int | None = None) -> None:
        """Delete, or mark as deleted; see ObjectStore.delete."""
        with self._locked():
            path = self._path(ref)
            try:
                current = self._read(path)
            except InvalidObjectError:
                path.unlink()
                return
            metadata = current["metadata"]
            if grace_seconds == 0:
                metadata["deletionGracePeriodSeconds"] = 0
            elif "deletionTimestamp" in metadata:
                return
            else:
                spec = current.get("spec")
                pod = spec if ref.kind == "Pod" and isinstance(spec, dict) else {}
                bound = bool(pod.get("nodeName"))
                grace = pod.get("terminationGracePeriodSeconds", 30)
                metadata["deletionGracePeriodSeconds"] = (
                    (grace if grace_seconds is None else grace_seconds) if bound else 0
                )
            metadata.setdefault("deletionTimestamp", _now())
            self._write(current)

    async def watch(self, kinds: Iterable[str]) -> AsyncIterator[WatchEvent]:
        """Present objects as ADDED, one SYNCED, then changes, from inotify."""
        wanted = [kind_of(kind).kind for kind in kinds]
        known: dict[
            Path, Object | str
        ] = {}  # a str is the message of a broken file without a good predecessor
        with Inotify() as inotify:
            for kind in wanted:
                self._watch_folder(inotify, self._folder(kind))
            for kind in wanted:
                for path in sorted(self._files(kind)):
                    for event in self._changes(path, known):
                        yield event
            yield WatchEvent("SYNCED")
            async for notice in inotify:
                for path in self._affected(inotify, notice, wanted, known):
                    for event in self._changes(path, known):
                        yield event

    # -- files -------------------------------------------------------------------------------------------------

    def _folder(self, kind: str) -> Path:
        folder = self._root / kind_of(kind).plural
        folder.mkdir(exist_ok=True)
        return folder

    def _path(self, ref: Ref) -> Path:
        folder = self._folder(ref.kind)
        return (folder / ref.namespace if ref.namespace else folder) / f"{ref.name}{_SUFFIX}"

    def _ref(self, path: Path) -> Ref:
        relative = path.relative_to(self._root)
        kind = next(k for k in KINDS if k.plural == relative.parts[0])
        return Ref(
            kind.kind, relative.parts[1] if len(relative.parts) > 2 else "", path.name.removesuffix(_SUFFIX)
        )

    def _files(self, kind: str) -> Iterator[Path]:
        pattern = f"*/*{_SUFFIX}" if kind_of(kind).namespaced else f"*{_SUFFIX}"
        return (path for path in self._folder(kind).glob(pattern) if _is_manifest(path))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self, path: Path) -> Object:
        """The object in a file. Raises NotFoundError, and InvalidObjectError that names the file and the reason."""
        ref = self._ref(path)
        try:
            status = path.stat()
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
                raise InvalidObjectError(f"{path}: not a regular file")
            if size > 2 * MAX_OBJECT_BYTES:
                raise InvalidObjectError(f"{path}: {size} bytes, the limit is {MAX_OBJECT_BYTES}")
            objects = parse_manifests(path.read_text(encoding="utf-8"), ref.namespace)
        except FileNotFoundError:
            raise NotFoundError(f"{ref} not found") from None
        except (ManifestError, UnicodeDecodeError, OSError) as error:
            raise InvalidObjectError(f"{path}: {error}") from error
        if len(objects) != 1:
            raise InvalidObjectError(f"{path}: {len(objects)} objects in the file, there must be one")
        if ref_of(objects[0]) != ref:
            raise InvalidObjectError(f"{path}: holds {ref_of(objects[0])}, its name says {ref}")
        return objects[0]

    def _write(self, obj: Object) -> Object:
        """Put the object in place with a new resourceVersion, or remove it if nothing holds it back. Needs the lock."""
        path = self._path(ref_of(obj))
        metadata = obj["metadata"]
        if (
            "deletionTimestamp" in metadata
            and not metadata.get("finalizers")
            and not _awaits_kubelet(metadata)
        ):
            path.unlink(missing_ok=True)
            return obj
        counter = self._root / ".resource-version"
        version = int(counter.read_text()) + 1 if counter.exists() else 1
        _replace(counter, str(version).encode())
        stored = {**obj, "metadata": {**metadata, "resourceVersion": str(version)}}
        if (size := len(encode(stored))) > MAX_OBJECT_BYTES:
            raise InvalidObjectError(f"{ref_of(obj)}: {size} bytes, the limit is {MAX_OBJECT_BYTES}")
        path.parent.mkdir(exist_ok=True)
        _replace(path, yaml.dump(stored, Dumper=_Dumper, sort_keys=False, allow_unicode=True).encode())
        return stored

    # -- watching ----------------------------------------------------------------------------------------------

    def _watch_folder(self, inotify: Inotify, folder: Path) -> None:
        inotify.add_watch(folder, _WATCHED)
        for child in folder.iterdir():
            if child.is_dir():
                inotify.add_watch(child, _WATCHED)

    def _affected(
        self, inotify: Inotify, notice: Event, kinds: Sequence[str], known: dict[Path, Object | str]
    ) -> Sequence[Path]:
        """Files that a notice may be about."""
        if Mask.Q_OVERFLOW in notice.mask:
            for kind in kinds:
                self._watch_folder(inotify, self._folder(kind))
            return sorted({*known, *(path for kind in kinds for path in self._files(kind))})
        path = notice.path
        if path is None:
            return []
        if Mask.ISDIR in notice.mask:
            # A namespace's first object: files may have come before the watch did.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                inotify.add_watch(path, _WATCHED)
                return sorted(child for child in path.iterdir() if _is_manifest(child))
            return [child for child in known if child.parent == path]
        # CREATE alone is the start of a write: its end is told too.
        return [path] if _is_manifest(path) and Mask.CREATE not in notice.mask else []

    def _changes(self, path: Path, known: dict[Path, Object | str]) -> Iterator[WatchEvent]:
        """What became of a file since `known`, which is brought up to date."""
        before = known.get(path)
        try:
            obj = self._adopted(path, before if isinstance(before, dict) else None)
        except NotFoundError:
            if isinstance(known.pop(path, None), dict):
                yield WatchEvent("DELETED", self._ref(path), _plain(before))
            return
        except InvalidObjectError as error:
            if before is None:
                known[path] = str(error)
            yield WatchEvent("BROKEN", self._ref(path), None, str(error))
            return
        known[path] = obj
        if not isinstance(before, dict):
            yield WatchEvent("ADDED", ref_of(obj), _plain(obj))
        elif before["metadata"]["uid"] != obj["metadata"]["uid"]:
            yield WatchEvent("DELETED", ref_of(obj), _plain(before))
            yield WatchEvent("ADDED", ref_of(obj), _plain(obj))
        elif before != obj:
            yield WatchEvent("MODIFIED", ref_of(obj), _plain(obj))

    def _adopted(self, path: Path, before: Object | None) -> Object:
        """The object in a file; one that a person wrote or changed first gets the metadata a server would give it."""
        obj = self._read(path)
        if not _is_foreign(obj, before):
            return obj
        with self._locked():
            obj = self._read(path)
            if not _is_foreign(obj, before):
                return obj
            birth = {k: v for k, v in _birth().items() if k not in obj["metadata"]}
            obj = {**obj, "metadata": {**obj["metadata"], **birth}}
            return self._write(_bumped(obj, before) if before else obj)


def _is_foreign(obj: Object, before: Object | None) -> bool:
    """Whether a hand, not a store, wrote this: it lacks a uid, or it changed under the same resourceVersion."""
    metadata = obj["metadata"]
    if any(key not in metadata for key in ("uid", "resourceVersion", "generation", "creationTimestamp")):
        return True
    return (
        before is not None
        and obj != before
        and metadata["resourceVersion"] == before["metadata"]["resourceVersion"]
    )


def _awaits_kubelet(metadata: Object) -> bool:
    return bool(metadata.get("deletionGracePeriodSeconds", 0))


def _bumped(obj: Object, before: Object) -> Object:
    """With the next generation if spec (or any content beside metadata and status) differs."""

    def content(of: Object) -> Object:
        return {k: v for k, v in of.items() if k not in ("metadata", "status")}

    if content(obj) == content(before):
        return obj
    generation = before["metadata"].get("generation", 0) + 1
    return {**obj, "metadata": {**obj["metadata"], "generation": generation}}


def _birth() -> Object:
    return {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "generation": 1, "resourceVersion": "0"}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_manifest(path: Path) -> bool:
    return path.suffix == _SUFFIX and not path.name.startswith(".")


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _plain(value: Any) -> Any:
    """A deep copy: a watcher's memory must not change under the listener's hands."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


class _Dumper(yaml.CSafeDumper):
    """YAML without anchors, which people do not expect in manifests."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True
