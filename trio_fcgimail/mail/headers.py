"""Reading the header of a mail as it passes by: its subject, and how often it was received before."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Final, final

from trio_fcgimail.mail.text import clean, cut_utf8

MAX_HEADER_OCTETS: Final = 1 << 18  # ours: four times what signed and sealed mail needs
MAX_SUBJECT_OCTETS: Final = 8192  # ours: so that it always fits beside the recipients
_MAX_RAW_SUBJECT_OCTETS: Final = 2 * MAX_SUBJECT_OCTETS  # ours: decoding it takes some milliseconds at the worst
_RECEIVED: Final = re.compile(rb"\n(?i:received)[ \t]*:")  # begins with a plain octet, which is fast to look for
_RECEIVED_NAME: Final = b"\nreceived"
_SUBJECT: Final = re.compile(rb"\n(?i:subject)[ \t]*:")
_FOLDED: Final = re.compile(rb"[^\r\n]*(?:\r\n[ \t][^\r\n]*)*")
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
    """Learns from the header of a mail as its pieces pass by.

    Received fields are counted to the end of the header. The Subject is looked for in its first ``MAX_HEADER_OCTETS``,
    which are kept.
    """

    __slots__ = ("_begun", "_block", "_facts", "_is_over", "_last", "_received")

    def __init__(self) -> None:
        self._block = bytearray(b"\n")
        self._last = b"\r\n"  # octets; so that a mail without a header begins with the empty line, too
        self._begun = b"\n"  # of a line that may yet become a Received; empty within any other
        self._received = 0
        self._is_over = False
        self._facts: HeaderFacts | None = None  # once they were asked for

    def feed(self, data: bytes) -> None:
        """Take the next piece of the mail; pieces behind the header cost nothing."""
        if self._is_over:
            return
        self._facts = None
        joined = self._last + data
        end = joined.find(b"\r\n\r\n")
        if end >= 0:
            self._is_over = True
            data = data[: max(end + 2 - len(self._last), 0)]
        self._last = joined[-3:]
        self._count_received(data)
        self._block += data[: MAX_HEADER_OCTETS - len(self._block)]

    def _count_received(self, data: bytes) -> None:
        seen = self._begun + data
        self._received += len(_RECEIVED.findall(seen))
        last = seen.rfind(b"\n")
        line = seen[last:].lower() if last >= 0 else b""
        is_open = _RECEIVED_NAME.startswith(line) or line.rstrip(b" \t") == _RECEIVED_NAME
        self._begun = line[: len(_RECEIVED_NAME) + 1] if is_open else b""  # one blank is as good as many

    def facts(self) -> HeaderFacts:
        """What the header said, as far as it came."""
        if self._facts is None:
            self._facts = HeaderFacts(decode_subject(self._raw_subject()), self._received)
        return self._facts

    def block(self) -> bytes:
        """The whole lines of the header as far as it is kept, with their CRLFs, without the empty one behind them."""
        return bytes(self._block[1 : self._block.rfind(b"\r\n") + 2])

    def _raw_subject(self) -> bytes:
        """The first Subject; of a very long one so much, a parted fold or not, that it is seen to be too long."""
        name = _SUBJECT.search(self._block)
        found = name and _FOLDED.match(self._block, name.end(), name.end() + _MAX_RAW_SUBJECT_OCTETS + 3)
        return found[0] if found else b""


def decode_subject(raw: bytes) -> str:
    """Unfold and decode a Subject (RFC 5322 2.2.3, RFC 2047); what cannot be decoded stays as it is.

    Of a very long one only the beginning is looked at.
    """
    decoded = _decode_words(_FOLD.sub("", _cut(raw).decode("utf-8", "replace")).strip())
    return cut_utf8(clean(decoded, MAX_SUBJECT_OCTETS), MAX_SUBJECT_OCTETS)


def _cut(raw: bytes) -> bytes:
    """At most so much of it as may take time, up to a blank if there is one: no encoded word holds any."""
    if len(raw) <= _MAX_RAW_SUBJECT_OCTETS:
        return raw
    blank = max(raw.rfind(octet, MAX_SUBJECT_OCTETS, _MAX_RAW_SUBJECT_OCTETS) for octet in (b" ", b"\t"))
    return raw[: blank if blank >= 0 else _MAX_RAW_SUBJECT_OCTETS] + b" ..."


def _decode_words(text: str) -> str:
    """Decode the encoded words of a text, in linear time.

    Blanks between two of them are no part of it (RFC 2047 6.2). Neighbours of one charset are put together before they
    are decoded, as many senders part a character in two.
    """
    if "=?" not in text:
        return text
    segments: list[tuple[str, bytes]] = []
    end = 0  # of the last word
    for found in _ENCODED_WORD.finditer(text):
        if (octets := _read_word(found)) is None:
            continue
        between = text[end : found.start()]
        if between.strip() or not segments:
            segments.append((_PLAIN, between.encode()))
        segments.append((_charset(found["charset"]), octets))
        end = found.end()
    segments.append((_PLAIN, text[end:].encode()))
    runs = groupby(segments, key=itemgetter(0))
    return "".join(b"".join(octets for _, octets in run).decode(charset, "replace") for charset, run in runs)


@lru_cache(maxsize=256)
def _charset(name: str) -> str:
    return normalize_encoding(name).lower()


def _read_word(word: re.Match[str]) -> bytes | None:
    """The octets of an encoded word; None when they are not to be had, or mean nothing in its charset."""
    charset, text = _charset(word["charset"]), word["text"].encode()
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
