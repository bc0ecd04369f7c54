"""Deadlines that are set at every step and hardly ever reached: setting one is an assignment.

A cancel scope for each wait costs more than the wait itself, when the other side is quick. An alarm is looked at when
its time has come, and not before: when it was set to a later time meanwhile, it is wound up for that one.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Final, NoReturn, final

import trio

_NEVER: Final = math.inf
_SPARE_ENTRIES: Final = 64  # ours: so many that mean nothing any more are not worth a look


def _nobody_to_ring() -> None:
    """In the place of who would hold on to the alarm and be held by it: a cycle, left to the garbage collector."""


@final
class Alarm:
    """One deadline, which moves. Not for a wait that ends the same moment: ring() is called by another task.

    Args:
        alarms: those that it is one of; their ``run`` must be running.
        ring: called when the time has come; must neither block nor raise. The alarm is off then.
    """

    __slots__ = ("_alarms", "due", "ring", "wound_for")

    def __init__(self, alarms: Alarms, ring: Callable[[], None]) -> None:
        self._alarms = alarms
        self.ring = ring
        self.due = _NEVER
        self.wound_for = _NEVER  # when it is looked at

    def set(self, due: float) -> None:
        """Have it ring at ``due``, in seconds of Trio's clock, and not at what was set before."""
        self.due = due
        if due < self.wound_for:
            self._alarms.wind(self, due)

    def off(self) -> None:
        """Have it not ring."""
        self.due = _NEVER

    def close(self) -> None:
        """Nobody will set it again, and it holds on to nobody."""
        self.due = _NEVER
        self.ring = _nobody_to_ring
        if self.wound_for < _NEVER:
            self.wound_for = _NEVER
            self._alarms.forget_one()


@final
class Alarms:
    """All alarms of a server, or of a pool. Run ``run``, or none of them rings."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self._forgotten = 0  # entries that mean nothing any more
        self._sleeps_until = -_NEVER  # run() is awake, or does not run
        self._awake = trio.Event()

    def __len__(self) -> int:
        """How many entries are held, those that mean nothing any more included."""
        return len(self._heap)

    def wind(self, alarm: Alarm, when: float) -> None:
        """Have an alarm looked at. For alarms."""
        if alarm.wound_for < _NEVER:
            self.forget_one()
        alarm.wound_for = when
        heapq.heappush(self._heap, (when, next(self._numbers), alarm))
        if when < self._sleeps_until:
            self._awake.set()

    def forget_one(self) -> None:
        """An entry means nothing any more; once most of them do not, they go. For alarms."""
        self._forgotten += 1
        if self._forgotten > _SPARE_ENTRIES and 2 * self._forgotten > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].wound_for == entry[0]]
            heapq.heapify(self._heap)
            self._forgotten = 0

    async def run(self) -> NoReturn:
        """Ring in time, until cancelled."""
        while True:
            self._sleeps_until = self._heap[0][0] if self._heap else _NEVER
            with trio.move_on_at(self._sleeps_until):
                await self._awake.wait()
            self._awake = trio.Event()
            self._sleeps_until = -_NEVER
            self._look(trio.current_time())

    def _look(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            when, _, alarm = heapq.heappop(self._heap)
            if alarm.wound_for != when:
                self._forgotten -= 1
                continue
            alarm.wound_for = _NEVER
            if alarm.due <= now:
                alarm.due = _NEVER
                alarm.ring()
            elif alarm.due < _NEVER:
                self.wind(alarm, alarm.due)
