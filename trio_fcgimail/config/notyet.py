"""What the contract names and this version cannot do: refused by name, never silently ignored."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

__all__ = ["NOT_YET", "NotYet"]


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


_LATER_EXTENSIONS = frozenset(("STARTTLS", "AUTH", "XCLIENT", "REQUIRETLS"))


def _names_no_later_extension(value: object) -> bool:
    if not isinstance(value, list):
        return True
    return not any(isinstance(name, str) and name.upper() in _LATER_EXTENSIONS for name in value)


def _is_no_systemd_name(value: object) -> bool:
    return not (isinstance(value, str) and value.startswith("systemd:"))


_EXTENSIONS_TEXT = '"all", or a list without ' + ", ".join(sorted(_LATER_EXTENSIONS))
_RATE = "limits per minute"
_STAGE = "scripts for stages other than validate and save"

_ROWS: Final = (
    _off("workers", 1, "1", "several processes"),
    _off("user", "", '""', "changing the user"),
    _off("group", "", '""', "changing the group"),
    NotYet("listeners.address", _is_no_systemd_name, _text('"HOST:PORT" or "unix:/PATH"', "sockets from systemd")),
    _off("listeners.tls", "none", '"none"', "TLS"),
    _off("listeners.certificate", "", '""', "TLS"),
    _off("listeners.private_key", "", '""', "TLS"),
    NotYet("listeners.extensions", _names_no_later_extension, _text(_EXTENSIONS_TEXT, "these")),
    _off("listeners.proxy_protocol_from", [], "[]", "the PROXY protocol"),
    _off("listeners.xclient_from", [], "[]", "XCLIENT"),
    _off("listeners.require_auth", False, "false", "AUTH"),
    _off("listeners.auth_any_recipient", False, "false", "AUTH"),
    _off("limits.connections_per_minute_per_ip", 0, "0", _RATE),
    _off("limits.messages_per_minute_per_ip", 0, "0", _RATE),
    _off("limits.recipients_per_minute_per_ip", 0, "0", _RATE),
    _off("limits.exempt_from", [], "[]", "exemptions from limits"),
    _off("scripts.body", "form", '"form"', "multipart and raw bodies"),
    _off("scripts.auth", "", '""', _STAGE),
    _off("scripts.connect", "", '""', _STAGE),
    _off("scripts.helo", "", '""', _STAGE),
    _off("scripts.mail", "", '""', _STAGE),
    _off("status.address", "", '""', "the status page"),
)

NOT_YET: Final = {row.key: row for row in _ROWS}
