"""What a flow's packets tell: which gateway carried it, its largest gap, what it lost. Pure."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field
from typing import Any

# A packet that is answered later than this is as good as lost: nobody waits for it.
LATE_SECONDS = 1.0


@dataclass(frozen=True, order=True)
class Answer:
    """An answer: the packet's number, when the kernel had it (s, CLOCK_REALTIME), the source that the echo saw."""

    number: int
    at: float
    source: str


@dataclass
class FlowLog:
    """Sent and answered packets of one flow, in order; `first` is the number of the oldest one kept."""

    first: int = 0
    sent: list[float] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)
    last: Answer | None = None
    """The latest by its time."""

    def sending(self, now: float) -> int:
        """A packet leaves; returns its number."""
        self.sent.append(now)
        return self.first + len(self.sent) - 1

    def answered(self, answer: Answer) -> None:
        """An answer came; the first one of a number counts."""
        if self.answers.setdefault(answer.number, answer) is answer and (
            self.last is None or answer.at > self.last.at
        ):
            self.last = answer

    def forget(self, before: float) -> None:
        """Drop what was sent before a moment."""
        count = bisect.bisect_left(self.sent, before)
        if not count:
            return
        for number in range(self.first, self.first + count):
            self.answers.pop(number, None)
        del self.sent[:count]
        self.first += count

    def peek(self, now: float) -> dict[str, Any]:
        """`silent_ms` since the last answer, and the `source` of that; null without any."""
        if self.last is None:
            return {"silent_ms": None, "source": None}
        return {"silent_ms": round((now - self.last.at) * 1000, 1), "source": self.last.source}

    def report(self, begin: float, end: float) -> dict[str, Any]:
        """What happened between two moments.

        `source`: of the last answer before `begin`, null without one. `gap_ms`: the largest time between two
        answers that follow each other, of which the later came after `begin` (or has not come by `end`) and the
        earlier before `end`; `gap_at`: when it began. `sent` and `lost`: packets sent in between.
        """
        times = sorted((answer.at, answer.source) for answer in self.answers.values())
        before = [entry for entry in times if entry[0] < begin]
        during = [at for at, _ in times if begin <= at <= end]
        after = [at for at, _ in times if at > end]
        edges = [before[-1][0] if before else begin, *during, min(after[0], end) if after else end]
        gap, gap_at = max((later - earlier, earlier) for earlier, later in itertools.pairwise(edges))
        numbers = [self.first + i for i, at in enumerate(self.sent) if begin <= at <= end]
        return {
            "source": before[-1][1] if before else None,
            "gap_ms": round(gap * 1000, 2),
            "gap_at": gap_at,
            "sent": len(numbers),
            "lost": sum(not self._in_time(number) for number in numbers),
        }

    def _in_time(self, number: int) -> bool:
        answer = self.answers.get(number)
        return answer is not None and answer.at - self.sent[number - self.first] <= LATE_SECONDS
