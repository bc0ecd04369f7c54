"""``mail_digest``, beside a second reading of the words that define it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.mail.support import ALICE, BOB, CAROL, cut, mailboxes
from trio_fcgimail.mail import MailDigest
from trio_fcgimail.smtp import Mailbox


def digest(sender: Mailbox | None, recipients: list[Mailbox], *pieces: bytes) -> str:
    one = MailDigest(sender, recipients)
    for piece in pieces:
        one.update(piece)
    return one.hexdigest()


def recompute(sender: Mailbox | None, recipients: list[Mailbox], content: bytes) -> str:
    """The reverse-path, NUL, each recipient (domain lowered, sorted, once) and NUL, NUL, the content."""
    text = "" if sender is None else str(sender)
    told = bytearray(text.encode() + b"\0")
    addresses = []
    for one in recipients:
        local = str(one)[: -len(str(one.domain))]  # with its "@"
        addresses.append((local + str(one.domain).lower()).encode())
    for address in sorted(set(addresses)):
        told += address + b"\0"
    told += b"\0" + content
    return hashlib.sha256(told).hexdigest()


def test_octets_of_an_example() -> None:
    told = b"alice@example.net\0bob@example.com\0carol@example.com\0\0Subject: hi\r\n\r\n.\r\n"
    assert digest(ALICE, [CAROL, BOB], b"Subject: hi\r\n\r\n.\r\n") == hashlib.sha256(told).hexdigest()
    assert digest(None, [BOB], b"") == hashlib.sha256(b"\0bob@example.com\0\0").hexdigest()


@given(
    st.none() | mailboxes(),
    st.lists(mailboxes(), min_size=1, max_size=4),
    st.binary(max_size=40),
    st.lists(st.integers(0, 99), max_size=4),
)
@example(None, [Mailbox("i", "\u0130" * 31 + ".example")], b"", [])
def test_it_is_what_the_words_say_whatever_the_order_and_the_cuts(
    sender: Mailbox | None, recipients: list[Mailbox], content: bytes, points: list[int]
) -> None:
    expected = recompute(sender, recipients, content)
    assert digest(sender, recipients, *cut(content, points)) == expected
    assert digest(sender, recipients[::-1] + recipients, content) == expected


@pytest.mark.parametrize(
    "recipients",
    [
        pytest.param([CAROL, BOB], id="order"),
        pytest.param([BOB, CAROL, BOB], id="doubles"),
        pytest.param([Mailbox("bob", "EXAMPLE.com"), Mailbox("carol", "Example.COM")], id="case-of-domain"),
        pytest.param([BOB, Mailbox("bob", "EXAMPLE.com"), CAROL], id="doubles-by-case"),
    ],
)
def test_the_same_mail(recipients: list[Mailbox]) -> None:
    assert digest(ALICE, recipients, b"x") == digest(ALICE, [BOB, CAROL], b"x")


@pytest.mark.parametrize(
    ("sender", "recipients", "content"),
    [
        pytest.param(None, [BOB, CAROL], b"x", id="sender"),
        pytest.param(Mailbox("Alice", "example.net"), [BOB, CAROL], b"x", id="case-of-sender"),
        pytest.param(ALICE, [BOB], b"x", id="recipient-less"),
        pytest.param(ALICE, [BOB, CAROL, ALICE], b"x", id="recipient-more"),
        pytest.param(ALICE, [Mailbox("Bob", "example.com"), CAROL], b"x", id="case-of-local-part"),
        pytest.param(ALICE, [BOB, CAROL], b"x\r\n", id="content"),
        pytest.param(ALICE, [BOB], b"carol@example.com\0x", id="no-recipient-is-hidden-in-the-content"),
        pytest.param(ALICE, [BOB, CAROL], b"\0x", id="no-octet-moves-over-a-border"),
    ],
)
def test_another_mail(sender: Mailbox | None, recipients: list[Mailbox], content: bytes) -> None:
    assert digest(sender, recipients, content) != digest(ALICE, [BOB, CAROL], b"x")


def test_asking_does_not_end_it() -> None:
    one = MailDigest(ALICE, [BOB])
    first = one.hexdigest()
    one.update(b"x")
    assert first == digest(ALICE, [BOB])
    assert one.hexdigest() == digest(ALICE, [BOB], b"x")
