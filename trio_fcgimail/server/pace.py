"""How fast the data of a mail come: a slow sender is honest, a trickling one holds a place for nothing."""

from __future__ import annotations

from typing import final


@final
class DataPace:
    """Judges the data of one mail, window by window. Only the time that we spent waiting counts.

    Args:
        window_seconds: the setting ``data_seconds``: how long a window is, and the longest silence.
        floor: octets a second that a window must reach; None for none.
    """

    __slots__ = ("_floor", "_octets", "_waited", "window_seconds")

    def __init__(self, window_seconds: float, floor: int | None) -> None:
        self.window_seconds = window_seconds
        self._floor = floor
        self._octets = 0
        self._waited = 0.0

    def count(self, octets: int, waited_seconds: float) -> None:
        """Count what came after a wait."""
        self._octets += octets
        self._waited += waited_seconds

    def is_too_slow(self) -> bool:
        """Whether a window has now ended below the floor. To be asked only when more has to come."""
        if self._waited < self.window_seconds:
            return False
        too_slow = self._floor is not None and self._octets < self._floor * self._waited
        self._octets, self._waited = 0, 0.0
        return too_slow
