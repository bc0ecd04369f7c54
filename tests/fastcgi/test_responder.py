"""The responder role: what it makes of what a client sends, what it writes, and whom it refuses."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.fastcgi.support import (
    ABORT,
    DATA,
    GET_VALUES,
    PARAMS,
    STDERR,
    STDIN,
    STDOUT,
    UNKNOWN,
    VALUES_RESULT,
    Split,
    begin,
    drive,
    end,
    rec,
)
from trio_fcgimail.fastcgi import (
    NEED_DATA,
    PAUSED,
    ConnectionClosed,
    ConnectionState,
    DataChunk,
    DataEnded,
    LocalProtocolError,
    NameValue,
    ProtocolStatus,
    RecordIgnored,
    RemoteProtocolError,
    RequestAborted,
    RequestBegun,
    RequestRefused,
    ResponderConnection,
    ResponderOptions,
    Role,
    StdinChunk,
    StdinEnded,
    UnknownType,
    ValuesRequested,
)

AB = b"\x01\x01ab"  # the pair a=b
FULL = begin() + rec(PARAMS, 1, AB) + rec(PARAMS, 1) + rec(STDIN, 1)  # a whole request without a body


def begun(
    request_id: int = 1,
    params: tuple[NameValue, ...] = ((b"a", b"b"),),
    role: Role = Role.RESPONDER,
    keep_connection: bool = True,
) -> RequestBegun:
    return RequestBegun(request_id=request_id, role=role, keep_connection=keep_connection, params=params)


def chunk(data: bytes, request_id: int = 1) -> StdinChunk:
    return StdinChunk(request_id=request_id, data=data)


def stdin_ended(request_id: int = 1) -> StdinEnded:
    return StdinEnded(request_id=request_id)


def skipped(record_type: int, request_id: int) -> RecordIgnored:
    return RecordIgnored(record_type=record_type, request_id=request_id)


def refused(status: ProtocolStatus, request_id: int = 1) -> RequestRefused:
    return RequestRefused(
        request_id=request_id, protocol_status=status, to_send=end(request_id, protocol_status=status)
    )


PLAIN = ResponderOptions()
MULTIPLEX = ResponderOptions(multiplex=True, max_requests=2)


@dataclass(frozen=True, slots=True)
class Row:
    """What a client sends, nothing being answered. `expected` ends with RemoteProtocolError when it is broken."""

    id: str
    wire: bytes
    expected: tuple[object, ...]
    reason: str
    options: ResponderOptions = PLAIN
    eof: bool = False


ROWS = [
    Row(
        "whole-request",
        begin() + rec(PARAMS, 1, AB, 4) + rec(PARAMS, 1, b"", 8) + rec(STDIN, 1, b"body", 4) + rec(STDIN, 1, b"", 1),
        (begun(), chunk(b"body"), stdin_ended()),
        "padding anywhere, also on empty records",
    ),
    Row("no-params", begin() + rec(PARAMS, 1), (begun(params=()),), "PARAMS may be empty"),
    Row("no-keep", begin(flags=0) + rec(PARAMS, 1), (begun(params=(), keep_connection=False),), "flag off"),
    Row("reserved-flags", begin(flags=0xFE) + rec(PARAMS, 1), (begun(params=(), keep_connection=False),), "bit 0 only"),
    Row("other-flags", begin(flags=0xFF) + rec(PARAMS, 1), (begun(params=()),), "bit 0 counts, whatever the others"),
    Row(
        "pair-over-two-records",
        begin()
        + rec(PARAMS, 1, AB[:1])
        + rec(PARAMS, 1, AB[1:3])
        + rec(PARAMS, 1, AB[3:] + AB[:2])
        + rec(PARAMS, 1, b"cd")
        + rec(PARAMS, 1),
        (begun(params=((b"a", b"b"), (b"c", b"d"))),),
        "libfcgi's clients cut pairs where a record is full",
    ),
    Row(
        "long-form-lengths",
        begin() + rec(PARAMS, 1, b"\x80\0\0\x01\x80\0\0\x01ab") + rec(PARAMS, 1),
        (begun(),),
        "legal for short names and values",
    ),
    Row(
        "filter-streams-interleaved",
        begin(role=3)
        + rec(PARAMS, 1)
        + rec(DATA, 1, b"d")
        + rec(STDIN, 1, b"s")
        + rec(DATA, 1)
        + rec(STDIN, 1, b"t")
        + rec(STDIN, 1),
        (
            begun(params=(), role=Role.FILTER),
            DataChunk(request_id=1, data=b"d"),
            chunk(b"s"),
            DataEnded(request_id=1),
            chunk(b"t"),
            stdin_ended(),
        ),
        "a filter has two streams",
    ),
    Row(
        "filter-stdin-first",
        begin(role=3) + rec(PARAMS, 1) + rec(STDIN, 1) + rec(DATA, 1, b"d") + rec(DATA, 1),
        (
            begun(params=(), role=Role.FILTER),
            stdin_ended(),
            DataChunk(request_id=1, data=b"d"),
            DataEnded(request_id=1),
        ),
        "the usual order",
    ),
    Row(
        "authorizer-with-stdin-end",
        begin(role=2) + rec(PARAMS, 1) + rec(STDIN, 1),
        (begun(params=(), role=Role.AUTHORIZER), skipped(STDIN, 1)),
        "some clients end a stream that the role does not have",
    ),
    Row(
        "streams-ended-twice",
        begin() + rec(PARAMS, 1) * 2 + rec(STDIN, 1) * 2 + rec(PARAMS, 1) + rec(DATA, 1),
        (begun(params=()), skipped(PARAMS, 1), stdin_ended(), skipped(STDIN, 1), skipped(PARAMS, 1), skipped(DATA, 1)),
        "harmless",
    ),
    Row(
        "abort-within-params",
        begin() + rec(PARAMS, 1, AB) + rec(ABORT, 1) + rec(PARAMS, 1) + rec(STDIN, 1, b"x"),
        (RequestAborted(request_id=1), skipped(PARAMS, 1), skipped(STDIN, 1)),
        "no RequestBegun then, and the rest is ignored",
    ),
    Row(
        "abort-within-stdin",
        begin() + rec(PARAMS, 1) + rec(STDIN, 1, b"x") + rec(ABORT, 1) + rec(STDIN, 1),
        (begun(params=()), chunk(b"x"), RequestAborted(request_id=1), skipped(STDIN, 1)),
        "no StdinEnded: the body is not whole",
    ),
    Row(
        "abort-when-complete",
        FULL + rec(ABORT, 1) * 2,
        (begun(), stdin_ended(), RequestAborted(request_id=1), skipped(ABORT, 1)),
        "the client does not wait any longer",
    ),
    Row(
        "ids-not-in-use",
        rec(STDIN, 1) + rec(PARAMS, 2, b"x") + rec(ABORT, 3) + rec(DATA, 4) + FULL,
        (skipped(STDIN, 1), skipped(PARAMS, 2), skipped(ABORT, 3), skipped(DATA, 4), begun(), stdin_ended()),
        "an application ignores records of inactive ids",
    ),
    Row(
        "wrong-direction",
        rec(STDOUT, 1) + end() + rec(STDERR, 2) + rec(VALUES_RESULT, 0) + rec(UNKNOWN, 0) + rec(STDIN, 0) + rec(99, 1),
        (
            skipped(STDOUT, 1),
            skipped(3, 1),
            skipped(STDERR, 2),
            skipped(VALUES_RESULT, 0),
            skipped(UNKNOWN, 0),
            skipped(STDIN, 0),
            skipped(99, 1),
        ),
        "nothing that a client sends",
    ),
    Row(
        "unknown-management-type",
        rec(99, 0, b"what", 3) + rec(0, 0),
        (
            UnknownType(record_type=99, to_send=rec(UNKNOWN, 0, b"\x63" + bytes(7))),
            UnknownType(record_type=0, to_send=rec(UNKNOWN, 0, bytes(8))),
        ),
        "FastCGI 1.0, 4.2",
    ),
    Row(
        "get-values",
        rec(GET_VALUES, 0, b"\x0f\x00FCGI_MPXS_CONNS" + b"\x04\x00WHAT" + b"\x0d\x00FCGI_MAX_REQS" * 2, 2),
        (
            ValuesRequested(
                names=(b"FCGI_MPXS_CONNS", b"WHAT", b"FCGI_MAX_REQS", b"FCGI_MAX_REQS"),
                to_send=rec(VALUES_RESULT, 0, b"\x0f\x01FCGI_MPXS_CONNS1" + b"\x0d\x01FCGI_MAX_REQS2"),
            ),
        ),
        "unknown names are left out, each known one is told once",
        MULTIPLEX,
    ),
    Row(
        "get-values-by-default",
        rec(GET_VALUES, 0, b"\x0f\x00FCGI_MPXS_CONNS" + b"\x0e\x00FCGI_MAX_CONNS"),
        (
            ValuesRequested(
                names=(b"FCGI_MPXS_CONNS", b"FCGI_MAX_CONNS"),
                to_send=rec(VALUES_RESULT, 0, b"\x0f\x01FCGI_MPXS_CONNS0" + b"\x0e\x01FCGI_MAX_CONNS1"),
            ),
        ),
        "one request at a time",
    ),
    Row("get-no-values", rec(GET_VALUES, 0), (ValuesRequested(names=(), to_send=rec(VALUES_RESULT, 0)),), "legal"),
    Row("get-values-cut", rec(GET_VALUES, 0, b"\x05"), (skipped(GET_VALUES, 0),), "no request depends on it"),
    Row("get-values-with-id", rec(GET_VALUES, 1), (skipped(GET_VALUES, 1),), "not a management record"),
    Row(
        "two-requests-multiplexed",
        begin(1)
        + begin(2)
        + rec(PARAMS, 2, AB[:2])
        + rec(PARAMS, 1)
        + rec(PARAMS, 2, AB[2:])
        + rec(PARAMS, 2)
        + rec(STDIN, 1, b"x")
        + rec(STDIN, 2, b"y")
        + rec(STDIN, 2)
        + rec(STDIN, 1),
        (begun(1, ()), begun(2), chunk(b"x", 1), chunk(b"y", 2), stdin_ended(2), stdin_ended(1)),
        "side by side",
        MULTIPLEX,
    ),
    Row(
        "cant-multiplex",
        begin(1) + begin(2) + rec(PARAMS, 2, AB) + rec(PARAMS, 1) + rec(STDIN, 2) + rec(STDIN, 1),
        (
            refused(ProtocolStatus.CANT_MPX_CONN, 2),
            skipped(PARAMS, 2),
            begun(1, ()),
            skipped(STDIN, 2),
            stdin_ended(1),
        ),
        "a second request begins within the input of the first",
    ),
    Row(
        "overloaded",
        begin(1) + begin(2) + begin(3) + rec(PARAMS, 1),
        (refused(ProtocolStatus.OVERLOADED, 3), begun(1, ())),
        "one more than max_requests",
        MULTIPLEX,
    ),
    Row("no-capacity", begin(), (refused(ProtocolStatus.OVERLOADED),), "draining", ResponderOptions(max_requests=0)),
    Row("role-0", begin(role=0), (refused(ProtocolStatus.UNKNOWN_ROLE),), "does not exist"),
    Row(
        "role-256", begin(role=256) + FULL, (refused(ProtocolStatus.UNKNOWN_ROLE), begun(), stdin_ended()), "two octets"
    ),
    Row(
        "role-not-offered",
        begin(role=3) + FULL,
        (refused(ProtocolStatus.UNKNOWN_ROLE), begun(), stdin_ended()),
        "and the next request is served",
        ResponderOptions(roles=frozenset({Role.RESPONDER})),
    ),
    Row("long-begin", rec(1, 1, b"\0\1\1\0\0\0\0\0more") + rec(PARAMS, 1), (begun(params=()),), "the rest is ignored"),
    Row("eof-at-once", b"", (ConnectionClosed(unfinished=()),), "nothing was asked", eof=True),
    Row("eof-in-params", begin() + rec(PARAMS, 1, AB), (ConnectionClosed(unfinished=(1,)),), "never run it", eof=True),
    Row(
        "eof-in-stdin",
        begin() + rec(PARAMS, 1) + rec(STDIN, 1, b"half"),
        (begun(params=()), chunk(b"half"), ConnectionClosed(unfinished=(1,))),
        "no StdinEnded",
        eof=True,
    ),
    Row("eof-when-complete", FULL, (begun(), stdin_ended(), ConnectionClosed(unfinished=(1,))), "half-close", eof=True),
    Row("eof-in-a-record", FULL[:-1], (begun(), RemoteProtocolError), "half a header", eof=True),
    Row("version-2", rec(STDIN, 1, version=2), (RemoteProtocolError,), "not FastCGI 1"),
    Row("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", (RemoteProtocolError,), "a browser on that port"),
    Row("short-begin", rec(1, 1, b"\0\1\1\0\0\0\0"), (RemoteProtocolError,), "BEGIN of less than 8 octets"),
    Row("begin-with-id-0", begin(0), (RemoteProtocolError,), "id 0 is for management records"),
    Row("begin-twice", begin() * 2, (RemoteProtocolError,), "which PARAMS belong to which?"),
    Row("begin-twice-multiplexed", begin() * 2, (RemoteProtocolError,), "likewise", MULTIPLEX),
    Row(
        "begin-in-use-multiplexed",
        FULL + begin(),
        (begun(), stdin_ended(), RemoteProtocolError),
        "the answer could not be told from the next",
        MULTIPLEX,
    ),
    Row("stdin-before-params-end", begin() + rec(STDIN, 1, b"x"), (RemoteProtocolError,), "out of order"),
    Row("stdin-end-before-params-end", begin() + rec(STDIN, 1), (RemoteProtocolError,), "out of order"),
    Row(
        "params-after-their-end",
        begin() + rec(PARAMS, 1) + rec(PARAMS, 1, AB),
        (begun(params=()), RemoteProtocolError),
        "the request has begun without them",
    ),
    Row(
        "stdin-after-its-end",
        FULL + rec(STDIN, 1, b"x"),
        (begun(), stdin_ended(), RemoteProtocolError),
        "nobody knows what belongs to the body",
    ),
    Row(
        "data-to-a-responder",
        begin() + rec(PARAMS, 1) + rec(DATA, 1, b"x"),
        (begun(params=()), RemoteProtocolError),
        "role",
    ),
    Row("params-cut", begin() + rec(PARAMS, 1, AB[:3]) + rec(PARAMS, 1), (RemoteProtocolError,), "half a pair"),
    Row(
        "params-too-long",
        begin() + rec(PARAMS, 1, AB) * 2 + rec(PARAMS, 1, b"x"),
        (RemoteProtocolError,),
        "beyond max_params_octets",
        ResponderOptions(max_params_octets=8),
    ),
    Row(
        "params-as-long-as-allowed",
        begin() + rec(PARAMS, 1, AB) * 2 + rec(PARAMS, 1),
        (begun(params=((b"a", b"b"),) * 2),),
        "exactly max_params_octets",
        ResponderOptions(max_params_octets=8),
    ),
]


@pytest.mark.parametrize("split", Split)
@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_responder_reads(row: Row, split: Split) -> None:
    wire, expected = row.wire, row.expected
    if split is Split.TRAILING and not row.eof:
        wire += rec(GET_VALUES, 0)
        if expected[-1] is not RemoteProtocolError:
            expected = (*expected, ValuesRequested(names=(), to_send=rec(VALUES_RESULT, 0)))
    assert drive(ResponderConnection(row.options), wire, split, eof=row.eof) == list(expected), row.reason


# --- answering -------------------------------------------------------------------------------------------------------


def responder(wire: bytes = FULL, options: ResponderOptions = PLAIN) -> ResponderConnection:
    conn = ResponderConnection(options)
    drive(conn, wire, Split.WHOLE)
    return conn


def test_an_answer_ends_stdout_before_end_request() -> None:
    conn = responder()
    assert conn.send_stdout(1, b"") == b""
    assert conn.send_stdout(1, b"out") == rec(STDOUT, 1, b"out")
    assert conn.end_request(1, 5) == rec(STDOUT, 1) + end(app_status=5)
    assert conn.open_requests == ()


def test_stderr_is_ended_only_if_used() -> None:
    conn = responder()
    assert conn.send_stderr(1, b"") == b""
    assert conn.send_stderr(1, memoryview(b"err")) == rec(STDERR, 1, b"err")
    assert conn.send_stderr(1, b"") == b""
    assert conn.end_request(1) == rec(STDOUT, 1) + rec(STDERR, 1) + end()


def test_empty_stderr_is_no_use_of_it() -> None:
    conn = responder()
    conn.send_stderr(1, b"")
    assert conn.end_request(1) == rec(STDOUT, 1) + end()


def test_long_output_is_split() -> None:
    data = bytes(65528) + b"x"
    assert responder().send_stdout(1, data) == rec(STDOUT, 1, data[:65528]) + rec(STDOUT, 1, b"x")


def test_the_embedder_may_refuse_too() -> None:
    wire = responder().end_request(1, protocol_status=ProtocolStatus.OVERLOADED)
    assert wire == rec(STDOUT, 1) + end(protocol_status=2)


@pytest.mark.parametrize("app_status", [0, 0xFFFFFFFF])
def test_app_status_uses_four_octets(app_status: int) -> None:
    assert responder().end_request(1, app_status).endswith(end(app_status=app_status))


def test_an_aborted_request_is_ended_by_the_embedder() -> None:
    conn = responder(begin() + rec(ABORT, 1))
    assert conn.end_request(1, 1) == rec(STDOUT, 1) + end(app_status=1)


def test_answers_are_legal_after_the_peer_has_half_closed() -> None:
    conn = responder()
    assert drive(conn, b"", Split.WHOLE, eof=True) == [ConnectionClosed(unfinished=(1,))]
    assert conn.state is ConnectionState.CLOSED
    assert conn.end_request(1) == rec(STDOUT, 1) + end()
    assert conn.next_event() == ConnectionClosed(unfinished=())


Misuse = Callable[[ResponderConnection], object]

MISUSES = [
    pytest.param(lambda conn: conn.send_stdout(2, b"x"), id="id-not-open"),
    pytest.param(lambda conn: conn.send_stderr(0, b"x"), id="id-of-management-records"),
    pytest.param(lambda conn: conn.end_request(65536), id="id-out-of-range"),
    pytest.param(lambda conn: conn.end_request(1) + conn.send_stdout(1, b"x"), id="output-after-the-end"),
    pytest.param(lambda conn: conn.end_request(1) + conn.end_request(1), id="ended-twice"),
    pytest.param(lambda conn: conn.end_request(1, -1), id="app-status-negative"),
    pytest.param(lambda conn: conn.end_request(1, 2**32), id="app-status-too-large"),
    pytest.param(lambda conn: conn.receive_data(bytes(262_145)), id="more-than-the-buffer"),
]


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_a_local_error_and_kills_the_connection(misuse: Misuse) -> None:
    conn = responder()
    with pytest.raises(LocalProtocolError):
        misuse(conn)
    assert conn.state is ConnectionState.ERROR
    for call in (conn.next_event, lambda: conn.end_request(1), lambda: conn.receive_data(b"")):
        with pytest.raises(LocalProtocolError):
            call()


# --- one after the other, and closing --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", Split)
def test_pipelined_requests_are_served_in_order(split: Split) -> None:
    """As php-fpm does it: the same id again, before the first answer."""
    conn = ResponderConnection()
    served: list[object] = []
    for piece in split.cut(FULL + FULL + begin(9) + rec(PARAMS, 9)):
        conn.receive_data(piece)
        while True:
            event = conn.next_event()
            if event is NEED_DATA:
                break
            if event is PAUSED:
                assert conn.next_event() is PAUSED
                assert conn.end_request(1) == rec(STDOUT, 1) + end()
                assert not conn.must_close
            else:
                served.append(event)
    assert served == [begun(), stdin_ended()] * 2 + [begun(9, ())]


def test_the_buffer_stays_bounded_while_paused() -> None:
    conn = responder(FULL + begin() + rec(PARAMS, 1, bytes(1000)))
    assert conn.next_event() is PAUSED
    assert conn.buffered_octets == 8 + 1008
    conn.receive_data(bytes(262_144 - 1008))
    with pytest.raises(LocalProtocolError):
        conn.receive_data(b"x")


def test_a_pipelined_request_waits_for_the_end_of_an_aborted_one() -> None:
    conn = responder(begin() + rec(ABORT, 1) + begin(2) + rec(PARAMS, 2))
    assert conn.next_event() is PAUSED
    conn.end_request(1)
    assert conn.next_event() == begun(2, ())


def test_what_follows_an_early_answer_is_ignored_up_to_the_next_request() -> None:
    conn = responder(begin() + rec(PARAMS, 1) + rec(STDIN, 1, b"half"))
    conn.end_request(1)
    assert drive(conn, rec(STDIN, 1, b"rest") + rec(STDIN, 1) + FULL, Split.WHOLE) == [
        skipped(STDIN, 1),
        skipped(STDIN, 1),
        begun(),
        stdin_ended(),
    ]


@pytest.mark.parametrize(("flags", "must_close"), [(0, True), (1, False)])
def test_the_connection_closes_after_a_request_that_did_not_ask_to_keep_it(flags: int, must_close: bool) -> None:
    conn = responder(begin(flags=flags) + rec(PARAMS, 1))
    before = conn.must_close
    conn.end_request(1)
    assert (before, conn.must_close) == (False, must_close)


def test_after_the_last_answer_everything_is_ignored() -> None:
    conn = responder(begin(flags=0) + rec(PARAMS, 1))
    conn.end_request(1)
    wire = rec(STDIN, 1) + begin() + rec(PARAMS, 1)
    assert drive(conn, wire, Split.WHOLE, eof=True) == [
        skipped(STDIN, 1),
        skipped(1, 1),
        skipped(PARAMS, 1),
        ConnectionClosed(unfinished=()),
    ]


def test_a_refused_request_that_did_not_ask_to_keep_closes_too() -> None:
    assert responder(begin(role=9, flags=0)).must_close
    assert not responder(begin(role=9)).must_close


def test_multiplexed_requests_finish_before_the_connection_closes() -> None:
    conn = responder(begin(1, flags=0) + rec(PARAMS, 1) + begin(2) + rec(PARAMS, 2), MULTIPLEX)
    conn.end_request(1)
    before = conn.must_close
    assert drive(conn, begin(3) + rec(STDIN, 2, b"x"), Split.WHOLE) == [
        refused(ProtocolStatus.OVERLOADED, 3),
        chunk(b"x", 2),
    ]
    conn.end_request(2)
    assert (before, conn.must_close) == (False, True)
