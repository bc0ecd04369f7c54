"""CRLF made LF, wherever it is cut."""

from hypothesis import given
from hypothesis import strategies as st

from trio_fcgimail.mail import LfLines


@given(st.lists(st.text("ab\r\n", max_size=6).map(str.encode), max_size=8))
def test_pieces_are_as_the_whole(pieces: list[bytes]) -> None:
    lines = LfLines()
    converted = b"".join(map(lines.convert, pieces)) + lines.finish()
    assert converted == b"".join(pieces).replace(b"\r\n", b"\n")
