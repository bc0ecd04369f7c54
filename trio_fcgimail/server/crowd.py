"""Memory given back after a crowd has left."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final, final

_CROWD: Final = 500  # ours: connections; fewer leave less behind than is worth a look
_LEFT_SHARE: Final = 4  # of a crowd, one in so many is still here


@final
class Crowd:
    """Watches how many connections there are, and has the garbage collected once most of a crowd are gone.

    The interpreter keeps spare objects of what it has freed, each of which holds on to an arena, until the collector
    comes for them with later work; after a crowd of idle clients that may be long in coming. Called at once, it gives
    back a quarter to a half of what such a crowd took. It takes up to 40 ms, and a crowd to come and go for each time.

    Args:
        collect: how; for tests.
    """

    __slots__ = ("_collect", "_most")

    def __init__(self, collect: Callable[[], object] = gc.collect) -> None:
        self._collect = collect
        self._most = 0

    def is_now(self, connections: int) -> None:
        """Take notice of their number, which has changed."""
        if connections > self._most:
            self._most = connections
        elif self._most >= _CROWD and connections * _LEFT_SHARE <= self._most:
            self._most = connections
            self._collect()
