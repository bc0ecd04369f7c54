"""Reading the header of a mail as it passes by: its subject, and how often it was received before."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from typing import Final, final

from .text import clean, cut_utf8

MAX_HEADER_OCTETS: Final = 1 << 18  # ours: four times what signed and sealed mail needs
MAX_SUBJECT_OCTETS: Final = 8192  # ours: so that it always fits beside the recipients
_RECEIVED: Final = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)
_SUBJECT: Final = re.compile(rb"^subject[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.IGNORECASE | re.MULTILINE)
_FOLD: Final = re.compile(r"\r\n(?=[ \t])")


@final
@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What a header said.

    Args:
        subject: the first Subject, unfolded and decoded (RFC 2047), without controls; ``""`` when there is none.
        received: how many Received fields there are (RFC 5321 6.3).
    """

    subject: str
    received: int


@final
class HeaderReader:
    """Collects the header block of a mail from its pieces; what exceeds ``MAX_HEADER_OCTETS`` is not looked at."""

    __slots__ = ("_block", "_end")

    def __init__(self) -> None:
        self._block = bytearray(b"\r\n")  # so that a mail without a header begins with the empty line, too
        self._end: int | None = None

    def feed(self, data: bytes) -> None:
        """Take the next piece of the mail; pieces behind the header cost nothing."""
        if self._end is not None:
            return
        searched = max(len(self._block) - 3, 0)
        self._block += data[: MAX_HEADER_OCTETS - len(self._block)]
        end = self._block.find(b"\r\n\r\n", searched)
        if end >= 0 or len(self._block) >= MAX_HEADER_OCTETS:
            self._end = end if end >= 0 else len(self._block)
            del self._block[self._end :]

    def facts(self) -> HeaderFacts:
        """What the header said, as far as it came."""
        found = _SUBJECT.search(self._block)
        subject = decode_subject(found[1]) if found else ""
        return HeaderFacts(subject, len(_RECEIVED.findall(self._block)))


def decode_subject(raw: bytes) -> str:
    """Unfold and decode a Subject (RFC 5322 2.2.3, RFC 2047); what cannot be decoded stays as it is."""
    text = _FOLD.sub("", raw.decode("utf-8", "replace")).strip()
    try:
        parts = decode_header(text)
        decoded = "".join(
            part if isinstance(part, str) else part.decode(charset or "ascii", "replace") for part, charset in parts
        )
    except (HeaderParseError, LookupError, ValueError, binascii.Error):
        decoded = text
    return cut_utf8(clean(decoded, MAX_SUBJECT_OCTETS), MAX_SUBJECT_OCTETS)
