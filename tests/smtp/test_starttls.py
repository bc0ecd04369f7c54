"""STARTTLS (RFC 3207), TLS from the first octet (RFC 8314), REQUIRETLS (RFC 8689), and TLS where none is spoken.

``row n`` is the number in our conformance table. ``<TLS>`` in a wire is a handshake that succeeded.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Final

import pytest

from fuzz.targets.smtp_server import Handshake, Session, cut
from tests.smtp.support import (
    ALL,
    DATA,
    EHLO,
    EVERYTHING,
    LHLO,
    MAIL,
    OPTIONS,
    RCPT,
    STARTTLS_OPTIONS,
    TLS_OPTIONS,
    Cut,
    Row,
    codes,
    in_state,
)
from trio_fcgimail.smtp import (
    LMTP,
    Answerable,
    CloseReason,
    CommandRejected,
    ConnectionClosed,
    Extension,
    MailFrom,
    Mechanism,
    Reply,
    ServerOptions,
    StartTls,
    State,
    Tls,
    Verb,
    catalogue,
)

START, READY, MAILED, RCPTED, PENDING, SASL, CLOSED = (
    State.START,
    State.READY,
    State.MAIL,
    State.RCPT,
    State.TLS_PENDING,
    State.SASL,
    State.CLOSED,
)
STARTTLS: Final = b"STARTTLS\r\n"
GO: Final = "220 2.0.0"
OFFERED: Final = STARTTLS_OPTIONS
HELLO: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
NO_TLS: Final = replace(TLS_OPTIONS, extensions=ALL - {Extension.REQUIRETLS})
LOGIN: Final = b"AUTH PLAIN AGEAYg==\r\n"


def for_now(event: Answerable) -> Reply | None:
    """An embedder whose certificate cannot be read."""
    return catalogue.TLS_NOT_AVAILABLE if isinstance(event, StartTls) else None


ROWS = [
    Row("starttls", READY, STARTTLS, GO, PENDING, "row 127, RFC 3207 4", OFFERED),
    Row("ehlo-behind-tls", READY, STARTTLS + b"<TLS>" + EHLO, f"{GO} | 250", READY, "row 127", OFFERED),
    Row("lower-case", READY, b"starttls\r\n", GO, PENDING, "RFC 5321 2.4", OFFERED),
    Row("blanks-at-end", READY, b"STARTTLS  \r\n", GO, PENDING, "RFC 5321 4.1.1", OFFERED),
    Row("argument", READY, b"STARTTLS foo\r\n", "501 5.5.4", READY, "row 128, RFC 3207 4", OFFERED),
    Row("argument-then-none", READY, b"STARTTLS foo\r\nSTARTTLS\r\n", f"501 5.5.4 | {GO}", PENDING, "in step", OFFERED),
    Row("before-hello", START, STARTTLS, "503 5.5.1", START, "EHLO tells whether it is offered", OFFERED),
    Row("after-helo", START, b"HELO x\r\nSTARTTLS\r\n", "250 | 502 5.5.1", READY, "HELO offers nothing", OFFERED),
    Row("not-offered", READY, STARTTLS, "502 5.5.1", READY, "RFC 5321 4.2.4"),
    Row("not-among-the-extensions", READY, STARTTLS, "502 5.5.1", READY, "RFC 5321 4.2.4",
        replace(OFFERED, extensions=ALL - {Extension.STARTTLS})),
    Row("twice", READY, STARTTLS + b"<TLS>" + EHLO + STARTTLS, f"{GO} | 250 | 503 5.5.1", READY, "row 130", OFFERED),
    Row("twice-before-hello", READY, STARTTLS + b"<TLS>" + STARTTLS, f"{GO} | 503 5.5.1", START, "row 130", OFFERED),
    Row("implicit", READY, STARTTLS, "503 5.5.1", READY, "row 135, RFC 8314 3", TLS_OPTIONS),
    Row("implicit-before-hello", START, STARTTLS, "503 5.5.1", START, "row 135", TLS_OPTIONS),
    Row("in-mail", MAILED, STARTTLS, GO, PENDING, "row 131: a mail under way comes to nothing", OFFERED),
    Row("in-rcpt", RCPTED, STARTTLS, GO, PENDING, "row 131", OFFERED),
    Row("between-chunks", State.CHUNKING, STARTTLS, GO, PENDING, "as RSET there", OFFERED),
    Row("behind-refused-chunk", State.CHUNKS_REFUSED, STARTTLS, GO, PENDING, "as RSET there", OFFERED),
    Row("lmtp", READY, STARTTLS + b"<TLS>" + LHLO, f"{GO} | 250", READY, "LMTP has the same table",
        replace(OFFERED, dialect=LMTP)),
    # Everything is forgotten
    Row("forgets-the-greeting", READY, STARTTLS + b"<TLS>" + MAIL, f"{GO} | 503 5.5.1", START, "row 132", OFFERED),
    Row("forgets-helo", START, b"HELO x\r\n" + EHLO + STARTTLS + b"<TLS>" + EHLO + LOGIN,
        f"250 | 250 | {GO} | 250 | 235 2.7.0", READY, "RFC 3207 4.2", OFFERED),
    Row("forgets-the-mail", MAILED, STARTTLS + b"<TLS>" + EHLO + RCPT, f"{GO} | 250 | 503 5.5.1", READY, "row 131",
        OFFERED),
    Row("forgets-the-recipients", RCPTED, STARTTLS + b"<TLS>" + EHLO + MAIL + DATA,
        f"{GO} | 250 | 250 2.1.0 | 503 5.5.1", MAILED, "RFC 3207 4.2", OFFERED),
    Row("forgets-the-chunks", State.CHUNKING, STARTTLS + b"<TLS>" + EHLO + MAIL + RCPT + b"BDAT 0 LAST\r\n",
        f"{GO} | 250 | 250 2.1.0 | 250 2.1.5 | 250 2.0.0", READY, "RFC 3207 4.2", OFFERED),
    Row("forgets-a-refused-chunk", State.CHUNKS_REFUSED, STARTTLS + b"<TLS>" + EHLO + MAIL + RCPT + b"BDAT 0 LAST\r\n",
        f"{GO} | 250 | 250 2.1.0 | 250 2.1.5 | 250 2.0.0", READY, "RFC 3207 4.2", OFFERED),
    Row("forgets-the-login", READY, LOGIN + STARTTLS + b"<TLS>" + EHLO + LOGIN,
        f"235 2.7.0 | {GO} | 250 | 235 2.7.0", READY, "RFC 3207 4.2, RFC 4954 4", EVERYTHING),
    Row("counts-are-ours", READY, b"XYZZY\r\n" * 3 + STARTTLS + b"<TLS>" + b"XYZZY\r\n" * 3,
        f"500 5.5.1 | 500 5.5.1 | 500 5.5.1 | {GO} | 500 5.5.1 | 500 5.5.1 | 421 4.7.0", CLOSED,
        "bad commands are counted on", OFFERED),
    Row("failed-handshake", READY, STARTTLS + b"<NO TLS>", GO, CLOSED, "row 134: no word in the clear", OFFERED),
    # REQUIRETLS
    Row("requiretls", READY, b"MAIL FROM:<a@b.c> REQUIRETLS\r\n", "250 2.1.0", MAILED, "RFC 8689 2", TLS_OPTIONS),
    Row("requiretls-behind-starttls", READY, STARTTLS + b"<TLS>" + EHLO + b"MAIL FROM:<> requiretls\r\n",
        f"{GO} | 250 | 250 2.1.0", MAILED, "RFC 8689 2", OFFERED),
    Row("requiretls-value", READY, b"MAIL FROM:<a@b.c> REQUIRETLS=yes\r\n", "501 5.5.4", READY, "RFC 8689 2: no value",
        TLS_OPTIONS),
    Row("requiretls-twice", READY, b"MAIL FROM:<a@b.c> REQUIRETLS REQUIRETLS\r\n", "501 5.5.4", READY,
        "RFC 5321 4.1.1.11", TLS_OPTIONS),
    Row("requiretls-in-clear", READY, b"MAIL FROM:<a@b.c> REQUIRETLS\r\n", "555 5.5.4", READY, "row 90", OFFERED),
    Row("requiretls-of-rcpt", MAILED, b"RCPT TO:<a@b.c> REQUIRETLS\r\n", "555 5.5.4", MAILED, "of MAIL only",
        TLS_OPTIONS),
    Row("requiretls-not-offered", READY, b"MAIL FROM:<a@b.c> REQUIRETLS\r\n", "555 5.5.4", READY, "RFC 5321 4.1.1.11",
        NO_TLS),
    Row("requiretls-after-helo", START, b"HELO x\r\nMAIL FROM:<a@b.c> REQUIRETLS\r\n", "250 | 555 5.5.4", READY,
        "HELO offers nothing", TLS_OPTIONS),
    # TLS spoken to a port that does not
    Row("tls-hello", START, HELLO, "421 4.7.0", CLOSED, "a TLS client waits for an answer it can never read"),
    Row("tls-hello-within-lines", START, b"\x16\3\1\0\x05\r\nNOOP\r\n", "421 4.7.0", CLOSED, "nothing behind is read"),
    Row("tls-hello-later", RCPTED, HELLO, "421 4.7.0", CLOSED, "the same at any line"),
    Row("tls-hello-behind-a-command", READY, b"NOOP\r\n" + HELLO, "250 2.0.0 | 421 4.7.0", CLOSED, "the same"),
    Row("tls-hello-within-tls", START, HELLO, "421 4.7.0", CLOSED, "TLS within TLS is nonsense as well", TLS_OPTIONS),
    Row("tls-hello-turned-away", State.REFUSED, HELLO, "421 4.7.0", CLOSED, "the same"),
    Row("tls-hello-in-sasl", SASL, HELLO, "421 4.7.0", CLOSED, "no base64 begins so", EVERYTHING),
    Row("tls-hello-of-sslv3", START, b"\x16\x03\x00", "421 4.7.0", CLOSED, "of whatever version"),
    Row("tls-hello-in-a-line", READY, b"NOOP \x16\x03\x01\r\n", "500 5.5.2", READY, "a control in a command"),
    Row("tls-hello-half", READY, b"\x16\r\n", "500 5.5.2", READY, "a control in a command"),
    Row("tls-hello-in-data", State.DATA, b"\x16\3\1\r\n.\r\n", "250 2.0.0", READY, "octets of the mail"),
    Row("tls-hello-in-a-chunk", RCPTED, b"BDAT 5 LAST\r\n\x16\3\1\r\n", "250 2.0.0", READY, "octets of the mail"),
]  # fmt: skip


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("row", ROWS, ids=attrgetter("id"))
def test_row(row: Row, how: Cut) -> None:
    row.play(how)


def test_row_ids_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


# Octets behind STARTTLS


@pytest.mark.parametrize("behind", [b"\n", b"EHLO x\r\n", HELLO, b"\x00"], ids=repr)
@pytest.mark.parametrize("state", [READY, RCPTED])
def test_plaintext_in_the_same_piece_closes(state: State, behind: bytes) -> None:
    """Row 133, S5: it may be an attacker's, and would be taken for the client's once TLS is on."""
    session = in_state(state, OFFERED)
    assert codes(session.feed(STARTTLS + behind)) == ["554 5.5.1"]
    assert session.lost == catalogue.PLAINTEXT_BEHIND_STARTTLS
    assert session.events[-1] == ConnectionClosed(CloseReason.ERROR)
    assert not any(isinstance(event, StartTls) for event in session.events)


def test_plaintext_in_place_of_a_handshake_is_never_read() -> None:
    """Row 134: octet by octet the same attack is a handshake that fails."""
    session = in_state(READY, OFFERED)
    session.play(cut(STARTTLS + EHLO + MAIL, [1]))
    assert codes(session.output) == ["220 2.0.0"]
    assert session.closed
    assert isinstance(session.events[-2], StartTls)


@pytest.mark.parametrize(
    ("line", "options", "reply"),
    [
        pytest.param(b"STARTTLS foo\r\n", OFFERED, "501 5.5.4", id="argument"),
        pytest.param(STARTTLS, OPTIONS, "502 5.5.1", id="not-offered"),
        pytest.param(STARTTLS, TLS_OPTIONS, "503 5.5.1", id="active"),
    ],
)
def test_behind_a_refused_starttls_come_commands(line: bytes, options: ServerOptions, reply: str) -> None:
    assert codes(in_state(READY, options).feed(line + MAIL + RCPT)) == [reply, "250 2.1.0", "250 2.1.5"]


def test_refused_for_now_changes_nothing() -> None:
    """RFC 3207 4: after 454 the client may go on in the clear, with the mail that was under way."""
    session = in_state(RCPTED, OFFERED, for_now)
    assert codes(session.feed(STARTTLS)) == ["454 4.7.0"]
    assert session.connection.tls is Tls.AVAILABLE
    assert codes(session.feed(DATA + b".\r\n")) == ["354", "250 2.0.0"]


def test_half_a_line_before_tls_is_not_the_beginning_of_one_behind_it() -> None:
    session = in_state(READY, OFFERED)
    session.play([b"STARTTLS\r", b"\n", Handshake.DONE, b"EHLO x\r", b"\n"])
    assert codes(session.output) == ["220 2.0.0", "250"]


def test_tls_hello_on_a_long_line_is_a_part_of_it() -> None:
    session = in_state(READY)
    session.play([b"x" * 3000, HELLO, b"\r\nNOOP\r\n"])
    assert codes(session.output) == ["500 5.5.2", "250 2.0.0"]


def test_tls_hello_is_told_at_its_second_octet() -> None:
    """Nobody sends a CRLF within a hello, so the session must not wait for one."""
    session = in_state(START)
    assert session.feed(b"\x16") == b""
    assert codes(session.feed(b"\x03")) == ["421 4.7.0"]
    assert CommandRejected(Verb.UNKNOWN, catalogue.NOT_SMTP, bytes(session.output)) in session.events


def test_requiretls_reaches_the_embedder() -> None:
    session = in_state(READY, TLS_OPTIONS)
    session.feed(b"MAIL FROM:<a@b.c> REQUIRETLS\r\nRSET\r\nMAIL FROM:<a@b.c>\r\n")
    assert [event.require_tls for event in session.events if isinstance(event, MailFrom)] == [True, False]


# What EHLO lists


def keywords(reply: bytes) -> list[str]:
    return [line[4:].decode() for line in reply.splitlines()[1:]]


ALWAYS: Final = keywords(Session(OPTIONS).feed(EHLO))
ENCRYPTED: Final = ["AUTH PLAIN LOGIN", "REQUIRETLS"]
XCLIENT: Final = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
LOGIN_ONLY: Final = frozenset({Mechanism.LOGIN})


@pytest.mark.parametrize(
    ("options", "more"),
    [
        pytest.param(OPTIONS, [], id="nothing-configured"),
        pytest.param(OFFERED, ["STARTTLS"], id="auth-not-in-the-clear"),
        pytest.param(replace(OFFERED, tls=Tls.NONE), [], id="no-tls-at-all"),
        pytest.param(TLS_OPTIONS, ENCRYPTED, id="row-129-implicit"),
        pytest.param(replace(TLS_OPTIONS, auth_mechanisms=frozenset()), ["REQUIRETLS"], id="no-mechanism"),
        pytest.param(replace(TLS_OPTIONS, auth_mechanisms=LOGIN_ONLY), ["AUTH LOGIN", "REQUIRETLS"], id="one"),
        pytest.param(EVERYTHING, ["STARTTLS", "AUTH PLAIN LOGIN", XCLIENT], id="everything-in-the-clear"),
        pytest.param(replace(EVERYTHING, tls=Tls.NONE), ["AUTH PLAIN LOGIN", XCLIENT], id="auth-without-tls"),
        pytest.param(replace(EVERYTHING, tls=Tls.ACTIVE), [*ENCRYPTED, XCLIENT], id="everything-encrypted"),
        pytest.param(NO_TLS, ["AUTH PLAIN LOGIN"], id="requiretls-left-out"),
    ],
)
def test_what_ehlo_lists(options: ServerOptions, more: list[str]) -> None:
    assert keywords(Session(options).feed(EHLO)) == ALWAYS + more
    assert keywords(Session(replace(options, dialect=LMTP)).feed(LHLO)) == ALWAYS + more
    assert Session(options).feed(b"HELO x\r\n") == b"250 mx.example.com\r\n"
    assert keywords(Session(replace(options, extensions=frozenset())).feed(EHLO)) == []


def test_what_ehlo_lists_changes_with_tls() -> None:
    """Row 129, RFC 3207 4.2."""
    session = in_state(READY, OFFERED)
    session.play([STARTTLS, Handshake.DONE])
    assert keywords(session.feed(EHLO)) == ALWAYS + ENCRYPTED


def test_login_and_reset_change_nothing_of_what_is_listed() -> None:
    session = in_state(READY, TLS_OPTIONS)
    session.feed(LOGIN)
    assert keywords(session.feed(EHLO)) == ALWAYS + ENCRYPTED
