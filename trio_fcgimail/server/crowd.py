"""Memory given back after a crowd has left."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, final

CROWD: Final = 64  # ours: connections; fewer leave less behind than is worth a look
_LEFT_SHARE: Final = 4  # of a crowd, one in so many is still here
SPARE_OCTETS: Final = 8 << 20  # ours: so much more than before a crowd is no reason to do anything
_STATM: Final = Path("/proc/self/statm")


def resident_octets() -> int | None:
    """The memory that this process has at present; None where the system does not say (it does on Linux)."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


@final
class Crowd:
    """Watches how many connections there are, and whether memory is as before once most of a crowd are gone.

    The interpreter gives an arena of a mebibyte back when nothing in it is used, and a few objects that were made while
    the crowd was there, a text in a cache or the entry of a timer, keep one each. So the garbage is collected first,
    which takes up to 40 ms; if that does not help, only another process can serve with less.

    Args:
        relieve: called when the memory of a crowd stays with this process.
        collect: how; for tests, as is the next.
        resident: gives the memory of this process in octets, or None when nobody knows.
    """

    __slots__ = ("_before", "_collect", "_most", "_relieve", "_resident")

    def __init__(
        self,
        relieve: Callable[[], None],
        *,
        collect: Callable[[], object] = gc.collect,
        resident: Callable[[], int | None] = resident_octets,
    ) -> None:
        self._relieve = relieve
        self._collect = collect
        self._resident = resident
        self._most = 0
        self._before: int | None = None  # the least that we had when a crowd began

    def is_now(self, connections: int) -> None:
        """Take notice of their number, which has changed by one."""
        if connections > self._most:
            self._most = connections
            if connections == CROWD:
                self._begin()
        elif self._most >= CROWD and connections * _LEFT_SHARE <= self._most:
            self._most = connections
            self._end()

    def _begin(self) -> None:
        if (now := self._resident()) is not None:
            self._before = now if self._before is None else min(self._before, now)

    def _end(self) -> None:
        if self._has_grown():
            self._collect()
            if self._has_grown():
                self._relieve()

    def _has_grown(self) -> bool:
        now = self._resident()
        return now is not None and self._before is not None and now > self._before + SPARE_OCTETS
