"""The words that name a store."""

from pathlib import Path

import pytest
from veg_common.folder import FolderStore
from veg_common.kube import KubernetesStore
from veg_common.kube_client import GoneError, refusal
from veg_common.store import (
    AlreadyExistsError,
    ConflictError,
    InvalidObjectError,
    NotFoundError,
    StoreError,
    UnavailableError,
)
from veg_common.stores import check_store, open_store


@pytest.mark.parametrize("text", ["kube", "kube:/etc/kubeconfig", "kube:config#context"])
def test_an_api_server_is_named(text: str) -> None:
    """Nothing is opened before the first request: the file need not be there yet."""
    assert isinstance(open_store(text), KubernetesStore)


def test_a_folder_is_named(tmp_path: Path) -> None:
    """A folder that does not exist is made."""
    assert isinstance(open_store(f"folder:{tmp_path}/objects"), FolderStore)
    assert (tmp_path / "objects").is_dir()


@pytest.mark.parametrize("text", ["", "folder", "folder:", "kube:", "kube:#context", "etcd:x", "/a/path"])
def test_other_words_are_refused(text: str) -> None:
    """One line that says what is known."""
    assert "folder:DIR" in str(check_store(text))
    with pytest.raises(ValueError, match="neither folder:DIR nor kube"):
        open_store(text)


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (404, "NotFound", NotFoundError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (410, "Expired", GoneError),
        (422, "Invalid", InvalidObjectError),
        (403, "Forbidden", StoreError),
        (429, "TooManyRequests", UnavailableError),
        (503, "ServiceUnavailable", UnavailableError),
    ],
)
def test_answers_become_errors(code: int, reason: str, error: type[StoreError]) -> None:
    """An answer is told by its code and reason, its message in one line."""
    content = f'{{"kind": "Status", "reason": "{reason}", "message": "a\\n  b"}}'.encode()
    found = refusal(code, content, "GET /x")
    assert type(found) is error
    assert str(found) == "a b"


def test_an_answer_that_is_no_status_is_told_by_its_code() -> None:
    """A proxy in between says what it likes."""
    assert str(refusal(502, b"<html>", "GET /x")) == "GET /x: HTTP 502"
