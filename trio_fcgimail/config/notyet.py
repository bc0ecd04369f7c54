"""What the contract names and this version cannot do: refused by name, never silently ignored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

__all__ = ["UNSERVED", "NotYet"]


@final
@dataclass(frozen=True, slots=True)
class NotYet:
    """A key, or some values of a key, that a later version brings.

    Args:
        key: its path without counters, such as ``listeners.tls``.
        takes: whether this version can do with the value; a value that turns the feature off is one.
        expected: what this version takes, and that the rest is not yet there.
    """

    key: str
    takes: Callable[[object], bool]
    expected: str


def _off(key: str, off: object, shown: str, feature: str) -> NotYet:
    """Give the row of a key that this version has no use for: only the value that turns it off is taken."""

    def takes(value: object) -> bool:
        return type(value) is type(off) and value == off

    return NotYet(key, takes, _text(shown, feature))


def _text(taken: str, feature: str) -> str:
    return f"{taken} ({feature}: not yet in this version)"


# What the settings hold already and the server does nothing with. Whoever teaches it to takes the row out.

_UNSERVED_ROWS: Final = (
    _off("listeners.hostname", "", '""', "a name for each listener"),
    _off("listeners.idle_seconds", 0, "0", "limits of one listener"),
    _off("listeners.connections", 0, "0", "limits of one listener"),
    _off("listeners.log_file", "", '""', "a log for each listener"),
)

UNSERVED: Final = {row.key: row for row in _UNSERVED_ROWS}
