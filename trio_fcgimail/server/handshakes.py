"""The handshakes of TLS that are under way: whoever stalls in one takes no room from others for long."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, final

import trio

from trio_fcgimail.config import Settings

FEWEST: Final = 16  # ours: more than a small server ever has at once
_COLLECTED: Final = 64  # ours: so many leave 3 MiB behind


def most_handshakes(settings: Settings) -> int | None:
    """How many may be under way in one process: half of its share of all connections; None for any number."""
    connections = settings.limits.connections
    return None if connections is None else max(connections // settings.workers // 2, FEWEST)


@final
class Handshakes:
    """Keeps them below a number: as one more begins, the one that has been under way longest is ended.

    A client that means it is through within some round trips, and those who came after it are fewer than that.

    Trio's streams of TLS are cycles, and each holds 40 KiB of OpenSSL's that the garbage collector knows nothing of: by
    itself it comes only after hundreds of them, so that it is called after every so many.

    Args:
        most: None for any number.
        collect: how; for tests.
    """

    def __init__(self, most: int | None, collect: Callable[[], object] = gc.collect) -> None:
        self._most = most
        self._collect = collect
        self._ended = 0
        self._scopes: dict[trio.CancelScope, None] = {}  # in the order of their beginnings

    @contextmanager
    def one_more(self) -> Iterator[trio.CancelScope]:
        """Give the scope of a handshake, which is cancelled when it has to make room."""
        if self._most is not None and len(self._scopes) >= self._most:
            oldest = next(iter(self._scopes))
            del self._scopes[oldest]
            oldest.cancel()
        scope = trio.CancelScope()
        self._scopes[scope] = None
        try:
            yield scope
        finally:
            self._scopes.pop(scope, None)
            self._ended += 1
            if self._ended % _COLLECTED == 0:
                self._collect()
