"""The client role: what a web server, or a mail server, does with a FastCGI application.

    conn = ClientConnection()
    to_send = conn.begin_request(params=params) + conn.send_stdin(1, body) + conn.end_stdin(1)
    ... write `to_send`, and read while writing; then, until RequestEnded or ConnectionClosed:
    match conn.next_event(): case Signal.NEED_DATA: conn.receive_data(...)

A small request needs one call, `request()`, and its answer one more, `next_answer()`, once it is there whole.

Several requests may be open under different ids, if the application multiplexes; php-fpm does not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from trio_fcgimail.fastcgi.connection import Connection, check_request_id
from trio_fcgimail.fastcgi.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from trio_fcgimail.fastcgi.events import (
    Answer,
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
from trio_fcgimail.fastcgi.params import (
    NO_PARAMS,
    ConstantParams,
    NameValue,
    decode_pairs,
    encode_pairs,
    params_contents,
)
from trio_fcgimail.fastcgi.records import (
    DEFAULT_BUFFER_OCTETS,
    END_BODY,
    NULL_REQUEST_ID,
    ProtocolStatus,
    RecordType,
    Role,
    encode_record,
    encode_stream,
)
from trio_fcgimail.fastcgi.request import encode_head, encode_request
from trio_fcgimail.fastcgi.signals import NEED_DATA, Signal
from trio_fcgimail.fastcgi.state import (
    ALL_SENT,
    OUTPUT_TRANSITIONS,
    PARAMS_END,
    ConnectionState,
    Exchange,
    InputMove,
    OutputMove,
    OutputState,
    Ruling,
)

_MAX_LENGTH_DIGITS: Final = 19  # the digits of 2**63 - 1; a longer CONTENT_LENGTH is nobody's body
_STATUSES: Final = {status.value: status for status in ProtocolStatus}

# What a record that belongs to a request means to it: without content, with content.
_OUTPUT_MOVES: Final[Mapping[int, tuple[OutputMove, OutputMove]]] = {
    RecordType.STDOUT.value: (OutputMove.STDOUT_END, OutputMove.STDOUT),
    RecordType.STDERR.value: (OutputMove.STDERR_END, OutputMove.STDERR),
    RecordType.END_REQUEST.value: (OutputMove.END, OutputMove.END),
}
_STDOUT: Final = RecordType.STDOUT.value
_STDERR: Final = RecordType.STDERR.value
_END_REQUEST: Final = RecordType.END_REQUEST.value
_STDIN: Final = RecordType.STDIN
_STDIN_MOVE: Final = InputMove.STDIN
_STDIN_END_MOVE: Final = InputMove.STDIN_END
_RESPONDER: Final = Role.RESPONDER
_AUTHORIZER: Final = Role.AUTHORIZER
_MOVES: Final = Ruling.MOVES
_ILLEGAL: Final = Ruling.ILLEGAL
_OUTPUT_ENDED: Final = OutputState.ENDED
_OPEN: Final = ConnectionState.OPEN


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


def _declared_octets(params: Sequence[NameValue], constant: ConstantParams, role: Role) -> int | None:
    """Return CONTENT_LENGTH, which an authorizer does not get (FastCGI 1.0, 6.3) and which may be empty."""
    value = dict(params if b"CONTENT_LENGTH" not in constant.names else constant.params).get(b"CONTENT_LENGTH", b"")
    if not value or role is _AUTHORIZER:
        return None
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise LocalProtocolError(f"CONTENT_LENGTH {value[:64]!r} is not a number of octets")
    return int(value)


def _decode_end(content: bytes) -> tuple[int, ProtocolStatus]:
    """Return appStatus and protocolStatus of an END_REQUEST (FastCGI 1.0, 5.5)."""
    if len(content) < END_BODY.size:
        raise RemoteProtocolError(f"END_REQUEST of {len(content)} octets, expected {END_BODY.size}")
    app_status, status = END_BODY.unpack_from(content)
    if status not in _STATUSES:
        raise RemoteProtocolError(f"END_REQUEST with protocolStatus {status}, which does not exist")
    return app_status, _STATUSES[status]


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
            self._life.state is _OPEN
            and self._kept
            and not (self._requests or self._values_awaited or self._oddities)
            and not (self._reader.buffered_octets or self._reader.ended)
        )

    def begin_request(
        self,
        request_id: int = 1,
        *,
        params: Sequence[NameValue],
        constant: ConstantParams = NO_PARAMS,
        role: Role = Role.RESPONDER,
        keep_connection: bool = False,
    ) -> bytes:
        """Write BEGIN_REQUEST and the whole PARAMS stream (FastCGI 1.0, 5.1 and 5.2).

        A CONTENT_LENGTH among the params binds: `send_stdin()` takes no more, and `end_stdin()` no less. php-fpm
        reads no body without one, hangs on one too large, and runs the script on half a body for one too small.

        Args:
            request_id: 1 to 65535, not in use.
            params: each name once, none empty, no NUL, a pair of at most 65535 octets when encoded.
            constant: more of them, which go before.
            role: decides which streams follow: STDIN, nothing (authorizer), STDIN and DATA (filter).
            keep_connection: ask the application not to close after this request.

        Raises:
            LocalProtocolError: an argument breaks these rules, or end of file has been reported.
        """
        self._life.check()
        try:
            self._check_new(request_id)
            octets = encode_head(request_id, role, keep_connection, params_contents(params, constant))
            unsent_octets = _declared_octets(params, constant, role)
        except ProtocolError:
            self._life.end()
            raise
        exchange = Exchange(role=role, keep_connection=keep_connection)
        exchange.take_input(PARAMS_END[role])
        self._requests[request_id] = _Request(exchange=exchange, unsent_octets=unsent_octets)
        self._kept = self._kept and keep_connection
        return octets

    def request(
        self,
        request_id: int = 1,
        *,
        params: Sequence[NameValue],
        constant: ConstantParams = NO_PARAMS,
        body: bytes = b"",
        keep_connection: bool = False,
    ) -> bytes:
        """Write a whole request to a responder: `begin_request()`, `send_stdin()` and `end_stdin()` in one.

        Args:
            request_id: as for `begin_request()`.
            params: as for `begin_request()`.
            constant: as for `begin_request()`.
            body: all of it.
            keep_connection: as for `begin_request()`.

        Raises:
            LocalProtocolError: as for `begin_request()`, or the body is not as long as CONTENT_LENGTH says.
        """
        self._life.check()
        try:
            self._check_new(request_id)
            octets = encode_request(request_id, keep_connection, params_contents(params, constant), body)
            declared = _declared_octets(params, constant, _RESPONDER)
            if declared is not None and declared != len(body):
                raise LocalProtocolError(f"{len(body)} octets, and {declared} are the CONTENT_LENGTH")
        except ProtocolError:
            self._life.end()
            raise
        exchange = Exchange(role=_RESPONDER, keep_connection=keep_connection, input=ALL_SENT)
        self._requests[request_id] = _Request(exchange=exchange, unsent_octets=None)
        self._kept = self._kept and keep_connection
        return octets

    def _check_new(self, request_id: int) -> None:
        self._require_open()
        check_request_id(request_id)
        if request_id in self._requests:
            raise LocalProtocolError(f"request id {request_id} is in use")

    def send_stdin(self, request_id: int, data: bytes | bytearray | memoryview) -> bytes:
        """Write a part of the body, in as many records as it takes; nothing for no data (FastCGI 1.0, 5.3).

        Legal even after RequestEnded, as long as `end_stdin()` was not called: the application skips it.

        Raises:
            LocalProtocolError: STDIN is not open, or more than the declared CONTENT_LENGTH.
        """
        self._life.check()
        try:
            request = self._send(request_id, _STDIN_MOVE)
            if request.unsent_octets is not None:
                request.unsent_octets -= memoryview(data).nbytes
                if request.unsent_octets < 0:
                    raise LocalProtocolError(f"{-request.unsent_octets} octets beyond CONTENT_LENGTH")
        except ProtocolError:
            self._life.end()
            raise
        return encode_stream(_STDIN, request_id, data)

    def end_stdin(self, request_id: int) -> bytes:
        """Write the empty STDIN record, which every request needs, even one without a body.

        Raises:
            LocalProtocolError: STDIN is not open, or less than the declared CONTENT_LENGTH was sent.
        """
        self._life.check()
        try:
            request = self._send(request_id, _STDIN_END_MOVE)
            self._release(request_id, request.exchange)
            if request.unsent_octets:
                raise LocalProtocolError(f"{request.unsent_octets} octets short of CONTENT_LENGTH")
        except ProtocolError:
            self._life.end()
            raise
        return encode_record(_STDIN, request_id)

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
            self._release(request_id, self._send(request_id, InputMove.DATA_END).exchange)
            return encode_record(RecordType.DATA, request_id)

    def abort_request(self, request_id: int) -> bytes:
        """Write ABORT_REQUEST (FastCGI 1.0, 5.4). The application still answers with END_REQUEST.

        Do not send it to php-fpm: within the body it runs the script on what has come so far.

        Raises:
            LocalProtocolError: the id is not in use, or aborted already.
        """
        with self._life:
            self._release(request_id, self._send(request_id, InputMove.ABORT).exchange)
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
        if self._life.state is not _OPEN:
            self._life.check()
        try:
            frame = self._reader.next_frame()
            if frame is NEED_DATA:
                return NEED_DATA
            if frame is None:
                self._life.state = ConnectionState.CLOSED
                return ConnectionClosed(unfinished=self._unfinished())
            return self._read(*frame)
        except ProtocolError:
            self._life.end()
            raise

    def next_answer(self, request_id: int = 1) -> Answer | None:
        """Return all that the application said to a request, if it is there whole and nothing else is before its end.

        What it returns, `next_event()` will not report. Call it when the first octets have come.

        Returns:
            None when there is more to it, or not enough: nothing was taken then, and `next_event()` tells.

        Raises:
            LocalProtocolError: the connection died of an earlier error.
        """
        self._life.check()
        request = self._requests.get(request_id)
        if request is None:
            return None
        mark = self._reader.mark()
        try:
            answer = self._read_answer(request_id, request.exchange.output)
        except RemoteProtocolError:  # it belongs behind the events before it
            answer = None
        if answer is None:
            self._reader.go_back(mark)
            return None
        request.exchange.output = _OUTPUT_ENDED
        self._release(request_id, request.exchange)
        return answer

    def _read_answer(self, request_id: int, output: OutputState) -> Answer | None:
        stdout: list[bytes] = []
        stderr: list[bytes] = []
        while (frame := self._reader.next_frame()) is not NEED_DATA and frame is not None:
            record_type, record_id, content = frame
            moves = _OUTPUT_MOVES.get(record_type)
            after = None if moves is None else OUTPUT_TRANSITIONS[output].get(moves[bool(content)])
            if record_id != request_id or after is None:
                return None
            output = after
            if record_type == _STDOUT:
                stdout.append(content)
            elif record_type == _STDERR:
                stderr.append(content)
            else:
                return Answer(b"".join(stdout), b"".join(stderr), *_decode_end(content))
        return None

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
        if request.exchange.take_input(move) is not _MOVES:
            raise LocalProtocolError(f"{move.name} is not possible in state {before.name}")
        return request

    def _release(self, request_id: int, exchange: Exchange) -> None:
        if exchange.over:
            del self._requests[request_id]

    def _read(self, record_type: int, request_id: int, content: bytes) -> ClientEvent:
        moves = _OUTPUT_MOVES.get(record_type)
        if moves is None:
            return self._read_other(record_type, request_id, content)
        request = self._requests.get(request_id)
        if request is None:
            return self._ignore(record_type, request_id)
        exchange = request.exchange
        before, move = exchange.output, moves[bool(content)]
        ruling = exchange.take_output(move)
        if ruling is _ILLEGAL:
            raise RemoteProtocolError(f"{move.name} of request {request_id} in state {before.name}")
        if ruling is not _MOVES:
            return self._ignore(record_type, request_id)
        if record_type == _END_REQUEST:
            self._release(request_id, exchange)
            app_status, status = _decode_end(content)
            return RequestEnded(request_id=request_id, app_status=app_status, protocol_status=status)
        if not content:
            return StreamEnded(request_id=request_id, stream=RecordType(record_type))
        if record_type == _STDOUT:
            return StdoutChunk(request_id=request_id, data=content)
        return StderrChunk(request_id=request_id, data=content)

    def _read_other(self, record_type: int, request_id: int, content: bytes) -> ClientEvent:
        if request_id != NULL_REQUEST_ID:
            return self._ignore(record_type, request_id)
        if record_type == RecordType.GET_VALUES_RESULT and self._values_awaited:
            self._values_awaited -= 1
            try:
                return ValuesReceived(values=decode_pairs(content))
            except RemoteProtocolError:  # the framing holds, and no request depends on it
                return self._ignore(record_type, request_id)
        if record_type == RecordType.UNKNOWN_TYPE and content:
            self._oddities += 1
            return UnknownTypeReported(record_type=content[0])
        return self._ignore(record_type, request_id)

    def _ignore(self, record_type: int, request_id: int) -> RecordIgnored:
        self._oddities += 1
        return RecordIgnored(record_type=record_type, request_id=request_id)
