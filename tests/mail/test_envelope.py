"""The identifier of a mail, and the protocol it came by."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mail.support import ALICE, BOB, PEER, TLS, envelope, envelopes
from trio_fcgimail.mail import DsnWish, Envelope, Session, TlsFacts, WithKeyword, new_queue_id
from trio_fcgimail.smtp import LMTP, SMTP, Dialect, GreetingWord, Mailbox

NOW = 1_766_000_000_000_000  # microseconds, in December 2025


@given(st.integers(NOW, 16**13 - 1), st.binary(min_size=5, max_size=5))
def test_a_queue_id_is_23_lower_case_hexadecimal_digits(microseconds: int, randomness: bytes) -> None:
    identifier = new_queue_id(microseconds, randomness)
    assert len(identifier) == 23
    assert set(identifier) <= set("0123456789abcdef")
    assert int(identifier[:13], 16) == microseconds
    assert bytes.fromhex(identifier[13:]) == randomness


@given(*[st.tuples(st.integers(NOW, NOW + 3), st.sampled_from([bytes(5), b"\0\0\0\0\1", b"\1\0\0\0\0"]))] * 2)
def test_two_queue_ids_are_equal_only_when_time_and_chance_are(
    one: tuple[int, bytes], other: tuple[int, bytes]
) -> None:
    assert (new_queue_id(*one) == new_queue_id(*other)) == (one == other)


def test_queue_ids_sort_by_time() -> None:
    assert new_queue_id(NOW, b"\xff" * 5) < new_queue_id(NOW + 1, bytes(5))


# RFC 3848 and RFC 6531 4.3: in the clear, authenticated, encrypted, both.
KEYWORDS = {
    (GreetingWord.EHLO, False): ("ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"),
    (GreetingWord.EHLO, True): ("UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"),
    (GreetingWord.LHLO, False): ("LMTP", "LMTPA", "LMTPS", "LMTPSA"),
    (GreetingWord.LHLO, True): ("UTF8LMTP", "UTF8LMTPA", "UTF8LMTPS", "UTF8LMTPSA"),
    (GreetingWord.HELO, False): ("SMTP",) * 4,  # which knows neither
}
CHANNELS = [(None, None), (None, "bob"), (TLS, None), (TLS, "bob")]
WITH = [
    pytest.param(word, smtputf8, tls, user, keyword, id=f"{word.value}-{keyword}-{number}")
    for (word, smtputf8), keywords in KEYWORDS.items()
    for number, ((tls, user), keyword) in enumerate(zip(CHANNELS, keywords, strict=True))
]


@pytest.mark.parametrize(("greeting", "smtputf8", "tls", "auth_user", "keyword"), WITH)
def test_with_keyword_and_protocol(
    greeting: GreetingWord, smtputf8: bool, tls: TlsFacts | None, auth_user: str | None, keyword: str
) -> None:
    mail = envelope(greeting=greeting, smtputf8=smtputf8, tls=tls, auth_user=auth_user)
    protocol = "lmtp" if greeting is GreetingWord.LHLO else "smtp"
    assert (mail.with_keyword, mail.session.protocol) == (WithKeyword(keyword), protocol)


def test_each_keyword_is_that_of_something() -> None:
    assert {word.value for word in WithKeyword} == {word for keywords in KEYWORDS.values() for word in keywords}


@pytest.mark.parametrize(
    ("dialect", "protocol", "owed"),
    [pytest.param(SMTP, "smtp", 1, id="smtp"), pytest.param(LMTP, "lmtp", 2, id="lmtp")],
)
def test_dialect_and_verdicts_owed(dialect: Dialect, protocol: str, owed: int) -> None:
    mail = Envelope(queue_id="q", session=Session(PEER, dialect=dialect), mail_from=None, recipients=(ALICE, ALICE))
    assert (mail.session.protocol, mail.verdicts_owed) == (protocol, owed)


@pytest.mark.parametrize(
    ("mail_from", "sender"),
    [
        pytest.param(None, "", id="bounce"),
        pytest.param(ALICE, "alice@example.net", id="plain"),
        pytest.param(Mailbox("a b", "x.example"), '"a b"@x.example', id="quoted"),
    ],
)
def test_sender_is_what_scripts_get(mail_from: Mailbox | None, sender: str) -> None:
    assert envelope(mail_from=mail_from).sender == sender


@given(envelopes())
def test_addressed_to_others_all_else_is_the_same(mail: Envelope) -> None:
    assert mail.addressed_to((BOB,), (DsnWish(),)) == replace(mail, recipients=(BOB,), dsn_wishes=(DsnWish(),))


def test_addressed_to_others_no_field_is_forgotten() -> None:
    values: dict[str, Any] = {field.name: field.name for field in fields(Envelope)}  # each of them, and none by default
    mail = Envelope(**values)
    assert mail.addressed_to((BOB,), (DsnWish(),)) == replace(mail, recipients=(BOB,), dsn_wishes=(DsnWish(),))
