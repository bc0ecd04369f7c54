"""The data of a message as it comes: where it ends, which dots are no part of it, what its newlines are.

Only CR LF ``.`` CR LF ends the data, or ``.`` CR LF at its very start (RFC 5321 4.1.1.4, 4.5.2). Whatever looks like
it, LF ``.`` LF, CR ``.`` CR and their kin (SMTP smuggling, CVE-2023-51764 and its family), stays data: the search below
knows no other mark. No line is ever held in memory, so no line can be too long.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, assert_never, final

from .buffer import ReceiveBuffer
from .options import BareNewline

_END: Final = b"\r\n.\r\n"
_PARTS_OF_END: Final = (
    b"\r\n.\r",
    b"\r\n.",
    b"\r\n",
    b"\r",
)  # longest first: what must wait for its next octet
_BARE_CR: Final = re.compile(rb"\r(?!\n)")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_BARE_NEWLINE: Final = re.compile(_BARE_CR.pattern + b"|" + _BARE_LF.pattern)


class Phase(Enum):
    """How far the data are."""

    START = "nothing came yet: a dot here stands at the start of a line"
    BODY = "under way"
    ENDED = "the end was seen"


class Fault(Enum):
    """Why a message that was read to its end will be refused."""

    NONE = "it will not"
    TOO_BIG = "it is over the limit"
    BARE_NEWLINE = "it holds a bare CR or LF"


class HopelessContentError(Exception):
    """Reading on would serve nobody: far over the limit, or a bare newline where the setting says close."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@final
class ContentReader:
    """Takes the data of one message out of the buffer.

    Args:
        bare_newline: what a bare CR or LF leads to.
        max_octets: of the content, unstuffed; above it the rest is read and thrown away, up to twice as much in all.
    """

    __slots__ = ("_bare_newline", "_max_octets", "fault", "octets", "phase")

    def __init__(self, bare_newline: BareNewline, max_octets: int | None) -> None:
        self._bare_newline = bare_newline
        self._max_octets = max_octets
        self.phase = Phase.START
        self.fault = Fault.NONE
        self.octets = 0  # of content seen so far, thrown away or not

    def read(self, buffer: ReceiveBuffer) -> bytes:
        """Take what can be taken.

        Returns:
            Content, CRLF kept, dots unstuffed; empty when more is needed, when the end was reached or when the message
            will be refused anyway. No piece ever ends between a CR and its LF.

        Raises:
            HopelessContentError: reading on makes no sense.
        """
        if self.phase is Phase.START:
            self._begin(buffer)
        if self.phase is not Phase.BODY:
            return b""
        end = buffer.find(_END)
        if end is not None:
            raw = buffer.take(end + 2)
            buffer.drop(3)
            self.phase = Phase.ENDED
        else:
            kept = next((len(part) for part in _PARTS_OF_END if buffer.endswith(part)), 0)
            raw = buffer.take(len(buffer) - kept)
        return self._judge(raw.replace(b"\r\n.", b"\r\n"))

    def _begin(self, buffer: ReceiveBuffer) -> None:
        """Before the first octet we stand at the start of a line without a CRLF to show for it."""
        if buffer.startswith(b".\r\n"):
            buffer.drop(3)
            self.phase = Phase.ENDED
        elif not buffer.is_prefix_of(b".\r\n"):
            if buffer.startswith(b"."):
                buffer.drop(1)
            self.phase = Phase.BODY

    def _judge(self, content: bytes) -> bytes:
        """Count and check a piece that holds whole CRLFs only."""
        lines = content.count(b"\r\n")
        if content.count(b"\r") != lines or content.count(b"\n") != lines:
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
        return content if self.fault is Fault.NONE else b""

    def _count(self, octets: int) -> None:
        """Too big outweighs a bare newline, whichever came first: the outcome must not hang on how octets were cut."""
        self.octets += octets
        if self._max_octets is not None and self.octets > self._max_octets:
            self.fault = Fault.TOO_BIG
            if self.octets > 2 * self._max_octets:
                raise HopelessContentError(Fault.TOO_BIG)
