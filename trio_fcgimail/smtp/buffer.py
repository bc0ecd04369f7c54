"""The receive buffer: bounded, and O(1) for each octet however the octets are cut."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, final

from trio_fcgimail.smtp.errors import LocalProtocolError

MAX_BUFFER_OCTETS: Final = 1 << 18  # ours: several reads of 64 KiB; the core never needs more than a line of it

# RFC 5321 4.5.3.1.4 asks for 512 at least, and extensions add to it (SIZE 26, 8BITMIME 17, SMTPUTF8 10, DSN 500 and
# 100). One limit above their sum is what Postfix takes as well (line_length_limit, 2048).
MAX_COMMAND_OCTETS: Final = 2048
_BEGINNING_OCTETS: Final = 64  # ours: of a line that is too long, enough to tell its first word


@final
class ReceiveBuffer:
    """Octets that were received and not yet used."""

    __slots__ = ("_data", "_searched")

    def __init__(self) -> None:
        self._data = bytearray()
        self._searched = 0  # no CRLF begins before this offset

    def __len__(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> None:
        """Add octets. Raises LocalProtocolError when the embedder reads on though nobody takes them."""
        if len(self._data) + len(data) > MAX_BUFFER_OCTETS:
            raise LocalProtocolError(f"more than {MAX_BUFFER_OCTETS} octets received and not used")
        self._data += data

    def find_line_end(self) -> int | None:
        """The offset of the first CRLF, or None. Octets searched once are not searched again."""
        found = self._data.find(b"\r\n", self._searched)
        if found < 0:
            self._searched = max(len(self._data) - 1, 0)
            return None
        self._searched = found
        return found

    def find(self, needle: bytes) -> int | None:
        """The offset of ``needle``, or None."""
        found = self._data.find(needle)
        return None if found < 0 else found

    def startswith(self, prefix: bytes) -> bool:
        """Whether the unused octets begin so."""
        return self._data.startswith(prefix)

    def peek(self, octets: int) -> bytes:
        """The first ``octets`` of the unused ones (fewer when there are fewer), which stay."""
        return bytes(self._data[:octets])

    def is_prefix_of(self, text: bytes) -> bool:
        """Whether more octets are needed to tell the unused ones from ``text``."""
        return text.startswith(bytes(self._data[: len(text) + 1]))

    def endswith(self, suffix: bytes) -> bool:
        """Whether the unused octets end so."""
        return self._data.endswith(suffix)

    def take(self, octets: int) -> bytes:
        """Remove and return the first ``octets`` (fewer when there are fewer)."""
        with memoryview(self._data) as view:
            taken = bytes(view[:octets])
        self.drop(octets)
        return taken

    def drop(self, octets: int) -> int:
        """Remove the first ``octets`` (fewer when there are fewer); returns how many were removed."""
        dropped = min(octets, len(self._data))
        del self._data[:dropped]
        self._searched = max(self._searched - dropped, 0)
        return dropped


class Length(Enum):
    """Whether a line was within the limit."""

    WHOLE = "within"
    TOO_LONG = "above: only its beginning is here"


@final
@dataclass(frozen=True, slots=True)
class Line:
    """A line without its CRLF."""

    octets: bytes
    length: Length = Length.WHOLE


@final
class LineReader:
    """Takes command lines out of the buffer. One that is too long is thrown away, but for its beginning."""

    __slots__ = ("_beginning",)

    def __init__(self) -> None:
        self._beginning: bytes | None = None  # of an over-long line whose end did not come yet

    @property
    def is_at_start(self) -> bool:
        """Whether the unused octets are the beginning of a line."""
        return self._beginning is None

    def read(self, buffer: ReceiveBuffer, max_octets: int = MAX_COMMAND_OCTETS) -> Line | None:
        """The next line, or None when more is needed; one of more octets, CRLF included, is too long."""
        end = buffer.find_line_end()
        if end is None:
            if self._beginning is None and len(buffer) > max_octets:
                self._beginning = buffer.take(_BEGINNING_OCTETS)
            if self._beginning is not None:
                buffer.drop(len(buffer) - 1)  # the last octet may be the CR of its end
            return None
        octets = buffer.take(end + 2)
        beginning, self._beginning = self._beginning, None
        if beginning is not None:
            return Line(beginning, Length.TOO_LONG)
        if len(octets) > max_octets:
            return Line(octets[:_BEGINNING_OCTETS], Length.TOO_LONG)
        return Line(octets[:-2])
