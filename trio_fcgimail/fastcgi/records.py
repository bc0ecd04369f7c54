"""Records: the framing of FastCGI 1.0, section 3.3. Knows no request and no state.

A record is a header of 8 octets, up to 65535 octets of content and up to 255 of padding. The reader hands out whole
records: the largest is small enough to hold, and a reader that waits for the padding cannot leave it behind for the
next request on the connection.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, final

from trio_fcgimail.fastcgi.errors import LocalProtocolError, RemoteProtocolError
from trio_fcgimail.fastcgi.signals import NEED_DATA, Signal

VERSION: Final = 1  # FastCGI 1.0, 8: FCGI_VERSION_1
NULL_REQUEST_ID: Final = 0  # FastCGI 1.0, 3.3: marks management records
MAX_REQUEST_ID: Final = 0xFFFF  # FastCGI 1.0, 3.3: requestIdB1, requestIdB0
HEADER_OCTETS: Final = 8  # FastCGI 1.0, 8: FCGI_HEADER_LEN
MAX_CONTENT_OCTETS: Final = 0xFFFF  # FastCGI 1.0, 3.3: contentLengthB1, contentLengthB0
MAX_PADDING_OCTETS: Final = 0xFF  # FastCGI 1.0, 3.3: paddingLength
MAX_RECORD_OCTETS: Final = HEADER_OCTETS + MAX_CONTENT_OCTETS + MAX_PADDING_OCTETS

MAX_RECORD_CONTENT: Final = 65528
"""What our writers put in one record, in octets: the largest multiple of 8 that fits, so that full records keep the
alignment which FastCGI 1.0, 3.3 recommends and need no padding. php-fpm is equally fast from 16 KiB upwards."""

DEFAULT_BUFFER_OCTETS: Final = 262_144
"""Default limit of unread input, in octets: what remains of an unfinished record (less than 64.3 KiB), and reads of
up to 128 KiB on top of it with room to spare."""

KEEP_CONN: Final = 1  # FastCGI 1.0, 5.1: bit 0 of the flags
BEGIN_BODY: Final = struct.Struct(">HB5x")  # FastCGI 1.0, 5.1: role, flags, reserved
END_BODY: Final = struct.Struct(">IB3x")  # FastCGI 1.0, 5.5: appStatus, protocolStatus, reserved
UNKNOWN_TYPE_BODY: Final = struct.Struct(">B7x")  # FastCGI 1.0, 4.2: type, reserved

_HEADER: Final = struct.Struct(">BBHHBx")


@final
class RecordType(IntEnum):
    """The record types of FastCGI 1.0, section 8."""

    BEGIN_REQUEST = 1
    ABORT_REQUEST = 2
    END_REQUEST = 3
    PARAMS = 4
    STDIN = 5
    STDOUT = 6
    STDERR = 7
    DATA = 8
    GET_VALUES = 9
    GET_VALUES_RESULT = 10
    UNKNOWN_TYPE = 11


@final
class Role(IntEnum):
    """What the application is asked to be (FastCGI 1.0, 5.1 and 6)."""

    RESPONDER = 1
    AUTHORIZER = 2
    FILTER = 3


@final
class ProtocolStatus(IntEnum):
    """How a request ended on the level of the protocol (FastCGI 1.0, 5.5)."""

    REQUEST_COMPLETE = 0
    CANT_MPX_CONN = 1
    OVERLOADED = 2
    UNKNOWN_ROLE = 3


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHeader:
    """The fixed part of a record (FastCGI 1.0, 3.3). Lengths are in octets."""

    record_type: int
    request_id: int
    content_length: int
    padding_length: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record without its padding. The type is a plain number: the peer may use one we do not know."""

    record_type: int
    request_id: int
    content: bytes


Frame = tuple[int, int, bytes]
"""A `Record` as the connections pass it on: its type, its request id, its content."""


def decode_header(data: bytes | bytearray | memoryview) -> RecordHeader:
    """Decode a record header (FastCGI 1.0, 3.3).

    Args:
        data: exactly 8 octets.

    Raises:
        LocalProtocolError: `data` is not 8 octets long.
        RemoteProtocolError: the version is not 1.
    """
    if len(data) != HEADER_OCTETS:
        raise LocalProtocolError(f"a record header has {HEADER_OCTETS} octets, not {len(data)}")
    version, record_type, request_id, content_length, padding_length = _HEADER.unpack(data)
    if version != VERSION:
        raise RemoteProtocolError(f"record of version {version}, expected {VERSION}")
    return RecordHeader(
        record_type=record_type,
        request_id=request_id,
        content_length=content_length,
        padding_length=padding_length,
    )


def encode_record(
    record_type: RecordType, request_id: int, content: bytes | bytearray | memoryview = b"", padding: int = 0
) -> bytes:
    """Encode one record (FastCGI 1.0, 3.3).

    Args:
        record_type: one of the eleven types.
        request_id: 0 for management records, else 1 to 65535.
        content: at most 65535 octets.
        padding: octets of padding, 0 to 255, sent as NUL.

    Raises:
        LocalProtocolError: an argument is out of its range.
    """
    if not NULL_REQUEST_ID <= request_id <= MAX_REQUEST_ID:
        raise LocalProtocolError(f"request id {request_id} is outside 0..{MAX_REQUEST_ID}")
    if len(content) > MAX_CONTENT_OCTETS:
        raise LocalProtocolError(f"{len(content)} octets do not fit one record of {MAX_CONTENT_OCTETS}")
    if not 0 <= padding <= MAX_PADDING_OCTETS:
        raise LocalProtocolError(f"padding of {padding} octets is outside 0..{MAX_PADDING_OCTETS}")
    header = _HEADER.pack(VERSION, record_type, request_id, len(content), padding)
    return b"".join((header, content, bytes(padding)))


def encode_stream(record_type: RecordType, request_id: int, data: bytes | bytearray | memoryview) -> bytes:
    """Encode stream data in as many records as it takes (FastCGI 1.0, 3.3, "stream record types").

    Nothing gives `b""`: an empty record would end the stream. Slices are not copied before the final join.
    """
    if isinstance(data, bytes):
        if 0 < len(data) <= MAX_RECORD_CONTENT:
            return _HEADER.pack(VERSION, record_type, request_id, len(data), 0) + data
        view = memoryview(data)
    else:
        view = memoryview(data).cast("B")
    full, rest = divmod(len(view), MAX_RECORD_CONTENT)
    parts: list[bytes | memoryview] = []
    if full:
        header = _HEADER.pack(VERSION, record_type, request_id, MAX_RECORD_CONTENT, 0)
        for start in range(0, full * MAX_RECORD_CONTENT, MAX_RECORD_CONTENT):
            parts += (header, view[start : start + MAX_RECORD_CONTENT])
    if rest:
        parts += (_HEADER.pack(VERSION, record_type, request_id, rest, 0), view[-rest:])
    return b"".join(parts)


@final
class RecordReader:
    """Cuts a byte stream, however it arrives, into records (FastCGI 1.0, 3.3).

    Args:
        max_buffer_octets: most unread octets to hold; at least one record of the largest size (65798).

    Raises:
        LocalProtocolError: the limit could not hold a record.
    """

    __slots__ = ("_buffer", "_ended", "_limit", "_start")

    def __init__(self, max_buffer_octets: int = DEFAULT_BUFFER_OCTETS) -> None:
        if max_buffer_octets < MAX_RECORD_OCTETS:
            raise LocalProtocolError(f"a limit below {MAX_RECORD_OCTETS} octets cannot hold every record")
        self._limit = max_buffer_octets
        # What came in one piece and was read whole needs no copy of its own: only a rest that waits for more does.
        self._buffer: bytes | bytearray = b""
        self._start = 0
        self._ended = False

    @property
    def buffered_octets(self) -> int:
        """How many octets wait unread."""
        return len(self._buffer) - self._start

    @property
    def ended(self) -> bool:
        """Whether end of file has been received, though perhaps not yet reached."""
        return self._ended

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take in what was read from the peer; `b""` is end of file.

        Raises:
            LocalProtocolError: more unread octets than the limit, or data after end of file.
        """
        if not data:
            self._ended = True
            return
        if self._ended:
            raise LocalProtocolError("data after end of file")
        unread = len(self._buffer) - self._start
        if unread + len(data) > self._limit:
            raise LocalProtocolError(f"more than {self._limit} octets unread: call next_event() before reading on")
        if not unread:
            self._buffer = bytes(data)
            return
        if isinstance(self._buffer, bytes):
            self._buffer = bytearray(memoryview(self._buffer)[self._start :])
            self._start = 0
        # Forget what was read only once it outweighs what was not: each octet is then moved at most once on average.
        elif self._start * 2 >= len(self._buffer):
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next_frame(self) -> Frame | Literal[Signal.NEED_DATA] | None:
        """Return the next whole record as a plain tuple, NEED_DATA, or None at an end of file between two records.

        Raises:
            RemoteProtocolError: version other than 1, or end of file within a record.
        """
        buffer, start = self._buffer, self._start
        body = start + HEADER_OCTETS
        if body > len(buffer):
            if self._ended and start == len(buffer):
                return None
            return self._wait()
        version, record_type, request_id, content_length, padding_length = _HEADER.unpack_from(buffer, start)
        if version != VERSION:
            raise RemoteProtocolError(f"record of version {version}, expected {VERSION}")
        content_end = body + content_length
        record_end = content_end + padding_length
        if record_end > len(buffer):
            return self._wait()
        if record_end == len(buffer):  # keep no memory for it, as a connection may be idle for long
            self._buffer, self._start = b"", 0
        else:
            self._start = record_end
        content = buffer[body:content_end] if isinstance(buffer, bytes) else bytes(memoryview(buffer)[body:content_end])
        return record_type, request_id, content

    def next_record(self) -> Record | Literal[Signal.NEED_DATA] | None:
        """Return the next whole record, as `next_frame()` does.

        Raises:
            RemoteProtocolError: version other than 1, or end of file within a record.
        """
        frame = self.next_frame()
        if frame is NEED_DATA or frame is None:
            return frame
        record_type, request_id, content = frame
        return Record(record_type=record_type, request_id=request_id, content=content)

    def mark(self) -> tuple[bytes | bytearray, int]:
        """Return a mark to which `go_back()` leads, until more is received."""
        return self._buffer, self._start

    def go_back(self, mark: tuple[bytes | bytearray, int]) -> None:
        """Let what was taken since `mark()` be unread again."""
        self._buffer, self._start = mark

    def _wait(self) -> Literal[Signal.NEED_DATA]:
        if self._ended:
            raise RemoteProtocolError("end of file within a record")
        return NEED_DATA
