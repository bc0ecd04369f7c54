"""What the contract names and this version cannot do: refused by name, never silently ignored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

__all__ = ["NOT_YET", "UNSERVED", "NotYet"]


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


_ROWS: Final = (_off("status.address", "", '""', "the status page"),)

NOT_YET: Final = {row.key: row for row in _ROWS}

# What the settings hold already and the server does nothing with. Whoever teaches it to takes the row out.


def _names(value: object) -> list[str]:
    names = value if isinstance(value, list) else []
    return [name.strip().lower() for name in names if isinstance(name, str)]


def _takes_nothing_new_to_save(value: object) -> bool:
    """HeadersParser and then FastCGI: every mail's header is read and its subject sent anyway."""
    names = _names(value)
    return not set(names) & _NEW_STEPS and "fastcgi" not in names[:-1]


def _takes_nothing_new_to_validate(value: object) -> bool:
    names = _names(value)
    return not isinstance(value, list) or (not set(names) & _NEW_STEPS and names[-1:] == ["fastcgi"])


_NEW_STEPS: Final = frozenset(("header", "hasher", "debugger", "compressor", "maildir"))
_CHAIN = '"FastCGI" at the end, and before it at most "HeadersParser"'

_UNSERVED_ROWS: Final = (
    _off("listeners.hostname", "", '""', "a name for each listener"),
    _off("listeners.idle_seconds", 0, "0", "limits of one listener"),
    _off("listeners.connections", 0, "0", "limits of one listener"),
    _off("listeners.log_file", "", '""', "a log for each listener"),
    NotYet("chain.save", _takes_nothing_new_to_save, _text(_CHAIN, "other processors")),
    NotYet("chain.validate", _takes_nothing_new_to_validate, _text(_CHAIN, "other processors")),
    _off("chain.discard", False, "false", "throwing mails away"),
    _off("header.primary_mail_host", "", '""', "the processor Header"),
    _off("debugger.log_received_mails", False, "false", "the processor Debugger"),
    _off("maildir.path", "", '""', "the processor MailDir"),
    _off("maildir.user_map", {}, "{}", "the processor MailDir"),
)

UNSERVED: Final = {row.key: row for row in _UNSERVED_ROWS}
