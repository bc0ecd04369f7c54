"""The CGI response head (RFC 3875, 6), with h11 as the judge."""

import re
from dataclasses import dataclass

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fastcgi.support import PATIENT
from trio_fcgimail.fastcgi import (
    NEED_DATA,
    BodyChunk,
    LocalProtocolError,
    RemoteProtocolError,
    ResponseEnded,
    ResponseHead,
    ResponseHeadReader,
    encode_response_head,
)

Headers = tuple[tuple[bytes, bytes], ...]


def head(status: int = 200, reason: bytes = b"", headers: Headers = ()) -> ResponseHead:
    return ResponseHead(status=status, reason=reason, headers=headers)


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    wire: bytes
    expected: ResponseHead | type[RemoteProtocolError]
    reason: str


HTML = ((b"content-type", b"text/html"),)

ROWS = [
    Row("php-fpm", b"Content-type: text/html\r\n\r\n", head(headers=HTML), "no Status is 200"),
    Row("lf", b"Content-type: text/html\n\n", head(headers=HTML), "scripts write LF"),
    Row("mixed-ends", b"A: b\r\nC: d\n\r\n", head(headers=((b"a", b"b"), (b"c", b"d"))), "each line on its own"),
    Row("lf-then-crlf", b"A: b\n\r\n", head(headers=((b"a", b"b"),)), "end of the head by CRLF"),
    Row("crlf-then-lf", b"A: b\r\n\n", head(headers=((b"a", b"b"),)), "end of the head by LF"),
    Row("only-crlf", b"\r\n", head(), "default_mimetype empty"),
    Row("only-lf", b"\n", head(), "likewise"),
    Row("status", b"Status: 503 Busy\r\n\r\n", head(503, b"Busy"), "with its phrase"),
    Row("status-599", b"Status: 599 x\r\n\r\n", head(599, b"x"), "header('HTTP/1.1 599 x')"),
    Row("status-alone", b"Status: 404\r\n\r\n", head(404), "the phrase may be missing"),
    Row("status-blank", b"Status: 404 \r\n\r\n", head(404), "or empty"),
    Row("status-tight", b"sTATUS:404\tNot  Found \r\n\r\n", head(404, b"Not  Found"), "any case, any blank"),
    Row("status-8-bit", b"Status: 500 \xc3\xa9\r\n\r\n", head(500, b"\xc3\xa9"), "bytes stay bytes"),
    Row(
        "status-last", b"Content-type: text/html\r\nStatus: 403 No\r\n\r\n", head(403, b"No", HTML), "not always first"
    ),
    Row("location", b"Location: /x\r\n\r\n", head(302, b"", ((b"location", b"/x"),)), "alone it is a redirect"),
    Row(
        "location-and-type",
        b"Content-type: text/html\nLocation: /x\n\n",
        head(302, b"", (*HTML, (b"location", b"/x"))),
        "no Status",
    ),
    Row(
        "location-and-status",
        b"Location: /x\r\nStatus: 201 Made\r\n\r\n",
        head(201, b"Made", ((b"location", b"/x"),)),
        "Status wins",
    ),
    Row("blanks-around-value", b"A:\t b c \t\r\n\r\n", head(headers=((b"a", b"b c"),)), "stripped"),
    Row("form-feed-in-value", b"A: \x0cb\x0c\r\n\r\n", head(headers=((b"a", b"\x0cb\x0c"),)), "not a blank"),
    Row("empty-value", b"A:\r\nB: \r\n\r\n", head(headers=((b"a", b""), (b"b", b""))), "legal"),
    Row("colon-in-value", b"A: b:c\r\n\r\n", head(headers=((b"a", b"b:c"),)), "the first colon counts"),
    Row("repeated", b"A: 1\r\nA: 2\r\n\r\n", head(headers=((b"a", b"1"), (b"a", b"2"))), "order kept"),
    Row(
        "token", b"x!#$%&'*+-.^_`|~9: v\r\n\r\n", head(headers=((b"x!#$%&'*+-.^_`|~9", b"v"),)), "every token character"
    ),
    Row("control-in-value", b"A: a\x01b\r\n\r\n", head(headers=((b"a", b"a\x01b"),)), "RFC 9110, 5.5 lets us keep it"),
    Row("no-colon", b"SAVED\r\n\r\n", RemoteProtocolError, "output without a head"),
    Row("http-status-line", b"HTTP/1.1 200 OK\r\n\r\n", RemoteProtocolError, "not a parsed header script"),
    Row("empty-name", b": x\r\n\r\n", RemoteProtocolError, "RFC 3875, 6.3"),
    Row("blank-before-colon", b"A : x\r\n\r\n", RemoteProtocolError, "RFC 3875, 6.3"),
    Row("folded", b"A: b\r\n c\r\n\r\n", RemoteProtocolError, "RFC 3875, 6.3: no continuation lines"),
    Row("8-bit-name", b"\xc3\xa9: x\r\n\r\n", RemoteProtocolError, "not a token"),
    Row("bare-cr", b"A: b\rC: d\r\n\r\n", RemoteProtocolError, "would split the header elsewhere"),
    Row("two-crs", b"A: b\r\r\n\r\n", RemoteProtocolError, "only one belongs to the line end"),
    Row("line-of-crs", b"A: b\r\n\r\r\n\r\n", RemoteProtocolError, "not an empty line"),
    Row("nul", b"A: b\0\r\n\r\n", RemoteProtocolError, "RFC 9110, 5.5"),
    Row("warning-first", b"PHP Warning:  x in /y\r\nA: b\r\n\r\n", RemoteProtocolError, "text before the head"),
    Row("status-twice", b"Status: 200\r\nStatus: 500\r\n\r\n", RemoteProtocolError, "RFC 3875, 6.3"),
    *(
        Row(f"status-{name}", b"Status:" + value + b"\r\n\r\n", RemoteProtocolError, "three digits, then a blank")
        for name, value in {
            "empty": b"",
            "only-a-blank": b" ",
            "without-digits": b" OK",
            "of-two-digits": b" 20",
            "of-four-digits": b" 2000",
            "glued-to-its-phrase": b" 200OK",
            "below-100": b" 099",
            "above-599": b" 600",
            "negative": b" -20",
            "signed": b" +20",
            "fraction": b" 2.0",
            "superscript": b" \xb2\xb2\xb2",
        }.items()
    ),
]


def read(pieces: list[bytes], max_octets: int = 16384) -> list[object]:
    """Feed a reader; body chunks are joined, an error ends the list."""
    reader = ResponseHeadReader(max_octets)
    events: list[object] = []
    body = b""
    for piece in pieces:
        reader.receive_data(piece)
        while True:
            try:
                event = reader.next_event()
            except RemoteProtocolError:
                with pytest.raises(LocalProtocolError):
                    reader.next_event()
                with pytest.raises(LocalProtocolError):
                    reader.receive_data(b"x")
                return [*events, RemoteProtocolError]
            if isinstance(event, BodyChunk):
                assert event.data
                body += event.data
            elif event is NEED_DATA:
                break
            else:
                if isinstance(event, ResponseEnded):
                    return [*events, body, event]
                events.append(event)
    return [*events, body]


def bytewise(wire: bytes) -> list[bytes]:
    return [wire[i : i + 1] for i in range(len(wire))]


@pytest.mark.parametrize("body", [b"", b"SAVED", b"\r\n\r\nA: b\n\n"], ids=["no-body", "body", "body-like-a-head"])
@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_head_is_read(row: Row, body: bytes) -> None:
    wire = row.wire + body
    expected = [RemoteProtocolError] if row.expected is RemoteProtocolError else [row.expected, body, ResponseEnded()]
    assert read([wire, b""]) == expected, row.reason
    assert read([*bytewise(wire), b""]) == expected, row.reason


@pytest.mark.parametrize("wire", [b"", b"A", b"A: b", b"A: b\r", b"A: b\r\n", b"A: b\r\n\r", b"\r", b"SAVED"])
def test_an_end_within_the_head_is_an_error(wire: bytes) -> None:
    assert read([wire, b""] if wire else [b""]) == [RemoteProtocolError]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_the_limit_counts_the_head_alone(end: bytes) -> None:
    wire = b"A: " + b"v" * 60 + end + end
    fits = [head(headers=((b"a", b"v" * 60),)), b"body" * 100]
    for pieces in ([wire + b"body" * 100], bytewise(wire + b"body" * 100)):
        assert read(pieces, len(wire)) == fits
        assert read(pieces, len(wire) - 1) == [RemoteProtocolError]


def test_an_endless_head_is_an_error_before_it_ends() -> None:
    assert read([b"A: b\r\n" * 20], 100) == [RemoteProtocolError]
    assert read(bytewise(b"x" * 101), 100) == [RemoteProtocolError]
    assert read(bytewise(b"x" * 100), 100) == [b""]


def test_body_chunks_come_as_they_were_fed() -> None:
    reader = ResponseHeadReader()
    reader.receive_data(b"\nab")
    assert reader.next_event() == head()
    assert reader.buffered_octets == 2
    reader.receive_data(b"c")
    assert reader.buffered_octets == 3
    assert [reader.next_event() for _ in range(3)] == [BodyChunk(data=b"ab"), BodyChunk(data=b"c"), NEED_DATA]
    assert reader.buffered_octets == 0
    reader.receive_data(b"")
    reader.receive_data(b"")
    assert [reader.next_event() for _ in range(2)] == [ResponseEnded(), ResponseEnded()]


@pytest.mark.parametrize("first", [b"A: b", b"\n"], ids=["in-head", "in-body"])
def test_unread_data_is_bounded(first: bytes) -> None:
    reader = ResponseHeadReader(100)
    reader.receive_data(first)
    reader.next_event()
    reader.receive_data(bytes(262_144 + 100 - reader.buffered_octets))
    with pytest.raises(LocalProtocolError):
        reader.receive_data(b"x")
    with pytest.raises(LocalProtocolError):
        reader.next_event()


def test_data_after_the_end_is_refused() -> None:
    reader = ResponseHeadReader()
    reader.receive_data(b"")
    with pytest.raises(LocalProtocolError):
        reader.receive_data(b"x")


# --- h11 judges ------------------------------------------------------------------------------------------------------


def h11_reads(ours: ResponseHead, lines: bytes) -> tuple[int, bytes, list[tuple[bytes, bytes]]] | None:
    """What h11 makes of the same lines behind the status line that the head stands for; None if it refuses."""
    conn = h11.Connection(h11.CLIENT)
    conn.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    conn.receive_data(b"HTTP/1.1 %d %b\r\n" % (ours.status, ours.reason) + lines)
    try:
        event = conn.next_event()
    except h11.RemoteProtocolError:
        return None
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    return event.status_code, event.reason, list(event.headers)


# h11 rewrites the values of these two, which frame an HTTP message and mean nothing in CGI.
FRAMING = {b"content-length", b"transfer-encoding"}

Lines = st.SearchStrategy[bytes]

# Mostly what both take, so that there is something to compare; a damaged line in some.
words = st.text(alphabet="aZ0:;,=/_~-\xe9", min_size=1, max_size=6).map(lambda word: word.encode("latin-1"))
blanks = st.sampled_from([b"", b" ", b"\t", b" \t "])
ends = st.sampled_from([b"\r\n", b"\n"])
sound_values = st.lists(words, max_size=3).map(b" ".join)
sound_names = st.sampled_from([b"Content-Type", b"location", b"X-A", b"x_b", b"Content-Length", b"~", b"STATUS-"])
sound: Lines = st.tuples(sound_names, st.just(b":"), blanks, sound_values, blanks, ends).map(b"".join)
statuses: Lines = st.tuples(
    st.sampled_from([b"Status:", b"status: ", b"STATUS:\t"]),
    st.sampled_from([b"200", b"204 None", b"302 \tFound it ", b"599 \xe9", b"101 Switch", b"404\t"]),
    ends,
).map(b"".join)
damage = st.sampled_from([b"\x01", b"\x0b", b"\x7f", b"\r", b"\0", b"\n ", b" ", b"(", b":", b"\x85"])
damaged: Lines = st.tuples(sound, st.integers(0, 12), damage).map(
    lambda row: row[0][: row[1]] + row[2] + row[0][row[1] :]
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    rows = draw(st.lists(sound, max_size=4))
    for kind in draw(st.sets(st.sampled_from([statuses, damaged]))):
        rows.insert(draw(st.integers(0, len(rows))), draw(kind))
    return b"".join(rows)


@settings(PATIENT, max_examples=300)
@given(heads(), st.sampled_from([b"\r\n", b"\n"]), st.binary(max_size=8))
@example(b"A: b\n", b"\r\n", b"body")
def test_h11_agrees(lines: bytes, blank: bytes, body: bytes) -> None:
    wire = lines + blank
    events = read([wire + body, b""])
    assert read([*bytewise(wire + body), b""]) == events
    ours = events[0]
    if not isinstance(ours, ResponseHead):
        return
    # Where the head ends is for us to say; h11 is given exactly that, without Status, which it would keep.
    all_octets = wire + body
    rest = events[1]
    assert isinstance(rest, bytes)
    block = all_octets[: len(all_octets) - len(rest)]
    block = re.sub(rb"(?im)^status:[^\n]*\n", b"", block)
    theirs = h11_reads(ours, block)
    if theirs is None:
        return
    status, reason, headers = theirs
    assert status == ours.status
    assert reason.strip(b" \t") == ours.reason
    assert [pair for pair in headers if pair[0] not in FRAMING] == [
        pair for pair in ours.headers if pair[0] not in FRAMING
    ]


# --- writing ---------------------------------------------------------------------------------------------------------


def test_head_is_written() -> None:
    assert encode_response_head(200, [(b"Content-Type", b"text/plain"), (b"X", b"")]) == (
        b"Status: 200\r\nContent-Type: text/plain\r\nX: \r\n\r\n"
    )
    assert encode_response_head(503, [], b"Busy") == b"Status: 503 Busy\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        pytest.param(99, [], b"", id="status-too-small"),
        pytest.param(600, [], b"", id="status-too-large"),
        pytest.param(200, [(b"A", b"b\r\nC: d")], b"", id="crlf-in-value"),
        pytest.param(200, [(b"A", b"b\nC: d")], b"", id="lf-in-value"),
        pytest.param(200, [(b"A", b"b\rC: d")], b"", id="cr-in-value"),
        pytest.param(200, [(b"A", b"\0")], b"", id="nul-in-value"),
        pytest.param(200, [(b"A\n", b"b")], b"", id="lf-in-name"),
        pytest.param(200, [(b"", b"b")], b"", id="empty-name"),
        pytest.param(200, [(b"A b", b"b")], b"", id="blank-in-name"),
        pytest.param(200, [(b"sTatus", b"200")], b"", id="status-as-a-header"),
        pytest.param(200, [], b"O\nK", id="lf-in-reason"),
    ],
)
def test_head_is_refused(status: int, headers: list[tuple[bytes, bytes]], reason: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        encode_response_head(status, headers, reason)


tokens = st.from_regex(rb"\A[!#$%&'*+.^_`|~0-9A-Za-z-]{1,9}\Z").filter(lambda name: name.lower() != b"status")
sendable = (
    st.binary(max_size=20).filter(lambda value: not re.search(rb"[\r\n\0]", value)).map(lambda v: v.strip(b" \t"))
)


@PATIENT
@given(st.integers(100, 599), st.lists(st.tuples(tokens, sendable), max_size=5), sendable)
def test_head_round_trip(status: int, headers: list[tuple[bytes, bytes]], reason: bytes) -> None:
    wire = encode_response_head(status, headers, reason)
    expected = head(status, reason, tuple((name.lower(), value) for name, value in headers))
    assert read([wire + b"x", b""]) == [expected, b"x", ResponseEnded()]
