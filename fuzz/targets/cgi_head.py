"""The CGI response head under whatever a script may print.

Input: one octet of profile, four of cut sizes, then the octets of STDOUT.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from trio_fcgimail.fastcgi import (
    NEED_DATA,
    BodyChunk,
    LocalProtocolError,
    RemoteProtocolError,
    ResponseEnded,
    ResponseHead,
    ResponseHeadReader,
    encode_response_head,
)

Outcome = tuple[ResponseHead | None, bytes, bool, bool]  # head, body, ended, failed

_LIMITS: Final = (16_384, 64)
_LARGEST_PIECE: Final = 65_536


def cut(wire: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Cut octets into pieces of the sizes given, over and over; 0 counts as 256."""
    at = turn = 0
    while at < len(wire):
        size = sizes[turn % len(sizes)] or 256
        yield wire[at : at + size]
        at, turn = at + size, turn + 1


def run(limit: int, pieces: Iterable[bytes], *, eof: bool) -> Outcome:
    """Feed a reader piece by piece and return all that must not depend on the cutting."""
    reader = ResponseHeadReader(limit)
    head: ResponseHead | None = None
    body = bytearray()
    for piece in (*pieces, b"") if eof else pieces:
        reader.receive_data(piece)
        while True:
            try:
                event = reader.next_event()
            except RemoteProtocolError:
                _assert_dead(reader)
                assert head is None, "an error after the head"
                return None, b"", False, True
            match event:
                case ResponseHead():
                    assert head is None, "two heads"
                    head = event
                case BodyChunk(data=data):
                    assert head is not None
                    assert data, "an empty chunk"
                    body += data
                case ResponseEnded():
                    assert eof
                    return head, bytes(body), True, False
                case _:
                    assert event is NEED_DATA
                    break
        assert reader.buffered_octets <= (limit if head is None else 0), "more than a head is held back"
    return head, bytes(body), False, False


def _assert_dead(reader: ResponseHeadReader) -> None:
    try:
        reader.next_event()
    except LocalProtocolError:
        return
    raise AssertionError("a dead reader still answers")


def _assert_sound(head: ResponseHead, wire: bytes, body: bytes) -> None:
    assert 100 <= head.status <= 599
    assert wire.endswith(body)
    assert wire[: len(wire) - len(body)].endswith(b"\n")
    again = ResponseHeadReader(4 * len(wire) + 64)
    again.receive_data(encode_response_head(head.status, head.headers, head.reason))
    assert again.next_event() == head, "what was read cannot be written and read again"


def check(data: bytes) -> None:
    """One input; raises on a breach.

    Invariants:
        - Nothing but RemoteProtocolError is raised, never behind the head, and the reader is dead after it.
        - Head, body and error do not depend on how the octets were cut.
        - No more than the limit is held back within the head, nothing behind it.
        - The body is the rest of the input, octet for octet; the head survives being written and read again.
    """
    profile, sizes, wire = (data[:1] or b"\0")[0], data[1:5] or b"\1", data[5:]
    eof = bool(profile & 128)
    limit = _LIMITS[profile & 1]
    whole = run(limit, cut(wire, [_LARGEST_PIECE]), eof=eof)
    for some in (sizes, b"\1"):
        assert run(limit, cut(wire, some), eof=eof) == whole, "the way of cutting shows"
    if whole[0] is not None:
        _assert_sound(whole[0], wire, whole[1])
