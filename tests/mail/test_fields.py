"""The fields of a header, and what may be put in front of one."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_fcgimail.mail import HeaderReader, are_header_lines, parse_header
from trio_fcgimail.mail.fields import MAX_FIELDS

BLOCK: Final = (
    b"Subject: =?utf-8?q?h=C3=A9?=\r\nX-Long: a\r\n\tb\r\n c\r\nno field\r\nEmpty:\r\nsubject : again\r\n: nameless\r\n"
)


def test_fields_come_in_order_unfolded_and_decoded() -> None:
    assert [(field.name, field.text) for field in parse_header(BLOCK)] == [
        ("Subject", "h\u00e9"),
        ("X-Long", "a b c"),
        ("Empty", ""),
        ("subject", "again"),
    ]
    assert parse_header(BLOCK)[1].raw == b" a\r\n\tb\r\n c"


def test_block_is_what_came_before_the_empty_line() -> None:
    reader = HeaderReader()
    for octet in BLOCK + b"\r\nBody: x\r\n":
        reader.feed(bytes([octet]))
    assert reader.block() == BLOCK


def test_header_of_thirty_thousand_octets_is_whole() -> None:
    """Signed mail has several times the 4,097 octets that go-guerrilla looked at."""
    long = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 70) for number in range(400)) + b"Subject: last\r\n"
    reader = HeaderReader()
    reader.feed(long + b"\r\nx")
    assert parse_header(reader.block())[-1].text == reader.facts().subject == "last"


def test_fields_are_bounded() -> None:
    assert len(parse_header(b"a:\r\n" * (MAX_FIELDS + 1))) == MAX_FIELDS


@given(octets=st.binary(max_size=200) | st.text("a:\r\n\t \0", max_size=30).map(str.encode))
def test_whatever_is_let_in_front_leaves_the_mail_a_mail(octets: bytes) -> None:
    if are_header_lines(octets):
        reader = HeaderReader()
        reader.feed(octets + b"Last: 1\r\n\r\nx")
        assert parse_header(reader.block())[-1].name == "Last"
        assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")


@pytest.mark.parametrize("octets", [b"X: 1\r\n", b"X:\r\n\tmore\r\n", b"A: 1\r\nB: 2\r\n"])
def test_whole_fields_may_stand_in_front(octets: bytes) -> None:
    assert are_header_lines(octets)
