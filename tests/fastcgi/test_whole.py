"""Whole requests and whole answers: the short ways, which must come to what the long ones come to."""

from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fastcgi.support import END, PATIENT, STDERR, STDIN, STDOUT, Split, drive, end, rec
from trio_fcgimail.fastcgi import (
    NEED_DATA,
    Answer,
    BodyChunk,
    ClientConnection,
    ClientEvent,
    ConnectionState,
    ConstantParams,
    LocalProtocolError,
    NameValue,
    ProtocolError,
    ProtocolStatus,
    RemoteProtocolError,
    RequestEnded,
    ResponseEnded,
    ResponseHead,
    ResponseHeadReader,
    StderrChunk,
    StdoutChunk,
    StreamEnded,
    encode_params,
    read_response,
)

NAMES: Final = st.sampled_from([b"A", b"B", b"C" * 127, b"D" * 128, b"E", b""])
VALUES: Final = st.sampled_from([b"", b"1", b"v" * 127, b"w" * 128, b"x" * 40_000, b"nul\0"])
PAIRS: Final = st.lists(st.tuples(NAMES, VALUES), max_size=4)
BODIES: Final = st.sampled_from([b"", b"hello", b"y" * 65_528, b"z" * 65_529, b"z" * 200_000])


def request_in_steps(
    conn: ClientConnection, params: list[NameValue], constant: list[NameValue], body: bytes, *, keep: bool
) -> bytes:
    return (
        conn.begin_request(7, params=[*constant, *params], keep_connection=keep)
        + conn.send_stdin(7, body)
        + conn.end_stdin(7)
    )


@PATIENT
@given(PAIRS, PAIRS, BODIES, st.booleans(), st.sampled_from([None, 0, 5, 65_528, 99]))
def test_request_is_begin_stdin_and_end_in_one(
    params: list[NameValue], constant: list[NameValue], body: bytes, keep: bool, declared: int | None
) -> None:
    if declared is not None:
        params = [*params, (b"CONTENT_LENGTH", b"%d" % declared)]
    steps, whole = ClientConnection(), ClientConnection()
    try:
        expected = request_in_steps(steps, params, constant, body, keep=keep)
    except LocalProtocolError:
        with pytest.raises(LocalProtocolError):
            whole.request(7, params=params, constant=ConstantParams(constant), body=body, keep_connection=keep)
        return
    assert (
        whole.request(7, params=params, constant=ConstantParams(constant), body=body, keep_connection=keep) == expected
    )
    for conn in (steps, whole):
        assert conn.open_requests == (7,)
        with pytest.raises(LocalProtocolError):
            conn.send_stdin(7, b"")


@pytest.mark.parametrize("keep", [True, False])
def test_request_leaves_the_connection_as_the_steps_do(keep: bool) -> None:
    conn = ClientConnection()
    for _ in range(2 if keep else 1):
        conn.request(7, params=[(b"A", b"b")], body=b"hello", keep_connection=keep)
        assert not conn.is_reusable
        assert drive(conn, rec(STDOUT, 7, b"x") + end(7), Split.WHOLE) == [
            StdoutChunk(request_id=7, data=b"x"),
            RequestEnded(request_id=7, app_status=0, protocol_status=ProtocolStatus.REQUEST_COMPLETE),
        ]
        assert conn.open_requests == ()
        assert conn.is_reusable is keep


@pytest.mark.parametrize(
    "declared", [pytest.param(b"4", id="short"), pytest.param(b"6", id="long"), pytest.param(b"five", id="no-number")]
)
@pytest.mark.parametrize("constant", [True, False])
def test_request_refuses_a_body_of_another_length(declared: bytes, constant: bool) -> None:
    conn = ClientConnection()
    length = [(b"CONTENT_LENGTH", declared)]
    with pytest.raises(LocalProtocolError):
        conn.request(
            params=[] if constant else length, constant=ConstantParams(length if constant else ()), body=b"12345"
        )
    assert conn.state is ConnectionState.ERROR


@pytest.mark.parametrize("request_id", [0, 65_536])
def test_request_refuses_an_impossible_id(request_id: int) -> None:
    with pytest.raises(LocalProtocolError):
        ClientConnection().request(request_id, params=[])


def test_request_refuses_an_id_in_use() -> None:
    conn = ClientConnection()
    conn.request(3, params=[])
    with pytest.raises(LocalProtocolError):
        conn.request(3, params=[])


def test_request_refuses_a_closed_connection() -> None:
    conn = ClientConnection()
    drive(conn, b"", Split.WHOLE, eof=True)
    with pytest.raises(LocalProtocolError):
        conn.request(params=[])


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([(b"", b"x")], id="empty-name"),
        pytest.param([(b"a", b"1"), (b"a", b"2")], id="name-twice"),
        pytest.param([(b"a", b"1\0")], id="nul"),
        pytest.param([(b"a", b"v" * (65_535 - 5))], id="pair-of-65536-octets"),
    ],
)
def test_constant_params_are_checked_at_once(pairs: list[NameValue]) -> None:
    with pytest.raises(LocalProtocolError):
        ConstantParams(pairs)


def test_a_name_cannot_be_constant_and_not() -> None:
    with pytest.raises(LocalProtocolError):
        encode_params(1, [(b"a", b"1")], ConstantParams([(b"a", b"1")]))


STREAM: Final = st.tuples(st.sampled_from([STDOUT, STDERR]), st.sampled_from([b"", b"a", b"bc" * 200]))
RECORDS: Final = st.lists(
    st.one_of(
        STREAM.map(lambda row: rec(row[0], 1, row[1], padding=3)),
        st.sampled_from(
            [
                end(),
                end(app_status=3, protocol_status=2),
                end(protocol_status=9),
                end(2),
                rec(END, 1, b"short"),
                rec(STDOUT, 2, b"other"),
                rec(STDIN, 1, b"wrong way"),
                rec(STDOUT, 1, b"x", version=2),
                rec(99, 1, b"unknown"),
            ]
        ),
    ),
    max_size=5,
)


def told(conn: ClientConnection) -> list[ClientEvent | type[ProtocolError]]:
    """All events, and the error that ended them."""
    events: list[ClientEvent | type[ProtocolError]] = []
    try:
        while (event := conn.next_event()) is not NEED_DATA:
            events.append(event)
            if conn.state is ConnectionState.CLOSED:
                break
    except RemoteProtocolError:
        events.append(RemoteProtocolError)
    return events


def asked(wire: bytes, *, eof: bool) -> ClientConnection:
    conn = ClientConnection()
    conn.request(1, params=[], keep_connection=True)
    if wire:
        conn.receive_data(wire)
    if eof:
        conn.receive_data(b"")
    return conn


@PATIENT
@given(RECORDS, st.integers(0, 30), st.booleans())
def test_an_answer_is_what_the_events_say(records: list[bytes], short: int, eof: bool) -> None:
    wire = b"".join([*records, end()])
    wire = wire[: len(wire) - short]
    by_events, by_answer = asked(wire, eof=eof), asked(wire, eof=eof)
    answer = by_answer.next_answer(1)
    expected = told(by_events)
    if answer is None:
        assert told(by_answer) == expected
        return
    ended = next(event for event in expected if isinstance(event, RequestEnded))
    before, behind = expected[: expected.index(ended)], expected[expected.index(ended) + 1 :]
    assert all(isinstance(event, StdoutChunk | StderrChunk | StreamEnded) for event in before)
    assert answer == Answer(
        b"".join(event.data for event in before if isinstance(event, StdoutChunk)),
        b"".join(event.data for event in before if isinstance(event, StderrChunk)),
        ended.app_status,
        ended.protocol_status,
    )
    assert told(by_answer) == behind
    assert by_answer.is_reusable is by_events.is_reusable
    assert by_answer.open_requests == by_events.open_requests


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(rec(STDOUT, 1, b"Hello") + end(), id="php-fpm"),
        pytest.param(rec(STDOUT, 1, b"He") + rec(STDOUT, 1, b"llo") + rec(STDOUT, 1) + end(), id="in-pieces"),
        pytest.param(rec(STDERR, 1, b"oops") + rec(STDOUT, 1, b"Hello") + rec(STDERR, 1) + end(), id="with-stderr"),
    ],
)
def test_an_answer_that_is_there_whole_is_returned(wire: bytes) -> None:
    conn = asked(wire, eof=False)
    answer = conn.next_answer()
    assert answer is not None
    assert answer.stdout == b"Hello"
    assert answer.protocol_status is ProtocolStatus.REQUEST_COMPLETE
    assert conn.is_reusable
    assert conn.next_answer() is None
    assert conn.next_event() is NEED_DATA


def test_an_answer_to_half_a_request_keeps_its_id_in_use() -> None:
    conn = ClientConnection()
    conn.begin_request(1, params=[], keep_connection=True)
    conn.receive_data(rec(STDOUT, 1, b"x") + end())
    assert conn.next_answer() is not None
    assert conn.open_requests == (1,)
    conn.end_stdin(1)
    assert conn.is_reusable


def test_no_answer_from_the_dead() -> None:
    conn = asked(b"not FastCGI", eof=False)
    assert conn.next_answer() is None
    with pytest.raises(RemoteProtocolError):
        conn.next_event()
    with pytest.raises(LocalProtocolError):
        conn.next_answer()


LINES: Final = st.lists(
    st.sampled_from([b"", b"\r", b"A: b", b"Status: 404 Not Found\r", b"Location: x\r", b"no header", b": x", b"C:\0"]),
    max_size=5,
)


@PATIENT
@example(lines=[b"A: b", b"", b"\r", b""], rest=b"", max_octets=20)  # the two kinds of empty line share an LF
@given(
    LINES, st.sampled_from([b"", b"\n", b"\r\n", b"\n\nbody", b"\r\n\r\nbody\n\n"]), st.sampled_from([0, 1, 2, 20, 99])
)
def test_a_response_is_read_as_its_reader_reads_it(lines: list[bytes], rest: bytes, max_octets: int) -> None:
    output = b"\n".join(lines) + rest
    reader = ResponseHeadReader(max_octets)
    if output:
        reader.receive_data(output)
    reader.receive_data(b"")
    try:
        head = reader.next_event()
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            read_response(output, max_octets)
        return
    assert isinstance(head, ResponseHead)
    body = b""
    while isinstance(event := reader.next_event(), BodyChunk):
        body += event.data
    assert isinstance(event, ResponseEnded)
    assert read_response(output, max_octets) == (head, body)
