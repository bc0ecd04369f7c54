"""The fields of a header, for those who want more of it than its subject."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import Final, final

from trio_fcgimail.mail.headers import decode_subject

MAX_FIELDS: Final = 2000  # ours: several times what any mail of the wild has
_FIELD: Final = re.compile(rb"(?m)^(?P<name>[!-9;-~]+)[ \t]*:(?P<value>[^\r\n]*(?:\r\n[ \t][^\r\n]*)*)")
_HEADER_LINES: Final = re.compile(rb"(?:[!-9;-~]+:[^\r\n\0]*\r\n(?:[ \t][^\r\n\0]*\r\n)*)+")


@final
@dataclass(frozen=True, slots=True)
class HeaderField:
    """One field (RFC 5322 2.2).

    Args:
        name: as it was written.
        raw: all behind the colon, folds included.
    """

    name: str
    raw: bytes

    @property
    def text(self) -> str:
        """Unfolded, its encoded words decoded (RFC 2047), without controls, at most 8,192 octets of UTF-8."""
        return decode_subject(self.raw)


def parse_header(block: bytes) -> tuple[HeaderField, ...]:
    """The fields of a header, in order, at most ``MAX_FIELDS``; lines that are none are passed over.

    Args:
        block: its lines with CRLF, see :meth:`~trio_fcgimail.mail.headers.HeaderReader.block`.
    """
    return tuple(
        HeaderField(found["name"].decode(), found["value"]) for found in islice(_FIELD.finditer(block), MAX_FIELDS)
    )


def are_header_lines(octets: bytes) -> bool:
    """Whether these are whole fields, each line ended by CRLF, so that a header stays one when they stand before it."""
    return _HEADER_LINES.fullmatch(octets) is not None
