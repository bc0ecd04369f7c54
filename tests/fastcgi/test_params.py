"""Name-value pairs (FastCGI 1.0, 3.4) and PARAMS (5.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fastcgi.support import PARAMS, PATIENT, rec
from trio_fcgimail.fastcgi import (
    LocalProtocolError,
    NameValue,
    Record,
    RecordReader,
    RemoteProtocolError,
    decode_pairs,
    encode_pairs,
    encode_params,
)


@pytest.mark.parametrize(
    ("wire", "pairs"),
    [
        pytest.param(b"", (), id="none"),
        pytest.param(b"\x01\x02abb", ((b"a", b"bb"),), id="short-short"),
        pytest.param(b"\x01\x00a", ((b"a", b""),), id="empty-value"),
        pytest.param(b"\x01\x80\x00\x00\x80a" + b"v" * 128, ((b"a", b"v" * 128),), id="long-value"),
        pytest.param(b"\x80\x00\x00\x80\x01" + b"n" * 128 + b"v", ((b"n" * 128, b"v"),), id="long-name"),
        pytest.param(b"\x01\x7fa" + b"v" * 127, ((b"a", b"v" * 127),), id="longest-short-value"),
        pytest.param(b"\x01\x01ab\x01\x01cd", ((b"a", b"b"), (b"c", b"d")), id="two"),
        pytest.param(b"\x01\x01ab\x01\x01ac", ((b"a", b"b"), (b"a", b"c")), id="a-name-twice"),
        pytest.param(b"\x00\x01b", ((b"", b"b"),), id="empty-name"),
    ],
)
def test_pairs_both_ways(wire: bytes, pairs: tuple[NameValue, ...]) -> None:
    assert decode_pairs(wire) == pairs
    assert encode_pairs(pairs) == wire


def test_decode_pairs_takes_the_long_form_of_a_short_length() -> None:
    assert decode_pairs(b"\x80\x00\x00\x01\x80\x00\x00\x02abb") == ((b"a", b"bb"),)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x01", id="within-lengths"),
        pytest.param(b"\x80\x00\x00", id="within-a-long-length"),
        pytest.param(b"\x01\x80\x00\x00", id="within-the-second-long-length"),
        pytest.param(b"\x02\x01a", id="within-the-name"),
        pytest.param(b"\x01\x02ab", id="within-the-value"),
        pytest.param(b"\xff\xff\xff\xff\x01a", id="length-beyond-everything"),
        pytest.param(b"\x01\x01ab\x01", id="second-pair-cut"),
    ],
)
def test_decode_pairs_refuses_what_is_cut(wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_pairs(wire)


class HugeBytes(bytes):
    """Claims 2 GiB without holding them."""

    def __len__(self) -> int:
        return 0x80000000


def test_encode_pairs_refuses_two_gigabytes() -> None:
    with pytest.raises(LocalProtocolError):
        encode_pairs([(b"a", HugeBytes())])


@PATIENT
@given(st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=200))))
def test_pairs_round_trip(pairs: list[NameValue]) -> None:
    assert decode_pairs(encode_pairs(pairs)) == tuple(pairs)


@pytest.mark.parametrize(
    ("pairs", "wire"),
    [
        pytest.param([], rec(PARAMS, 3), id="none"),
        pytest.param(
            [(b"a", b"b"), (b"c", b"")], rec(PARAMS, 3, b"\x01\x01ab\x01\x00c") + rec(PARAMS, 3), id="two-in-one-record"
        ),
    ],
)
def test_encode_params_writes(pairs: list[NameValue], wire: bytes) -> None:
    assert encode_params(3, pairs) == wire


def contents(wire: bytes) -> list[bytes]:
    reader = RecordReader(10_000_000)
    reader.receive_data(wire)
    found: list[bytes] = []
    while isinstance(record := reader.next_record(), Record):
        assert record.record_type == PARAMS
        found.append(record.content)
    return found


@pytest.mark.parametrize(
    ("sizes", "records"),
    [
        pytest.param([65528 - 6], [65528, 0], id="fills-a-record-exactly"),
        pytest.param([65535 - 6], [65535, 0], id="largest-pair-has-a-record-of-its-own"),
        pytest.param([10, 65528 - 6], [13, 65528, 0], id="next-pair-would-straddle"),
        pytest.param([10, 65528 - 6, 10, 10], [13, 65528, 26, 0], id="each-record-is-counted-anew"),
        pytest.param([65515 - 6, 11], [65515, 14, 0], id="room-left-but-not-enough"),
        pytest.param([65528 - 12 - 6, 9], [65528, 0], id="room-left-and-enough"),
    ],
)
def test_encode_params_never_straddles(sizes: list[int], records: list[int]) -> None:
    """php-fpm parses each record on its own and drops the connection when a pair goes on in the next."""
    pairs = [(bytes((97 + i,)), b"v" * size) for i, size in enumerate(sizes)]
    found = contents(encode_params(1, pairs))
    assert [len(content) for content in found] == records
    assert [pair for content in found for pair in decode_pairs(content)] == pairs


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([(b"", b"x")], id="empty-name"),
        pytest.param([(b"a", b"1"), (b"a", b"2")], id="name-twice"),
        pytest.param([(b"a\0", b"1")], id="nul-in-name"),
        pytest.param([(b"a", b"1\0" + b"2")], id="nul-in-value"),
        pytest.param([(b"a", b"v" * (65535 - 5))], id="pair-of-65536-octets"),
    ],
)
def test_encode_params_refuses(pairs: list[NameValue]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_params(1, pairs)


@PATIENT
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 65535 - 8 - 301)), max_size=6),
)
def test_encode_params_pairs_stay_whole(sizes: list[tuple[int, int]]) -> None:
    pairs = [(b"%d" % i + b"n" * name, b"v" * value) for i, (name, value) in enumerate(sizes)]
    found = contents(encode_params(1, pairs))
    assert found[-1] == b""
    assert all(found[:-1])
    assert [pair for content in found for pair in decode_pairs(content)] == pairs
