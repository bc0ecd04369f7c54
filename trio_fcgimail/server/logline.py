"""What a log line looks like without colours: as structlog's ConsoleRenderer has it, in a tenth of its time."""

from __future__ import annotations

import re
import time
from collections.abc import MutableMapping
from typing import Final, final

EventDict = MutableMapping[str, object]

EVENT_COLUMNS: Final = 24
_LEVEL_COLUMNS: Final = 9  # the longest word of structlog, "exception"
_AMBIGUOUS: Final = re.compile("[ \t=\r\n\"']")  # what makes ConsoleRenderer quote a value


@final
class Stamp:
    """Adds the time in UTC (ISO 8601) and the level, as structlog's own processors do."""

    __slots__ = ("_second", "_shown")

    def __init__(self) -> None:
        self._second = -1
        self._shown = ""  # the second, as lines show it

    def __call__(self, _logger: object, method: str, event: EventDict) -> EventDict:
        """Add them to an event."""
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second, self._shown = second, shown
        event["level"] = method
        event["timestamp"] = f"{self._shown}.{nanoseconds // 1000:06d}Z"
        return event


def plain_line(_logger: object, _method: str, event: EventDict) -> str:
    """Time, level and event in columns, then the rest as ``name=value``."""
    head = f"{event.pop('timestamp')} [{event.pop('level'):<{_LEVEL_COLUMNS}}] {event.pop('event'):<{EVENT_COLUMNS}}"
    must_quote = _AMBIGUOUS.search
    pairs = [
        f"{name}={value}" if isinstance(value, str) and must_quote(value) is None else f"{name}={value!r}"
        for name, value in event.items()
    ]
    return " ".join([head, *pairs]).rstrip(" ")
