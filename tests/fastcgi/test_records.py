"""The framing: FastCGI 1.0, 3.3."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fastcgi.support import PATIENT, STDIN, STDOUT, Split, rec
from trio_fcgimail.fastcgi import (
    MAX_RECORD_CONTENT,
    MAX_RECORD_OCTETS,
    NEED_DATA,
    LocalProtocolError,
    Record,
    RecordHeader,
    RecordReader,
    RecordType,
    RemoteProtocolError,
    decode_header,
    encode_record,
    encode_stream,
)


def read_all(reader: RecordReader, pieces: list[bytes]) -> list[Record]:
    records: list[Record] = []
    for piece in pieces:
        reader.receive_data(piece)
        while isinstance(record := reader.next_record(), Record):
            records.append(record)
    return records


@pytest.mark.parametrize(
    ("args", "wire"),
    [
        pytest.param((RecordType.STDIN, 1), b"\x01\x05\x00\x01\x00\x00\x00\x00", id="empty-record-ends-a-stream"),
        pytest.param((RecordType.STDOUT, 0x0203, b"abc"), b"\x01\x06\x02\x03\x00\x03\x00\x00abc", id="big-endian-id"),
        pytest.param(
            (RecordType.PARAMS, 65535, b"x", 2), b"\x01\x04\xff\xff\x00\x01\x02\x00x\0\0", id="padding-is-nul"
        ),
        pytest.param((RecordType.GET_VALUES, 0), b"\x01\x09\x00\x00\x00\x00\x00\x00", id="management-record"),
    ],
)
def test_encode_record_writes(args: tuple[RecordType, int], wire: bytes) -> None:
    assert encode_record(*args) == wire


@pytest.mark.parametrize(
    ("request_id", "content", "padding"),
    [
        pytest.param(-1, b"", 0, id="id-negative"),
        pytest.param(65536, b"", 0, id="id-of-three-octets"),
        pytest.param(1, bytes(65536), 0, id="content-too-long"),
        pytest.param(1, b"", -1, id="padding-negative"),
        pytest.param(1, b"", 256, id="padding-too-long"),
    ],
)
def test_encode_record_refuses(request_id: int, content: bytes, padding: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode_record(RecordType.STDIN, request_id, content, padding)


def test_encode_record_takes_the_largest_content() -> None:
    wire = encode_record(RecordType.STDIN, 1, memoryview(bytes(65535)), 255)
    assert len(wire) == MAX_RECORD_OCTETS
    assert wire[4:7] == b"\xff\xff\xff"


@pytest.mark.parametrize(
    ("octets", "lengths"),
    [
        pytest.param(0, [], id="nothing-writes-nothing"),
        pytest.param(1, [1], id="one"),
        pytest.param(MAX_RECORD_CONTENT, [65528], id="exactly-one-record"),
        pytest.param(MAX_RECORD_CONTENT + 1, [65528, 1], id="one-over"),
        pytest.param(200_000, [65528, 65528, 65528, 3416], id="several"),
    ],
)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_encode_stream_splits(
    octets: int, lengths: list[int], kind: type[bytes] | type[bytearray] | type[memoryview]
) -> None:
    data = bytes(i % 251 for i in range(octets))
    reader = RecordReader(1_000_000)
    records = read_all(reader, [encode_stream(RecordType.STDIN, 7, kind(data))] if octets else [])
    if not octets:
        assert encode_stream(RecordType.STDIN, 7, kind(data)) == b""
    assert [len(record.content) for record in records] == lengths
    assert b"".join(record.content for record in records) == data


def test_decode_header_reads_every_field() -> None:
    assert decode_header(b"\x01\x06\x01\x02\xff\xfe\x09\x77") == RecordHeader(
        record_type=6, request_id=0x0102, content_length=0xFFFE, padding_length=9
    )


@pytest.mark.parametrize("version", [0, 2, 255])
def test_decode_header_refuses_other_versions(version: int) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_header(bytes((version, 6, 0, 1, 0, 0, 0, 0)))


@pytest.mark.parametrize("octets", [0, 7, 9])
def test_decode_header_wants_eight_octets(octets: int) -> None:
    with pytest.raises(LocalProtocolError):
        decode_header(b"\x01" * octets)


@pytest.mark.parametrize("split", [Split.WHOLE, Split.BYTEWISE])
@pytest.mark.parametrize(
    ("wire", "records"),
    [
        pytest.param(rec(STDOUT, 1, b"ab"), [(6, 1, b"ab")], id="one"),
        pytest.param(rec(STDOUT, 1, b"ab", 255), [(6, 1, b"ab")], id="padding-is-dropped"),
        pytest.param(rec(STDOUT, 1, b"", 9), [(6, 1, b"")], id="padding-on-an-empty-record"),
        pytest.param(rec(STDOUT, 1, b"a") + rec(STDIN, 2), [(6, 1, b"a"), (5, 2, b"")], id="two-in-one-read"),
        pytest.param(rec(99, 1, b"a"), [(99, 1, b"a")], id="unknown-type-is-no-matter-here"),
        pytest.param(rec(STDOUT, 1, bytes(65535), 255), [(6, 1, bytes(65535))], id="largest"),
        pytest.param(rec(STDOUT, 1, b"abc")[:-1], [], id="content-incomplete"),
        pytest.param(rec(STDOUT, 1, b"abc", 3)[:-1], [], id="padding-incomplete"),
        pytest.param(rec(STDOUT, 1)[:-1], [], id="header-incomplete"),
    ],
)
def test_reader_reads(wire: bytes, records: list[tuple[int, int, bytes]], split: Split) -> None:
    reader = RecordReader()
    got = read_all(reader, list(split.cut(wire)))
    assert [(r.record_type, r.request_id, r.content) for r in got] == records
    assert reader.next_record() is NEED_DATA


def test_reader_ends_between_records_only() -> None:
    reader = RecordReader()
    reader.receive_data(rec(STDOUT, 1, b"ab"))
    before = reader.ended
    reader.receive_data(b"")
    reader.receive_data(b"")
    assert (before, reader.ended) == (False, True)
    assert isinstance(reader.next_record(), Record)
    assert reader.next_record() is None
    assert reader.next_record() is None


@pytest.mark.parametrize("octets", range(1, 13))
def test_reader_refuses_an_end_within_a_record(octets: int) -> None:
    reader = RecordReader()
    reader.receive_data(rec(STDOUT, 1, b"ab", 3)[:octets])
    reader.receive_data(b"")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            reader.next_record()


def test_reader_refuses_data_after_the_end() -> None:
    reader = RecordReader()
    reader.receive_data(b"")
    with pytest.raises(LocalProtocolError):
        reader.receive_data(b"x")


def test_reader_limit_counts_unread_octets_only() -> None:
    reader = RecordReader(MAX_RECORD_OCTETS)
    wire = rec(STDOUT, 1, bytes(65535), 255)
    for _ in range(3):
        reader.receive_data(wire)
        assert reader.buffered_octets == MAX_RECORD_OCTETS
        assert isinstance(reader.next_record(), Record)
    reader.receive_data(wire)
    with pytest.raises(LocalProtocolError):
        reader.receive_data(b"x")


def test_reader_forgets_what_was_read_though_never_empty() -> None:
    """A stream that never pauses between two records must not pile up."""
    wire = rec(STDOUT, 1, bytes(65_000)) * 2
    reader = RecordReader()
    reader.receive_data(wire[:1])
    tracemalloc.start()
    try:
        for _ in range(50):
            reader.receive_data(wire[1:] + wire[:1])
            assert isinstance(reader.next_record(), Record)
            assert isinstance(reader.next_record(), Record)
        _, peak_octets = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_octets < 1_000_000


def test_reader_refuses_a_limit_that_cannot_work() -> None:
    with pytest.raises(LocalProtocolError):
        RecordReader(MAX_RECORD_OCTETS - 1)


@PATIENT
@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=40), st.integers(0, 255))),
    st.lists(st.integers(1, 300), min_size=1),
)
def test_reader_gives_the_same_records_however_cut(rows: list[tuple[int, int, bytes, int]], steps: list[int]) -> None:
    wire = b"".join(rec(*row) for row in rows)
    pieces: list[bytes] = []
    at = turn = 0
    while at < len(wire):
        step = steps[turn % len(steps)]
        pieces.append(wire[at : at + step])
        at, turn = at + step, turn + 1
    got = read_all(RecordReader(), pieces)
    assert [(r.record_type, r.request_id, r.content) for r in got] == [row[:3] for row in rows]
