"""What time it is, for people."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import final


def local_now() -> datetime:
    """The time here, with its zone."""
    return datetime.now(UTC).astimezone()


@final
class WholeSeconds:
    """The same, whole seconds of it: made once for each, as asking for the zone takes longer than what it is for."""

    __slots__ = ("_now", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._now = datetime.fromtimestamp(0, UTC)

    def __call__(self) -> datetime:
        """Tell it."""
        second = int(time.time())
        if second != self._second:
            self._second, self._now = second, datetime.fromtimestamp(second, UTC).astimezone()
        return self._now
