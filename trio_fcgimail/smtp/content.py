"""The content of a message as it comes, by DATA or by BDAT: where it ends, and what its newlines are.

By DATA only CR LF ``.`` CR LF ends it, or ``.`` CR LF at its very start (RFC 5321 4.1.1.4, 4.5.2). Whatever looks like
it, LF ``.`` LF, CR ``.`` CR and their kin (SMTP smuggling, CVE-2023-51764 and its family), stays data: the search below
knows no other mark. By BDAT octets are counted (RFC 3030 2). No line is ever held in memory, so none can be too long.

Three readers take octets out of the buffer, one at a time: ``read`` until it returns nothing, then ask ``ended``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, assert_never, final

from trio_fcgimail.smtp.buffer import ReceiveBuffer
from trio_fcgimail.smtp.options import BareNewline
from trio_fcgimail.smtp.replies import Reply
from trio_fcgimail.smtp.state import Verb
from trio_fcgimail.smtp.symbol import Symbol

_END: Final = b"\r\n.\r\n"
_DOT: Final = b"\r\n."  # to be unstuffed, or that of the end
_PARTS_OF_END: Final = (
    b"\r\n.\r",
    b"\r\n.",
    b"\r\n",
    b"\r",
)  # longest first: what must wait for its next octet
_BARE_CR: Final = re.compile(rb"\r(?!\n)")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_BARE_NEWLINE: Final = re.compile(_BARE_CR.pattern + b"|" + _BARE_LF.pattern)


class Newlines(Enum):
    """What is judged about the newlines of a content."""

    TEXT = "CR and LF come as CRLF only"
    BINARY = "nothing: BODY=BINARYMIME (RFC 3030 3)"


class _Phase(Enum):
    """How far the data are."""

    START = "nothing came yet: a dot here stands at the start of a line"
    BODY = "under way"
    ENDED = "the end was seen"


_START: Final = _Phase.START
_BODY: Final = _Phase.BODY
_ENDED: Final = _Phase.ENDED


class Fault(Symbol):
    """Why a message that was read to its end will be refused."""

    NONE = "it will not"
    TOO_BIG = "it is over the limit"
    BARE_NEWLINE = "it holds a bare CR or LF"


_TEXT: Final = Newlines.TEXT
_NO_FAULT: Final[Fault] = Fault.NONE


class HopelessContentError(Exception):
    """Reading on would serve nobody: far over the limit, or a bare newline where the setting says close."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


def _has_bare_newline(content: bytes) -> bool:
    """Whether it is something else than its lines with CRLF behind each: the cheapest way to ask, by far."""
    return content.replace(b"\r", b"").replace(b"\n", b"\r\n") != content


@final
class ContentJudge:
    """Counts and checks the content of one message, piece by piece.

    Args:
        bare_newline: what a bare CR or LF leads to.
        newlines: whether they are judged at all.
        max_octets: of the content; above it the rest is thrown away, up to twice as much in all.
    """

    __slots__ = ("_bare_newline", "_max_octets", "_newlines", "fault", "octets")

    def __init__(self, bare_newline: BareNewline, newlines: Newlines, max_octets: int | None) -> None:
        self._bare_newline = bare_newline
        self._newlines = newlines
        self._max_octets = max_octets
        self.fault = _NO_FAULT
        self.octets = 0  # of content seen so far, thrown away or not

    def judge(self, content: bytes) -> bytes:
        """Take a piece that parts no CR from its LF; returns what may be passed on.

        Raises:
            HopelessContentError: reading on makes no sense.
        """
        is_judged = self._newlines is _TEXT and self.fault is not Fault.BARE_NEWLINE
        if is_judged and _has_bare_newline(content):
            match self._bare_newline:
                case BareNewline.NORMALIZE:
                    content = _BARE_LF.sub(b"\r\n", _BARE_CR.sub(b"", content))
                case BareNewline.CLOSE:
                    self._count(len(_BARE_NEWLINE.split(content, maxsplit=1)[0]))
                    raise HopelessContentError(Fault.BARE_NEWLINE)
                case BareNewline.REJECT:
                    self.fault = Fault.BARE_NEWLINE
                case _:
                    assert_never(self._bare_newline)
        self._count(len(content))
        return content if self.fault is _NO_FAULT else b""

    def _count(self, octets: int) -> None:
        """Too big outweighs a bare newline, whichever came first: the outcome must not hang on how octets were cut."""
        self.octets += octets
        if self._max_octets is not None and self.octets > self._max_octets:
            self.fault = Fault.TOO_BIG
            if self.octets > 2 * self._max_octets:
                raise HopelessContentError(Fault.TOO_BIG)


@final
class DataReader:
    """Takes the data behind DATA out of the buffer."""

    __slots__ = ("_phase", "judge")

    def __init__(self, judge: ContentJudge) -> None:
        self.judge = judge
        self._phase = _START

    @property
    def ended(self) -> bool:
        """Whether the end of the data was seen."""
        return self._phase is _ENDED

    def read(self, buffer: ReceiveBuffer) -> bytes:
        """Take what can be taken.

        Returns:
            Content, CRLF kept, dots unstuffed; empty when more is needed, when the end was reached or when the message
            will be refused anyway. No piece ever ends between a CR and its LF.

        Raises:
            HopelessContentError: reading on makes no sense.
        """
        if not len(buffer):
            return b""
        if self._phase is _START:
            self._begin(buffer)
        if self._phase is not _BODY:
            return b""
        # One octet is found many times faster than three, and base64 has no dot at all.
        any_dot = buffer.find(b".")
        dot = None if any_dot is None else buffer.find(_DOT, max(any_dot - 2, 0))  # for both: there may be the end only
        end = None if dot is None else buffer.find(_END, dot)
        if end is not None:
            raw = buffer.take(end + 2)
            buffer.drop(3)
            self._phase = _ENDED
        else:
            kept = next((len(part) for part in _PARTS_OF_END if buffer.endswith(part)), 0)
            raw = buffer.take(len(buffer) - kept)
        return self.judge.judge(raw if dot == end else raw.replace(_DOT, b"\r\n"))

    def _begin(self, buffer: ReceiveBuffer) -> None:
        """Before the first octet we stand at the start of a line without a CRLF to show for it."""
        if buffer.startswith(b".\r\n"):
            buffer.drop(3)
            self._phase = _ENDED
        elif not buffer.is_prefix_of(b".\r\n"):
            if buffer.startswith(b"."):
                buffer.drop(1)
            self._phase = _BODY


@final
@dataclass(frozen=True, slots=True)
class Chunk:
    """A BDAT command: how many octets follow, and whether they are the last of the message (RFC 3030 2)."""

    octets: int
    verb: Literal[Verb.BDAT, Verb.BDAT_LAST]


@final
class ChunkReader:
    """Takes the chunks of one message out of the buffer."""

    __slots__ = ("_held", "_left", "chunk", "judge")

    def __init__(self, judge: ContentJudge, first: Chunk) -> None:
        self.judge = judge
        self._held = b""  # a CR at the end of a chunk, whose LF may begin the next one
        self.begin(first)

    def begin(self, chunk: Chunk) -> None:
        """Another BDAT was read."""
        self.chunk = chunk
        self._left = chunk.octets

    @property
    def ended(self) -> bool:
        """Whether the whole chunk was taken."""
        return not self._left

    @property
    def octets(self) -> int:
        """Of content taken so far."""
        return self.judge.octets + len(self._held)

    def read(self, buffer: ReceiveBuffer) -> bytes:
        """Take what can be taken of the chunk under way.

        Returns:
            Content; empty when more is needed or when the message will be refused anyway. No piece ever ends between a
            CR and its LF, also where two chunks meet.

        Raises:
            HopelessContentError: reading on makes no sense.
        """
        taken = buffer.take(min(self._left, len(buffer)))
        self._left -= len(taken)
        raw = self._held + taken
        is_over = self.ended and self.chunk.verb is Verb.BDAT_LAST
        self._held = b"\r" if raw.endswith(b"\r") and not is_over else b""
        return self.judge.judge(raw[: len(raw) - len(self._held)])


class Refused(Enum):
    """What the refusal of a chunk is about."""

    COMMAND = "the command: it changes nothing"
    MESSAGE = "the message: it has come to nothing, with all its chunks"


@final
class ChunkSkipper:
    """Throws a chunk away that nobody wants, before its refusal is said: its octets are data and no commands.

    Args:
        reply: the refusal.
        most_octets: a chunk of more is not waited for.
    """

    __slots__ = ("_left", "_most_octets", "chunk", "refused", "reply")

    def __init__(self, chunk: Chunk, reply: Reply, refused: Refused, most_octets: int) -> None:
        self.chunk = chunk
        self.reply = reply
        self.refused = refused
        self._most_octets = most_octets
        self._left = chunk.octets

    @property
    def ended(self) -> bool:
        """Whether the whole chunk is gone."""
        return not self._left

    def read(self, buffer: ReceiveBuffer) -> bytes:
        """Throw away what can be; there is never anything to pass on.

        Raises:
            HopelessContentError: the chunk is too big to be waited for.
        """
        if self._left > self._most_octets:
            raise HopelessContentError(Fault.TOO_BIG)
        self._left -= buffer.drop(self._left)
        return b""
