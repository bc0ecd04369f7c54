"""AUTH (RFC 4954) with PLAIN (RFC 4616) and LOGIN. ``row n`` is the number in our conformance table."""

from __future__ import annotations

import copy
import dataclasses
import pprint
import traceback
from base64 import b64encode
from dataclasses import replace
from operator import attrgetter
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets.smtp_server import Handshake, Session, cut
from tests.smtp.support import (
    ALL,
    DATA,
    EHLO,
    EVERYTHING,
    MAIL,
    OPTIONS,
    RCPT,
    STARTTLS_OPTIONS,
    TLS_OPTIONS,
    Cut,
    Row,
    codes,
    habits,
    in_state,
)
from trio_fcgimail.smtp import (
    LMTP,
    MAX_SASL_OCTETS,
    Answerable,
    AuthChannel,
    Authenticate,
    CloseReason,
    CommandAnswered,
    ConnectionClosed,
    Credentials,
    Extension,
    LocalProtocolError,
    Mailbox,
    MailFrom,
    Mechanism,
    Outcome,
    Reply,
    Secret,
    ServerConnection,
    State,
    Tls,
    Verb,
    catalogue,
)

START, READY, MAILED, RCPTED, SASL, CLOSED = (
    State.START,
    State.READY,
    State.MAIL,
    State.RCPT,
    State.SASL,
    State.CLOSED,
)
PLAIN, LOGIN = Mechanism.PLAIN, Mechanism.LOGIN
GOOD, ASKED, UNREADABLE, WRONG = "235 2.7.0", "334", "501 5.5.2", "535 5.7.8"


def line(text: str | bytes) -> bytes:
    """A response: base64 and CRLF."""
    return b64encode(text.encode() if isinstance(text, str) else text) + b"\r\n"


def plain(text: str | bytes) -> bytes:
    """AUTH PLAIN with an initial response."""
    return b"AUTH PLAIN " + line(text)


USER: Final = plain("\0user\0secret")
BAD: Final = plain("\0bad\0secret")
BUSY: Final = plain("\0busy\0secret")
ANSWER: Final = line("\0user\0secret")
OF_500: Final = b"+61" * 60 + b"@" + b"+78" * 47 + b"." + b"+78" * 17 + b"x" * 30 + (b"." + b"x" * 47) * 2
OF_255: Final = "\u00fc" * 127 + "x"


def auth(name: str, wire: bytes, replies: str, why: str, end: State = READY) -> Row:
    """A row after EHLO over TLS."""
    return Row(name, READY, wire, replies, end, why, TLS_OPTIONS)


def response(name: str, text: str | bytes, why: str, reply: str = UNREADABLE) -> list[Row]:
    """The same octets to PLAIN as an initial response and as a response."""
    return [
        auth(name + "-at-once", plain(text), reply, why),
        auth(name, b"AUTH PLAIN\r\n" + line(text), f"{ASKED} | {reply}", why),
    ]


def of_octets(octets: int) -> bytes:
    """A response of PLAIN whose line has exactly as many octets, CRLF included."""
    assert octets % 4 == 2
    return line(b"\0user\0" + b"x" * ((octets - 2) // 4 * 3 - 6))


MECHANISMS = [
    auth("plain", b"AUTH PLAIN\r\n" + ANSWER, f"{ASKED} | {GOOD}", "RFC 4616 2"),
    auth("plain-at-once", USER, GOOD, "RFC 4954 4: an initial response"),
    auth("plain-waits", b"AUTH PLAIN\r\n", ASKED, "RFC 4954 4", SASL),
    auth("login", b"AUTH LOGIN\r\n" + line("user") + line("secret"), f"{ASKED} | {ASKED} | {GOOD}", "what clients do"),
    auth("login-at-once", b"AUTH LOGIN " + line("user") + line("secret"), f"{ASKED} | {GOOD}", "what clients do"),
    auth("login-waits", b"AUTH LOGIN\r\n" + line("user"), f"{ASKED} | {ASKED}", "for the password", SASL),
    auth("lower-case", b"auth plain " + ANSWER, GOOD, "row 141"),
    auth("login-mixed-case", b"Auth LoGin\r\n*\r\n", f"{ASKED} | 501 5.7.0", "row 141"),
    auth("tab", b"AUTH\tPLAIN\t" + ANSWER, GOOD, "HT is white space to lenient senders"),
    auth("blank-at-end", b"AUTH PLAIN \r\n" + ANSWER, f"{ASKED} | {GOOD}", "no initial response"),
    auth("nothing", b"AUTH\r\n", "501 5.5.4", "row 136"),
    auth("unknown", b"AUTH XYZZY\r\n", "504 5.5.4", "row 137"),
    auth("unknown-with-response", b"AUTH CRAM-MD5 dXNlcg==\r\n", "504 5.5.4", "row 137"),
    auth("long-s-is-no-s", "AUTH \u017f\r\n".encode(), "504 5.5.4", "words fold case in ASCII only"),
    auth("two-responses", b"AUTH PLAIN AGEAYg== AGEAYg==\r\n", "501 5.5.4", "RFC 4954 4: one at most"),
    auth("cancel", b"AUTH PLAIN\r\n*\r\n", f"{ASKED} | 501 5.7.0", "row 140"),
    auth("cancel-of-login", b"AUTH LOGIN\r\n" + line("user") + b"*\r\n", f"{ASKED} | {ASKED} | 501 5.7.0", "row 140"),
    auth("cancel-at-once", b"AUTH PLAIN *\r\n", UNREADABLE, "a cancel is a line of its own"),
    auth("star-and-blank", b"AUTH PLAIN\r\n* \r\n", f"{ASKED} | {UNREADABLE}", "a star and no more"),
    auth("begins-anew-after-a-cancel", b"AUTH LOGIN\r\n*\r\n" + USER, f"{ASKED} | 501 5.7.0 | {GOOD}", "in step"),
    auth("command-is-a-response", b"AUTH PLAIN\r\nQUIT\r\nQUIT\r\n", f"{ASKED} | {UNREADABLE} | 221 2.0.0",
         "RFC 4954 4: what is behind a failed exchange is commands", CLOSED),
    auth("bdat-is-a-response", b"AUTH PLAIN\r\nBDAT 6\r\nNOOP\r\n", f"{ASKED} | {UNREADABLE} | 250 2.0.0", "no chunk"),
    auth("http-is-a-response", b"AUTH PLAIN\r\nPOST / HTTP/1.1\r\n", f"{ASKED} | {UNREADABLE}", "no command"),
]  # fmt: skip
RESPONSES = [
    *response("empty-words", "\0\0", "nobody"),
    *response("no-user", "\0\0secret", "RFC 4616 2: 1*SAFE"),
    *response("no-password", "\0user\0", "RFC 4616 2: 1*SAFE"),
    *response("one-nul", "user\0secret", "RFC 4616 2"),
    *response("no-nul", "user", "RFC 4616 2"),
    *response("three-nuls", "\0user\0sec\0ret", "RFC 4616 2"),
    *response("bad-utf8", b"\0us\xffer\0secret", "RFC 4616 2: UTF-8"),
    *response("surrogate", b"\0us\xed\xa0\x80er\0secret", "RFC 3629 3"),
    *response("utf8", "\0\u00fcser\0s\u00e9cret \u20ac", "RFC 4616 2", GOOD),
    *response("acting-for", "boss\0user\0secret", "RFC 4616 2: authzid", GOOD),
    *response("user-of-255", f"\0{OF_255}\0x", "RFC 4616 2: octets, not characters", GOOD),
    *response("user-of-256", f"\0{OF_255}x\0x", "RFC 4616 2"),
    *response("identity-of-255", f"{OF_255}\0user\0x", "RFC 4616 2", GOOD),
    *response("identity-of-256", f"{OF_255}x\0user\0x", "RFC 4616 2"),
    *response("password-of-1000", "\0user\0" + "x" * 1000, "as long as its line", GOOD),
    *response("cr-in-user", "\0us\rer\0x", "RFC 4013 2.3: it would reach logs and scripts"),
    *response("lf-in-password", "\0user\0x\ny", "RFC 4013 2.3"),
    *response("escape-in-identity", "\x1b[31m\0user\0x", "RFC 4013 2.3"),
    *response("del-in-user", "\0us\x7fer\0x", "RFC 4013 2.3"),
    *response("nel-in-user", "\0us\u0085er\0x", "RFC 4013 2.3"),
    *response("line-separator-in-password", "\0user\0x\u2028y", "RFC 4013 2.3"),
    auth("bad-base64-at-once", b"AUTH PLAIN !!!\r\n", UNREADABLE, "row 138"),
    auth("bad-base64", b"AUTH PLAIN\r\n!!!\r\n", f"{ASKED} | {UNREADABLE}", "row 138"),
    auth("letters-outside", b"AUTH PLAIN AGEA-g==\r\n", UNREADABLE, "RFC 4648 3.3, not the URL alphabet"),
    auth("no-padding", b"AUTH PLAIN AGEAYg\r\n", UNREADABLE, "RFC 4648 3.2"),
    auth("half-the-padding", b"AUTH PLAIN AGEAYg=\r\n", UNREADABLE, "RFC 4648 3.2"),
    auth("padding-within", b"AUTH PLAIN AGE=AYg=\r\n", UNREADABLE, "RFC 4648 3.3"),
    auth("behind-the-padding", b"AUTH PLAIN\r\nAGEAYg==AGEAYg==\r\n", f"{ASKED} | {UNREADABLE}", "RFC 4648 3.3"),
    auth("blank-within", b"AUTH PLAIN\r\nAGEA Yg==\r\n", f"{ASKED} | {UNREADABLE}", "RFC 4648 3.3"),
    auth("not-ascii", "AUTH PLAIN\r\n\u00fc\r\n".encode(), f"{ASKED} | {UNREADABLE}", "RFC 4648 3.3"),
    auth("not-ascii-at-once", "AUTH PLAIN \u00fc\r\n".encode(), UNREADABLE, "RFC 4648 3.3"),
    auth("nul-in-response", b"AUTH PLAIN\r\n\0\r\n", f"{ASKED} | {UNREADABLE}", "S11"),
    auth("bare-lf-in-response", b"AUTH PLAIN\r\nAGEA\nYg==\r\n", f"{ASKED} | {UNREADABLE}", "S3: one line, one reply"),
    auth("bare-cr-in-response", b"AUTH PLAIN\r\nAGEA\rYg==\r\n", f"{ASKED} | {UNREADABLE}", "S3"),
    auth("nul-in-command", b"AUTH PLAIN \0\r\n", "500 5.5.2", "S11"),
    auth("equals-sign", b"AUTH PLAIN =\r\n", UNREADABLE, "RFC 4954 4: no octets, no credentials"),
    auth("equals-sign-as-response", b"AUTH PLAIN\r\n=\r\n", f"{ASKED} | {UNREADABLE}", "for initial ones only"),
    auth("empty-line", b"AUTH PLAIN\r\n\r\n", f"{ASKED} | {UNREADABLE}", "a response of no octets"),
    auth("login-equals-sign", b"AUTH LOGIN =\r\n", UNREADABLE, "no user"),
    auth("login-empty-user", b"AUTH LOGIN\r\n\r\n", f"{ASKED} | {UNREADABLE}", "no user: nothing more is asked"),
    auth("login-empty-user-then-a-command", b"AUTH LOGIN\r\n\r\nNOOP\r\n", f"{ASKED} | {UNREADABLE} | 250 2.0.0",
         "the exchange is over"),
    auth("login-quit-as-user", b"AUTH LOGIN\r\nQUIT\r\n", f"{ASKED} | {UNREADABLE}", "base64, but of no user"),
    auth("login-rset-as-user", b"AUTH LOGIN\r\nRSET\r\nRSET\r\n", f"{ASKED} | {UNREADABLE} | 250 2.0.0", "the same"),
    auth("login-quit-as-password", b"AUTH LOGIN " + line("user") + b"QUIT\r\n", f"{ASKED} | {UNREADABLE}",
         "base64, but of no password"),
    auth("login-empty-password", b"AUTH LOGIN " + line("user") + b"\r\n", f"{ASKED} | {UNREADABLE}", "no password"),
    auth("login-nul", b"AUTH LOGIN " + line("us\0er"), UNREADABLE, "a control"),
    auth("login-nul-in-password", b"AUTH LOGIN " + line("user") + line("\0"), f"{ASKED} | {UNREADABLE}", "a control"),
    auth("login-bad-base64", b"AUTH LOGIN\r\n!\r\n", f"{ASKED} | {UNREADABLE}", "row 138"),
    auth("login-user-of-255", b"AUTH LOGIN " + line(OF_255) + line("x"), f"{ASKED} | {GOOD}", "as for PLAIN"),
    auth("login-user-of-256", b"AUTH LOGIN " + line(OF_255 + "x"), UNREADABLE, "the same"),
]  # fmt: skip
LENGTHS = [
    auth("command-of-12285", b"AUTH PLAIN " + of_octets(12274), GOOD, "within"),
    auth("response-of-12286", b"AUTH PLAIN\r\n" + of_octets(12286), f"{ASKED} | {GOOD}", "within"),
    auth("response-of-12288", b"AUTH PLAIN\r\n" + b"A" * 12286 + b"\r\n", f"{ASKED} | {UNREADABLE}",
         "RFC 4954 4: read, though no base64 has so many letters"),
    auth("response-of-12289", b"AUTH PLAIN\r\n" + b"A" * 12287 + b"\r\n", f"{ASKED} | 500 5.5.6", "RFC 4954 4"),
    auth("response-of-20000", b"AUTH PLAIN\r\n" + b"A" * 19998 + b"\r\n", f"{ASKED} | 500 5.5.6", "row 145"),
    auth("command-of-12289", b"AUTH PLAIN " + b"A" * 12276 + b"\r\n", "500 5.5.6", "RFC 4954 4"),
    auth("command-of-20000", b"AUTH PLAIN " + b"A" * 19987 + b"\r\n", "500 5.5.6", "row 145"),
    auth("long-command-of-another-word", b"AUTHPLAIN " + b"A" * 3000 + b"\r\n", "500 5.5.2", "no AUTH, no 12288"),
    auth("long-line-behind-an-exchange", b"AUTH PLAIN\r\n*\r\nNOOP " + b"A" * 3000 + b"\r\n",
         f"{ASKED} | 501 5.7.0 | 500 5.5.2", "the limit of commands again"),
    auth("long-response-of-login", b"AUTH LOGIN\r\n" + line("x" * 9000), f"{ASKED} | {UNREADABLE}",
         "a line may be long, a user not"),
    auth("long-password-of-login", b"AUTH LOGIN " + line("user") + line("x" * 9000), f"{ASKED} | {GOOD}",
         "a password may be"),
]  # fmt: skip
PLACES = [
    Row("in-mail", MAILED, USER, "503 5.5.1", MAILED, "row 142", TLS_OPTIONS),
    Row("in-rcpt", RCPTED, USER + DATA, "503 5.5.1 | 354", State.DATA, "row 142", TLS_OPTIONS),
    Row("between-chunks", State.CHUNKING, USER, "503 5.5.1", State.CHUNKING, "row 142", TLS_OPTIONS),
    Row("before-hello", START, USER, "503 5.5.1", START, "EHLO tells what there is", TLS_OPTIONS),
    auth("twice", USER + USER, f"{GOOD} | 503 5.5.1", "row 143"),
    auth("twice-with-ehlo-and-reset", USER + EHLO + b"RSET\r\n" + USER, f"{GOOD} | 250 | 250 2.0.0 | 503 5.5.1",
         "row 143"),
    auth("twice-with-a-mail", USER + MAIL + RCPT + DATA + b".\r\n" + USER,
         f"{GOOD} | 250 2.1.0 | 250 2.1.5 | 354 | 250 2.0.0 | 503 5.5.1", "row 143: for the whole session"),
    auth("order-before-syntax", USER + b"AUTH XYZZY\r\n", f"{GOOD} | 503 5.5.1", "out of place is told first"),
    Row("in-clear", READY, USER, "538 5.7.11", READY, "row 144, RFC 4954 4", STARTTLS_OPTIONS),
    Row("in-clear-nothing-is-asked", READY, b"AUTH LOGIN\r\n" + line("user"), "538 5.7.11 | 500 5.5.1", READY,
        "no exchange: the client has said too much, but not to us", STARTTLS_OPTIONS),
    Row("in-clear-before-hello", START, USER, "538 5.7.11", START, "row 144", STARTTLS_OPTIONS),
    Row("in-clear-without-starttls", READY, USER, "502 5.5.1", READY, "538 would send nowhere",
        replace(STARTTLS_OPTIONS, extensions=ALL - {Extension.STARTTLS})),
    Row("in-clear-without-tls", READY, USER, "502 5.5.1", READY, "the same", replace(STARTTLS_OPTIONS, tls=Tls.NONE)),
    Row("in-clear-as-told", READY, USER, GOOD, READY, "an option", EVERYTHING),
    Row("without-tls-as-told", READY, USER, GOOD, READY, "an option", replace(EVERYTHING, tls=Tls.NONE)),
    Row("behind-starttls", READY, b"STARTTLS\r\n<TLS>" + EHLO + USER, f"220 2.0.0 | 250 | {GOOD}", READY, "RFC 4954 4",
        STARTTLS_OPTIONS),
    Row("after-helo", START, b"HELO x\r\n" + USER, "250 | 502 5.5.1", READY, "HELO offers nothing", TLS_OPTIONS),
    Row("not-offered", READY, USER, "502 5.5.1", READY, "row 147"),
    Row("not-among-the-extensions", READY, USER, "502 5.5.1", READY, "row 147",
        replace(TLS_OPTIONS, extensions=ALL - {Extension.AUTH})),
    Row("no-mechanism", READY, USER, "502 5.5.1", READY, "row 147", replace(TLS_OPTIONS, auth_mechanisms=frozenset())),
    Row("mechanism-not-offered", READY, USER, "504 5.5.4", READY, "row 137",
        replace(TLS_OPTIONS, auth_mechanisms=frozenset({LOGIN}))),
    Row("lmtp", READY, USER, GOOD, READY, "the same table", replace(TLS_OPTIONS, dialect=LMTP)),
]  # fmt: skip
VERDICTS = [
    auth("wrong", BAD, WRONG, "row 139"),
    auth("wrong-then-right", BAD + USER, f"{WRONG} | {GOOD}", "try again"),
    auth("wrong-response", b"AUTH PLAIN\r\n" + line("\0bad\0x"), f"{ASKED} | {WRONG}", "row 139"),
    auth("wrong-login", b"AUTH LOGIN " + line("bad") + line("x"), f"{ASKED} | {WRONG}", "row 139"),
    auth("wrong-three-times", BAD * 3, f"{WRONG} | {WRONG} | 421 4.7.0", "S8: guessing is slow", CLOSED),
    auth("wrong-mail-goes-on", BAD + MAIL, f"{WRONG} | 250 2.1.0", "what follows is the embedder's to say", MAILED),
    auth("busy-never-counts", BUSY * 8 + BAD + BAD + USER, "454 4.7.0 | " * 8 + f"{WRONG} | {WRONG} | {GOOD}",
         "RFC 4954 6: a failure for now says nothing of the password"),
    auth("mistakes-count-apart", b"AUTH PLAIN !\r\n" * 3 + BAD + BAD + USER,
         f"{UNREADABLE} | " * 3 + f"{WRONG} | {WRONG} | {GOOD}", "501 is no guess"),
    auth("mistakes-end", b"AUTH PLAIN\r\n!\r\n" * 6, f"{ASKED} | {UNREADABLE} | " * 5 + f"{ASKED} | 421 4.7.0",
         "501 is a bad command", CLOSED),
    Row("wrong-once-of-one", READY, BAD, "421 4.7.0", CLOSED, "the last is told as 421",
        replace(TLS_OPTIONS, max_failed_logins=1)),
    Row("wrong-without-limit", READY, BAD * 9 + USER, f"{WRONG} | " * 9 + GOOD, READY, "an option",
        replace(TLS_OPTIONS, max_failed_logins=None)),
    Row("wrong-over-starttls", READY, BAD + b"STARTTLS\r\n<TLS>" + EHLO + BAD + BAD,
        f"{WRONG} | 220 2.0.0 | 250 | {WRONG} | 421 4.7.0", CLOSED, "the count is ours, not the client's",
        EVERYTHING),
    Row("wrong-over-ehlo", READY, BAD + EHLO + BAD + b"RSET\r\n" + BAD,
        f"{WRONG} | 250 | {WRONG} | 250 2.0.0 | 421 4.7.0", CLOSED, "the same", TLS_OPTIONS),
    Row("wrong-over-xclient", READY, BAD + b"XCLIENT ADDR=192.0.2.1\r\n" + EHLO + BAD + BAD,
        f"{WRONG} | 220 | 250 | {WRONG} | 421 4.7.0", CLOSED, "the same", EVERYTHING),
]  # fmt: skip


def mail(name: str, value: bytes, reply: str, why: str) -> Row:
    """A row of MAIL with AUTH=."""
    wire = b"MAIL FROM:<a@b.c> AUTH" + value + b"\r\n"
    return Row("mail-" + name, READY, wire, reply, MAILED if reply[0] == "2" else READY, why, TLS_OPTIONS)


PARAMETER = [
    mail("nobody", b"=<>", "250 2.1.0", "row 146, RFC 4954 5"),
    mail("mailbox", b"=e+3Dmc2@example.com", "250 2.1.0", "RFC 4954 5: xtext"),
    mail("no-value", b"", "501 5.5.4", "RFC 4954 5"),
    mail("empty", b"=", "501 5.5.4", "RFC 5321 4.1.2"),
    mail("no-mailbox", b"=bob", "501 5.5.4", "RFC 4954 5"),
    mail("brackets", b"=<bob@example.com>", "501 5.5.4", "a mailbox, not a path"),
    mail("bad-xtext", b"=bob+2@example.com", "501 5.5.4", "RFC 3461 4"),
    mail("xtext-of-crlf", b"=bob+0D+0A@example.com", "501 5.5.4", "printable ASCII only"),
    mail("twice", b"=<> AUTH=<>", "501 5.5.4", "RFC 5321 4.1.1.11"),
    mail("utf8", "=b\u00fcb@example.com".encode(), "553 5.6.7", "RFC 6531 3.4"),
    mail("utf8-with-smtputf8", "=b\u00fcb@example.com SMTPUTF8".encode(), "250 2.1.0", "RFC 6533 3"),
    mail("of-500", b"=" + OF_500, "250 2.1.0", "RFC 4954 5: the value in xtext"),
    mail("of-501", b"=" + OF_500 + b"x", "501 5.5.4", "RFC 4954 5: the value in xtext"),
    Row("mail-lower-case", READY, b"mail from:<a@b.c> auth=<>\r\n", "250 2.1.0", MAILED, "RFC 5321 2.4", TLS_OPTIONS),
    Row("mail-in-clear", READY, b"MAIL FROM:<a@b.c> AUTH=<>\r\n", "555 5.5.4", READY, "where AUTH is not offered",
        STARTTLS_OPTIONS),
    Row("mail-not-offered", READY, b"MAIL FROM:<a@b.c> AUTH=<>\r\n", "555 5.5.4", READY, "RFC 5321 4.1.1.11"),
    Row("rcpt", MAILED, b"RCPT TO:<a@b.c> AUTH=<>\r\n", "555 5.5.4", MAILED, "of MAIL only", TLS_OPTIONS),
]  # fmt: skip
ROWS = [*MECHANISMS, *RESPONSES, *LENGTHS, *PLACES, *VERDICTS, *PARAMETER]


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("row", ROWS, ids=attrgetter("id"))
def test_row(row: Row, how: Cut) -> None:
    row.play(how)


def test_row_ids_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


# What goes over the wire


def test_challenges_on_the_wire() -> None:
    """RFC 4954 4: the blank behind 334 is there, also before nothing; "Username:" and "Password:" in base64."""
    session = in_state(READY, TLS_OPTIONS)
    assert session.feed(b"AUTH PLAIN\r\n") == b"334 \r\n"
    assert session.feed(b"*\r\n") == b"501 5.7.0 Authentication cancelled\r\n"
    assert session.feed(b"AUTH LOGIN\r\n") == b"334 VXNlcm5hbWU6\r\n"
    assert session.feed(line("user")) == b"334 UGFzc3dvcmQ6\r\n"
    assert session.feed(line("secret")) == b"235 2.7.0 Authentication succeeded\r\n"


def test_without_enhanced_codes() -> None:
    session = in_state(READY, replace(TLS_OPTIONS, extensions=frozenset({Extension.AUTH})))
    assert codes(session.feed(b"AUTH PLAIN\r\n*\r\n" + USER)) == ["334", "501", "235"]


def test_exact_lengths() -> None:
    """RFC 4954 4: 12288 octets with CRLF, for a response and for the command."""
    assert MAX_SASL_OCTETS == 12288
    for way, wire in ((b"", b"AUTH PLAIN " + b"A" * 12275), (b"AUTH PLAIN\r\n", b"A" * 12286)):
        for more, reply in ((b"", UNREADABLE), (b"A", "500 5.5.6")):
            for sizes in ([1 << 16], [1], [4000]):
                session = in_state(READY, TLS_OPTIONS)
                session.play([way] if way else [])
                session.output.clear()
                session.play(cut(wire + more + b"\r\nNOOP\r\n", sizes))
                assert codes(session.output) == [reply, "250 2.0.0"]


def test_challenge_is_answered_by_the_core() -> None:
    session = in_state(READY, TLS_OPTIONS)
    session.feed(b"AUTH LOGIN\r\n" + line("user"))
    assert [event.verb for event in session.events if isinstance(event, CommandAnswered)] == [
        Verb.AUTH,
        Verb.SASL_RESPONSE,
    ]


# What the embedder gets


def refuse(event: Answerable) -> Reply | None:
    return catalogue.BAD_CREDENTIALS if isinstance(event, Authenticate) else habits(event)


def shut(event: Answerable) -> Reply | None:
    return catalogue.SHUTTING_DOWN if isinstance(event, Authenticate) else habits(event)


def credentials(session: Session) -> list[Credentials]:
    return [event.credentials for event in session.events if isinstance(event, Authenticate)]


def test_credentials() -> None:
    session = in_state(READY, TLS_OPTIONS, refuse)
    session.feed(plain("boss\0\u00fcser\0 s\u00e9cret "))
    session.feed(b"AUTH LOGIN\r\n" + line("\u00fcser") + line(" s\u00e9cret "))
    secret = Secret(" s\u00e9cret ")
    assert credentials(session) == [
        Credentials(mechanism=PLAIN, identity="boss", username="\u00fcser", password=secret),
        Credentials(mechanism=LOGIN, identity="", username="\u00fcser", password=secret),
    ]
    assert [one.password.reveal() for one in credentials(session)] == [" s\u00e9cret "] * 2


def test_a_user_of_one_exchange_is_not_that_of_the_next() -> None:
    session = in_state(READY, TLS_OPTIONS)
    session.feed(b"AUTH LOGIN " + line("alice") + b"*\r\nAUTH LOGIN\r\n" + line("bob") + line("x"))
    assert [one.username for one in credentials(session)] == ["bob"]


def test_submitter() -> None:
    """RFC 4954 5: whom the client names; None for <> and for nothing."""
    session = in_state(READY, TLS_OPTIONS)
    for value in (b" AUTH=e+3Dmc2@example.com", b" AUTH=<>", b""):
        session.feed(b"MAIL FROM:<a@b.c>" + value + b"\r\nRSET\r\n")
    told = [event.submitter for event in session.events if isinstance(event, MailFrom)]
    assert told == [Mailbox("e=mc2", "example.com"), None, None]


def test_login_outlives_a_refused_starttls() -> None:
    session = in_state(READY, EVERYTHING)
    assert codes(session.feed(USER + b"STARTTLS x\r\n" + USER)) == [GOOD, "501 5.5.4", "503 5.5.1"]


def test_login_is_forgotten_after_tls_began() -> None:
    session = in_state(READY, EVERYTHING)
    session.play([USER, b"STARTTLS\r\n", Handshake.DONE, EHLO, USER])
    assert codes(session.output) == [GOOD, "220 2.0.0", "250", GOOD]


def test_closing_verdict_closes() -> None:
    session = in_state(READY, TLS_OPTIONS, shut)
    assert codes(session.feed(USER + b"NOOP\r\n")) == ["421 4.3.2"]
    assert session.events[-1] == ConnectionClosed(CloseReason.REPLY)


def test_end_of_file_within_an_exchange() -> None:
    session = in_state(SASL)
    session.play([b"AGEA", b""])
    assert session.events[-1] == ConnectionClosed(CloseReason.EOF)
    assert credentials(session) == []


# Passwords


@pytest.mark.parametrize("way", [USER, b"AUTH PLAIN\r\n" + ANSWER, b"AUTH LOGIN\r\n" + line("user") + line("secret")])
def test_no_event_and_no_error_shows_a_password(way: bytes) -> None:
    connection = in_state(READY, TLS_OPTIONS).connection
    connection.receive_data(way)
    while not isinstance(event := connection.next_event(), Authenticate):
        assert "secret" not in repr(event)
    seen = [repr(event), str(event), f"{event}", pprint.pformat(event), repr(dataclasses.asdict(event))]
    seen += [repr(copy.deepcopy(event)), repr(replace(event)), str(event.credentials.password)]
    for mistake in (catalogue.BAD_CREDENTIALS, catalogue.START_DATA):
        with pytest.raises(LocalProtocolError) as caught:
            connection.accept(event, mistake)
        seen += ["".join(traceback.format_exception(caught.value)), repr(caught.value)]
    assert event.credentials.password.reveal() == "secret"
    for text in seen:
        assert "user" in text or "Secret" in text or "accept" in text
        assert "secret" not in text
        assert b64encode(b"secret").decode() not in text
    assert b"secret" not in connection.accept(event)


def test_secret_is_equal_to_its_like_only() -> None:
    secret = Secret("x")
    assert secret == Secret("x")
    assert hash(secret) == hash(Secret("x"))
    assert secret not in (Secret("y"), "x", None)
    assert not hasattr(secret, "__dict__")


def test_exchange_under_way_shows_nothing() -> None:
    session = in_state(READY, TLS_OPTIONS)
    session.feed(b"AUTH LOGIN " + line("usersecret"))
    assert "secret" not in repr(session.events)
    assert "secret" not in repr(vars(session.connection))


def test_answer_of_another_code() -> None:
    """An embedder may say 235 in its own words, and refuse by any code: only 535 is a guess that failed."""
    connection = in_state(READY, TLS_OPTIONS).connection
    for _ in range(9):
        event = ask(connection)
        assert codes(connection.reject(event, catalogue.AUTH_REQUIRED)) == ["530 5.7.0"]
    hello = catalogue.AUTHENTICATED.with_lines("Hello, user")
    assert hello.outcome is Outcome.OK
    assert connection.accept(ask(connection), hello) == b"235 2.7.0 Hello, user\r\n"


def ask(connection: ServerConnection) -> Authenticate:
    connection.receive_data(USER)
    event = connection.next_event()
    assert isinstance(event, Authenticate)
    return event


@settings(deadline=None)
@given(
    st.text(max_size=300),
    st.text(max_size=300),
    st.text(max_size=300),
    st.sampled_from([AuthChannel.ANY, AuthChannel.TLS_ONLY]),
)
def test_what_a_client_says_is_what_arrives(identity: str, username: str, password: str, channel: AuthChannel) -> None:
    """Any text either comes out as it went in, or is refused as unreadable; and the session goes on."""
    session = in_state(READY, replace(TLS_OPTIONS, auth_channel=channel))
    text = f"{identity}\0{username}\0{password}".encode("utf-8", "surrogatepass")
    answer, noop = codes(session.feed(b"AUTH PLAIN\r\n" + line(text) + b"NOOP\r\n"))[1:]
    assert noop == "250 2.0.0"
    if answer == GOOD:
        (found,) = credentials(session)
        assert (found.identity, found.username, found.password.reveal()) == (identity, username, password)
    else:
        assert answer == UNREADABLE
        assert credentials(session) == []


def test_nothing_is_offered_by_default() -> None:
    assert OPTIONS.auth_mechanisms == frozenset()
    assert OPTIONS.auth_channel is AuthChannel.TLS_ONLY
    assert OPTIONS.tls is Tls.NONE
