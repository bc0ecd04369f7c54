"""Foreign text made harmless."""

from __future__ import annotations

import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_fcgimail.mail import clean, clean_ends
from trio_fcgimail.mail.text import cut_utf8

UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
ANY_TEXT: Final = st.text(st.characters(), max_size=40)  # lone surrogates among them


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        pytest.param("plain", 10, "plain", id="plain"),
        pytest.param("a\r\n\tb", 10, "a b", id="a-run-is-one-blank"),
        pytest.param(" \x1b[0m\n", 10, "[0m", id="outer-blanks-go"),
        pytest.param("a\x85b\u2028c\ud800d", 10, "a b c d", id="unicode"),
        pytest.param("a\u202egnp.exe\u2066b\u200ec\u061cd", 20, "a gnp.exe b c d", id="direction-of-text"),
        pytest.param(b"gr\xfcn", 10, "gr\ufffdn", id="not-utf-8"),
        pytest.param("0123456789", 10, "0123456789", id="just-fits"),
        pytest.param("0123456789x", 10, "0123456...", id="cut"),
        pytest.param(b"\0" * 1000 + b"0123456789x", 10, "0123456...", id="cut-behind-many-controls"),
        pytest.param("long", 2, "..", id="no-room-for-three-dots"),
    ],
)
def test_clean_rows(text: str | bytes, limit: int, expected: str) -> None:
    assert clean(text, limit) == expected


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        pytest.param(b" a\r\n\tb\0", 10, "a b", id="short"),
        pytest.param("0123456789", 10, "0123456789", id="just-fits"),
        pytest.param("0123456789x", 10, "01 ... 9x", id="cut"),
        pytest.param("0123456789x", 9, "01 ... 9x", id="cut-odd"),
        pytest.param("0123456789x", 3, " ..", id="no-room"),
    ],
)
def test_clean_ends_rows(text: str | bytes, limit: int, expected: str) -> None:
    assert clean_ends(text, limit) == expected


@given(ANY_TEXT | st.binary(max_size=40), st.integers(0, 30))
def test_clean_gives_one_bounded_line(text: str | bytes, limit: int) -> None:
    line = clean(text, limit)
    for one in (line, clean_ends(text, limit)):
        assert not UNSAFE.search(one)
        assert len(one) <= limit
        one.encode()
    if len(line) < limit:
        assert line == line.strip()
        assert clean(line, limit) == line


@given(ANY_TEXT, st.integers(0, 60))
def test_cut_utf8_gives_the_longest_beginning_that_fits(text: str, octets: int) -> None:
    beginning = cut_utf8(text, octets)
    whole = text.encode("utf-8", "replace").decode()
    shown = beginning.encode("utf-8", "replace").decode()
    assert whole.startswith(shown)
    assert len(shown.encode()) <= octets
    following = whole[len(shown) : len(shown) + 1]
    assert not following or len((shown + following).encode()) > octets
