"""Reads the FILE arguments of `apply` and `delete`: files, `-` for stdin, or folders of manifests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from veg_common.objects import MAX_OBJECT_BYTES, ManifestError, Object, parse_manifests

_SUFFIXES = (".yaml", ".yml", ".json")
# A whole file may hold many documents; beyond this it is not a manifest but a mistake.
_MAX_FILE_BYTES = 64_000_000


def sources(argument: str) -> list[str]:
    """The files that one `-f` stands for: itself, or the manifests of a folder in order of name.

    Raises ManifestError for a folder without any, or one that can not be read.
    """
    path = Path(argument)
    if argument == "-" or not path.is_dir():
        return [argument]
    try:
        found = sorted(str(file) for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    except OSError as error:
        raise ManifestError(f"{argument}: {error.strerror or error}") from error
    if not found:
        raise ManifestError(f"{argument}: no manifest (*{', *'.join(_SUFFIXES)}) in the folder")
    return found


def load(source: str, namespace: str) -> list[Object]:
    """The objects of one file. Raises ManifestError with one line that names the file and the reason."""
    name = "stdin" if source == "-" else source
    try:
        text = _read(source)
        _check_sizes(text)
        objects = parse_manifests(text, namespace)
    except ManifestError as error:
        raise ManifestError(f"{name}: {error}") from error
    except OSError as error:
        raise ManifestError(f"{name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{name}: not UTF-8 text (byte {error.start})") from error
    if not objects:
        raise ManifestError(f"{name}: no objects in it")
    return objects


def _check_sizes(text: str) -> None:
    """Refuse a document above the limit before it is parsed, which would take seconds."""
    documents = re.split(r"^---(?:\s.*)?$", text, flags=re.MULTILINE)
    for number, document in enumerate(documents, 0 if len(documents) > 1 and not documents[0].strip() else 1):
        if (size := len(document.encode())) > MAX_OBJECT_BYTES:
            where = f"document {number}: " if len(documents) > 1 else ""
            raise ManifestError(f"{where}{size} bytes, the limit is {MAX_OBJECT_BYTES}")


def _read(source: str) -> str:
    data = sys.stdin.buffer.read(_MAX_FILE_BYTES + 1) if source == "-" else _read_file(Path(source))
    if len(data) > _MAX_FILE_BYTES:
        raise ManifestError(f"more than {_MAX_FILE_BYTES} bytes: too large for a manifest")
    return data.decode()


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES + 1)
