"""The client role: what it writes, what it makes of what an application sends, and how it fails."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.fastcgi.support import (
    ABORT,
    BEGIN,
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
    MAX_RECORD_OCTETS,
    NEED_DATA,
    ClientConnection,
    ClientOptions,
    ConnectionClosed,
    ConnectionState,
    LocalProtocolError,
    NameValue,
    ProtocolStatus,
    RecordIgnored,
    RecordType,
    RemoteProtocolError,
    RequestEnded,
    Role,
    StderrChunk,
    StdoutChunk,
    StreamEnded,
    UnknownTypeReported,
    ValuesReceived,
)


def out(data: bytes, request_id: int = 1) -> StdoutChunk:
    return StdoutChunk(request_id=request_id, data=data)


def err(data: bytes, request_id: int = 1) -> StderrChunk:
    return StderrChunk(request_id=request_id, data=data)


def done(
    request_id: int = 1, app_status: int = 0, status: ProtocolStatus = ProtocolStatus.REQUEST_COMPLETE
) -> RequestEnded:
    return RequestEnded(request_id=request_id, app_status=app_status, protocol_status=status)


def skipped(record_type: int, request_id: int) -> RecordIgnored:
    return RecordIgnored(record_type=record_type, request_id=request_id)


@dataclass(frozen=True, slots=True)
class Row:
    """An application's answer to request 1 (and 2), complete but for the end of file."""

    id: str
    wire: bytes
    expected: tuple[object, ...]
    reason: str
    eof: bool = False


ROWS = [
    Row(
        "php-fpm",
        rec(STDOUT, 1, b"X: y\r\n\r\nSAVED", 1) + end(),
        (out(b"X: y\r\n\r\nSAVED"), done()),
        "no empty STDOUT at the end, padding to 8",
    ),
    Row(
        "libfcgi",
        rec(STDOUT, 1, b"a") + rec(STDERR, 1, b"e") + rec(STDOUT, 1) + rec(STDERR, 1) + end(app_status=7),
        (
            out(b"a"),
            err(b"e"),
            StreamEnded(request_id=1, stream=RecordType.STDOUT),
            StreamEnded(request_id=1, stream=RecordType.STDERR),
            done(app_status=7),
        ),
        "both streams ended explicitly, appStatus passed on",
    ),
    Row(
        "stderr-ended-first",
        rec(STDERR, 1) + rec(STDOUT, 1, b"a") + rec(STDOUT, 1) + end(),
        (
            StreamEnded(request_id=1, stream=RecordType.STDERR),
            out(b"a"),
            StreamEnded(request_id=1, stream=RecordType.STDOUT),
            done(),
        ),
        "the streams are independent",
    ),
    Row(
        "stderr-before-and-within-the-head",
        rec(STDERR, 1, b"w1; ") + rec(STDOUT, 1, b"X:") + rec(STDERR, 1, b"w2") + rec(STDOUT, 1, b" y") + end(),
        (err(b"w1; "), out(b"X:"), err(b"w2"), out(b" y"), done()),
        "warnings come before output and inside the header block",
    ),
    Row("empty-output", end(), (done(),), "out of memory while PHP parses the body"),
    Row("one-octet-records", rec(STDOUT, 1, b"a") * 3 + end(), (out(b"a"), out(b"a"), out(b"a"), done()), "legal"),
    Row(
        "largest-record",
        rec(STDOUT, 1, b"z" * 65535, 255) + end(),
        (out(b"z" * 65535), done()),
        "65535 of content, 255 of padding",
    ),
    Row("padded-end", end(padding=255), (done(),), "END is over with its padding"),
    Row("long-end", end(extra=b"more", padding=4), (done(),), "more than 8 octets: the rest is ignored"),
    Row(
        "app-status-of-four-octets",
        end(app_status=0xFFFFFFFE),
        (done(app_status=0xFFFFFFFE),),
        "unsigned, big-endian",
    ),
    Row(
        "cant-mpx",
        end(2, protocol_status=1) + rec(STDOUT, 1, b"a") + end(),
        (done(2, status=ProtocolStatus.CANT_MPX_CONN), out(b"a"), done()),
        "what libfcgi answers to a second request",
    ),
    Row("overloaded", end(protocol_status=2), (done(status=ProtocolStatus.OVERLOADED),), "not executed"),
    Row("unknown-role", end(protocol_status=3), (done(status=ProtocolStatus.UNKNOWN_ROLE),), "not executed"),
    Row(
        "two-requests-interleaved",
        rec(STDOUT, 2, b"B") + rec(STDOUT, 1, b"a") + rec(STDOUT, 2, b"C") + end(2) + rec(STDOUT, 1, b"b") + end(1),
        (out(b"B", 2), out(b"a"), out(b"C", 2), done(2), out(b"b"), done()),
        "multiplexing",
    ),
    Row(
        "other-id",
        rec(STDOUT, 77, b"x", 3) + end(77, protocol_status=9) + rec(STDERR, 0) + end(),
        (skipped(STDOUT, 77), skipped(3, 77), skipped(STDERR, 0), done()),
        "skipped by length and not judged",
    ),
    Row(
        "after-end",
        end() + rec(STDOUT, 1, b"x") + rec(STDERR, 1, b"x") + end(),
        (done(), skipped(STDOUT, 1), skipped(STDERR, 1), skipped(3, 1)),
        "the id is not in use any more",
    ),
    Row(
        "unknown-type",
        rec(12, 1, b"abc", 5) + rec(0, 0) + rec(255, 2) + end(),
        (skipped(12, 1), skipped(0, 0), skipped(255, 2), done()),
        "skipped by length, where nginx gives up",
    ),
    Row(
        "wrong-direction",
        begin(1) + rec(ABORT, 1) + rec(PARAMS, 1) + rec(STDIN, 1, b"x") + rec(DATA, 1) + rec(GET_VALUES, 0) + end(),
        (*(skipped(kind, 1) for kind in (BEGIN, ABORT, PARAMS, STDIN, DATA)), skipped(GET_VALUES, 0), done()),
        "records that only clients send",
    ),
    Row(
        "unasked-values",
        rec(VALUES_RESULT, 0, b"\x01\x01ab") + end(),
        (skipped(VALUES_RESULT, 0), done()),
        "management record that nobody asked for",
    ),
    Row(
        "unknown-type-reported",
        rec(UNKNOWN, 0, b"\x63" + bytes(7)) + rec(UNKNOWN, 0) + rec(UNKNOWN, 1, b"\x63" + bytes(7)) + end(),
        (UnknownTypeReported(record_type=99), skipped(UNKNOWN, 0), skipped(UNKNOWN, 1), done()),
        "without content, or with an id, it tells nothing",
    ),
    Row(
        "streams-ended-twice",
        rec(STDOUT, 1) * 2 + rec(STDERR, 1) * 2 + rec(STDOUT, 1) + end(),
        (
            StreamEnded(request_id=1, stream=RecordType.STDOUT),
            skipped(STDOUT, 1),
            StreamEnded(request_id=1, stream=RecordType.STDERR),
            skipped(STDERR, 1),
            skipped(STDOUT, 1),
            done(),
        ),
        "harmless",
    ),
    Row("eof-after-ends", end() + end(2), (done(), done(2), ConnectionClosed(unfinished=())), "the good end", eof=True),
    Row(
        "eof-without-end",
        rec(STDOUT, 1, b"\r\nSAVED") + end(2),
        (out(b"\r\nSAVED"), done(2), ConnectionClosed(unfinished=(1,))),
        "SAVED is nothing without END_REQUEST: flush, then crash",
        eof=True,
    ),
    Row(
        "eof-after-the-stream-ends",
        rec(STDOUT, 1) + rec(STDERR, 1),
        (
            StreamEnded(request_id=1, stream=RecordType.STDOUT),
            StreamEnded(request_id=1, stream=RecordType.STDERR),
            ConnectionClosed(unfinished=(1, 2)),
        ),
        "the streams' ends are not the request's end",
        eof=True,
    ),
    Row("eof-at-once", b"", (ConnectionClosed(unfinished=(1, 2)),), "a worker that was recycled", eof=True),
    Row("eof-in-header", end()[:5], (RemoteProtocolError,), "half a header", eof=True),
    Row("eof-in-content", end()[:12], (RemoteProtocolError,), "half a record", eof=True),
    Row("eof-in-padding", end(padding=3)[:-1], (RemoteProtocolError,), "END without its padding", eof=True),
    Row("version-0", rec(STDOUT, 1, b"a", version=0), (RemoteProtocolError,), "not FastCGI"),
    Row("version-2", end() + rec(STDOUT, 1, version=2), (done(), RemoteProtocolError), "not FastCGI 1"),
    Row("http", b"HTTP/1.1 400 Bad Request\r\n\r\n", (RemoteProtocolError,), "a web server on that port"),
    Row("short-end", rec(3, 1, bytes(7)), (RemoteProtocolError,), "END of less than 8 octets"),
    Row("empty-end", rec(3, 1, b"", 8), (RemoteProtocolError,), "padding is no content"),
    Row("status-4", end(protocol_status=4), (RemoteProtocolError,), "protocolStatus that does not exist"),
    Row(
        "stdout-after-its-end",
        rec(STDOUT, 1) + rec(STDOUT, 1, b"x") + end(),
        (StreamEnded(request_id=1, stream=RecordType.STDOUT), RemoteProtocolError),
        "nobody knows what belongs to the answer",
    ),
    Row(
        "stderr-after-its-end",
        rec(STDERR, 1) + rec(STDERR, 1, b"x") + end(),
        (StreamEnded(request_id=1, stream=RecordType.STDERR), RemoteProtocolError),
        "likewise",
    ),
]


def waiting_client() -> ClientConnection:
    """Two requests sent whole, so that the rows are about the answers only."""
    conn = ClientConnection()
    for request_id in (1, 2):
        conn.begin_request(request_id, params=(), keep_connection=True)
        conn.end_stdin(request_id)
    return conn


@pytest.mark.parametrize("split", Split)
@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_client_reads(row: Row, split: Split) -> None:
    wire, expected = row.wire, row.expected
    if split is Split.TRAILING and not row.eof:
        wire += rec(STDOUT, 999, b"trailing", 1)
        if expected[-1] is not RemoteProtocolError:
            expected = (*expected, skipped(STDOUT, 999))
    assert drive(waiting_client(), wire, split, eof=row.eof) == list(expected), row.reason


def test_end_is_not_reported_before_its_padding_is_read() -> None:
    conn = waiting_client()
    wire = end(padding=3)
    conn.receive_data(wire[:-1])
    assert conn.next_event() is NEED_DATA
    conn.receive_data(wire[-1:])
    assert conn.next_event() == done()
    assert conn.buffered_octets == 0


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_request_is_written_whole() -> None:
    conn = ClientConnection()
    params = [(b"SCRIPT_FILENAME", b"/s.php"), (b"CONTENT_LENGTH", b"3")]
    pairs = b"\x0f\x06SCRIPT_FILENAME/s.php" + b"\x0e\x01CONTENT_LENGTH3"
    assert conn.begin_request(params=params, keep_connection=True) == begin() + rec(PARAMS, 1, pairs) + rec(PARAMS, 1)
    assert conn.send_stdin(1, b"") == b""
    assert conn.send_stdin(1, b"ab") == rec(STDIN, 1, b"ab")
    assert conn.send_stdin(1, memoryview(b"c")) == rec(STDIN, 1, b"c")
    assert conn.end_stdin(1) == rec(STDIN, 1)
    assert conn.open_requests == (1,)


def test_begin_request_names_role_and_flags() -> None:
    conn = ClientConnection()
    assert conn.begin_request(258, params=(), role=Role.FILTER) == begin(258, 3, 0) + rec(PARAMS, 258)


def test_stdin_is_split_in_records_of_65528() -> None:
    conn = ClientConnection()
    conn.begin_request(params=())
    body = bytes(65528) + b"x"
    assert conn.send_stdin(1, body) == rec(STDIN, 1, body[:65528]) + rec(STDIN, 1, b"x")


@pytest.mark.parametrize("stdin_first", [True, False])
def test_a_filter_gets_both_streams_in_any_order(stdin_first: bool) -> None:
    conn = ClientConnection()
    conn.begin_request(params=(), role=Role.FILTER)
    assert conn.send_data(1, b"d") == rec(DATA, 1, b"d")
    assert conn.send_stdin(1, b"s") == rec(STDIN, 1, b"s")
    ends = [(conn.end_stdin, rec(STDIN, 1)), (conn.end_data, rec(DATA, 1))]
    for method, wire in ends if stdin_first else reversed(ends):
        assert method(1) == wire


def test_an_authorizer_gets_params_only() -> None:
    conn = ClientConnection()
    conn.begin_request(params=[(b"CONTENT_LENGTH", b"none")], role=Role.AUTHORIZER, keep_connection=True)
    conn.receive_data(end())
    assert conn.next_event() == done()
    assert conn.is_reusable


@pytest.mark.parametrize("request_id", [-1, 0, 65536])
def test_ids_outside_the_range_are_refused(request_id: int) -> None:
    with pytest.raises(LocalProtocolError):
        ClientConnection().begin_request(request_id, params=())


@pytest.mark.parametrize("request_id", [1, 65535])
def test_ids_at_the_ends_of_the_range_are_taken(request_id: int) -> None:
    assert ClientConnection().begin_request(request_id, params=())


Misuse = Callable[[ClientConnection], object]

MISUSES = [
    pytest.param(lambda conn: conn.begin_request(1, params=()), id="id-in-use"),
    pytest.param(lambda conn: conn.send_stdin(2, b"x"), id="id-not-in-use"),
    pytest.param(lambda conn: conn.send_data(1, b"x"), id="data-to-a-responder"),
    pytest.param(lambda conn: conn.end_data(1), id="end-of-data-to-a-responder"),
    pytest.param(lambda conn: conn.end_stdin(1) + conn.send_stdin(1, b"x"), id="stdin-after-its-end"),
    pytest.param(lambda conn: conn.end_stdin(1) + conn.end_stdin(1), id="stdin-ended-twice"),
    pytest.param(lambda conn: conn.abort_request(1) + conn.send_stdin(1, b"x"), id="stdin-after-abort"),
    pytest.param(lambda conn: conn.abort_request(1) + conn.abort_request(1), id="aborted-twice"),
    pytest.param(lambda conn: conn.abort_request(2), id="abort-of-nothing"),
    pytest.param(lambda conn: conn.begin_request(2, params=[(b"a", b"\0")]), id="nul"),
    pytest.param(lambda conn: conn.begin_request(2, params=[(b"a", b""), (b"a", b"")]), id="name-twice"),
    pytest.param(lambda conn: conn.get_values([b"n" * 65531]), id="names-too-long"),
    pytest.param(lambda conn: conn.receive_data(bytes(262_145)), id="more-than-the-buffer"),
]


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_a_local_error_and_kills_the_connection(misuse: Misuse) -> None:
    conn = ClientConnection()
    conn.begin_request(params=())
    with pytest.raises(LocalProtocolError):
        misuse(conn)
    assert conn.state is ConnectionState.ERROR
    assert not conn.is_reusable
    for call in (conn.next_event, lambda: conn.end_stdin(1), lambda: conn.receive_data(b"")):
        with pytest.raises(LocalProtocolError):
            call()


def test_the_buffer_limit_is_an_option() -> None:
    conn = ClientConnection(ClientOptions(max_buffer_octets=MAX_RECORD_OCTETS))
    conn.receive_data(bytes(MAX_RECORD_OCTETS))
    with pytest.raises(LocalProtocolError):
        conn.receive_data(b"x")


# --- CONTENT_LENGTH --------------------------------------------------------------------------------------------------


def declared(value: bytes) -> list[NameValue]:
    return [(b"CONTENT_LENGTH", value)]


def test_a_body_longer_than_declared_is_refused() -> None:
    conn = ClientConnection()
    conn.begin_request(params=declared(b"3"))
    conn.send_stdin(1, b"abc")
    with pytest.raises(LocalProtocolError, match="beyond"):
        conn.send_stdin(1, b"d")


def test_a_body_shorter_than_declared_is_refused() -> None:
    """PHP would hang in its read, or run the script on half a mail."""
    conn = ClientConnection()
    conn.begin_request(params=declared(b"3"))
    conn.send_stdin(1, b"ab")
    with pytest.raises(LocalProtocolError, match="short"):
        conn.end_stdin(1)


@pytest.mark.parametrize("value", [b"-1", b"+1", b"1.0", b" 1", b"x", b"9" * 20])
def test_a_length_that_is_no_number_is_refused(value: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        ClientConnection().begin_request(params=declared(value))


@pytest.mark.parametrize("params", [[], declared(b"")], ids=["missing", "empty"])
def test_a_length_that_is_not_declared_binds_nobody(params: list[NameValue]) -> None:
    conn = ClientConnection()
    conn.begin_request(params=params)
    conn.send_stdin(1, b"abc")
    conn.end_stdin(1)


# --- life ------------------------------------------------------------------------------------------------------------


def test_a_kept_connection_serves_one_request_after_the_other() -> None:
    conn = ClientConnection()
    reusable = [conn.is_reusable]
    for _ in range(3):
        conn.begin_request(params=(), keep_connection=True)
        conn.end_stdin(1)
        reusable.append(conn.is_reusable)
        conn.receive_data(end())
        assert conn.next_event() == done()
        assert conn.open_requests == ()
        reusable.append(conn.is_reusable)
    assert reusable == [True, *[False, True] * 3]


def test_an_early_answer_keeps_the_id_until_the_input_is_complete() -> None:
    conn = ClientConnection()
    conn.begin_request(params=(), keep_connection=True)
    conn.receive_data(end())
    assert conn.next_event() == done()
    assert conn.open_requests == (1,)
    reusable = [conn.is_reusable]
    assert conn.send_stdin(1, b"x") == rec(STDIN, 1, b"x")
    conn.end_stdin(1)
    assert [*reusable, conn.is_reusable] == [False, True]


def test_an_early_answer_is_no_unfinished_request() -> None:
    conn = ClientConnection()
    conn.begin_request(params=())
    assert drive(conn, end(), Split.WHOLE, eof=True) == [done(), ConnectionClosed(unfinished=())]


def test_after_an_early_answer_records_of_the_id_are_ignored() -> None:
    conn = ClientConnection()
    conn.begin_request(params=())
    assert drive(conn, end() + rec(STDOUT, 1, b"x") + end(), Split.WHOLE) == [done(), skipped(STDOUT, 1), skipped(3, 1)]


def test_an_aborted_request_still_ends_but_the_connection_is_not_reused() -> None:
    conn = ClientConnection()
    conn.begin_request(params=declared(b"9"), keep_connection=True)
    assert conn.abort_request(1) == rec(ABORT, 1)
    assert drive(conn, rec(STDOUT, 1, b"x") + end(), Split.WHOLE) == [out(b"x"), done()]
    assert conn.open_requests == ()
    assert not conn.is_reusable


def answered(keep_connection: bool = True) -> ClientConnection:
    conn = ClientConnection()
    conn.begin_request(params=(), keep_connection=keep_connection)
    conn.end_stdin(1)
    assert drive(conn, end(), Split.WHOLE) == [done()]
    return conn


def test_a_connection_without_keep_is_not_reused() -> None:
    assert not answered(keep_connection=False).is_reusable


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x01", id="octets-unread"),
        pytest.param(b"", id="end-of-file"),
        pytest.param(rec(STDOUT, 5), id="record-ignored"),
        pytest.param(rec(UNKNOWN, 0, bytes(8)), id="unknown-type-reported"),
    ],
)
def test_a_connection_with_oddities_is_not_reused(wire: bytes) -> None:
    conn = answered()
    conn.receive_data(wire)
    assert not conn.is_reusable
    conn.next_event()
    assert not conn.is_reusable


def test_nothing_begins_after_the_end() -> None:
    calls: list[Misuse] = [lambda conn: conn.begin_request(params=()), lambda conn: conn.get_values([b"a"])]
    for call in calls:
        conn = ClientConnection()
        conn.receive_data(b"")
        for _ in range(2):
            assert conn.next_event() == ConnectionClosed(unfinished=())
        assert conn.state is ConnectionState.CLOSED
        with pytest.raises(LocalProtocolError):
            call(conn)


# --- management ------------------------------------------------------------------------------------------------------


def test_values_are_asked_and_received() -> None:
    conn = ClientConnection()
    assert conn.get_values([b"A", b"BC"]) == rec(GET_VALUES, 0, b"\x01\x00A\x02\x00BC")
    assert not conn.is_reusable
    wire = rec(VALUES_RESULT, 0, b"\x01\x01A7", 3)
    assert drive(conn, wire * 2, Split.BYTEWISE) == [ValuesReceived(values=((b"A", b"7"),)), skipped(VALUES_RESULT, 0)]


def test_values_with_an_id_or_cut_are_ignored() -> None:
    conn = ClientConnection()
    conn.get_values([b"A"])
    wire = rec(VALUES_RESULT, 1, b"\x01\x01A7") + rec(VALUES_RESULT, 0, b"\x01\x01A")
    assert drive(conn, wire, Split.WHOLE) == [skipped(VALUES_RESULT, 1), skipped(VALUES_RESULT, 0)]
