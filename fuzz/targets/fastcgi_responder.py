"""The FastCGI responder under whatever a client may send, and answered in several ways.

Input: one octet of profile, four of cut sizes, then the octets from the client.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, assert_never, final

from trio_fcgimail.fastcgi import (
    DEFAULT_BUFFER_OCTETS,
    HEADER_OCTETS,
    MAX_RECORD_OCTETS,
    NULL_REQUEST_ID,
    ConnectionClosed,
    ConnectionState,
    DataChunk,
    DataEnded,
    LocalProtocolError,
    ProtocolStatus,
    Record,
    RecordIgnored,
    RecordReader,
    RecordType,
    RemoteProtocolError,
    RequestAborted,
    RequestBegun,
    RequestRefused,
    ResponderConnection,
    ResponderEvent,
    ResponderOptions,
    Role,
    Signal,
    StdinChunk,
    StdinEnded,
    UnknownType,
    ValuesRequested,
)

_LARGEST_PIECE: Final = DEFAULT_BUFFER_OCTETS - MAX_RECORD_OCTETS  # always taken at NEED_DATA
_OUTPUT: Final = (RecordType.STDOUT, RecordType.STDERR)
_SENT: Final = frozenset({*_OUTPUT, RecordType.END_REQUEST, RecordType.GET_VALUES_RESULT, RecordType.UNKNOWN_TYPE})


def cut(wire: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Cut octets into pieces of the sizes given, over and over; 0 counts as 256."""
    at = turn = 0
    while at < len(wire):
        size = sizes[turn % len(sizes)] or 256
        yield wire[at : at + size]
        at, turn = at + size, turn + 1


def options_from(profile: int) -> ResponderOptions:
    """Bit 0 multiplexes, bit 1 offers one role only, bit 2 keeps PARAMS short."""
    return ResponderOptions(
        multiplex=bool(profile & 1),
        max_requests=2,
        roles=frozenset({Role.RESPONDER}) if profile & 2 else frozenset(Role),
        max_params_octets=64 if profile & 4 else 65_536,
    )


@final
class Application:
    """An embedder. Bit 3 of the profile answers at once, 4 echoes the input, 5 writes STDERR, 6 never answers."""

    def __init__(self, profile: int) -> None:
        self.profile = profile
        self.conn = ResponderConnection(options_from(profile))
        self.events: list[ResponderEvent] = []
        self.written = bytearray()
        self.waiting: dict[int, Role | None] = {}
        self.over = False

    def feed(self, piece: bytes) -> None:
        """Hand on what came and do what the events ask for."""
        self.conn.receive_data(piece)
        while not self.over:
            try:
                event = self.conn.next_event()
            except RemoteProtocolError:
                self._assert_dead()
                return
            if event is Signal.NEED_DATA:
                assert self.conn.buffered_octets < MAX_RECORD_OCTETS, "a whole record is left unread"
                return
            if isinstance(event, Signal):
                assert self.waiting, "paused for nothing"
                self._end(next(iter(self.waiting)))
                continue
            self.events.append(event)
            self._take(event)

    def _assert_dead(self) -> None:
        self.over = True
        assert self.conn.state is ConnectionState.ERROR
        try:
            self.conn.next_event()
        except LocalProtocolError:
            return
        raise AssertionError("a dead connection still answers")

    def _take(self, event: ResponderEvent) -> None:
        match event:
            case RequestBegun(request_id=request_id):
                assert request_id not in self.waiting, "begun twice"
                self.waiting[request_id] = event.role
                if self.profile & 8 or event.role is Role.AUTHORIZER:
                    self._finish(request_id)
            case StdinChunk(request_id=request_id, data=data) | DataChunk(request_id=request_id, data=data):
                assert data, "an empty chunk"
                assert request_id in self.waiting, "input of a request that is not open"
                if self.profile & 16:
                    self.written += self.conn.send_stdout(request_id, data)
            case StdinEnded(request_id=request_id) | DataEnded(request_id=request_id):
                self._finish(request_id)
            case RequestAborted(request_id=request_id):
                self.waiting.setdefault(request_id, None)
                self._finish(request_id)
            case RequestRefused(protocol_status=status, to_send=to_send):
                assert status is not ProtocolStatus.REQUEST_COMPLETE
                self.written += to_send
            case ValuesRequested(to_send=to_send) | UnknownType(to_send=to_send):
                self.written += to_send
            case ConnectionClosed():
                self.over = True
            case RecordIgnored():
                pass
            case _:
                assert_never(event)

    def _finish(self, request_id: int) -> None:
        """End a request that is still open, or keep it waiting if the profile says so."""
        if request_id in self.waiting and not self.profile & 64:
            self._end(request_id)

    def _end(self, request_id: int) -> None:
        del self.waiting[request_id]
        if self.profile & 32:
            self.written += self.conn.send_stderr(request_id, b"warning")
        self.written += self.conn.send_stdout(request_id, b"\r\nSAVED")
        self.written += self.conn.end_request(request_id, 3)


def run(profile: int, pieces: Iterable[bytes], *, eof: bool) -> Application:
    """Feed an application piece by piece."""
    app = Application(profile)
    fed = 0
    for piece in (*pieces, b"") if eof else pieces:
        if app.over:
            break
        app.feed(piece)
        fed += len(piece)
        assert len(app.events) <= fed // HEADER_OCTETS + 1, "an event without a record"
    return app


def assert_valid_output(wire: bytes) -> None:
    """Whole records of the types that an application sends, and nothing of a request after its end."""
    reader = RecordReader(max(len(wire), MAX_RECORD_OCTETS))
    reader.receive_data(wire)
    reader.receive_data(b"")
    ended: set[tuple[int, int]] = set()
    while isinstance(record := reader.next_record(), Record):
        assert record.record_type in _SENT
        if record.record_type not in _OUTPUT:
            management = record.record_type != RecordType.END_REQUEST
            assert (record.request_id == NULL_REQUEST_ID) is management
            assert management or len(record.content) == 8
            # The id may come again: it is free.
            ended -= {(record.request_id, kind) for kind in _OUTPUT}
            continue
        stream = (record.request_id, record.record_type)
        assert stream not in ended, "output after the end of its stream"
        if not record.content:
            ended.add(stream)
    assert not ended, "a stream ended, and no END_REQUEST behind it"
    assert record is None


def check(data: bytes) -> None:
    """One input; raises on a breach.

    Invariants:
        - Nothing but RemoteProtocolError is raised, and the connection is dead after it.
        - Events, output and state do not depend on how the octets were cut.
        - At NEED_DATA less than one record is buffered, and there are no more events than records.
        - PAUSED only while a request waits for its answer; ending that one goes on.
        - The output is a sequence of valid records.
    """
    profile, sizes, wire = (data[:1] or b"\0")[0], data[1:5] or b"\1", data[5:]
    eof = bool(profile & 128)
    whole = run(profile, cut(wire, [_LARGEST_PIECE]), eof=eof)
    assert_valid_output(bytes(whole.written))
    for some in (sizes, b"\1"):
        split = run(profile, cut(wire, some), eof=eof)
        assert split.events == whole.events, "the way of cutting shows"
        assert split.written == whole.written, "the way of cutting shows in the output"
        assert split.conn.state is whole.conn.state
        assert split.conn.open_requests == whole.conn.open_requests
