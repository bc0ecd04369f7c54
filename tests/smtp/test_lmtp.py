"""LMTP (RFC 2033): the same core with other values."""

from __future__ import annotations

from operator import attrgetter

import pytest

from fuzz.targets.smtp_server import Session
from tests.smtp.support import DATA, LHLO, LMTP_OPTIONS, MAIL, RCPT, Cut, Row, codes, in_state
from trio_fcgimail.smtp import (
    CloseReason,
    ConnectionClosed,
    GreetingWord,
    Hello,
    MessageEnd,
    Reply,
    ServerConnection,
    State,
    catalogue,
)

START, READY, MAILED, RCPTED, IN_DATA = State.START, State.READY, State.MAIL, State.RCPT, State.DATA
BAD_RCPT = b"RCPT TO:<bad@example.com>\r\n"
OK, NO = catalogue.OK, catalogue.NO_SUCH_USER

ROWS = [
    Row("lhlo", START, LHLO, "250", READY, "row 148", LMTP_OPTIONS),
    Row("lhlo-lower-case", START, b"lhlo x\r\n", "250", READY, "RFC 5321 2.4", LMTP_OPTIONS),
    Row("lhlo-without-name", START, b"LHLO\r\n", "501 5.5.4", START, "RFC 2033 4.1", LMTP_OPTIONS),
    Row("ehlo", START, b"EHLO x\r\n", "500 5.5.1", START, "row 149", LMTP_OPTIONS),
    Row("helo", READY, b"HELO x\r\n", "500 5.5.1", READY, "row 149", LMTP_OPTIONS),
    Row("ehlo-resets-nothing", RCPTED, b"EHLO x\r\n" + DATA, "500 5.5.1 | 354", IN_DATA, "row 149", LMTP_OPTIONS),
    Row("lhlo-resets", RCPTED, LHLO + DATA, "250 | 503 5.5.1", READY, "RFC 5321 4.1.4", LMTP_OPTIONS),
    Row("data-without-rcpt", MAILED, DATA, "503 5.5.1", MAILED, "row 150, RFC 2033 4.2: 503", LMTP_OPTIONS),
    Row("only-refused-rcpt", MAILED, BAD_RCPT + DATA, "550 5.1.1 | 503 5.5.1", MAILED, "row 154", LMTP_OPTIONS),
    Row("two-recipients", RCPTED, RCPT + DATA + b"x\r\n.\r\n", "250 2.1.5 | 354 | 250 2.0.0 | 250 2.0.0", READY,
        "row 151, RFC 2033 4.2", LMTP_OPTIONS),
    Row("good-bad-good", RCPTED, BAD_RCPT + RCPT + DATA + b".\r\n",
        "550 5.1.1 | 250 2.1.5 | 354 | 250 2.0.0 | 250 2.0.0", READY, "row 152: accepted ones only", LMTP_OPTIONS),
    Row("same-five-times", RCPTED, RCPT * 4 + DATA + b".\r\n",
        " | ".join(["250 2.1.5"] * 4 + ["354"] + ["250 2.0.0"] * 5), READY, "row 153", LMTP_OPTIONS),
    Row("next-mail-counts-anew", RCPTED, DATA + b".\r\n" + MAIL + RCPT + DATA + b".\r\n",
        "354 | 250 2.0.0 | 250 2.1.0 | 250 2.1.5 | 354 | 250 2.0.0", READY, "RFC 2033 4.2", LMTP_OPTIONS),
    Row("rset-forgets-recipients", RCPTED, b"RSET\r\n" + MAIL + RCPT + DATA + b".\r\n",
        "250 2.0.0 | 250 2.1.0 | 250 2.1.5 | 354 | 250 2.0.0", READY, "RFC 2033 4.2", LMTP_OPTIONS),
]  # fmt: skip


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("row", ROWS, ids=attrgetter("id"))
def test_row(row: Row, how: Cut) -> None:
    row.play(how)


def test_greeting_words_and_keywords() -> None:
    """Row 157: PIPELINING and ENHANCEDSTATUSCODES must be there, 8BITMIME should (RFC 2033 5)."""
    session = Session(LMTP_OPTIONS)
    assert bytes(session.output) == b"220 mx.example.com LMTP\r\n"
    reply = session.feed(LHLO)
    for keyword in (b"PIPELINING", b"ENHANCEDSTATUSCODES", b"8BITMIME", b"SIZE 26214400"):
        assert keyword + b"\r\n" in reply
    assert session.events[-1] == Hello(GreetingWord.LHLO, "client.example")


def at_the_end() -> tuple[ServerConnection, MessageEnd]:
    """A mail to two recipients whose end was seen, one of three having been refused."""
    session = in_state(RCPTED, LMTP_OPTIONS)
    session.feed(BAD_RCPT + RCPT + DATA)
    session.connection.receive_data(b".\r\nNOOP\r\n")
    event = session.connection.next_event()
    assert isinstance(event, MessageEnd)
    return session.connection, event


@pytest.mark.parametrize(
    ("replies", "written"),
    [
        pytest.param([OK, OK], ["250 2.0.0", "250 2.0.0"], id="both-taken"),
        pytest.param([OK, NO], ["250 2.0.0", "550 5.1.1"], id="second-refused"),
        pytest.param([NO, OK], ["550 5.1.1", "250 2.0.0"], id="first-refused"),
        pytest.param([NO, catalogue.LOCAL_ERROR], ["550 5.1.1", "451 4.3.0"], id="both-refused"),
    ],
)
def test_reply_each_in_order(replies: list[Reply], written: list[str]) -> None:
    connection, event = at_the_end()
    assert codes(connection.reply_each(event, replies)) == written
    assert connection.state is READY


def test_accept_and_reject_speak_for_all() -> None:
    connection, event = at_the_end()
    assert codes(connection.accept(event)) == ["250 2.0.0", "250 2.0.0"]
    connection, event = at_the_end()
    assert codes(connection.reject(event, NO)) == ["550 5.1.1", "550 5.1.1"]
    assert connection.state is READY


@pytest.mark.parametrize(
    "replies", [[OK, catalogue.SHUTTING_DOWN], [catalogue.SHUTTING_DOWN, OK]], ids=["last", "first"]
)
def test_a_closing_reply_among_them_closes_after_all_were_given(replies: list[Reply]) -> None:
    connection, event = at_the_end()
    assert sorted(codes(connection.reply_each(event, replies))) == ["250 2.0.0", "421 4.3.2"]
    assert connection.next_event() == ConnectionClosed(CloseReason.REPLY)
