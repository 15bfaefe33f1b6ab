"""When a BFD session that is not up is helped, and how.

OVN's speaker has faults (docs of veg.programmer.v1): it writes an `up` down as much as five seconds late, it sleeps over
a new row, it may hold a dead discriminator for ever, and it may leave `up` in a row that nobody speaks for. Two things
help, both by rows alone:

* A nudge: a row that means nothing changes (intents.Waker). Every ovn-controller wakes, looks at its sessions and writes
  what it knows. One comes every WAKE_EVERY_S even while all is well: the thread of ovn-controller that ends a session
  tells the one that writes, and is not heard when that is just about to sleep (pinctrl_wait reads the sequence number that
  it waits for after the work is done): an ended session would be `up` until something else wakes it.
* A fresh start: nothing refers to the row until OVN has said `admin_down`; ovn-controller forgets the peer. When that
  did not help, the row itself is away for a second: ovn-controller forgets everything, also an address of ours that is
  another one by now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from veg_ovn_programmer.core.bfd import ADMIN_DOWN, UP
from veg_ovn_programmer.core.intents import Key

# Seconds since a session is not up. The first nudge is for the others: of several sessions that end together OVN may write
# down one at once, and the rest seconds later.
NUDGES_S = (0.1, 1.5, 3.5)
# From then on they come regularly: while a session is silent OVN puts off writing what comes next of any, so one that
# returns would be unused for five seconds.
NUDGE_EVERY_S = 1.5
# While any session is up.
WAKE_EVERY_S = 2.0
# A fresh start comes after those of PATIENCE_S, the longer the more there were; a nudge so long before it, for a session may
# be up and not written down.
LAST_CALL_S = 0.5
PATIENCE_S = (5.0, 10.0, 20.0, 60.0)
# A session that was up for so long starts with the first patience again.
CALM_S = 30.0
# The longest time without a reference, should OVN not answer; and the shortest, for ovn-controller is busy at times: it has
# to see the row while it says `admin_down`.
HOLD_S = 2.0
LEAST_HOLD_S = 0.3
# How long a row is away, from the second fresh start on.
AWAY_S = 1.0

# Gateways in one round.
AT_ONCE = 10

SessionKey = tuple[Key, str]


@dataclass
class _Patient:
    """A session that is not up."""

    since: float
    """Of this attempt."""
    attempts: int = 0
    nudges: int = 0
    nudged_at: float = 0.0
    called: bool = False
    """The nudge just before the fresh start was given."""
    put_off: float = 0.0
    """By how many seconds the fresh start comes later, for nobody else serves."""


class Healer:
    """Sessions by gateway and peer, times of a monotonic clock in seconds."""

    def __init__(self) -> None:
        self.held: dict[SessionKey, float] = {}
        """Sessions that nothing may refer to, since when."""
        self._answered: set[SessionKey] = set()
        """Those of them that OVN says `admin_down` of."""
        self.away: set[SessionKey] = set()
        """Those of them whose row shall not be there."""
        self.wakes = 0
        """How many nudges there were."""
        self._woken = 0.0
        """When the last was."""
        self._known: dict[Key, set[str]] = {}
        self._ill: dict[SessionKey, _Patient] = {}
        self._well: dict[SessionKey, tuple[float, int]] = {}
        """Sessions that are up: since when, after how many attempts."""

    def observe(self, key: Key, statuses: Mapping[str, str], now: float) -> bool:
        """Note what the rows of a gateway say just after they were looked at; True: look once more at once."""
        for peer in self._known.get(key, set()) - set(statuses):
            self._drop((key, peer))
        if statuses:
            self._known[key] = set(statuses)
        else:
            self._known.pop(key, None)
        again = [self._one((key, peer), status, now) for peer, status in statuses.items()]
        return any(again)

    def reset(self, key: Key, peers: Iterable[str], now: float) -> list[str]:
        """Start sessions afresh. Returns those that are known."""
        chosen = sorted(self._known.get(key, set()).intersection(peers))
        for peer in chosen:
            self._hold((key, peer), now)
        return chosen

    def forget(self, key: Key, now: float) -> None:
        """Have OVN forget all that it knows of a gateway's sessions: their rows are away for a moment."""
        for peer in self._known.get(key, ()):
            self._hold((key, peer), now)
            self.away.add((key, peer))

    def due(self, now: float, spare: Callable[[SessionKey], bool] = lambda _: True) -> set[Key]:
        """Help those whose time has come, by a nudge for all (`wakes`) or a fresh start; returns the gateways to look at.

        AT_ONCE of them at most: OVN's word on a session that serves must not wait behind those that do not. `spare`: whether
        a session may start afresh now; one on its way up serves, and may be the last.
        """
        look: set[Key] = set()
        nudge = bool(self._well) and now >= self._woken + WAKE_EVERY_S
        for session in list(self.held):
            if now >= self._end(session):
                self._release(session, now)
                look.add(session[0])
        for session, patient in list(self._ill.items()):
            if len(look) >= AT_ONCE:
                break
            if session in self.held or now < self._next(patient):
                continue
            if now >= self._end_of_patience(patient):
                if spare(session):
                    self._hold(session, now)
                    look.add(session[0])
                    continue
                patient.put_off = now + NUDGE_EVERY_S - patient.since - _patience(patient)
            patient.called = now >= self._end_of_patience(patient) - LAST_CALL_S
            patient.nudges += 1
            patient.nudged_at = now
            nudge = True
        if nudge:
            self.wakes += 1
            self._woken = now
        return look

    def next(self) -> float | None:
        """When `due` has something to do; None: not by itself."""
        times = [self._end(session) for session in self.held]
        times += [self._next(patient) for session, patient in self._ill.items() if session not in self.held]
        times += [self._woken + WAKE_EVERY_S] if self._well else []
        return min(times, default=None)

    def _one(self, session: SessionKey, status: str, now: float) -> bool:
        if session in self.held:
            if session not in self.away and status in {ADMIN_DOWN, ""}:
                self._answered.add(session)
                if now >= self._end(session):
                    self._release(session, now)
                    return True
            return False
        if status == UP:
            patient = self._ill.pop(session, None)
            if session not in self._well:
                self._well[session] = (now, patient.attempts if patient is not None else 0)
        elif session not in self._ill:
            since, attempts = self._well.pop(session, (now, 0))
            self._ill[session] = _Patient(now, 0 if now - since >= CALM_S else attempts)
        return False

    def _hold(self, session: SessionKey, now: float) -> None:
        patient = self._ill.setdefault(session, _Patient(now))
        patient.attempts += 1
        self._well.pop(session, None)
        self.held[session] = now
        if patient.attempts > 1:
            self.away.add(session)

    def _release(self, session: SessionKey, now: float) -> None:
        del self.held[session]
        self.away.discard(session)
        self._answered.discard(session)
        attempts = self._ill[session].attempts if session in self._ill else 0
        self._ill[session] = _Patient(now, attempts)

    def _drop(self, session: SessionKey) -> None:
        self.held.pop(session, None)
        self.away.discard(session)
        self._answered.discard(session)
        self._ill.pop(session, None)
        self._well.pop(session, None)

    def _end(self, session: SessionKey) -> float:
        if session in self.away:
            return self.held[session] + AWAY_S
        return self.held[session] + (LEAST_HOLD_S if session in self._answered else HOLD_S)

    def _next(self, patient: _Patient) -> float:
        end = self._end_of_patience(patient)
        if patient.nudges < len(NUDGES_S):
            nudge = patient.since + NUDGES_S[patient.nudges]
        else:
            nudge = patient.nudged_at + NUDGE_EVERY_S
        return min(nudge, end if patient.called else end - LAST_CALL_S)

    @staticmethod
    def _end_of_patience(patient: _Patient) -> float:
        return patient.since + _patience(patient) + patient.put_off


def _patience(patient: _Patient) -> float:
    return PATIENCE_S[min(patient.attempts, len(PATIENCE_S) - 1)]
