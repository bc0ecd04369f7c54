"""Reading ``application/x-www-form-urlencoded`` as it comes: one field is streamed, the small ones are collected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, assert_never, final
from urllib.parse import unquote_to_bytes

MAX_NAME_OCTETS: Final = 64  # ours: the longest name of docs/scripts.md has 16
MAX_FIELDS: Final = 1000  # the server sends 900 at most
MAX_SMALL_OCTETS: Final = 262_144  # encoded, of all small fields: 60,000 raw octets take 180,000 when all are escaped

_NAME: Final = re.compile(rb"[a-z0-9_]+")
_HALF_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class FormError(Exception):
    """The data are no form, or one that is beyond the limits; the text says why."""


class _Place(Enum):
    NAME = auto()
    SMALL = auto()
    STREAMED = auto()


@final
class FormReader:
    """Decodes a form whose octets may be cut anywhere. After a FormError it is of no more use.

    Args:
        streamed: the name of the field that is handed out piece by piece; None when every field is small.
    """

    def __init__(self, streamed: str | None = None) -> None:
        self._streamed = None if streamed is None else streamed.encode()
        self._has_streamed = False
        self._place = _Place.NAME
        self._held = b""  # of the streamed field: an escape that is not complete
        self._name = b""
        self._value = bytearray()
        self._room = MAX_SMALL_OCTETS
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> bytes:
        """Take the next octets.

        Returns:
            The decoded octets of the streamed field among them.

        Raises:
            FormError: see there.
        """
        decoded: list[bytes] = []
        for number, part in enumerate(data.split(b"&")):
            if number:
                self._end_field()
            decoded.append(self._take(part))
        return b"".join(decoded)

    def finish(self) -> Mapping[str, str]:
        """The small fields, now that all has come; of two of one name the last. Raises FormError."""
        if self._place is not _Place.NAME or self._value:
            self._end_field()
        if self._streamed is not None and not self._has_streamed:
            raise FormError(f"no field {self._streamed.decode()}")
        return self._fields

    def _take(self, part: bytes) -> bytes:
        """Take octets of one field."""
        if self._place is _Place.NAME:
            name, equals, part = part.partition(b"=")
            self._value += name
            if len(self._value) > MAX_NAME_OCTETS:
                raise FormError("a name is too long")
            if not equals:
                return b""
            self._begin_value()
        if self._place is _Place.STREAMED:
            whole = self._held + part
            cut = whole.rfind(b"%", max(len(whole) - 2, 0))
            whole, self._held = (whole, b"") if cut < 0 else (whole[:cut], whole[cut:])
            return _decode(whole)
        self._room -= len(part)
        if self._room < 0:
            raise FormError("the fields are too long")
        self._value += part
        return b""

    def _begin_value(self) -> None:
        self._name = bytes(self._value)
        self._value.clear()
        if not _NAME.fullmatch(self._name):
            raise FormError("a name holds what no name holds")
        if self._name != self._streamed:
            self._place = _Place.SMALL
        elif self._has_streamed:
            raise FormError(f"field {self._streamed.decode()} came twice")
        else:
            self._place = _Place.STREAMED
            self._has_streamed = True

    def _end_field(self) -> None:
        match self._place:
            case _Place.NAME:
                raise FormError("a field without a value")
            case _Place.STREAMED:
                if self._held:
                    raise FormError("an escape is not complete")
            case _Place.SMALL:
                self._fields[self._name.decode()] = _decode(bytes(self._value)).decode("utf-8", "replace")
                self._value.clear()
                if len(self._fields) > MAX_FIELDS:
                    raise FormError("too many fields")
            case _:
                assert_never(self._place)
        self._place = _Place.NAME


def _decode(data: bytes) -> bytes:
    if _HALF_ESCAPE.search(data):
        raise FormError("an escape is not complete")
    return unquote_to_bytes(data.replace(b"+", b" "))
