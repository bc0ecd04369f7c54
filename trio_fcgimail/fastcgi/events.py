"""What `next_event()` reports. Every event is a value: frozen, complete, and without behaviour."""

from dataclasses import dataclass
from typing import final

from trio_fcgimail.fastcgi.params import NameValue
from trio_fcgimail.fastcgi.records import ProtocolStatus, RecordType, Role


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StdoutChunk:
    """Client: output of the application (FastCGI 1.0, 5.3), never empty. Feed it to `ResponseHeadReader`."""

    request_id: int
    data: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StderrChunk:
    """Client: error output of the application (FastCGI 1.0, 5.3), never empty. Keep it apart, and bounded."""

    request_id: int
    data: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnded:
    """Client: the application ended STDOUT or STDERR by an empty record. Many never do: wait for RequestEnded."""

    request_id: int
    stream: RecordType


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnded:
    """Client: END_REQUEST (FastCGI 1.0, 5.5), its padding read. The answer is complete only with this event.

    A `protocol_status` other than REQUEST_COMPLETE means that the request was not executed. `app_status` (0 to
    4294967295) is not a verdict: php-fpm sends 0 whatever happened.
    """

    request_id: int
    app_status: int
    protocol_status: ProtocolStatus


@final
@dataclass(frozen=True, slots=True)  # by position, as there is one for each request
class Answer:
    """Client: all that the application said to one request, END_REQUEST included; what `next_answer()` returns.

    Args:
        stdout: its output, which begins with the head of a CGI response: `read_response()` parts it.
        stderr: its error output, often empty.
        app_status: as in `RequestEnded`.
        protocol_status: as in `RequestEnded`.
    """

    stdout: bytes
    stderr: bytes
    app_status: int
    protocol_status: ProtocolStatus


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesReceived:
    """Client: the answer to `get_values()` (FastCGI 1.0, 4.1). Names unknown to the application are left out."""

    values: tuple[NameValue, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownTypeReported:
    """Client: the application does not know a management record of ours (FastCGI 1.0, 4.2)."""

    record_type: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordIgnored:
    """Both roles: a record was skipped by its length: unknown type, id not in use, wrong direction, leftovers.

    Log it. A client should not use the connection for another request (`ClientConnection.is_reusable`).
    """

    record_type: int
    request_id: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClosed:
    """Both roles: end of file between two records. `unfinished` are the ids that had not seen their END_REQUEST.

    For a client these requests failed, whatever was received. A responder may still answer them: the peer may have
    closed its sending direction only.
    """

    unfinished: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBegun:
    """Responder: BEGIN_REQUEST and the whole PARAMS stream have come (FastCGI 1.0, 5.1 and 5.2).

    Answer with `send_stdout()`, `send_stderr()` and, always, `end_request()`. An authorizer gets no further input.
    """

    request_id: int
    role: Role
    keep_connection: bool
    params: tuple[NameValue, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StdinChunk:
    """Responder: a part of the request body (FastCGI 1.0, 5.3), never empty."""

    request_id: int
    data: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StdinEnded:
    """Responder: the request body is complete. Compare its length with CONTENT_LENGTH before acting on it."""

    request_id: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataChunk:
    """Responder in the filter role: a part of the file to be filtered (FastCGI 1.0, 6.4), never empty."""

    request_id: int
    data: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataEnded:
    """Responder in the filter role: the file to be filtered is complete."""

    request_id: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAborted:
    """Responder: the client gave the request up (FastCGI 1.0, 5.4). Call `end_request()` soon.

    Comes without a RequestBegun before it when the client aborts within PARAMS.
    """

    request_id: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused:
    """Responder: the core refused a request by its options. Write `to_send`; the id is not in use."""

    request_id: int
    protocol_status: ProtocolStatus
    to_send: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ValuesRequested:
    """Responder: GET_VALUES (FastCGI 1.0, 4.1). Write `to_send`, the answer from the options."""

    names: tuple[bytes, ...]
    to_send: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownType:
    """Responder: a management record of a type that FastCGI 1.0 does not have. Write `to_send` (4.2)."""

    record_type: int
    to_send: bytes


ClientEvent = (
    StdoutChunk
    | StderrChunk
    | StreamEnded
    | RequestEnded
    | ValuesReceived
    | UnknownTypeReported
    | RecordIgnored
    | ConnectionClosed
)

ResponderEvent = (
    RequestBegun
    | StdinChunk
    | StdinEnded
    | DataChunk
    | DataEnded
    | RequestAborted
    | RequestRefused
    | ValuesRequested
    | UnknownType
    | RecordIgnored
    | ConnectionClosed
)
