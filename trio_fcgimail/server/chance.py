"""What is drawn by lot: octets, and the identifiers of mails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, final

from trio_fcgimail.mail import new_queue_id

_DRAWN_OCTETS: Final = 4096  # ours: at once


@final
class Chance:
    """Octets from the kernel's source, many drawn at a time: a system call for each mail takes longer than all else
    that is done with them.

    Args:
        source: gives so many octets that nobody can foresee. What was drawn is used once, and by this process alone.
    """

    __slots__ = ("_drawn", "_source", "_used")

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source
        self._drawn = b""
        self._used = 0

    def octets(self, number: int) -> bytes:
        """So many octets, at most 4,096."""
        assert number <= _DRAWN_OCTETS, "nobody needs more at once"
        end = self._used + number
        if end > len(self._drawn):
            self._drawn = self._source(_DRAWN_OCTETS)
            self._used, end = 0, number
        octets = self._drawn[self._used : end]
        self._used = end
        return octets


@final
class QueueIds:
    """Makes identifiers of mails; see :func:`~trio_fcgimail.mail.new_queue_id`."""

    __slots__ = ("_chance",)

    def __init__(self) -> None:
        self._chance = Chance()

    def __call__(self) -> str:
        """A new one."""
        return new_queue_id(time.time_ns() // 1000, self._chance.octets(5))
