"""The responder's end of a connection: what an application server does, in all three roles.

    conn = ResponderConnection()
    match conn.next_event():
        case RequestBegun(request_id=request_id): ...
        case StdinEnded(request_id=request_id):
            write(conn.send_stdout(request_id, page) + conn.end_request(request_id))
            if conn.must_close: close()

One request after the other is the default, as php-fpm does it. A client may send the next request before the answer
to the first; it waits in the buffer, and `next_event()` is PAUSED until `end_request()`. A second request that begins
*within* the input of the first is multiplexing, and refused with CANT_MPX_CONN.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

from trio_fcgimail.fastcgi.connection import Connection, check_request_id, ignored
from trio_fcgimail.fastcgi.errors import LocalProtocolError, RemoteProtocolError
from trio_fcgimail.fastcgi.events import (
    ConnectionClosed,
    DataChunk,
    DataEnded,
    RequestAborted,
    RequestBegun,
    RequestRefused,
    ResponderEvent,
    StdinChunk,
    StdinEnded,
    UnknownType,
    ValuesRequested,
)
from trio_fcgimail.fastcgi.params import decode_pairs, encode_pairs
from trio_fcgimail.fastcgi.records import (
    BEGIN_BODY,
    DEFAULT_BUFFER_OCTETS,
    END_BODY,
    KEEP_CONN,
    NULL_REQUEST_ID,
    UNKNOWN_TYPE_BODY,
    ProtocolStatus,
    Record,
    RecordType,
    Role,
    encode_record,
    encode_stream,
)
from trio_fcgimail.fastcgi.signals import NEED_DATA, PAUSED, Signal
from trio_fcgimail.fastcgi.state import PARAMS_END, ConnectionState, Exchange, InputMove, OutputMove, Ruling

_MAX_APP_STATUS: Final = 0xFFFFFFFF  # FastCGI 1.0, 5.5: appStatusB3 to appStatusB0
_KNOWN_TYPES: Final = frozenset(record_type.value for record_type in RecordType)
_KNOWN_ROLES: Final = frozenset(role.value for role in Role)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderOptions:
    """What a `ResponderConnection` accepts, and tells clients that ask (FastCGI 1.0, 4.1).

    Args:
        multiplex: take requests side by side on one connection; FCGI_MPXS_CONNS.
        max_requests: most requests open at a time, the next is OVERLOADED; FCGI_MAX_REQS.
        max_connections: not enforced here, only told as FCGI_MAX_CONNS.
        roles: others are refused with UNKNOWN_ROLE.
        max_params_octets: most octets of PARAMS of one request; more is a RemoteProtocolError.
        max_buffer_octets: most received octets that may wait for `next_event()`; at least 65798.
    """

    multiplex: bool = False
    max_requests: int = 64
    max_connections: int = 1
    roles: frozenset[Role] = frozenset(Role)
    max_params_octets: int = 262_144  # several times the 60,000 octets of metadata that our own client sends at most
    max_buffer_octets: int = DEFAULT_BUFFER_OCTETS


_DEFAULT_OPTIONS: Final = ResponderOptions()


@final
@dataclass(slots=True, kw_only=True)
class _Request:
    exchange: Exchange
    params: bytearray = field(default_factory=bytearray)
    stderr_used: bool = False


@final
class ResponderConnection(Connection):
    """The application's end of one FastCGI connection, without any I/O.

    All methods that return bytes, and all events with `to_send`, expect them to be written in order. Any
    ProtocolError puts the connection in ERROR: close it.
    """

    def __init__(self, options: ResponderOptions = _DEFAULT_OPTIONS) -> None:
        super().__init__(options.max_buffer_octets)
        self._options = options
        self._requests: dict[int, _Request] = {}
        self._held: Record | None = None
        self._closing = False

    @property
    def open_requests(self) -> tuple[int, ...]:
        """The ids that have begun, or are about to, and were not ended by `end_request()`."""
        return tuple(self._requests)

    @property
    def must_close(self) -> bool:
        """Whether the connection is to be closed now, once all is written.

        True when a request that did not ask to keep the connection was answered or refused, and no other is open
        (FastCGI 1.0, 5.1). No request begins from here on; whatever still arrives is ignored.
        """
        return self._closing and not self._requests

    @property
    def buffered_octets(self) -> int:
        """How many received octets wait to be read, those of a request held back by PAUSED included."""
        held = 0 if self._held is None else len(self._held.content)
        return self._reader.buffered_octets + held

    def send_stdout(self, request_id: int, data: bytes | bytearray | memoryview) -> bytes:
        """Write output, in as many records as it takes; nothing for no data (FastCGI 1.0, 5.3).

        Raises:
            LocalProtocolError: the id is not open.
        """
        with self._life:
            self._send(request_id, OutputMove.STDOUT)
            return encode_stream(RecordType.STDOUT, request_id, data)

    def send_stderr(self, request_id: int, data: bytes | bytearray | memoryview) -> bytes:
        """Write error output, likewise.

        Raises:
            LocalProtocolError: the id is not open.
        """
        with self._life:
            request = self._send(request_id, OutputMove.STDERR)
            records = encode_stream(RecordType.STDERR, request_id, data)
            request.stderr_used = request.stderr_used or bool(records)
            return records

    def end_request(
        self,
        request_id: int,
        app_status: int = 0,
        protocol_status: ProtocolStatus = ProtocolStatus.REQUEST_COMPLETE,
    ) -> bytes:
        """Write the end of STDOUT, that of STDERR if it was used, and END_REQUEST (FastCGI 1.0, 5.5).

        Legal at any time after RequestBegun or RequestAborted, also before the input is complete; what still comes of
        it is ignored. Look at `must_close` afterwards.

        Args:
            request_id: an open one.
            app_status: 0 to 4294967295, as an exit status.
            protocol_status: OVERLOADED is for a request that was not executed.

        Raises:
            LocalProtocolError: the id is not open, or the status is out of range.
        """
        with self._life:
            if not 0 <= app_status <= _MAX_APP_STATUS:
                raise LocalProtocolError(f"app_status {app_status} is outside 0..{_MAX_APP_STATUS}")
            request = self._send(request_id, OutputMove.STDOUT_END)
            parts = [encode_record(RecordType.STDOUT, request_id)]
            if request.stderr_used:
                self._send(request_id, OutputMove.STDERR_END)
                parts.append(encode_record(RecordType.STDERR, request_id))
            self._send(request_id, OutputMove.END)
            parts.append(_end_record(request_id, app_status, protocol_status))
            del self._requests[request_id]
            self._closing = self._closing or not request.exchange.keep_connection
            return b"".join(parts)

    def next_event(self) -> ResponderEvent | Signal:
        """Return what happened next; ConnectionClosed for ever once end of file is reached.

        Returns:
            An event, NEED_DATA, or PAUSED when the next request has to wait for `end_request()`. Do not read from the
            peer while PAUSED: what is behind that request, end of file and abort too, is not looked at before.

        Raises:
            RemoteProtocolError: end of file within a record, a version other than 1, BEGIN_REQUEST without its 8
                octets, with id 0 or with an id in use, PARAMS that cannot be read or are too many, stream records
                before their stream or with content after its end.
        """
        with self._life:
            while True:
                record = self._held or self._reader.next_record()
                if record is NEED_DATA:
                    return NEED_DATA
                if record is None:
                    self._life.state = ConnectionState.CLOSED
                    return ConnectionClosed(unfinished=self.open_requests)
                self._held = None
                if self._must_wait(record):
                    self._held = record
                    return PAUSED
                event = self._read(record)
                if event is not None:
                    return event

    def _must_wait(self, record: Record) -> bool:
        """Whether a record begins a request that is pipelined behind one which is not answered yet."""
        return (
            record.record_type == RecordType.BEGIN_REQUEST
            and not self._options.multiplex
            and any(request.exchange.input_over for request in self._requests.values())
        )

    def _send(self, request_id: int, move: OutputMove) -> _Request:
        check_request_id(request_id)
        request = self._requests.get(request_id)
        if request is None or request.exchange.take_output(move) is not Ruling.MOVES:
            raise LocalProtocolError(f"request id {request_id} is not open")
        return request

    def _read(self, record: Record) -> ResponderEvent | None:
        if record.request_id == NULL_REQUEST_ID:
            return self._read_management(record)
        match record.record_type:
            case RecordType.STDIN:
                return self._read_stdin(record)
            case RecordType.PARAMS:
                return self._read_params(record)
            case RecordType.BEGIN_REQUEST:
                return self._read_begin(record)
            case RecordType.DATA:
                return self._read_data(record)
            case RecordType.ABORT_REQUEST:
                return self._read_abort(record)
            case _:
                return ignored(record)

    def _read_management(self, record: Record) -> ResponderEvent:
        if record.record_type == RecordType.BEGIN_REQUEST:
            raise RemoteProtocolError("BEGIN_REQUEST with the id of management records")
        if record.record_type == RecordType.GET_VALUES:
            return self._read_get_values(record)
        if record.record_type in _KNOWN_TYPES:
            return ignored(record)
        reply = UNKNOWN_TYPE_BODY.pack(record.record_type)
        return UnknownType(
            record_type=record.record_type,
            to_send=encode_record(RecordType.UNKNOWN_TYPE, NULL_REQUEST_ID, reply),
        )

    def _read_get_values(self, record: Record) -> ResponderEvent:
        try:
            names = tuple(name for name, _ in decode_pairs(record.content))
        except RemoteProtocolError:
            return ignored(record)  # the framing holds, and no request depends on it
        known = self._values()
        reply = encode_pairs((name, known[name]) for name in dict.fromkeys(names) if name in known)
        return ValuesRequested(names=names, to_send=encode_record(RecordType.GET_VALUES_RESULT, NULL_REQUEST_ID, reply))

    def _values(self) -> Mapping[bytes, bytes]:
        return {
            b"FCGI_MAX_CONNS": b"%d" % self._options.max_connections,
            b"FCGI_MAX_REQS": b"%d" % self._options.max_requests,
            b"FCGI_MPXS_CONNS": b"%d" % self._options.multiplex,
        }

    def _read_begin(self, record: Record) -> ResponderEvent | None:
        if len(record.content) < BEGIN_BODY.size:
            raise RemoteProtocolError(f"BEGIN_REQUEST of {len(record.content)} octets, expected {BEGIN_BODY.size}")
        if self.must_close:
            return ignored(record)
        if record.request_id in self._requests:
            raise RemoteProtocolError(f"BEGIN_REQUEST with id {record.request_id}, which is in use")
        role, flags = BEGIN_BODY.unpack_from(record.content)
        keep_connection = bool(flags & KEEP_CONN)
        refusal = self._refusal(role)
        if refusal is not None:
            self._closing = self._closing or not keep_connection
            to_send = _end_record(record.request_id, 0, refusal)
            return RequestRefused(request_id=record.request_id, protocol_status=refusal, to_send=to_send)
        exchange = Exchange(role=Role(role), keep_connection=keep_connection)
        self._requests[record.request_id] = _Request(exchange=exchange)
        return None

    def _refusal(self, role: int) -> ProtocolStatus | None:
        if self._requests and not self._options.multiplex:
            return ProtocolStatus.CANT_MPX_CONN
        # A connection that is about to close takes nothing more, and OVERLOADED tells the client to go elsewhere.
        if self._closing or len(self._requests) >= self._options.max_requests:
            return ProtocolStatus.OVERLOADED
        if role not in _KNOWN_ROLES or Role(role) not in self._options.roles:
            return ProtocolStatus.UNKNOWN_ROLE
        return None

    def _receive(self, record: Record, move: InputMove) -> _Request | None:
        """Apply a move of the client. None for a leftover, also of a request that is not open any more."""
        request = self._requests.get(record.request_id)
        if request is None:
            return None
        before = request.exchange.input
        ruling = request.exchange.take_input(move)
        if ruling is Ruling.ILLEGAL:
            raise RemoteProtocolError(f"{move.name} of request {record.request_id} in state {before.name}")
        return request if ruling is Ruling.MOVES else None

    def _read_params(self, record: Record) -> ResponderEvent | None:
        open_request = self._requests.get(record.request_id)
        if open_request is None:
            return ignored(record)
        move = InputMove.PARAMS if record.content else PARAMS_END[open_request.exchange.role]
        request = self._receive(record, move)
        if request is None:
            return ignored(record)
        if record.content:
            if len(request.params) + len(record.content) > self._options.max_params_octets:
                raise RemoteProtocolError(f"PARAMS of more than {self._options.max_params_octets} octets")
            request.params += record.content
            return None
        params = decode_pairs(bytes(request.params))
        request.params.clear()
        return RequestBegun(
            request_id=record.request_id,
            role=request.exchange.role,
            keep_connection=request.exchange.keep_connection,
            params=params,
        )

    def _read_stdin(self, record: Record) -> ResponderEvent:
        if self._receive(record, InputMove.STDIN if record.content else InputMove.STDIN_END) is None:
            return ignored(record)
        if record.content:
            return StdinChunk(request_id=record.request_id, data=record.content)
        return StdinEnded(request_id=record.request_id)

    def _read_data(self, record: Record) -> ResponderEvent:
        if self._receive(record, InputMove.DATA if record.content else InputMove.DATA_END) is None:
            return ignored(record)
        if record.content:
            return DataChunk(request_id=record.request_id, data=record.content)
        return DataEnded(request_id=record.request_id)

    def _read_abort(self, record: Record) -> ResponderEvent:
        request = self._receive(record, InputMove.ABORT)
        if request is None:
            return ignored(record)
        request.params.clear()
        return RequestAborted(request_id=record.request_id)


def _end_record(request_id: int, app_status: int, protocol_status: ProtocolStatus) -> bytes:
    return encode_record(RecordType.END_REQUEST, request_id, END_BODY.pack(app_status, protocol_status))
