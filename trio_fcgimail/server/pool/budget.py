"""Whom connections are leased from: here a counter, elsewhere perhaps what several processes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, final

from trio_fcgimail.server.pool.model import Kind


class Budget(Protocol):
    """Leases connections one by one. Synchronous: it never waits, and says no instead.

    The maximum and the reserve hold over everybody who leases from it. An idle connection is leased as one that
    validates.
    """

    def lease(self, upstream: int, kind: Kind) -> bool:
        """Take the right to one more connection, if there is one."""
        ...

    def change(self, upstream: int, old: Kind, new: Kind) -> bool:
        """Use a leased connection for another kind, if that may be; always when ``new`` is VALIDATE."""
        ...

    def release(self, upstream: int, kind: Kind) -> None:
        """Give one back: the connection is closed."""
        ...

    def watch(self, told: Callable[[], None]) -> None:
        """Have ``told`` called, from the event loop, whenever somebody else gave back what we were refused."""
        ...


@final
class LocalBudget:
    """The budget of a single process.

    Args:
        upstreams: how many there are.
        max_connections: to each.
        reserve: of those, kept from saves; of a single connection none is.
    """

    __slots__ = ("_max_connections", "_max_saves", "_open", "_saves")

    def __init__(self, upstreams: int, max_connections: int, reserve: int) -> None:
        self._max_connections = max_connections
        self._max_saves = max(max_connections - reserve, 1)
        self._open = [0] * upstreams
        self._saves = [0] * upstreams

    def lease(self, upstream: int, kind: Kind) -> bool:
        if self._open[upstream] >= self._max_connections:
            return False
        if kind is Kind.SAVE:
            if self._saves[upstream] >= self._max_saves:
                return False
            self._saves[upstream] += 1
        self._open[upstream] += 1
        return True

    def change(self, upstream: int, old: Kind, new: Kind) -> bool:
        if old is not new:
            if new is Kind.SAVE:
                if self._saves[upstream] >= self._max_saves:
                    return False
                self._saves[upstream] += 1
            else:
                self._saves[upstream] -= 1
        return True

    def release(self, upstream: int, kind: Kind) -> None:
        self._open[upstream] -= 1
        if kind is Kind.SAVE:
            self._saves[upstream] -= 1

    def watch(self, told: Callable[[], None]) -> None:
        """Nobody else leases here, so there is nothing to tell."""
