"""The receive buffer: bounded, and O(1) for each octet however the octets are cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from trio_fcgimail.smtp.errors import LocalProtocolError

MAX_BUFFER_OCTETS: Final = 1 << 18  # ours: several reads of 64 KiB; the core never needs more than a line of it

# RFC 5321 4.5.3.1.4 asks for 512 at least, and extensions add to it (SIZE 26, 8BITMIME 17, SMTPUTF8 10, DSN 500 and
# 100). One limit above their sum is what Postfix takes as well (line_length_limit, 2048).
MAX_COMMAND_OCTETS: Final = 2048
_CR: Final = 0x0D
_BEGINNING_OCTETS: Final = 64  # ours: of a line that is too long, enough to tell its first word


@final
class ReceiveBuffer:
    """Octets that were received and not yet used.

    What came in one piece and is used whole, as most commands are, is never copied into a buffer of our own: that is
    done only when something else comes before all of it was used.
    """

    __slots__ = ("_data", "_searched", "_start")

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self._start = 0  # of the unused octets
        self._searched = 0  # no CRLF begins between the start and this place

    def __len__(self) -> int:
        return len(self._data) - self._start

    def append(self, data: bytes) -> None:
        """Add octets. Raises LocalProtocolError when the embedder reads on though nobody takes them."""
        unused = len(self._data) - self._start
        if unused + len(data) > MAX_BUFFER_OCTETS:
            raise LocalProtocolError(f"more than {MAX_BUFFER_OCTETS} octets received and not used")
        if not unused:
            self._data = bytes(data)
            return
        if isinstance(self._data, bytes):
            self._data = bytearray(memoryview(self._data)[self._start :])
            self._forget_start()
        # Forget what was used only once it outweighs what was not: each octet is then moved at most once on average.
        elif self._start * 2 >= len(self._data):
            del self._data[: self._start]
            self._forget_start()
        self._data += data

    def _forget_start(self) -> None:
        self._searched = max(self._searched - self._start, 0)
        self._start = 0

    def find_line_end(self) -> int | None:
        """The offset of the first CRLF, or None. Octets searched once are not searched again."""
        begin = max(self._searched, self._start)
        # One octet is found many times faster than two, and there is hardly ever a bare LF before the first CRLF.
        line_feed = self._data.find(b"\n", begin + 1)
        if line_feed < 0 or self._data[line_feed - 1] == _CR:
            found = line_feed - 1
        else:
            found = self._data.find(b"\r\n", line_feed)
        if found < 0:
            self._searched = max(len(self._data) - 1, self._start)
            return None
        self._searched = found
        return found - self._start

    def find(self, needle: bytes, begin: int = 0) -> int | None:
        """The offset of ``needle``, from ``begin`` on, or None."""
        found = self._data.find(needle, self._start + begin)
        return None if found < 0 else found - self._start

    def startswith(self, prefix: bytes) -> bool:
        """Whether the unused octets begin so."""
        return self._data.startswith(prefix, self._start)

    def peek(self, octets: int) -> bytes:
        """The first ``octets`` of the unused ones (fewer when there are fewer), which stay."""
        return bytes(self._data[self._start : self._start + octets])

    def is_prefix_of(self, text: bytes) -> bool:
        """Whether more octets are needed to tell the unused ones from ``text``."""
        return text.startswith(self.peek(len(text) + 1))

    def endswith(self, suffix: bytes) -> bool:
        """Whether the unused octets end so."""
        return self._data.endswith(suffix, self._start)

    def take(self, octets: int) -> bytes:
        """Remove and return the first ``octets`` (fewer when there are fewer)."""
        data, begin, end = self._data, self._start, self._start + octets
        if end < len(data):
            self._start = end
        else:
            self._clear()
        if isinstance(data, bytes):
            return data[begin:end]
        with memoryview(data) as view:
            return bytes(view[begin:end])

    def drop(self, octets: int) -> int:
        """Remove the first ``octets`` (fewer when there are fewer); returns how many were removed."""
        unused = len(self._data) - self._start
        if octets < unused:
            self._start += octets
            return octets
        self._clear()
        return unused

    def _clear(self) -> None:
        """Nothing is left: keep no memory for it, as a connection may be idle for long."""
        self._data = b""
        self._start = self._searched = 0


@final
@dataclass(frozen=True, slots=True)
class TooLong:
    """A line above the limit, of which only the beginning was kept."""

    beginning: bytes


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

    def read(self, buffer: ReceiveBuffer, max_octets: int = MAX_COMMAND_OCTETS) -> bytes | TooLong | None:
        """The next line without its CRLF, or None when more is needed.

        Args:
            buffer: what to take it from.
            max_octets: of a line, CRLF included; one of more is too long.
        """
        end = buffer.find_line_end()
        if end is None:
            if self._beginning is None and len(buffer) > max_octets:
                self._beginning = buffer.take(_BEGINNING_OCTETS)
            if self._beginning is not None:
                buffer.drop(len(buffer) - 1)  # the last octet may be the CR of its end
            return None
        octets = buffer.take(end + 2)[:-2]
        if self._beginning is None:
            return octets if end + 2 <= max_octets else TooLong(octets[:_BEGINNING_OCTETS])
        beginning, self._beginning = self._beginning, None
        return TooLong(beginning)
