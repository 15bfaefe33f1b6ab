"""A store that keeps only a part of a status."""

from veg_api.core.change import Delete, PatchStatus
from veg_api.core.recall import Recall
from veg_common.objects import Object, Ref

REF = Ref("VpcEgressGateway", "default", "gateway1")
WRITTEN: Object = {
    "phase": "Completed",
    "nexthops": ["10.16.0.2"],
    "conditions": [{"type": "Ready", "extra": 1}],
}
KEPT: Object = {"phase": "Completed", "conditions": [{"type": "Ready"}]}


def stored(status: Object | None) -> Object:
    """The object with a status."""
    return {
        "kind": REF.kind,
        "metadata": {"name": "gateway1"},
        **({} if status is None else {"status": status}),
    }


def seen(recall: Recall, status: Object | None) -> Object | None:
    """What is made of a status that the store tells of."""
    return (recall.whole(REF, stored(status)) or {}).get("status")


def test_what_was_dropped_is_remembered() -> None:
    """A part of what was written stands for the whole."""
    recall = Recall()
    recall.note(PatchStatus(REF, {"status": {**WRITTEN, "pods": None}}), stored(KEPT))
    assert seen(recall, KEPT) == WRITTEN


def test_what_somebody_else_wrote_is_believed() -> None:
    """Anything but a part of what was written is the store's own."""
    recall = Recall()
    recall.note(PatchStatus(REF, {"status": WRITTEN}), stored(KEPT))
    other = {**KEPT, "phase": "Pending"}
    assert seen(recall, other) == other
    assert seen(recall, None) is None
    assert recall.whole(REF, None) is None


def test_what_is_kept_whole_is_not_remembered() -> None:
    """A store that keeps all may lose a field later, by somebody's hand, and that is seen. So is it after other writes."""
    recall = Recall()
    recall.note(PatchStatus(REF, {"status": WRITTEN}), stored(WRITTEN))
    assert seen(recall, KEPT) == KEPT
    recall.note(PatchStatus(REF, {"status": WRITTEN}), stored(KEPT))
    recall.note(Delete(REF), None)
    assert seen(recall, KEPT) == KEPT
