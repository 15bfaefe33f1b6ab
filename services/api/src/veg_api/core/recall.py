"""What was written into statuses that the store keeps only in part. Pure.

Another project's CRD of the same kind (Kube-OVN's, from version 1.14) knows fewer fields than ours, and an API server
drops those that a CRD does not know. `nexthops` and `pods` of a gateway's status are what a plan remembers by, so the
controller remembers for the store, until it restarts or somebody else writes that status.
"""

from __future__ import annotations

from veg_common.objects import Object, Ref

from veg_api.core.change import Change, PatchStatus, covers


class Recall:
    """Whole statuses by object, of those only that came back with less than was written."""

    def __init__(self) -> None:
        self._written: dict[Ref, Object] = {}

    def note(self, change: Change, stored: Object | None) -> None:
        """A change, and the object as the store had it afterwards."""
        self._written.pop(change.ref, None)
        if isinstance(change, PatchStatus) and stored is not None:
            written = {key: value for key, value in change.patch["status"].items() if value is not None}
            if not covers(stored.get("status"), written):
                self._written[change.ref] = written

    def whole(self, ref: Ref, obj: Object | None) -> Object | None:
        """An object with all of its status, as far as what the store has of it is a part of what was written."""
        written = self._written.get(ref)
        if written is None or obj is None or not obj.get("status") or not covers(written, obj["status"]):
            return obj
        return {**obj, "status": written}
