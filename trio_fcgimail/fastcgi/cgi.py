"""The head of a CGI response (RFC 3875, 6), which is how STDOUT of a FastCGI responder begins.

Lines end in CRLF or LF, the first empty line ends the head, and the head may be nothing but that line: php-fpm writes
CRLF, scripts of other languages often LF.
"""

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Final, Literal, final

from trio_fcgimail.fastcgi.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from trio_fcgimail.fastcgi.records import DEFAULT_BUFFER_OCTETS
from trio_fcgimail.fastcgi.signals import NEED_DATA, Signal

DEFAULT_HEAD_OCTETS: Final = 16_384
"""Default limit of a head, in octets. Servers allow between 8 KiB (Apache httpd, one line) and 32 KiB."""

_OK: Final = 200  # RFC 3875, 6.3.3: the default
_FOUND: Final = 302  # RFC 3875, 6.2.3: Location without Status is a redirect
_FIRST_STATUS: Final = 100  # RFC 9110, 15: three digits, of which the first
_LAST_STATUS: Final = 599  # names one of five classes

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2: token
_STATUS: Final = re.compile(rb"([1-5][0-9]{2})(?:[ \t]+(.*))?")  # RFC 3875, 6.3.3; the phrase may be missing
_UNSENDABLE: Final = re.compile(rb"[\r\n\0]")  # RFC 9110, 5.5: invalid and dangerous


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """The head is complete.

    Args:
        status: 100 to 599: that of `Status`, or 302 for a `Location` alone, or 200.
        reason: the phrase behind the status, often empty.
        headers: names in lower case, in the order they came, without `Status`; values without surrounding blanks.
    """

    status: int
    reason: bytes
    headers: tuple[tuple[bytes, bytes], ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BodyChunk:
    """A part of the body, never empty."""

    data: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseEnded:
    """End of file after the head. Whether the response is complete only RequestEnded can tell."""


ResponseEvent = ResponseHead | BodyChunk | ResponseEnded


@final
class _Phase(Enum):
    HEAD = auto()
    BODY = auto()
    ERROR = auto()


_HEAD: Final = _Phase.HEAD
_BODY: Final = _Phase.BODY
_ERROR: Final = _Phase.ERROR


@final
class ResponseHeadReader:
    """Reads a CGI response as it arrives (RFC 3875, 6).

    Args:
        max_octets: longest head, its empty line included.
    """

    __slots__ = ("_body", "_ended", "_head", "_line_start", "_max_octets", "_pending", "_phase", "_search_from")

    def __init__(self, max_octets: int = DEFAULT_HEAD_OCTETS) -> None:
        self._max_octets = max_octets
        self._phase = _HEAD
        self._head = bytearray()
        self._line_start = 0
        self._search_from = 0
        self._body: deque[bytes] = deque()
        self._pending = 0
        self._ended = False

    @property
    def buffered_octets(self) -> int:
        """How many octets wait to be read."""
        return len(self._head) + self._pending

    def receive_data(self, data: bytes) -> None:
        """Take in a part of the output; `b""` is its end.

        Raises:
            LocalProtocolError: more than `max_octets` + 262144 unread octets, data after the end, or dead.
        """
        self._require_alive()
        if not data:
            self._ended = True
            return
        try:
            if self._ended:
                raise LocalProtocolError("data after the end of the response")
            if self.buffered_octets + len(data) > self._max_octets + DEFAULT_BUFFER_OCTETS:
                raise LocalProtocolError("too much unread data: call next_event() first")
        except LocalProtocolError:
            self._phase = _ERROR
            raise
        if self._phase is _HEAD:
            self._head += data
        else:
            self._body.append(data)
            self._pending += len(data)

    def next_event(self) -> ResponseEvent | Literal[Signal.NEED_DATA]:
        """Return what was read next; ResponseEnded for ever once the end is reached.

        Raises:
            RemoteProtocolError: the head is too long, cut by the end, or has a line that is not a header.
            LocalProtocolError: called after an error.
        """
        self._require_alive()
        try:
            if self._phase is _HEAD:
                return self._read_head()
        except ProtocolError:
            self._phase = _ERROR
            raise
        if self._body:
            data = self._body.popleft()
            self._pending -= len(data)
            return BodyChunk(data=data)
        return ResponseEnded() if self._ended else NEED_DATA

    def _require_alive(self) -> None:
        if self._phase is _ERROR:
            raise LocalProtocolError("the response died of an earlier error")

    def _read_head(self) -> ResponseHead | Literal[Signal.NEED_DATA]:
        end = self._find_end()
        if (len(self._head) if end is None else end) > self._max_octets:
            raise RemoteProtocolError(f"response head of more than {self._max_octets} octets")
        if end is None:
            if self._ended:
                raise RemoteProtocolError("response ends within its head")
            return NEED_DATA
        head = _parse(bytes(self._head[:end]))
        rest = bytes(self._head[end:])
        self._head.clear()
        if rest:
            self._body.append(rest)
            self._pending = len(rest)
        self._phase = _BODY
        return head

    def _find_end(self) -> int | None:
        """Return where the body begins. Resumes behind what an earlier call has searched."""
        while (newline := self._head.find(b"\n", self._search_from)) >= 0:
            line = bytes(self._head[self._line_start : newline])
            self._line_start = self._search_from = newline + 1
            if line in (b"", b"\r"):
                return newline + 1
        self._search_from = len(self._head)
        return None


def read_response(output: bytes, max_octets: int = DEFAULT_HEAD_OCTETS) -> tuple[ResponseHead, bytes]:
    """Part a CGI response that is there whole into its head and its body (RFC 3875, 6).

    Args:
        output: all of it, as `Answer` has it.
        max_octets: longest head, its empty line included.

    Raises:
        RemoteProtocolError: as `ResponseHeadReader` does.
    """
    end = _body_start(output, max_octets)
    if end is None:
        if len(output) > max_octets:
            raise RemoteProtocolError(f"response head of more than {max_octets} octets")
        raise RemoteProtocolError("response ends within its head")
    return _parse(output[:end]), output[end:]


def _body_start(output: bytes, max_octets: int) -> int | None:
    """Return the end of the first empty line, if it is within so many octets."""
    for empty in (b"\n", b"\r\n"):
        if output.startswith(empty):
            return len(empty) if len(empty) <= max_octets else None
    crlf = output.find(b"\n\r\n", 0, max_octets)
    lf = output.find(b"\n\n", 0, max_octets if crlf < 0 else crlf + 1)  # the LF that both begin with may be one
    if lf >= 0:
        return lf + 2
    return crlf + 3 if crlf >= 0 else None


@lru_cache(maxsize=32)  # the answers of a script mostly have one and the same
def _parse(head: bytes) -> ResponseHead:
    headers: list[tuple[bytes, bytes]] = []
    status: tuple[int, bytes] | None = None
    # The head ends in LF and an empty line, so the last two pieces are empty.
    for line in head.split(b"\n")[:-2]:
        name, value = _parse_line(line.removesuffix(b"\r"))
        if name != b"status":
            headers.append((name, value))
        elif status is None:
            status = _parse_status(value)
        else:
            raise RemoteProtocolError("response with two Status lines")
    if status is None:
        redirect = any(name == b"location" for name, _ in headers)
        status = (_FOUND if redirect else _OK, b"")
    return ResponseHead(status=status[0], reason=status[1], headers=tuple(headers))


def _parse_line(line: bytes) -> tuple[bytes, bytes]:
    """Split one line. RFC 3875, 6.3 has neither folded lines nor blanks before the colon."""
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name):
        raise RemoteProtocolError(f"not a header line: {line[:64]!r}")
    if _UNSENDABLE.search(value):
        raise RemoteProtocolError(f"header {name[:64]!r} contains CR or NUL")
    return name.lower(), value.strip(b" \t")


def _parse_status(value: bytes) -> tuple[int, bytes]:
    match = _STATUS.fullmatch(value)
    if match is None:
        raise RemoteProtocolError(f"not a status: {value[:64]!r}")
    return int(match[1]), match[2] or b""


def encode_response_head(status: int, headers: Iterable[tuple[bytes, bytes]], reason: bytes = b"") -> bytes:
    """Encode the head of a CGI response, its empty line included (RFC 3875, 6.2.1).

    Args:
        status: 100 to 599.
        headers: in order; `Status` may not be among them.
        reason: phrase behind the status, may be empty.

    Raises:
        LocalProtocolError: a status out of range, a name that is not a token, or CR, LF or NUL anywhere.
    """
    if not _FIRST_STATUS <= status <= _LAST_STATUS:
        raise LocalProtocolError(f"status {status} is outside {_FIRST_STATUS}..{_LAST_STATUS}")
    _check_sendable(reason)
    lines = [b"Status: %d %b" % (status, reason) if reason else b"Status: %d" % status]
    for name, value in headers:
        if not _NAME.fullmatch(name) or name.lower() == b"status":
            raise LocalProtocolError(f"header name {name[:64]!r} cannot be sent")
        _check_sendable(value)
        lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join((*lines, b"", b""))


def _check_sendable(value: bytes) -> None:
    if _UNSENDABLE.search(value):
        raise LocalProtocolError(f"CR, LF or NUL in {value[:64]!r}")
