"""What is due when."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from enum import Enum
from typing import final

from trio_fcgimail.server.pool.model import NEVER


@final
class Timer(Enum):
    """What may be due; it is looked at again when its time comes, as things may have changed."""

    LINGER = "the connection that is idle for longest was so long enough"
    TRIAL = "a connection that was asked to stay should be looked at"
    SLOW = "a connection took long to open"
    PAUSE = "a request may try again"
    RETRY = "an upstream may be connected again"
    PROBE = "an ejected upstream should be probed"
    RAISE = "a lowered limit should be tried higher"


@final
class Timers:
    """Timers, each with the number of what it is about. None can be taken back."""

    __slots__ = ("_heap", "_serials")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer, int]] = []
        self._serials = itertools.count()

    def add(self, when: float, timer: Timer, number: int) -> None:
        """Set one."""
        heapq.heappush(self._heap, (when, next(self._serials), timer, number))

    @property
    def soonest(self) -> float:
        """When the next is due."""
        return self._heap[0][0] if self._heap else NEVER

    def due(self, now: float) -> Iterator[tuple[float, Timer, int]]:
        """Take those whose time has come, in order."""
        while self._heap and self._heap[0][0] <= now:
            when, _, timer, number = heapq.heappop(self._heap)
            yield when, timer, number
