"""The form, however it is cut."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_fcgimail.demo.form import MAX_FIELDS, MAX_NAME_OCTETS, MAX_SMALL_OCTETS, FormError, FormReader
from trio_fcgimail.mail import BodyEncoder, BodyLines, encode_fields

Cut = Callable[[bytes], Iterator[bytes]]


def whole(wire: bytes) -> Iterator[bytes]:
    yield wire


def by_octet(wire: bytes) -> Iterator[bytes]:
    for at in range(len(wire)):
        yield wire[at : at + 1]


CUTS: Final = pytest.mark.parametrize("cut", [whole, by_octet])


def read(pieces: Iterator[bytes], streamed: str | None = "body") -> tuple[bytes, Mapping[str, str]]:
    reader = FormReader(streamed)
    body = b"".join([reader.feed(piece) for piece in pieces])
    return body, reader.finish()


FORMS: Final = [
    pytest.param(b"body=hello&size=5", b"hello", {"size": "5"}, id="body-first"),
    pytest.param(b"size=5&body=hello", b"hello", {"size": "5"}, id="body-last"),
    pytest.param(b"body=&size=0", b"", {"size": "0"}, id="empty-body"),
    pytest.param(b"body=a%25b%26c%2Bd%3be", b"a%b&c+d;e", {}, id="escapes-in-either-case"),
    pytest.param(b"body=a+b", b"a b", {}, id="plus-is-a-blank"),
    pytest.param(b"body=a=b==", b"a=b==", {}, id="equals-within-a-value"),
    pytest.param(b"body=\0\r\n\xff\x80", b"\0\r\n\xff\x80", {}, id="raw-octets-as-our-own-encoder-leaves-them"),
    pytest.param(b"body=x&subject=gr%C3%BC%C3%9Fe", b"x", {"subject": "gr\u00fc\u00dfe"}, id="utf-8"),
    pytest.param(b"body=x&subject=%FF", b"x", {"subject": "\ufffd"}, id="not-utf-8"),
    pytest.param(b"body=x&a=1&a=2", b"x", {"a": "2"}, id="of-two-the-last"),
    pytest.param(b"body=x&a=&b=", b"x", {"a": "", "b": ""}, id="empty-values"),
]


@CUTS
@pytest.mark.parametrize(("wire", "body", "fields"), FORMS)
def test_form_is_read(cut: Cut, wire: bytes, body: bytes, fields: Mapping[str, str]) -> None:
    assert read(cut(wire)) == (body, fields)


BAD_FORMS: Final = [
    pytest.param(b"", id="nothing-at-all"),
    pytest.param(b"size=1", id="no-body"),
    pytest.param(b"body", id="no-equals-sign"),
    pytest.param(b"body=x&&a=1", id="empty-field"),
    pytest.param(b"body=x&a", id="name-alone-at-the-end"),
    pytest.param(b"body=x&body=y", id="two-bodies"),
    pytest.param(b"=x&body=y", id="empty-name"),
    pytest.param(b"BODY=x", id="name-of-other-octets"),
    pytest.param(b"body=%", id="percent-at-the-end"),
    pytest.param(b"body=%4", id="half-an-escape-at-the-end"),
    pytest.param(b"body=%4&a=1", id="half-an-escape-at-the-end-of-a-field"),
    pytest.param(b"body=%zz", id="no-hexadecimal-digits"),
    pytest.param(b"body=x&a=%4", id="half-an-escape-in-a-small-field"),
    pytest.param(b"body=x&" + b"n" * (MAX_NAME_OCTETS + 1) + b"=1", id="name-too-long"),
]


@CUTS
@pytest.mark.parametrize("wire", BAD_FORMS)
def test_bad_form_is_refused(cut: Cut, wire: bytes) -> None:
    with pytest.raises(FormError):
        read(cut(wire))


def test_small_fields_are_bounded() -> None:
    reader = FormReader("body")
    reader.feed(b"a=" + b"x" * MAX_SMALL_OCTETS)
    with pytest.raises(FormError, match="too long"):
        reader.feed(b"x")


def test_number_of_fields_is_bounded() -> None:
    with pytest.raises(FormError, match="too many"):
        FormReader().feed(b"".join(b"f%d=&" % number for number in range(MAX_FIELDS + 1)))


def test_empty_query_has_no_fields() -> None:
    assert read(whole(b""), None) == (b"", {})


@given(body=st.binary(max_size=300), subject=st.text(max_size=50), cuts=st.lists(st.integers(1, 40), max_size=20))
def test_what_our_own_encoder_writes_is_read_back(body: bytes, subject: str, cuts: list[int]) -> None:
    encoded = BodyEncoder(BodyLines.CRLF).encode(body)
    wire = b"body=" + encoded + b"&" + encode_fields([("subject", subject)])
    expected = body, {"subject": subject.encode("utf-8", "replace").decode()}
    assert read(pieces_of(wire, cuts)) == expected


@given(body=st.binary(max_size=100), cuts=st.lists(st.integers(1, 9), max_size=20))
def test_what_the_standard_library_writes_is_read_back(body: bytes, cuts: list[int]) -> None:
    wire = urlencode({"body": body, "size": len(body)}).encode()
    assert read(pieces_of(wire, cuts)) == (body, {"size": str(len(body))})


def pieces_of(wire: bytes, cuts: list[int]) -> Iterator[bytes]:
    for octets in cuts:
        yield wire[:octets]
        wire = wire[octets:]
    yield wire
