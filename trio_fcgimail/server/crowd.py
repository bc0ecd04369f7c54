"""Memory given back after a crowd has left."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, final

CROWD: Final = 64  # ours: connections; fewer leave less behind than is worth a look
SPARE_OCTETS: Final = 8 << 20  # ours: so much more than before a crowd is no reason to do anything
CONNECTION_OCTETS: Final = 64 << 10  # one that is still here takes 10 KB in the clear, and 50 by TLS
_LEFT_SHARE: Final = 4  # of a crowd, one in so many is still here
_STATM: Final = Path("/proc/self/statm")
_LIBRARY: Final = ctypes.CDLL(None)  # the program itself, with the C library that it has loaded


def resident_octets() -> int | None:
    """The memory that this process has at present; None where the system does not say (it does on Linux)."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def give_back() -> None:
    """Give memory that is not used back to the system, as far as it can be done: up to 40 ms are worth it.

    The C library keeps what OpenSSL and large mails took, unless it is told not to; not every C library can be told.
    """
    gc.collect()
    if (trim := getattr(_LIBRARY, "malloc_trim", None)) is not None:
        trim(0)


@final
class Crowd:
    """Watches how many connections there are, and whether memory is as before once most of a crowd are gone.

    The interpreter gives an arena of a mebibyte back when nothing in it is used, and a few objects that were made while
    the crowd was there, a text in a cache or the entry of a timer, keep one each. If collecting the garbage does not
    help, only another process can serve with less.

    Args:
        tired: called when the memory of a crowd stays with this process, and again when that of a further one does;
            must neither block nor raise.
        give_back: makes memory less; for tests, as is the next.
        resident: gives the memory of this process in octets, or None when nobody knows.
    """

    __slots__ = ("_before", "_connections", "_give_back", "_most", "_resident", "_tired", "_told")

    def __init__(
        self,
        tired: Callable[[], None],
        *,
        give_back: Callable[[], None] = give_back,
        resident: Callable[[], int | None] = resident_octets,
    ) -> None:
        self._tired = tired
        self._give_back = give_back
        self._resident = resident
        self._connections = 0
        self._most = 0
        self._before: int | None = None  # the least that we had when a crowd began
        self._told = 0  # what we had when we were found tired

    @property
    def memory_stays(self) -> bool:
        """Whether there is much more memory than before there was any crowd, and than those who are here take."""
        return self._before is not None and self._is_above(self._before)

    def is_now(self, connections: int) -> None:
        """Take notice of their number, which has changed by one."""
        self._connections = connections
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
        if self._before is None:  # nobody knows what we have
            self._give_back()
            return
        known = max(self._before, self._told)
        if self._is_above(known):
            self._give_back()
            if self._is_above(known):
                self._told = self._resident() or 0
                self._tired()

    def _is_above(self, octets: int) -> bool:
        now = self._resident()
        return now is not None and now > octets + SPARE_OCTETS + self._connections * CONNECTION_OCTETS
