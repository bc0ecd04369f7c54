"""The client role: what a web server, or a mail server, does with a FastCGI application.

    conn = ClientConnection()
    to_send = conn.begin_request(params=params) + conn.send_stdin(1, body) + conn.end_stdin(1)
    ... write `to_send`, and read while writing; then, until RequestEnded or ConnectionClosed:
    match conn.next_event(): case Signal.NEED_DATA: conn.receive_data(...)

Several requests may be open under different ids, if the application multiplexes; php-fpm does not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from trio_fcgimail.fastcgi.connection import Connection, check_request_id, ignored
from trio_fcgimail.fastcgi.errors import LocalProtocolError, RemoteProtocolError
from trio_fcgimail.fastcgi.events import (
    ClientEvent,
    ConnectionClosed,
    RecordIgnored,
    RequestEnded,
    StderrChunk,
    StdoutChunk,
    StreamEnded,
    UnknownTypeReported,
    ValuesReceived,
)
from trio_fcgimail.fastcgi.params import NameValue, decode_pairs, encode_pairs, encode_params
from trio_fcgimail.fastcgi.records import (
    BEGIN_BODY,
    DEFAULT_BUFFER_OCTETS,
    END_BODY,
    KEEP_CONN,
    NULL_REQUEST_ID,
    ProtocolStatus,
    Record,
    RecordType,
    Role,
    encode_record,
    encode_stream,
)
from trio_fcgimail.fastcgi.signals import NEED_DATA, Signal
from trio_fcgimail.fastcgi.state import (
    PARAMS_END,
    ConnectionState,
    Exchange,
    InputMove,
    OutputMove,
    OutputState,
    Ruling,
)

_MAX_LENGTH_DIGITS: Final = 19  # the digits of 2**63 - 1; a longer CONTENT_LENGTH is nobody's body
_KNOWN_STATUSES: Final = frozenset(status.value for status in ProtocolStatus)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Limits of a `ClientConnection`.

    Args:
        max_buffer_octets: most received octets that may wait for `next_event()`; at least 65798.
    """

    max_buffer_octets: int = DEFAULT_BUFFER_OCTETS


_DEFAULT_OPTIONS: Final = ClientOptions()


@final
@dataclass(slots=True, kw_only=True)
class _Request:
    exchange: Exchange
    unsent_octets: int | None
    """What of the declared CONTENT_LENGTH is still to be sent; None when nothing was declared."""


def _declared_octets(params: Sequence[NameValue], role: Role) -> int | None:
    """Return CONTENT_LENGTH, which an authorizer does not get (FastCGI 1.0, 6.3) and which may be empty."""
    value = dict(params).get(b"CONTENT_LENGTH", b"")
    if not value or role is Role.AUTHORIZER:
        return None
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise LocalProtocolError(f"CONTENT_LENGTH {value[:64]!r} is not a number of octets")
    return int(value)


@final
class ClientConnection(Connection):
    """The client's end of one FastCGI connection, without any I/O.

    All methods that return bytes expect them to be written, in the order of the calls. Any ProtocolError puts the
    connection in ERROR: close it. Never PAUSED: this side only has to read.
    """

    def __init__(self, options: ClientOptions = _DEFAULT_OPTIONS) -> None:
        super().__init__(options.max_buffer_octets)
        self._requests: dict[int, _Request] = {}
        self._values_awaited = 0
        self._oddities = 0
        self._kept = True

    @property
    def open_requests(self) -> tuple[int, ...]:
        """The ids in use: not yet ended, or ended by the application before their input was complete."""
        return tuple(self._requests)

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent after the last one.

        False while a request is open, when the last one did not ask for it, and after anything unexpected: unread
        octets, end of file, an abort, an ignored record. The network may know more: look for end of file first.
        """
        return (
            self._life.state is ConnectionState.OPEN
            and self._kept
            and not (self._requests or self._values_awaited or self._oddities)
            and not (self._reader.buffered_octets or self._reader.ended)
        )

    def begin_request(
        self,
        request_id: int = 1,
        *,
        params: Sequence[NameValue],
        role: Role = Role.RESPONDER,
        keep_connection: bool = False,
    ) -> bytes:
        """Write BEGIN_REQUEST and the whole PARAMS stream (FastCGI 1.0, 5.1 and 5.2).

        A CONTENT_LENGTH among the params binds: `send_stdin()` takes no more, and `end_stdin()` no less. php-fpm
        reads no body without one, hangs on one too large, and runs the script on half a body for one too small.

        Args:
            request_id: 1 to 65535, not in use.
            params: each name once, none empty, no NUL, a pair of at most 65535 octets when encoded.
            role: decides which streams follow: STDIN, nothing (authorizer), STDIN and DATA (filter).
            keep_connection: ask the application not to close after this request.

        Raises:
            LocalProtocolError: an argument breaks these rules, or end of file has been reported.
        """
        with self._life:
            self._require_open()
            check_request_id(request_id)
            if request_id in self._requests:
                raise LocalProtocolError(f"request id {request_id} is in use")
            begin = BEGIN_BODY.pack(role, KEEP_CONN if keep_connection else 0)
            head = encode_record(RecordType.BEGIN_REQUEST, request_id, begin)
            stream = encode_params(request_id, params)
            unsent_octets = _declared_octets(params, role)
            exchange = Exchange(role=role, keep_connection=keep_connection)
            exchange.take_input(PARAMS_END[role])
            self._requests[request_id] = _Request(exchange=exchange, unsent_octets=unsent_octets)
            self._kept = self._kept and keep_connection
            return head + stream

    def send_stdin(self, request_id: int, data: bytes | bytearray | memoryview) -> bytes:
        """Write a part of the body, in as many records as it takes; nothing for no data (FastCGI 1.0, 5.3).

        Legal even after RequestEnded, as long as `end_stdin()` was not called: the application skips it.

        Raises:
            LocalProtocolError: STDIN is not open, or more than the declared CONTENT_LENGTH.
        """
        with self._life:
            request = self._send(request_id, InputMove.STDIN)
            if request.unsent_octets is not None:
                request.unsent_octets -= memoryview(data).nbytes
                if request.unsent_octets < 0:
                    raise LocalProtocolError(f"{-request.unsent_octets} octets beyond CONTENT_LENGTH")
            return encode_stream(RecordType.STDIN, request_id, data)

    def end_stdin(self, request_id: int) -> bytes:
        """Write the empty STDIN record, which every request needs, even one without a body.

        Raises:
            LocalProtocolError: STDIN is not open, or less than the declared CONTENT_LENGTH was sent.
        """
        with self._life:
            request = self._send(request_id, InputMove.STDIN_END)
            if request.unsent_octets:
                raise LocalProtocolError(f"{request.unsent_octets} octets short of CONTENT_LENGTH")
            return encode_record(RecordType.STDIN, request_id)

    def send_data(self, request_id: int, data: bytes | bytearray | memoryview) -> bytes:
        """Write a part of the file that a filter works on (FastCGI 1.0, 6.4).

        Raises:
            LocalProtocolError: DATA is not open: another role, or ended.
        """
        with self._life:
            self._send(request_id, InputMove.DATA)
            return encode_stream(RecordType.DATA, request_id, data)

    def end_data(self, request_id: int) -> bytes:
        """Write the empty DATA record.

        Raises:
            LocalProtocolError: DATA is not open.
        """
        with self._life:
            self._send(request_id, InputMove.DATA_END)
            return encode_record(RecordType.DATA, request_id)

    def abort_request(self, request_id: int) -> bytes:
        """Write ABORT_REQUEST (FastCGI 1.0, 5.4). The application still answers with END_REQUEST.

        Do not send it to php-fpm: within the body it runs the script on what has come so far.

        Raises:
            LocalProtocolError: the id is not in use, or aborted already.
        """
        with self._life:
            self._send(request_id, InputMove.ABORT)
            self._oddities += 1
            return encode_record(RecordType.ABORT_REQUEST, request_id)

    def get_values(self, names: Iterable[bytes]) -> bytes:
        """Write GET_VALUES (FastCGI 1.0, 4.1). ValuesReceived follows, if the application answers at all.

        Raises:
            LocalProtocolError: the names do not fit one record, or end of file has been reported.
        """
        with self._life:
            self._require_open()
            content = encode_pairs((name, b"") for name in names)
            record = encode_record(RecordType.GET_VALUES, NULL_REQUEST_ID, content)
            self._values_awaited += 1
            return record

    def next_event(self) -> ClientEvent | Literal[Signal.NEED_DATA]:
        """Return what happened next; ConnectionClosed for ever once end of file is reached.

        Raises:
            RemoteProtocolError: end of file within a record, a version other than 1, END_REQUEST without its 8
                octets or with a status that does not exist, stream data after the end of its stream.
        """
        with self._life:
            record = self._reader.next_record()
            if record is NEED_DATA:
                return NEED_DATA
            if record is None:
                self._life.state = ConnectionState.CLOSED
                return ConnectionClosed(unfinished=self._unfinished())
            event = self._read(record)
            if isinstance(event, RecordIgnored):
                self._oddities += 1
            return event

    def _unfinished(self) -> tuple[int, ...]:
        return tuple(
            request_id
            for request_id, request in self._requests.items()
            if request.exchange.output is not OutputState.ENDED
        )

    def _send(self, request_id: int, move: InputMove) -> _Request:
        request = self._requests.get(request_id)
        if request is None:
            raise LocalProtocolError(f"request id {request_id} is not in use")
        before = request.exchange.input
        if request.exchange.take_input(move) is not Ruling.MOVES:
            raise LocalProtocolError(f"{move.name} is not possible in state {before.name}")
        self._release(request_id, request.exchange)
        return request

    def _release(self, request_id: int, exchange: Exchange) -> None:
        if exchange.over:
            del self._requests[request_id]

    def _read(self, record: Record) -> ClientEvent:
        match record.record_type:
            case RecordType.STDOUT:
                return self._read_stream(
                    record, RecordType.STDOUT, OutputMove.STDOUT if record.content else OutputMove.STDOUT_END
                )
            case RecordType.STDERR:
                return self._read_stream(
                    record, RecordType.STDERR, OutputMove.STDERR if record.content else OutputMove.STDERR_END
                )
            case RecordType.END_REQUEST:
                return self._read_end(record)
            case RecordType.GET_VALUES_RESULT if record.request_id == NULL_REQUEST_ID and self._values_awaited:
                return self._read_values(record)
            case RecordType.UNKNOWN_TYPE if record.request_id == NULL_REQUEST_ID and record.content:
                self._oddities += 1
                return UnknownTypeReported(record_type=record.content[0])
            case _:
                return ignored(record)

    def _receive(self, record: Record, move: OutputMove) -> Ruling:
        request = self._requests.get(record.request_id)
        if request is None:
            return Ruling.LEFTOVER
        before = request.exchange.output
        ruling = request.exchange.take_output(move)
        if ruling is Ruling.ILLEGAL:
            raise RemoteProtocolError(f"{move.name} of request {record.request_id} in state {before.name}")
        self._release(record.request_id, request.exchange)
        return ruling

    def _read_stream(self, record: Record, stream: RecordType, move: OutputMove) -> ClientEvent:
        if self._receive(record, move) is Ruling.LEFTOVER:
            return ignored(record)
        if not record.content:
            return StreamEnded(request_id=record.request_id, stream=stream)
        if stream is RecordType.STDOUT:
            return StdoutChunk(request_id=record.request_id, data=record.content)
        return StderrChunk(request_id=record.request_id, data=record.content)

    def _read_end(self, record: Record) -> ClientEvent:
        if self._receive(record, OutputMove.END) is Ruling.LEFTOVER:
            return ignored(record)
        if len(record.content) < END_BODY.size:
            raise RemoteProtocolError(f"END_REQUEST of {len(record.content)} octets, expected {END_BODY.size}")
        app_status, status = END_BODY.unpack_from(record.content)
        if status not in _KNOWN_STATUSES:
            raise RemoteProtocolError(f"END_REQUEST with protocolStatus {status}, which does not exist")
        return RequestEnded(request_id=record.request_id, app_status=app_status, protocol_status=ProtocolStatus(status))

    def _read_values(self, record: Record) -> ClientEvent:
        self._values_awaited -= 1
        try:
            return ValuesReceived(values=decode_pairs(record.content))
        except RemoteProtocolError:
            return ignored(record)  # the framing holds, and no request depends on it
