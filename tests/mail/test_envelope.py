"""The identifier of a mail, and the protocol it came by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mail.support import ALICE, envelope
from trio_fcgimail.mail import Session, WithKeyword, new_queue_id
from trio_fcgimail.smtp import GreetingWord, Mailbox

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


@pytest.mark.parametrize(
    ("greeting", "smtputf8", "keyword", "protocol"),
    [
        pytest.param(GreetingWord.HELO, False, WithKeyword.SMTP, "smtp", id="helo"),
        pytest.param(GreetingWord.EHLO, False, WithKeyword.ESMTP, "smtp", id="ehlo"),
        pytest.param(GreetingWord.EHLO, True, WithKeyword.UTF8SMTP, "smtp", id="ehlo-utf8"),
        pytest.param(GreetingWord.LHLO, False, WithKeyword.LMTP, "lmtp", id="lhlo"),
        pytest.param(GreetingWord.LHLO, True, WithKeyword.UTF8LMTP, "lmtp", id="lhlo-utf8"),
    ],
)
def test_with_keyword_and_protocol(greeting: GreetingWord, smtputf8: bool, keyword: WithKeyword, protocol: str) -> None:
    mail = envelope(greeting=greeting, smtputf8=smtputf8)
    assert (mail.with_keyword, mail.session.protocol) == (keyword, protocol)
    assert isinstance(mail.session, Session)


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
