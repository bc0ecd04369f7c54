"""The FastCGI client under whatever an application may send.

Input: one octet of profile, four of cut sizes, then the octets from the application.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, assert_never

from trio_fcgimail.fastcgi import (
    DEFAULT_BUFFER_OCTETS,
    HEADER_OCTETS,
    MAX_RECORD_OCTETS,
    NEED_DATA,
    ClientConnection,
    ClientEvent,
    ConnectionClosed,
    ConnectionState,
    LocalProtocolError,
    RecordIgnored,
    RemoteProtocolError,
    RequestEnded,
    Role,
    StderrChunk,
    StdoutChunk,
    StreamEnded,
    UnknownTypeReported,
    ValuesReceived,
)

Outcome = tuple[tuple[ClientEvent, ...], ConnectionState, tuple[int, ...]]

_REQUEST_IDS: Final = (1, 2, 0x4141)  # the last is "AA", easy to hit in text
_LARGEST_PIECE: Final = DEFAULT_BUFFER_OCTETS - MAX_RECORD_OCTETS  # always taken at NEED_DATA


def cut(wire: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Cut octets into pieces of the sizes given, over and over; 0 counts as 256."""
    at = turn = 0
    while at < len(wire):
        size = sizes[turn % len(sizes)] or 256
        yield wire[at : at + size]
        at, turn = at + size, turn + 1


def prepare(profile: int) -> ClientConnection:
    """Begin requests: bits 0 to 1 how many, 2 to 3 the role, 4 ends STDIN, 5 aborts one, 6 asks for values."""
    conn = ClientConnection()
    role = tuple(Role)[(profile >> 2) % len(Role)]
    for request_id in _REQUEST_IDS[: profile & 3]:
        conn.begin_request(request_id, params=[(b"A", b"b")], role=role, keep_connection=True)
        if profile & 16 and role is Role.RESPONDER:
            conn.end_stdin(request_id)
    if profile & 32 and profile & 3:
        conn.abort_request(_REQUEST_IDS[0])
    if profile & 64:
        conn.get_values([b"FCGI_MAX_CONNS"])
    return conn


def run(profile: int, pieces: Iterable[bytes], *, eof: bool) -> Outcome:
    """Feed a client piece by piece and return all that must not depend on the cutting."""
    conn = prepare(profile)
    events: list[ClientEvent] = []
    alive: set[int] = set(conn.open_requests)
    fed = 0
    for piece in (*pieces, b"") if eof else pieces:
        conn.receive_data(piece)
        fed += len(piece)
        if not _pump(conn, events, alive):
            break
        assert len(events) <= fed // HEADER_OCTETS + 1, "an event without a record"
        assert conn.buffered_octets < MAX_RECORD_OCTETS, "a whole record is left unread"
    return tuple(events), conn.state, conn.open_requests


def _pump(conn: ClientConnection, events: list[ClientEvent], alive: set[int]) -> bool:
    """Collect events until there is none. False when the connection is closed or dead."""
    while True:
        try:
            event = conn.next_event()
        except RemoteProtocolError:
            _assert_dead(conn)
            return False
        if event is NEED_DATA:
            return True
        _judge(event, alive)
        events.append(event)
        if isinstance(event, ConnectionClosed):
            assert conn.next_event() == event
            return False


def _judge(event: ClientEvent, alive: set[int]) -> None:
    match event:
        case StdoutChunk(request_id=request_id) | StderrChunk(request_id=request_id):
            assert event.data, "an empty chunk"
            assert request_id in alive, "output of a request that is over, or never was"
        case StreamEnded(request_id=request_id):
            assert request_id in alive
        case RequestEnded(request_id=request_id):
            alive.remove(request_id)
        case ConnectionClosed(unfinished=unfinished):
            assert set(unfinished) == alive
        case RecordIgnored() | UnknownTypeReported() | ValuesReceived():
            pass
        case _:
            assert_never(event)


def _assert_dead(conn: ClientConnection) -> None:
    assert conn.state is ConnectionState.ERROR
    assert not conn.is_reusable
    try:
        conn.next_event()
    except LocalProtocolError:
        return
    raise AssertionError("a dead connection still answers")


def check(data: bytes) -> None:
    """One input; raises on a breach.

    Invariants:
        - Nothing but RemoteProtocolError is raised, and the connection is dead after it.
        - Events, state and open ids do not depend on how the octets were cut.
        - At NEED_DATA less than one record is buffered, and there are no more events than records.
        - No output and no end of a request that is not open; each open one ends once, or is reported unfinished.
    """
    profile, sizes, wire = (data[:1] or b"\0")[0], data[1:5] or b"\1", data[5:]
    eof = bool(profile & 128)
    whole = run(profile, cut(wire, [_LARGEST_PIECE]), eof=eof)
    for some in (sizes, b"\1"):
        assert run(profile, cut(wire, some), eof=eof) == whole, "the way of cutting shows"
