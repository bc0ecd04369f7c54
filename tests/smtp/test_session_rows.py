"""Sessions row by row: words, order, resets, pipelining, data. ``row n`` is the number in our conformance table."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter

import pytest

from fuzz.targets.smtp_server import Session
from tests.smtp.support import (
    DATA,
    EHLO,
    MAIL,
    NO_CHUNKING,
    OPTIONS,
    PLAIN,
    RCPT,
    Cut,
    Row,
    codes,
    in_state,
    refuse_message,
)
from trio_fcgimail.smtp import (
    Answerable,
    Connected,
    Extension,
    GreetingWord,
    Hello,
    MailFrom,
    RcptTo,
    Reply,
    ServerConnection,
    ServerOptions,
    State,
    catalogue,
)

START, READY, MAILED, RCPTED, IN_DATA, CLOSED = (
    State.START,
    State.READY,
    State.MAIL,
    State.RCPT,
    State.DATA,
    State.CLOSED,
)
REFUSED = State.REFUSED
LIMITS = ServerOptions(hostname="a.example", extensions=frozenset({Extension.LIMITS}))  # RFC 9422
BAD_RCPT = b"RCPT TO:<bad@example.com>\r\n"

ROWS = [
    # Greetings
    Row("helo", START, b"HELO x\r\n", "250", READY, "row 2, RFC 5321 4.1.1.1"),
    Row("ehlo-ipv6-literal", START, b"EHLO [IPv6:::1]\r\n", "250", READY, "row 3, RFC 5321 4.1.3"),
    Row("ehlo-general-literal", START, b"EHLO [X25:31]\r\n", "250", READY, "RFC 5321 4.1.3"),
    Row("ehlo-general-literal-content", START, b"EHLO [X400:/c=de;a(b]\r\n", "250", READY, "RFC 5321 4.1.3"),
    Row("ehlo-general-literal-quote", START, b'EHLO [X25:"]\r\n', "501 5.5.4", START, "not taken, as in a path"),
    Row("ehlo-literal-with-comment", START, b"EHLO [foo(]\r\n", "501 5.5.4", START, "a comment, and no literal"),
    Row("ehlo-without-name", START, b"EHLO\r\n", "501 5.5.4", START, "row 4"),
    Row("helo-without-name", START, b"HELO\r\n", "501 5.5.4", START, "row 5"),
    Row("ehlo-two-words", START, b"EHLO a b\r\n", "501 5.5.4", START, "RFC 5321 4.1.1.1: one name"),
    Row("ehlo-name-too-long", START, b"EHLO " + b"x" * 256 + b"\r\n", "501 5.5.4", START, "RFC 5321 4.5.3.1.2"),
    Row("ehlo-name-of-255", START, b"EHLO " + b"x" * 255 + b"\r\n", "250", READY, "RFC 5321 4.5.3.1.2"),
    Row("ehlo-comment", START, b"EHLO a(b)\r\n", "501 5.5.4", START, "would be a comment in the trace header"),
    Row("ehlo-utf8", START, "EHLO b\u00fccher.example\r\n".encode(), "501 5.5.4", START, "RFC 6531 3.7.1: A-labels"),
    Row("ehlo-underscore", START, b"EHLO my_pc\r\n", "250", READY, "what real senders say"),
    Row("helo-after-tab", START, b"HELO\tx\r\n", "250", READY, "HT is white space to lenient senders"),
    Row("ehlo-again", READY, EHLO, "250", READY, "RFC 5321 4.1.4"),
    Row("lower-case", START, b"ehlo x\r\nmail from:<a@b.c>\r\nrcpt to:<d@e.f>\r\ndata\r\n",
        "250 | 250 2.1.0 | 250 2.1.5 | 354", IN_DATA, "row 22, RFC 5321 2.4"),
    Row("lhlo-in-smtp", START, b"LHLO x\r\n", "500 5.5.1", START, "row 35"),
    # Order
    Row("mail-before-hello", START, MAIL, "503 5.5.1", START, "row 6"),
    Row("rcpt-before-hello", START, RCPT, "503 5.5.1", START, "RFC 5321 4.1.4"),
    Row("data-before-hello", START, DATA, "503 5.5.1", START, "RFC 5321 4.1.4"),
    Row("rcpt-before-mail", READY, RCPT, "503 5.5.1", READY, "rows 7 and 110"),
    Row("data-before-mail", READY, DATA, "503 5.5.1", READY, "row 8"),
    Row("data-before-rcpt", MAILED, DATA, "503 5.5.1", MAILED, "row 9"),
    Row("mail-within-mail", MAILED, MAIL, "503 5.5.1", MAILED, "row 10"),
    Row("mail-within-rcpt", RCPTED, MAIL, "503 5.5.1", RCPTED, "row 10"),
    Row("order-before-syntax", START, b"MAIL nonsense\r\n", "503 5.5.1", START, "out of place is told first"),
    Row("ehlo-resets-mail", MAILED, EHLO + RCPT, "250 | 503 5.5.1", READY, "row 11, RFC 5321 4.1.4"),
    Row("helo-resets-rcpt", RCPTED, b"HELO x\r\n" + DATA, "250 | 503 5.5.1", READY, "row 12"),
    Row("bad-ehlo-resets-nothing", RCPTED, b"EHLO\r\n" + DATA, "501 5.5.4 | 354", IN_DATA, "RFC 5321 4.1.4"),
    Row("rset-in-rcpt", RCPTED, b"RSET\r\n" + RCPT, "250 2.0.0 | 503 5.5.1", READY, "row 13"),
    Row("rset-in-mail", MAILED, b"RSET\r\n", "250 2.0.0", READY, "RFC 5321 4.1.1.5"),
    Row("rset-at-start", START, b"RSET\r\n" + MAIL, "250 2.0.0 | 503 5.5.1", START, "row 14"),
    Row("refused-mail-then-rcpt", READY, b"MAIL FROM:<bad@x.y>\r\n" + RCPT, "550 5.1.1 | 503 5.5.1", READY, "row 32"),
    Row("malformed-mail-then-rcpt", READY, b"MAIL FROM:<a\r\n" + RCPT, "501 5.1.7 | 503 5.5.1", READY, "row 32"),
    Row("refused-rcpt-then-data", MAILED, BAD_RCPT + DATA, "550 5.1.1 | 503 5.5.1", MAILED, "row 33"),
    Row("busy-rcpt-then-data", MAILED, b"RCPT TO:<busy@x.y>\r\n" + DATA, "451 4.3.0 | 503 5.5.1", MAILED, "row 33"),
    Row("one-refused-of-two", RCPTED, BAD_RCPT + DATA, "550 5.1.1 | 354", IN_DATA, "row 34"),
    # Small commands
    Row("noop-at-start", START, b"NOOP\r\n", "250 2.0.0", START, "row 15"),
    Row("noop-with-text", READY, b"NOOP text\r\n", "250 2.0.0", READY, "row 16"),
    Row("noop-disturbs-nothing", RCPTED, b"NOOP\r\n" + DATA, "250 2.0.0 | 354", IN_DATA, "row 17"),
    Row("vrfy", READY, b"VRFY bob\r\n", "252 2.5.2", READY, "row 18, RFC 5321 3.5.3"),
    Row("vrfy-at-start", START, b"VRFY bob\r\n", "252 2.5.2", START, "RFC 5321 4.1.4"),
    Row("vrfy-without-name", READY, b"VRFY\r\n", "501 5.5.4", READY, "row 19"),
    Row("vrfy-smtputf8", READY, "VRFY b\u00fcb SMTPUTF8\r\n".encode(), "252 2.5.2", READY, "RFC 6531 3.7.4.2"),
    Row("vrfy-in-mail", RCPTED, b"VRFY bob\r\n" + DATA, "252 2.5.2 | 354", IN_DATA, "RFC 5321 4.1.4: it moves nothing"),
    Row("expn-without-name", READY, b"EXPN\r\n", "502 5.5.1", READY, "what is not there needs no argument"),
    Row("expn", READY, b"EXPN x\r\n", "502 5.5.1", READY, "row 20"),
    Row("help", READY, b"HELP\r\n", "214 2.0.0", READY, "row 21"),
    Row("help-with-word", MAILED, b"HELP MAIL\r\n", "214 2.0.0", MAILED, "RFC 5321 4.1.1.8"),
    Row("turn", READY, b"TURN\r\n", "500 5.5.1", READY, "row 36: unknown to us"),
    Row("unknown", READY, b"XYZZY\r\n", "500 5.5.1", READY, "rows 23 and 111"),
    Row("unknown-disturbs-nothing", RCPTED, b"XYZZY\r\n" + DATA, "500 5.5.1 | 354", IN_DATA, "row 24"),
    Row("starttls-not-offered", READY, b"STARTTLS\r\n", "502 5.5.1", READY, "RFC 5321 4.2.4"),
    Row("auth-not-offered", READY, b"AUTH PLAIN\r\n", "502 5.5.1", READY, "row 147"),
    Row("xclient-not-offered", READY, b"XCLIENT ADDR=192.0.2.1\r\n", "502 5.5.1", READY, "row 161"),
    Row("data-with-argument", RCPTED, b"DATA foo\r\n", "501 5.5.4", RCPTED, "row 25"),
    Row("rset-with-argument", RCPTED, b"RSET foo\r\n", "501 5.5.4", RCPTED, "RFC 5321 4.1.1.5"),
    Row("quit-with-argument", READY, b"QUIT foo\r\n", "501 5.5.4", READY, "RFC 5321 4.1.1.10"),
    Row("blanks-at-end", READY, b"NOOP \r\nRSET  \r\n", "250 2.0.0 | 250 2.0.0", READY, "row 26, RFC 5321 4.1.1"),
    Row("data-with-blank", RCPTED, b"DATA \r\n", "354", IN_DATA, "row 27"),
    Row("empty-line", READY, b"\r\n", "500 5.5.2", READY, "row 28"),
    Row("blank-first", READY, b" NOOP\r\n", "500 5.5.2", READY, "no word, no command"),
    Row("quit", READY, b"QUIT\r\n", "221 2.0.0", CLOSED, "row 29"),
    Row("quit-at-start", START, b"QUIT\r\n", "221 2.0.0", CLOSED, "RFC 5321 4.1.1.10"),
    Row("quit-in-transaction", RCPTED, b"QUIT\r\n", "221 2.0.0", CLOSED, "RFC 5321 4.1.1.10"),
    Row("nothing-after-quit", READY, b"QUIT\r\nNOOP\r\n", "221 2.0.0", CLOSED, "row 30"),
    # Turned away by a greeting of 554
    Row("refused-mail", REFUSED, MAIL, "503 5.5.1", REFUSED, "RFC 5321 3.1"),
    Row("refused-unknown", REFUSED, b"XYZZY\r\n", "503 5.5.1", REFUSED, "RFC 5321 3.1"),
    Row("refused-ehlo", REFUSED, EHLO, "503 5.5.1", REFUSED, "RFC 5321 3.1"),
    Row("refused-quit", REFUSED, b"QUIT\r\n", "221 2.0.0", CLOSED, "RFC 5321 3.1"),
    Row("refused-bdat-in-sync", REFUSED, b"BDAT 6 LAST\r\nQUIT\r\n", "503 5.5.1", REFUSED, "the chunk is no command"),
    Row("refused-bdat-empty", REFUSED, b"BDAT 0 LAST\r\n", "503 5.5.1", REFUSED, "RFC 5321 3.1"),
    # Lines
    Row("nul", READY, b"NOOP \0\r\n", "500 5.5.2", READY, "S11"),
    Row("bell", READY, b"NOOP \x07\r\n", "500 5.5.2", READY, "RFC 5321 4.1.2: no controls"),
    Row("bad-utf8", READY, b"NOOP \xff\r\n", "500 5.5.2", READY, "RFC 6531 3.5"),
    Row("bare-lf-in-command", READY, b"NOOP\nNOOP\r\n", "500 5.5.2", READY, "row 169, S3: one line, one reply"),
    Row("bare-cr-in-command", READY, b"NOOP\rNOOP\r\n", "500 5.5.2", READY, "S3"),
    Row("cr-before-crlf", READY, b"NOOP\r\r\n", "500 5.5.2", READY, "S4: CR CR LF is not CR LF"),
    Row("long-s-is-no-s", READY, "R\u017fET\r\n".encode(), "500 5.5.1", READY, "words fold case in ASCII only"),
    Row("dotless-i-is-no-i", READY, "MA\u0131L FROM:<>\r\n".encode(), "500 5.5.1", READY, "as above"),
    Row("http-post", START, b"POST / HTTP/1.1\r\n", "421 4.7.0", CLOSED, "row 170, S9"),
    Row("http-host", READY, b"Host: x\r\n", "421 4.7.0", CLOSED, "S9"),
    Row("http-lower-case", READY, b"get / HTTP/1.1\r\n", "421 4.7.0", CLOSED, "S9"),
    Row("http-host-glued", READY, b"Host:x\r\n", "421 4.7.0", CLOSED, "S9; RFC 9112 5: no blank is needed"),
    Row("http-word-alone", START, b"GET\r\n", "421 4.7.0", CLOSED, "S9"),
    Row("http-2", START, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "421 4.7.0", CLOSED, "S9, RFC 9113 3.4"),
    Row("http-path-too-long", START, b"POST /" + b"x" * 3000 + b" HTTP/1.1\r\n", "421 4.7.0", CLOSED,
        "S9: its headers and its form would be commands"),
    Row("http-with-control", START, b"GET /\x01 HTTP/1.1\r\n", "421 4.7.0", CLOSED, "S9"),
    Row("http-glued", START, b"GETX\r\n", "500 5.5.1", START, "another word"),
    Row("http-in-data", IN_DATA, b"GET / HTTP/1.1\r\nHost: x\r\n.\r\n", "250 2.0.0", READY, "octets of the mail"),
    Row("too-long-after-many-greetings", READY, EHLO * 20 + b"NOOP " + b"x" * 2042 + b"\r\n",
        " | ".join(["250"] * 20 + ["500 5.5.2"]), READY, "no greeting adds to the length of a line"),
    # Data
    Row("body", IN_DATA, b"Subject: x\r\n\r\nhello\r\n.\r\n" + RCPT, "250 2.0.0 | 503 5.5.1", READY, "row 31"),
    Row("empty-body", IN_DATA, b".\r\n", "250 2.0.0", READY, "row 93"),
    Row("line-of-998", IN_DATA, b"x" * 998 + b"\r\n.\r\n", "250 2.0.0", READY, "row 91"),
    Row("line-of-10000", IN_DATA, b"x" * 10000 + b"\r\n.\r\n", "250 2.0.0", READY, "row 92: no line is held"),
    Row("cr-cr-lf-dot", IN_DATA, b"x\r\r\n.\r\n", "550 5.5.2", READY, "row 98: the end is seen, the mail refused"),
    Row("bdat-in-data", IN_DATA, b"BDAT 6 LAST\r\nQUIT\r\n.\r\n", "250 2.0.0", READY, "behind 354 it is text"),
    Row("commands-in-data", IN_DATA, b"RSET\r\nQUIT\r\n.\r\nNOOP\r\n", "250 2.0.0 | 250 2.0.0", READY,
        "RFC 5321 4.1.1.4: text up to the end"),
    Row("declared-smaller", READY, b"MAIL FROM:<a@b.c> SIZE=1\r\n" + RCPT + DATA + b"hello\r\n.\r\n",
        "250 2.1.0 | 250 2.1.5 | 354 | 250 2.0.0", READY, "RFC 1870 6.3: an estimate; only the limit counts"),
    Row("nul-in-body", IN_DATA, b"a\0b\r\n.\r\n", "250 2.0.0", READY, "S11"),
    Row("refused-at-end", IN_DATA, b"x\r\n.\r\n" + MAIL, "451 4.3.0 | 250 2.1.0", MAILED, "RFC 5321 4.1.1.4",
        judge=refuse_message),
    # Pipelining
    Row("group", READY, MAIL + RCPT + DATA, "250 2.1.0 | 250 2.1.5 | 354", IN_DATA, "row 100, RFC 2920 3.1"),
    Row("group-one-refused", READY, MAIL + RCPT + BAD_RCPT + DATA, "250 2.1.0 | 250 2.1.5 | 550 5.1.1 | 354", IN_DATA,
        "row 101"),
    Row("group-all-refused", READY, MAIL + BAD_RCPT + DATA, "250 2.1.0 | 550 5.1.1 | 503 5.5.1", MAILED, "row 102"),
    Row("body-quit", IN_DATA, b"x\r\n.\r\nQUIT\r\n", "250 2.0.0 | 221 2.0.0", CLOSED, "row 103"),
    Row("body-next-mail", IN_DATA, b"x\r\n.\r\n" + MAIL + RCPT + DATA, "250 2.0.0 | 250 2.1.0 | 250 2.1.5 | 354",
        IN_DATA, "row 104"),
    Row("rset-group", READY, b"RSET\r\n" + MAIL + RCPT + RCPT + b"NOOP\r\n",
        "250 2.0.0 | 250 2.1.0 | 250 2.1.5 | 250 2.1.5 | 250 2.0.0", RCPTED, "row 105"),
    Row("data-and-body", RCPTED, DATA + b"x\r\n.\r\n", "354 | 250 2.0.0", READY, "row 107"),
    # BDAT, not offered: its octets are data all the same, and nothing else happens
    Row("bdat-eaten", READY, b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", "502 5.5.1 | 250 2.0.0", READY, "row 114",
        NO_CHUNKING),
    Row("bdat-eaten-at-start", START, b"BDAT 3\r\nxyzNOOP\r\n", "502 5.5.1 | 250 2.0.0", START, "row 115",
        NO_CHUNKING),
    Row("bdat-eaten-in-rcpt", RCPTED, b"BDAT 10\r\n\r\n.\r\nQUIT\r" + DATA, "502 5.5.1 | 354", IN_DATA, "row 122",
        NO_CHUNKING),
    Row("bdat-zero", RCPTED, b"BDAT 0 LAST\r\n" + DATA, "502 5.5.1 | 354", IN_DATA, "S16", NO_CHUNKING),
    Row("bdat-last-lower-case", READY, b"bdat 1  last\r\nx", "502 5.5.1", READY, "RFC 5321 2.4", NO_CHUNKING),
    Row("bdat-without-size", READY, b"BDAT\r\n", "501 5.5.4", CLOSED, "row 116: framing is lost"),
    Row("bdat-letters", READY, b"BDAT abc\r\n", "501 5.5.4", CLOSED, "row 116"),
    Row("bdat-negative", READY, b"BDAT -5\r\n", "501 5.5.4", CLOSED, "row 116"),
    Row("bdat-arabic-digits", READY, "BDAT \u0661\r\n".encode(), "501 5.5.4", CLOSED, "digits are ASCII"),
    Row("bdat-not-last", READY, "BDAT 1 LA\u017fT\r\n".encode(), "501 5.5.4", CLOSED, "words fold case in ASCII only"),
    Row("bdat-huge", RCPTED, b"BDAT 99999999999999999999 LAST\r\n", "552 5.3.4", CLOSED, "row 117"),
    Row("bdat-21-digits", RCPTED, b"BDAT 000000000000000000001\r\n", "501 5.5.4", CLOSED, "RFC 3030 2: 1 to 20 digits"),
    # Without the enhanced codes
    Row("plain-codes", START, EHLO + MAIL + b"XYZZY\r\nQUIT\r\n", "250 | 250 | 500 | 221", CLOSED, "RFC 2034 3",
        options=PLAIN),
]  # fmt: skip


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("row", ROWS, ids=attrgetter("id"))
def test_row(row: Row, how: Cut) -> None:
    row.play(how)


def test_row_ids_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_greeting_and_keywords() -> None:
    """Row 1: 220 without an enhanced code; RFC 5321 4.1.1.1: one keyword a line; RFC 1870 3: the limit behind SIZE."""
    session = Session(OPTIONS)
    assert bytes(session.output) == b"220 mx.example.com ESMTP\r\n"
    assert session.feed(EHLO) == (
        b"250-mx.example.com\r\n250-PIPELINING\r\n250-SIZE 26214400\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
        b"250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250-DSN\r\n"
        b"250 LIMITS MAILMAX=1000 RCPTMAX=100\r\n"
    )
    assert session.feed(b"HELO x\r\n") == b"250 mx.example.com\r\n"


@pytest.mark.parametrize(
    ("options", "reply"),
    [
        pytest.param(PLAIN, b"250 mx.example.com\r\n", id="none-offered"),
        pytest.param(
            ServerOptions(hostname="[192.0.2.1]", extensions=frozenset({Extension.SIZE}), max_message_octets=None),
            b"250-[192.0.2.1]\r\n250 SIZE\r\n",
            id="size-without-limit",
        ),
        pytest.param(replace(LIMITS, max_messages=None), b"250-a.example\r\n250 LIMITS RCPTMAX=100\r\n", id="rcptmax"),
        pytest.param(
            replace(LIMITS, max_recipients=None), b"250-a.example\r\n250 LIMITS MAILMAX=1000\r\n", id="mailmax"
        ),
        pytest.param(
            replace(LIMITS, max_messages=None, max_recipients=None), b"250 a.example\r\n", id="limits-without-limits"
        ),
        pytest.param(
            replace(LIMITS, max_messages=999_999, max_recipients=1_000_000),
            b"250-a.example\r\n250 LIMITS MAILMAX=999999\r\n",
            id="limits-have-six-digits",
        ),
    ],
)
def test_keywords_follow_the_options(options: ServerOptions, reply: bytes) -> None:
    assert Session(options).feed(EHLO) == reply


def test_commands_before_the_greeting_wait_for_it() -> None:
    """Row 106: the banner comes first, then the answer to what was sent too early."""
    connection = ServerConnection(OPTIONS)
    connection.receive_data(EHLO)
    banner = connection.next_event()
    assert isinstance(banner, Connected)
    assert codes(connection.accept(banner)) == ["220"]
    assert isinstance(connection.next_event(), Hello)


def test_refused_hello_changes_nothing() -> None:
    """RFC 5321 4.1.4: the EHLO before it still counts, and so do its extensions and the transaction."""

    def no_helo(event: Answerable) -> Reply | None:
        return catalogue.RELAY_DENIED if isinstance(event, Hello) and event.word is GreetingWord.HELO else None

    session = in_state(READY, judge=no_helo)
    assert codes(session.feed(b"HELO x\r\nMAIL FROM:<a@b.c> SIZE=1\r\n")) == ["550 5.7.1", "250 2.1.0"]
    assert codes(session.feed(RCPT + b"HELO x\r\n" + DATA)) == ["250 2.1.5", "550 5.7.1", "354"]


def test_replies_in_utf8_only_within_a_smtputf8_transaction() -> None:
    """RFC 6531 3.7.4.1; a refused MAIL SMTPUTF8 opens none."""
    gruen = catalogue.NO_SUCH_USER.with_lines("gr\u00fcn")

    def judge(event: Answerable) -> Reply | None:
        match event:
            case MailFrom(path=None) | RcptTo():
                return gruen
            case _:
                return None

    session = in_state(READY, judge=judge)
    assert session.feed(b"MAIL FROM:<> SMTPUTF8\r\nMAIL FROM:<>\r\n") == b"550 5.1.1 gr?n\r\n" * 2
    session.feed(b"MAIL FROM:<a@b.c> SMTPUTF8\r\n")
    assert session.feed(RCPT) == "550 5.1.1 gr\u00fcn\r\n".encode()
    for ends_it in (b"RSET\r\n", EHLO):
        session.feed(b"RSET\r\nMAIL FROM:<a@b.c> SMTPUTF8\r\n" + ends_it)
        assert session.feed(b"MAIL FROM:<>\r\n") == b"550 5.1.1 gr?n\r\n"
    session.feed(MAIL)
    assert session.feed(RCPT) == b"550 5.1.1 gr?n\r\n"


def test_content_arrives_unstuffed_and_whole() -> None:
    """Rows 94 and 95."""
    session = in_state(IN_DATA)
    session.feed(b"..\r\n.x\r\n" + "\u00fc".encode() + b"\xff\r\n.\r\n")
    assert session.messages == [b".\r\nx\r\n" + "\u00fc".encode() + b"\xff\r\n"]


def test_no_reply_echoes_the_client() -> None:
    """Row 172, S17: whatever the client says, our own replies are ASCII of ours."""
    session = in_state(READY)
    for line in (b"NOOP \x1b[31m", b"\x1b[31m", b"EHLO \x1b", b"VRFY \xc2\x9b", b"MAIL FROM:<\xc2\x9b@x.y>"):
        written = session.feed(line + b"\r\n")
        assert written.isascii()
        assert b"\x1b" not in written
