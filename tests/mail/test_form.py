"""The form: its length known first, its octets streamed, read back by an independent decoder."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.mail.support import cut
from trio_fcgimail.mail import BodyEncoder, BodyLines, BodyMeter, encode_fields

BODIES: Final = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"%&+;=", b"\0\xff", b"a"]), max_size=12).map(
    b"".join
) | st.binary(max_size=60)
CUTS: Final = st.lists(st.integers(0, 200), max_size=6)


def decode(form: bytes) -> list[tuple[bytes, bytes]]:
    """What PHP makes of a form: split at ``&``, then at the first ``=``; ``+`` is a blank, %XX an octet."""
    fields = []
    for field in form.split(b"&"):
        name, _, value = field.partition(b"=")
        head, *rest = value.replace(b"+", b" ").split(b"%")
        octets = head + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in rest)
        fields.append((name, octets))
    return fields


def encode(pieces: list[bytes], lines: BodyLines, *, has_bare_cr: bool = True) -> bytes:
    encoder = BodyEncoder(lines, has_bare_cr=has_bare_cr)
    return b"".join(map(encoder.encode, pieces)) + encoder.finish()


def as_script_gets_it(body: bytes, lines: BodyLines) -> bytes:
    return body.replace(b"\r\n", b"\n") if lines is BodyLines.LF else body


@pytest.mark.parametrize(
    ("body", "lf", "crlf"),
    [
        pytest.param(b"", b"", b"", id="empty"),
        pytest.param(b"a\r\nb", b"a\nb", b"a\r\nb", id="crlf"),
        pytest.param(b"\r\r\n\n\r", b"\r\n\n\r", b"\r\r\n\n\r", id="newlines-that-are-none"),
        pytest.param(b"100% & + ;", b"100%25 %26 %2B %3B", b"100%25 %26 %2B %3B", id="escapes"),
        pytest.param(b"%41=%%", b"%2541=%25%25", b"%2541=%25%25", id="escapes-of-escapes"),
        pytest.param(b"\0\x80\xff", b"\0\x80\xff", b"\0\x80\xff", id="octets-that-need-none"),
    ],
)
def test_body_rows(body: bytes, lf: bytes, crlf: bytes) -> None:
    assert encode([body], BodyLines.LF) == encode([bytes([octet]) for octet in body], BodyLines.LF) == lf
    assert encode([body], BodyLines.CRLF) == encode([bytes([octet]) for octet in body], BodyLines.CRLF) == crlf


@given(BODIES, CUTS, CUTS, st.sampled_from(BodyLines))
@example(b"\r\n", [1], [], BodyLines.LF)
@example(b"\r\n\r\n", [1, 1, 3], [2], BodyLines.LF)
def test_the_length_known_first_is_that_of_what_comes(
    body: bytes, metered: list[int], encoded: list[int], lines: BodyLines
) -> None:
    meter = BodyMeter()
    for piece in cut(body, metered):
        meter.add(piece)
    form = encode(cut(body, encoded), lines)
    assert meter.encoded_size(lines) == len(form)
    assert meter.size(lines) == len(as_script_gets_it(body, lines))
    assert decode(b"body=" + form) == [(b"body", as_script_gets_it(body, lines))]
    assert meter.has_bare_cr == (b"\r" in body.replace(b"\r\n", b""))
    if not meter.has_bare_cr:
        assert encode(cut(body, encoded), lines, has_bare_cr=False) == form
        trusting = BodyMeter(may_have_bare_cr=False)
        for piece in cut(body, metered):
            trusting.add(piece)
        assert (trusting.size(lines), trusting.encoded_size(lines)) == (meter.size(lines), meter.encoded_size(lines))
        assert not trusting.has_bare_cr


@given(st.binary(max_size=40), st.sampled_from(BodyLines))
def test_an_encoder_holds_back_at_most_one_octet(body: bytes, lines: BodyLines) -> None:
    encoder = BodyEncoder(lines)
    encoder.encode(body)
    assert encoder.finish() in (b"", b"\r")
    assert encoder.finish() == b""


@given(st.lists(st.tuples(st.sampled_from(["helo", "rcpt_to_0"]), st.text(max_size=12)), min_size=1, max_size=4))
def test_fields_are_read_back(fields: list[tuple[str, str]]) -> None:
    assert decode(encode_fields(fields)) == [(name.encode(), value.encode()) for name, value in fields]


def test_a_lone_surrogate_does_not_stop_a_mail() -> None:
    assert encode_fields([("subject", "a\ud800b")]) == b"subject=a?b"
