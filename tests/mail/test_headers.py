"""Reading a header as it passes by."""

from __future__ import annotations

import time
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.mail.support import cut
from trio_fcgimail.mail import HeaderFacts, HeaderReader, decode_subject
from trio_fcgimail.mail.headers import MAX_HEADER_OCTETS, MAX_SUBJECT_OCTETS


def read(*pieces: bytes) -> HeaderFacts:
    reader = HeaderReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.facts()


@pytest.mark.parametrize(
    ("mail", "subject"),
    [
        pytest.param(b"Subject: hi\r\n\r\nbody", "hi", id="plain"),
        pytest.param(b"From: a\r\nSUBJECT:hi\r\n\r\n", "hi", id="any-case-no-blank"),
        pytest.param(b"Subject \t: hi\r\n\r\n", "hi", id="blanks-before-colon"),
        pytest.param(b"Subject: a\r\n b\r\n\tc\r\nTo: x\r\n\r\n", "a b c", id="folded"),
        pytest.param(b"Subject:\r\n hi\r\n\r\n", "hi", id="folded-at-once"),
        pytest.param(b"Subject:\r\n\r\n", "", id="empty"),
        pytest.param(b"From: a\r\n\r\n", "", id="none"),
        pytest.param(b"Subject: one\r\nSubject: two\r\n\r\n", "one", id="twice"),
        pytest.param(b"From: a\r\n\r\nSubject: hi\r\n", "", id="in-the-body-only"),
        pytest.param(b"\r\nSubject: hi\r\n", "", id="no-header-at-all"),
        pytest.param(b"", "", id="empty-mail"),
        pytest.param(b"Subject: hi\r\nTo: x\r\n", "hi", id="header-without-end"),
        pytest.param(b"Subject: hi", "hi", id="line-without-end"),
        pytest.param(b"X-Subject: no\r\nSubjects: no\r\nA: Subject: no\r\n\r\n", "", id="other-names"),
        pytest.param(b"A: b\r\n Subject: no\r\n\r\n", "", id="within-a-folded-line"),
        pytest.param(b"Subject: a\0b\x1b[1m\x7f\xc2\x85c\r\n\r\n", "a b [1m c", id="controls"),
        pytest.param("Subject: grün\r\n\r\n".encode(), "grün", id="raw-utf-8"),
        pytest.param(b"Subject: gr\xfcn\r\n\r\n", "gr\ufffdn", id="raw-latin-1"),
    ],
)
def test_subject_rows(mail: bytes, subject: str) -> None:
    assert read(mail).subject == subject
    assert read(*[bytes([octet]) for octet in mail]).subject == subject


@pytest.mark.parametrize(
    ("raw", "subject"),
    [
        pytest.param(b"=?utf-8?q?gr=C3=BCn?=", "grün", id="q"),
        pytest.param(b"=?UTF-8?Q?gr=c3=bcn_=3D?=", "grün =", id="q-any-case"),
        pytest.param(b"=?iso-8859-1?B?Z3L8bg==?=", "grün", id="b"),
        pytest.param(b"=?utf-8?b?Z3LDvG4?=", "grün", id="b-without-padding"),
        pytest.param(b"=?utf-8*de?q?gr=C3=BCn?=", "grün", id="with-a-language"),
        pytest.param(b"=?utf-8?q??=", "", id="empty-word"),
        pytest.param(b"a =?utf-8?q?b?= c", "a b c", id="between-words"),
        pytest.param("ä € =?utf-8?q?b?= ö".encode(), "ä € b ö", id="between-raw-utf-8"),
        pytest.param(b"=?utf-8?q?a?= =?utf-8?q?b?=", "ab", id="adjacent"),
        pytest.param(b"=?utf-8?q?a?=\r\n\t=?latin-1?q?=FC?=", "aü", id="adjacent-folded-two-charsets"),
        pytest.param(b"=?utf-8?b?4oI=?= =?UTF-8?b?rA==?=", "€", id="a-character-in-two-words"),
        pytest.param(b"=?utf-8?q?a_b c?=", "a b c", id="q-with-blanks"),
        pytest.param(b"=?utf-8?q?=FF?=", "\ufffd", id="not-of-its-charset"),
        pytest.param(b"=?utf-7?q?+2AA-x?=", "x", id="a-lone-surrogate"),
        pytest.param(b"=?utf-8?q?a=0D=0ABcc:_x?=", "a Bcc: x", id="a-line-end-within"),
        pytest.param(b"=?x-none?q?a?= =?utf-8?q?b?=", "=?x-none?q?a?= b", id="unknown-charset"),
        pytest.param(b"=?hex?q?41?=", "=?hex?q?41?=", id="a-codec-that-is-no-charset"),
        pytest.param(b"=?punycode?q?a-?=", "=?punycode?q?a-?=", id="a-codec-that-no-mail-needs"),
        pytest.param(b"=?utf-8?b?a?=", "=?utf-8?b?a?=", id="b-cut"),
        pytest.param(b"=?utf-8?b?a*c=?=", "=?utf-8?b?a*c=?=", id="b-broken"),
        pytest.param(b"=?utf-8?x?a?=", "=?utf-8?x?a?=", id="unknown-encoding"),
        pytest.param(b"=?utf-8?q?a", "=?utf-8?q?a", id="without-end"),
        pytest.param("=?ü?q?a?=".encode(), "=?ü?q?a?=", id="charset-not-ascii"),
        pytest.param("=?utf-8?b?ü?=".encode(), "=?utf-8?b?ü?=", id="b-not-ascii"),
        pytest.param(b"=?koi8-r?q?=C1?= =?windows-1252?q?=80?= =?big5?b?pKQ=?=", "а€中", id="charsets"),  # noqa: RUF001
    ],
)
def test_encoded_words(raw: bytes, subject: str) -> None:
    assert decode_subject(raw) == subject


@pytest.mark.parametrize(
    ("raw", "subject"),
    [
        pytest.param(b"x" * MAX_SUBJECT_OCTETS, "x" * MAX_SUBJECT_OCTETS, id="just-fits"),
        pytest.param(b"x" * 100_000, "x" * (MAX_SUBJECT_OCTETS - 3) + "...", id="huge"),
        pytest.param("€".encode() * 4000, "€" * (MAX_SUBJECT_OCTETS // 3), id="huge-utf-8"),
    ],
)
def test_a_subject_is_bounded(raw: bytes, subject: str) -> None:
    assert decode_subject(raw) == subject
    assert read(b"Subject: " + raw + b"\r\n\r\n").subject == subject


@pytest.mark.parametrize("gap", [pytest.param(b" ", id="blank"), pytest.param(b"\r\n\t", id="fold")])
@pytest.mark.parametrize("shift", range(1, 21))
def test_a_very_long_subject_is_cut_between_two_words(gap: bytes, shift: int) -> None:
    raw = b"s" * shift + gap + gap.join([b"=?utf-8?q?a_b_c?="] * 20_000)
    for subject in (decode_subject(raw), read(b"Subject: " + raw + b"\r\n\r\n").subject):
        assert subject == "s" * shift + " " + "a b c" * subject.count("a b c") + " ..."
        assert subject.count("a b c") > 800


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"=?l1?q?a?==?u8?q?a?=", id="two-charsets"),
        pytest.param(b"=?hz?q?a?==?u7?q?a?=", id="two-slow-charsets"),
        pytest.param(b"\r\n ", id="folds"),
        pytest.param(b"=?", id="begun-words"),
    ],
)
def test_no_subject_takes_longer_than_a_moment(piece: bytes) -> None:
    reader = HeaderReader()
    reader.feed(b"Subject: " + piece * (MAX_HEADER_OCTETS // len(piece)))
    began = time.process_time()
    reader.facts()
    assert time.process_time() - began < 0.05  # some 0.007 s; all of it would be 0.15 s


@given(
    st.lists(
        st.sampled_from(
            [b"=?", b"?=", b"?q?", b"?b?", b"utf-8", b"utf-7", b"hz", b"idna", b"=C3", b"_", b" ", b"\r\n "]
        )
        | st.binary(max_size=4),
        max_size=12,
    ).map(b"".join)
)
def test_any_subject_is_one_clean_bounded_line(raw: bytes) -> None:
    subject = decode_subject(raw)
    assert len(subject.encode()) <= MAX_SUBJECT_OCTETS
    assert not set(map(chr, (*range(32), *range(127, 160), 0x2028, 0x2029))) & set(subject)


@pytest.mark.parametrize(
    ("mail", "received"),
    [
        pytest.param(b"Subject: hi\r\n\r\n", 0, id="none"),
        pytest.param(b"Received: a\r\n b\r\nreceived : c\r\nRECEIVED:d\r\n\r\n", 3, id="three"),
        pytest.param(b"X-Received: a\r\nReceived-SPF: b\r\nA: b\r\n Received: c\r\n\r\n", 0, id="others"),
        pytest.param(b"Received: a\r\n\r\nReceived: b\r\n", 1, id="in-the-body"),
        pytest.param(b"Received: a\r\n" * 101 + b"\r\n", 101, id="loop"),
        pytest.param(b"Received: a", 1, id="without-end"),
        pytest.param(b"A: b\r\nReceived", 0, id="name-only"),
        pytest.param(b"Received" + b" \t" * 99 + b": a\r\nReceived" + b" " * 99 + b"-SPF: b\r\n\r\n", 1, id="blanks"),
        pytest.param(b"Receiv ed: a\r\nRece: b\r\nReceived;: c\r\n\r\n", 0, id="nearly"),
    ],
)
def test_received_rows(mail: bytes, received: int) -> None:
    assert read(mail).received == received
    assert read(*[bytes([octet]) for octet in mail]).received == received


MAILS: Final = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b" ", b"Subject: hi", b"Received: x", b"=?utf-8?q?=C3?="])
    | st.binary(max_size=4),
    max_size=12,
).map(b"".join)


@given(MAILS, st.lists(st.integers(0, 200), max_size=6))
@example(b"Subject: hi\r\n\r\nReceived: x", [12, 13, 14])
def test_it_does_not_matter_how_a_mail_is_cut(mail: bytes, points: list[int]) -> None:
    assert read(*cut(mail, points)) == read(mail)


def test_hops_are_counted_to_the_end_of_the_header() -> None:
    hop = b"Received: from a by b\r\nX-Diagnostics: " + b"A" * 2700 + b"\r\n"
    assert read(*[hop] * 500, b"Subject: x\r\n\r\n", hop).received == 500
    assert read(hop * 500 + b"Subject: x\r\n\r\n" + hop).received == 500


def test_a_subject_beyond_256_kib_is_not_looked_at() -> None:
    within = b"A: b\r\n" * ((MAX_HEADER_OCTETS - 100) // 6)
    assert read(within, b"Subject: hi\r\nReceived: x\r\n") == HeaderFacts("hi", 1)
    beyond = b"A: b\r\n" * (MAX_HEADER_OCTETS // 6)
    assert read(beyond, b"Subject: hi\r\nReceived: x\r\n\r\n") == HeaderFacts("", 1)
    assert read(beyond + b"Subject: hi\r\nReceived: x\r\n\r\n") == HeaderFacts("", 1)


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"Subject: a\r\nReceived: x\r\n", id="fields"),
        pytest.param(b"=?a?q?", id="begun-words"),
        pytest.param(b"=?utf-8?q?x?=\r\n =?latin-1?q?x?=\r\n ", id="words"),
        pytest.param(b"=?utf-8*", id="languages"),
        pytest.param(b"\r\n ", id="folds"),
        pytest.param(b"\r", id="crs"),
    ],
)
def test_the_largest_header_is_read_in_linear_time(piece: bytes) -> None:
    mail = b"Subject: " + piece * (MAX_HEADER_OCTETS // len(piece))
    began = time.process_time()
    read(mail)
    assert time.process_time() - began < 1.0  # some 0.1 s; the square of it would be minutes
    began = time.process_time()
    read(*[mail[at : at + 7] for at in range(0, len(mail), 7)])
    assert time.process_time() - began < 1.5
