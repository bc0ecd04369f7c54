"""Our FastCGI client and our responder, talking to each other: what one writes the other reads as the same.

Input: one octet of profile, two of cut sizes for each direction, then for each request: how many params and, octet by
octet, the lengths of all that follows (`_read_exchanges()`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, zip_longest
from typing import Final, assert_never, final

from trio_fcgimail.fastcgi import (
    DEFAULT_BUFFER_OCTETS,
    MAX_CONTENT_OCTETS,
    MAX_RECORD_OCTETS,
    NEED_DATA,
    PAUSED,
    ClientConnection,
    ConnectionClosed,
    ConstantParams,
    DataChunk,
    DataEnded,
    LocalProtocolError,
    NameValue,
    ProtocolStatus,
    RecordIgnored,
    RequestAborted,
    RequestBegun,
    RequestEnded,
    RequestRefused,
    ResponderConnection,
    ResponderOptions,
    StderrChunk,
    StdinChunk,
    StdinEnded,
    StdoutChunk,
    StreamEnded,
    UnknownType,
    UnknownTypeReported,
    ValuesReceived,
    ValuesRequested,
)

_MOST_REQUESTS: Final = 3
_LARGEST_PIECE: Final = DEFAULT_BUFFER_OCTETS - MAX_RECORD_OCTETS  # always taken at NEED_DATA
_MAGNIFIED: Final = 257  # times: what is in one input then takes several records
_HEADER_OCTETS: Final = 5


@final
@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, and what the application says to it."""

    params: tuple[NameValue, ...]
    body: bytes
    stdout: bytes
    stderr: bytes
    app_status: int


@final
@dataclass(slots=True)
class Heard:
    """What came over at one end, or at both."""

    params: tuple[NameValue, ...] = ()
    keeps: bool | None = None
    body: bytearray = field(default_factory=bytearray)
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    end: tuple[int, ProtocolStatus] | None = None


@final
class _Octets:
    """Takes an input apart, piece by piece; behind its end all is empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        return bool(self._data)

    def number(self) -> int:
        return int.from_bytes(self.take(1))

    def take(self, octets: int) -> bytes:
        taken, self._data = self._data[:octets], self._data[octets:]
        return taken

    def text(self) -> bytes:
        """As many octets as the first one says."""
        return self.take(self.number())


def _read_exchanges(octets: _Octets, profile: int) -> Iterator[Exchange]:
    """One at least. Bit 5 of the profile magnifies bodies and output, bit 6 values."""
    times = _MAGNIFIED if profile & 32 else 1
    value_times = _MAGNIFIED if profile & 64 else 1
    for turn in range(_MOST_REQUESTS):
        if turn and not octets:
            return
        params = tuple((octets.text(), octets.text() * value_times) for _ in range(octets.number() % 8))
        body, stdout, stderr = (octets.text() * times for _ in range(3))
        yield Exchange(params, body, stdout, stderr, int.from_bytes(octets.take(4)))


def is_legal(exchange: Exchange) -> bool:
    """Whether a client may send it, by the rules that ``begin_request()`` gives."""
    names = [name for name, _ in exchange.params]
    length = dict(exchange.params).get(b"CONTENT_LENGTH", b"")
    return (
        len(set(names)) == len(names)
        and all(name and b"\0" not in name + value for name, value in exchange.params)
        and all(_encoded_octets(*pair) <= MAX_CONTENT_OCTETS for pair in exchange.params)
        and (not length or (length.isdigit() and int(length) == len(exchange.body)))
    )


def _encoded_octets(name: bytes, value: bytes) -> int:
    return sum(len(text) + (1 if len(text) < 128 else 4) for text in (name, value))


def cut(wire: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Cut octets into pieces of the sizes given, over and over; 0 counts as the largest."""
    at = 0
    for size in cycle(sizes):
        if at >= len(wire):
            return
        end = at + (size or _LARGEST_PIECE)
        yield wire[at:end]
        at = end


def written(client: ClientConnection, request_id: int, it: Exchange, profile: int) -> list[bytes]:
    """What the client writes, in the pieces in which it may alternate with others. Bits 0 to 2 say in which way."""
    keeps, at_once, constant = bool(profile & 1), bool(profile & 2), bool(profile & 4)
    params = it.params[1:] if constant else it.params
    shared = ConstantParams(it.params[:1] if constant else ())
    if at_once:
        return [client.request(request_id, params=params, constant=shared, body=it.body, keep_connection=keeps)]
    return [
        client.begin_request(request_id, params=params, constant=shared, keep_connection=keeps),
        *(client.send_stdin(request_id, piece) for piece in cut(it.body, [1000, 70_000])),
        client.end_stdin(request_id),
    ]


@final
class Application:
    """A responder that answers as the exchanges say, as soon as a request is there, or only when its body is."""

    def __init__(self, exchanges: dict[int, Exchange], profile: int) -> None:
        self.connection = ResponderConnection(ResponderOptions(multiplex=bool(profile & 8)))
        self.heard: dict[int, Heard] = {}
        self.output: list[bytes] = []
        self._exchanges = exchanges

    def feed(self, piece: bytes) -> None:
        """Take octets, and write what is due."""
        self.connection.receive_data(piece)
        while (event := self.connection.next_event()) is not NEED_DATA:
            assert event is not PAUSED, "every request was answered"
            match event:
                case RequestBegun(request_id=request_id, params=params, keep_connection=keeps):
                    assert request_id not in self.heard
                    self.heard[request_id] = Heard(params, keeps)
                case StdinChunk(request_id=request_id, data=data):
                    self.heard[request_id].body += data
                case StdinEnded(request_id=request_id):
                    self._answer(request_id, self._exchanges[request_id])
                case ConnectionClosed(unfinished=unfinished):
                    assert not unfinished
                    return
                case DataChunk() | DataEnded() | RequestAborted() | RequestRefused() | ValuesRequested():
                    raise AssertionError(f"nobody asked for {event}")
                case UnknownType() | RecordIgnored():
                    raise AssertionError(f"our client wrote what our responder does not know: {event}")
                case _:
                    assert_never(event)

    def _answer(self, request_id: int, it: Exchange) -> None:
        connection = self.connection
        for out, err in zip_longest(cut(it.stdout, [7, 70_000]), cut(it.stderr, [9, 70_000]), fillvalue=b""):
            self.output.append(connection.send_stdout(request_id, out))
            self.output.append(connection.send_stderr(request_id, err))
        self.output.append(connection.end_request(request_id, it.app_status))


def hear(client: ClientConnection, heard: dict[int, Heard], piece: bytes, *, whole: bool) -> None:
    """Let the client take octets. ``whole`` asks for whole answers first, as the pool does."""
    client.receive_data(piece)
    for request_id in client.open_requests if whole else ():
        if (answer := client.next_answer(request_id)) is not None:
            heard[request_id].stdout += answer.stdout
            heard[request_id].stderr += answer.stderr
            heard[request_id].end = (answer.app_status, answer.protocol_status)
    while (event := client.next_event()) is not NEED_DATA:
        match event:
            case StdoutChunk(request_id=request_id, data=data):
                heard[request_id].stdout += data
            case StderrChunk(request_id=request_id, data=data):
                heard[request_id].stderr += data
            case StreamEnded():
                pass
            case RequestEnded(request_id=request_id, app_status=app_status, protocol_status=status):
                assert heard[request_id].end is None, "ended twice"
                heard[request_id].end = (app_status, status)
            case ConnectionClosed(unfinished=unfinished):
                assert not unfinished
                return
            case RecordIgnored() | UnknownTypeReported() | ValuesReceived():
                raise AssertionError(f"our responder wrote what our client does not know: {event}")
            case _:
                assert_never(event)


def _side_by_side(streams: Sequence[Sequence[bytes]]) -> bytes:
    return b"".join(piece for turn in zip_longest(*streams, fillvalue=b"") for piece in turn)


def check(data: bytes) -> None:
    """One input; raises on a breach.

    Invariants:
        - The client refuses a request exactly where its rules say so, and raises nothing else.
        - Params, flag and body come over whole and in order, as do output, error output and both statuses; under any
          cut, one behind the other or side by side, and by either way of writing a request and of reading an answer.
        - Nothing that one writes is unknown to the other, and the connection is reusable when all keep it.
    """
    header, octets = data[:_HEADER_OCTETS].ljust(_HEADER_OCTETS, b"\0"), _Octets(data[_HEADER_OCTETS:])
    profile = header[0]
    exchanges = dict(enumerate(_read_exchanges(octets, profile), start=1))
    if not profile & 1:  # nothing keeps the connection: the first request is the last
        exchanges = {1: exchanges[1]}
    client, streams = ClientConnection(), []
    for request_id, it in exchanges.items():
        try:
            streams.append(written(client, request_id, it, profile))
        except LocalProtocolError:
            assert not is_legal(it), "refused without a reason"
            return
        assert is_legal(it), "written against the rules"
    application = Application(exchanges, profile)
    wire = _side_by_side(streams) if profile & 8 else b"".join(piece for stream in streams for piece in stream)
    for piece in cut(wire, header[1:3]):
        application.feed(piece)
    _check_requests(application, exchanges, keeps=bool(profile & 1))
    heard = {request_id: Heard() for request_id in exchanges}
    for piece in cut(b"".join(application.output), header[3:5]):
        hear(client, heard, piece, whole=bool(profile & 16))
    for request_id, it in exchanges.items():
        here = heard[request_id]
        assert (bytes(here.stdout), bytes(here.stderr)) == (it.stdout, it.stderr)
        assert here.end == (it.app_status, ProtocolStatus.REQUEST_COMPLETE)
    assert client.is_reusable is bool(profile & 1)
    assert not client.open_requests
    hear(client, heard, b"", whole=False)


def _check_requests(application: Application, exchanges: dict[int, Exchange], *, keeps: bool) -> None:
    for request_id, it in exchanges.items():
        here = application.heard[request_id]
        assert (here.params, bytes(here.body), here.keeps) == (it.params, it.body, keeps)
    assert application.connection.must_close is not keeps
    application.feed(b"")
