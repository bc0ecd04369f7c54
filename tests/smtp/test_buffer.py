"""The receive buffer: bounded, and no octet is searched twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_fcgimail.smtp import MAX_BUFFER_OCTETS, LocalProtocolError
from trio_fcgimail.smtp.buffer import ReceiveBuffer


def test_append_is_bounded() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"x" * MAX_BUFFER_OCTETS)
    with pytest.raises(LocalProtocolError):
        buffer.append(b"x")
    assert len(buffer) == MAX_BUFFER_OCTETS
    buffer.drop(1)
    buffer.append(b"x")


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=6).map(lambda b: b.replace(b"a", b"\r\n")), st.integers(0, 5))))
def test_line_end_is_found_where_a_fresh_search_finds_it(steps: list[tuple[bytes, int]]) -> None:
    """The offset that is kept between searches never hides a CRLF, whatever is appended and taken in between."""
    buffer, mirror = ReceiveBuffer(), b""
    for data, octets in steps:
        buffer.append(data)
        mirror += data
        found = mirror.find(b"\r\n")
        assert buffer.find_line_end() == (None if found < 0 else found)
        assert buffer.take(octets) == mirror[:octets]
        mirror = mirror[octets:]
        assert len(buffer) == len(mirror)


@pytest.mark.parametrize(
    ("held", "text", "answer"),
    [
        pytest.param(b"", b".\r\n", True, id="nothing-yet"),
        pytest.param(b".\r", b".\r\n", True, id="a-part"),
        pytest.param(b".\r\n", b".\r\n", True, id="the-whole"),
        pytest.param(b".\r\nx", b".\r\n", False, id="more"),
        pytest.param(b"x", b".\r\n", False, id="another"),
    ],
)
def test_is_prefix_of(held: bytes, text: bytes, answer: bool) -> None:
    buffer = ReceiveBuffer()
    buffer.append(held)
    assert buffer.is_prefix_of(text) is answer


def test_take_and_drop_give_what_there_is() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"abc")
    assert buffer.take(2) == b"ab"
    assert buffer.drop(9) == 1
    assert buffer.take(1) == b""
