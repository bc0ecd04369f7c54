"""Reading the header of a mail as it passes by: its subject, and how often it was received before."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from encodings import normalize_encoding
from encodings.aliases import aliases
from itertools import groupby
from operator import itemgetter
from typing import Final, final

from trio_fcgimail.mail.text import clean, cut_utf8

MAX_HEADER_OCTETS: Final = 1 << 18  # ours: four times what signed and sealed mail needs
MAX_SUBJECT_OCTETS: Final = 8192  # ours: so that it always fits beside the recipients
_RECEIVED: Final = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)
_SUBJECT: Final = re.compile(rb"^subject[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.IGNORECASE | re.MULTILINE)
_FOLD: Final = re.compile(r"\r\n(?=[ \t])")

# RFC 2047 2, with the language of RFC 2231 5; blanks in the text are against the rules and common.
_ENCODED_WORD: Final = re.compile(
    r"=\?(?P<charset>[^?*\s]+)(?:\*[^?]*)?\?(?P<encoding>[bq])\?(?P<text>[^?]*)\?=", re.IGNORECASE | re.ASCII
)
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/ ]*={0,2} *")
_PLAIN: Final = "utf_8"
# Python remembers for good each name that it was ever asked for in vain, so it is not asked for those of strangers.
_CHARSETS: Final = frozenset({*aliases, *aliases.values(), "cp874", "koi8_u"})


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

    __slots__ = ("_block", "_end", "_facts")

    def __init__(self) -> None:
        self._block = bytearray(b"\r\n")  # so that a mail without a header begins with the empty line, too
        self._end: int | None = None
        self._facts: HeaderFacts | None = None  # once they were asked for

    def feed(self, data: bytes) -> None:
        """Take the next piece of the mail; pieces behind the header cost nothing."""
        if self._end is not None:
            return
        self._facts = None
        searched = max(len(self._block) - 3, 0)
        self._block += data[: MAX_HEADER_OCTETS - len(self._block)]
        end = self._block.find(b"\r\n\r\n", searched)
        if end >= 0 or len(self._block) >= MAX_HEADER_OCTETS:
            self._end = end if end >= 0 else len(self._block)
            del self._block[self._end :]

    def facts(self) -> HeaderFacts:
        """What the header said, as far as it came."""
        if self._facts is None:
            found = _SUBJECT.search(self._block)
            subject = decode_subject(found[1]) if found else ""
            self._facts = HeaderFacts(subject, len(_RECEIVED.findall(self._block)))
        return self._facts


def decode_subject(raw: bytes) -> str:
    """Unfold and decode a Subject (RFC 5322 2.2.3, RFC 2047); what cannot be decoded stays as it is."""
    decoded = _decode_words(_FOLD.sub("", raw.decode("utf-8", "replace")).strip())
    return cut_utf8(clean(decoded, MAX_SUBJECT_OCTETS), MAX_SUBJECT_OCTETS)


def _decode_words(text: str) -> str:
    """Decode the encoded words of a text, in linear time.

    Blanks between two of them are no part of it (RFC 2047 6.2). Neighbours of one charset are put together before they
    are decoded, as many senders part a character in two.
    """
    segments: list[tuple[str, bytes]] = []
    end = 0  # of the last word
    for found in _ENCODED_WORD.finditer(text):
        if (octets := _read_word(found)) is None:
            continue
        between = text[end : found.start()]
        if between.strip() or not segments:
            segments.append((_PLAIN, between.encode()))
        segments.append((_charset(found), octets))
        end = found.end()
    segments.append((_PLAIN, text[end:].encode()))
    runs = groupby(segments, key=itemgetter(0))
    return "".join(b"".join(octets for _, octets in run).decode(charset, "replace") for charset, run in runs)


def _charset(word: re.Match[str]) -> str:
    return normalize_encoding(word["charset"]).lower()


def _read_word(word: re.Match[str]) -> bytes | None:
    """The octets of an encoded word; None when they are not to be had, or mean nothing in its charset."""
    charset, text = _charset(word), word["text"].encode()
    if charset not in _CHARSETS:
        return None
    try:
        if word["encoding"] in "qQ":
            octets = binascii.a2b_qp(text, header=True)
        elif _BASE64.fullmatch(text):
            octets = binascii.a2b_base64(text + b"==")  # padding that was left out
        else:
            return None
        octets.decode(charset, "replace")
    except (LookupError, ValueError):  # no charset but a codec of another kind, such as "hex"; half a group of base64
        return None
    return octets
