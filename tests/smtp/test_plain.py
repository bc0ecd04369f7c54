"""The short way of MAIL and RCPT comes to what the grammar comes to, or to nothing."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_fcgimail.smtp import Extension, Mailbox, MailFrom, Paths, RcptTo, Verb
from trio_fcgimail.smtp.commands import parse_mail, parse_rcpt, split_line
from trio_fcgimail.smtp.errors import CommandError
from trio_fcgimail.smtp.parameters import BodyType
from trio_fcgimail.smtp.plain import read_mail, read_rcpt

ALL: Final = frozenset(Extension)
LABELS: Final = [b"a", b"example", b"x-1", b"-a", b"a-", b"a--b", b"l" * 63, b"l" * 64, b"", b"a_b", b"\xc3\xa4"]
LOCALS: Final = [b"bob", b"a.b", b".a", b"a.", b"a..b", b"o'x+{y}", b'"q r"', b"l" * 64, b"l" * 65, b"\xc3\xa4", b""]
DOMAINS: Final = st.one_of(
    st.lists(st.sampled_from(LABELS), min_size=1, max_size=5).map(b".".join),
    st.sampled_from([b"[192.0.2.1]", b"[IPv6:::1]", b".".join([b"l" * 62] * 3 + [b"m" * 2])]),
)
ADDRESSES: Final = st.one_of(
    st.tuples(st.sampled_from(LOCALS), DOMAINS).map(b"@".join),
    st.sampled_from([b"", b"postmaster", b"@r.example:a@b.c"]),
)
PARAMETERS: Final = st.lists(
    st.sampled_from(
        [
            *(b" SIZE=0", b" SIZE=123", b" SIZE=" + b"9" * 21, b" BODY=7BIT", b" BODY=8BITMIME", b" BODY=BINARYMIME"),
            *(b" size=1", b" SIZE", b" SMTPUTF8", b" RET=HDRS", b" NOTIFY=NEVER", b" X=1"),
            *(b" ", b"\t", b"\r", b"\n", b"\0"),
        ]
    ),
    max_size=3,
).map(b"".join)
BEGINNINGS: Final = [
    b"MAIL FROM:<",
    b"RCPT TO:<",
    b"mail from:<",
    b"MAIL FROM: <",
    b"RCPT  TO:<",
    b"MAIL TO:<",
    b"RCPT TO:",
]
LINES: Final = st.tuples(
    st.sampled_from(BEGINNINGS), ADDRESSES, st.sampled_from([b">", b">>", b"", b"> "]), PARAMETERS
).map(b"".join)
EXTENSIONS: Final = st.sampled_from([ALL, frozenset(), ALL - {Extension.SIZE}, frozenset({Extension.SIZE})])


def by_grammar(line: bytes, extensions: frozenset[Extension], paths: Paths) -> MailFrom | RcptTo | None:
    """What the line comes to; None when it is refused."""
    try:
        word, rest = split_line(line)
        if word.verb is Verb.MAIL:
            return parse_mail(rest, extensions, paths)
        return parse_rcpt(rest, extensions, paths, smtputf8=False) if word.verb is Verb.RCPT else None
    except CommandError:
        return None


@settings(deadline=None, max_examples=1000)
@given(LINES, EXTENSIONS, st.sampled_from(Paths))
@example(b"MAIL FROM:<" + b"l" * 64 + b"@" + b".".join([b"l" * 62] * 3) + b">", ALL, Paths.STRICT)
@example(b"RCPT TO:<" + b"l" * 65 + b"@a>", ALL, Paths.STRICT)
@example(b"RCPT TO:<l@" + b".".join([b"l" * 63] * 4) + b".l>", ALL, Paths.STRICT)
@example(b"RCPT TO:<l@" + b".".join([b"l" * 63] * 4) + b">", ALL, Paths.STRICT)
def test_it_agrees_with_the_grammar(line: bytes, extensions: frozenset[Extension], paths: Paths) -> None:
    for event in (read_mail(line, extensions), read_rcpt(line)):
        if event is not None:
            assert event == by_grammar(line, extensions, paths)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=30), st.sampled_from(BEGINNINGS), st.sampled_from([b">", b""]))
def test_it_agrees_with_the_grammar_about_noise(noise: bytes, beginning: bytes, rest: bytes) -> None:
    line = beginning + noise + rest
    for event in (read_mail(line, ALL), read_rcpt(line)):
        if event is not None:
            assert event == by_grammar(line, ALL, Paths.STRICT)


ALICE: Final = Mailbox("alice", "example.net")


@pytest.mark.parametrize(
    ("line", "path", "octets", "body"),
    [
        pytest.param(b"MAIL FROM:<>", None, None, None, id="bounce"),
        pytest.param(b"MAIL FROM:<alice@example.net>", ALICE, None, None, id="bare"),
        pytest.param(b"MAIL FROM:<alice@example.net> SIZE=2048", ALICE, 2048, None, id="size"),
        pytest.param(
            b"MAIL FROM:<alice@example.net> SIZE=1 BODY=8BITMIME", ALICE, 1, BodyType.EIGHT_BIT_MIME, id="as-postfix"
        ),
        pytest.param(b"MAIL FROM:<alice@example.net> BODY=7BIT", ALICE, None, BodyType.SEVEN_BIT, id="body"),
    ],
)
def test_it_reads_what_clients_send(
    line: bytes, path: Mailbox | None, octets: int | None, body: BodyType | None
) -> None:
    event = read_mail(line, ALL)
    assert event is not None
    assert (event.path, event.declared_octets, event.body) == (path, octets, body)
    assert read_rcpt(b"RCPT TO:<alice@example.net>") == RcptTo(ALICE)
