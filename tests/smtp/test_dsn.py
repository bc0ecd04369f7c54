"""DSN row by row (RFC 3461, RFC 6533). ``row n`` is the number in our conformance table."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.smtp.support import ALL, LMTP_OPTIONS, OPTIONS, Cut, Row, in_state
from trio_fcgimail.smtp import DsnNotify, DsnReturn, Extension, MailFrom, OriginalRecipient, RcptTo, State

OK, TAKEN, BAD, UNKNOWN = "250 2.1.0", "250 2.1.5", "501 5.5.4", "555 5.5.4"
START, READY, MAILED, RCPTED = State.START, State.READY, State.MAIL, State.RCPT
NO_DSN: Final = replace(OPTIONS, extensions=ALL - {Extension.DSN})


def mail(name: str, parameters: str, reply: str, why: str) -> Row:
    """A row of MAIL with parameters; it opens a transaction exactly if it is accepted."""
    wire = f"MAIL FROM:<a@b.c> {parameters}\r\n".encode()
    return Row("mail-" + name, READY, wire, reply, MAILED if reply == OK else READY, why)


def rcpt(name: str, parameters: str, reply: str, why: str) -> Row:
    """A row of RCPT with parameters, after a MAIL without SMTPUTF8."""
    wire = f"RCPT TO:<d@e.f> {parameters}\r\n".encode()
    return Row("rcpt-" + name, MAILED, wire, reply, RCPTED if reply == TAKEN else MAILED, why)


ROWS = [
    mail("ret-hdrs-envid", "RET=HDRS ENVID=x", OK, "row 85"),
    mail("ret-full", "ret=full", OK, "RFC 3461 4.3"),
    mail("ret-unknown", "RET=FOO", BAD, "row 86"),
    mail("ret-no-value", "RET", BAD, "RFC 3461 4.3"),
    mail("ret-empty", "RET=", BAD, "RFC 3461 4.3"),
    mail("ret-twice", "RET=FULL RET=HDRS", BAD, "row 86"),
    mail("ret-twice-the-same", "RET=FULL ret=FULL", BAD, "row 86"),
    mail("ret-dotless-i", "RET=HDR\u017f", BAD, "words fold case in ASCII only"),
    mail("envid-of-100", "ENVID=" + "x" * 100, OK, "RFC 3461 4.4"),
    mail("envid-of-101", "ENVID=" + "x" * 101, BAD, "RFC 3461 4.4"),
    mail("envid-xtext", "ENVID=a+2Bb+3Dc", OK, "RFC 3461 4"),
    mail("envid-blank", "ENVID=a+20b", OK, "RFC 3461 4.4: white space may be encoded"),
    mail("envid-lower-case-hex", "ENVID=a+2b", BAD, "RFC 3461 4: upper case"),
    mail("envid-half-hex", "ENVID=a+2", BAD, "RFC 3461 4"),
    mail("envid-lone-plus", "ENVID=a+", BAD, "RFC 3461 4"),
    mail("envid-crlf", "ENVID=a+0D+0Ab", BAD, "RFC 3461 4.4: printable, so that no header is injected"),
    mail("envid-nul", "ENVID=+00", BAD, "as above"),
    mail("envid-del", "ENVID=+7F", BAD, "as above"),
    mail("envid-8-bit", "ENVID=+FC", BAD, "RFC 3461 4.4: ASCII"),
    mail("envid-utf8", "ENVID=\u00fc SMTPUTF8", BAD, "RFC 3461 4.4: ASCII"),
    mail("envid-empty", "ENVID=", BAD, "RFC 5321 4.1.2: no empty value"),
    mail("envid-no-value", "ENVID", BAD, "RFC 3461 4.4"),
    mail("envid-equals", "ENVID=a=b", BAD, "RFC 3461 4: must be encoded"),
    mail("envid-twice", "ENVID=a ENVID=b", BAD, "RFC 5321 4.1.1.11"),
    mail("notify", "NOTIFY=NEVER", UNKNOWN, "RFC 3461 4.1: of RCPT"),
    mail("orcpt", "ORCPT=rfc822;a@b.c", UNKNOWN, "RFC 3461 4.2: of RCPT"),
    rcpt("never", "NOTIFY=NEVER", TAKEN, "RFC 3461 4.1"),
    rcpt("all-three", "notify=success,Failure,DELAY", TAKEN, "RFC 3461 4.1"),
    rcpt("never-and-another", "NOTIFY=NEVER,FAILURE", BAD, "row 87"),
    rcpt("another-and-never", "NOTIFY=DELAY,NEVER", BAD, "row 87"),
    rcpt("notify-twice-within", "NOTIFY=DELAY,DELAY", BAD, "RFC 3461 4.1: each once"),
    rcpt("notify-unknown", "NOTIFY=ALWAYS", BAD, "RFC 3461 4.1"),
    rcpt("notify-last-comma", "NOTIFY=DELAY,", BAD, "RFC 3461 4.1"),
    rcpt("notify-only-comma", "NOTIFY=,", BAD, "RFC 3461 4.1"),
    rcpt("notify-empty", "NOTIFY=", BAD, "RFC 3461 4.1"),
    rcpt("notify-no-value", "NOTIFY", BAD, "RFC 3461 4.1"),
    rcpt("notify-twice", "NOTIFY=DELAY NOTIFY=FAILURE", BAD, "RFC 5321 4.1.1.11"),
    rcpt("orcpt", "ORCPT=rfc822;bob@example.com", TAKEN, "RFC 3461 4.2"),
    rcpt("orcpt-and-notify", "ORCPT=rfc822;bob@example.com NOTIFY=NEVER", TAKEN, "RFC 3461 4.2"),
    rcpt("orcpt-xtext", "ORCPT=rfc822;bob+2Bx@example.com", TAKEN, "RFC 3461 4.2"),
    rcpt("orcpt-bad-xtext", "ORCPT=rfc822;bob+ZZ@x", BAD, "row 88"),
    rcpt("orcpt-crlf", "ORCPT=rfc822;bob+0D+0A@x", BAD, "RFC 3461 4.2: printable"),
    rcpt("orcpt-other-type", "ORCPT=x400;/C=de/", BAD, "RFC 3461 4: = must be encoded"),
    rcpt("orcpt-other-type-encoded", "ORCPT=x400;/C+3Dde/", TAKEN, "RFC 3461 4.2: any registered type"),
    rcpt("orcpt-no-type", "ORCPT=bob@example.com", BAD, "RFC 3461 4.2"),
    rcpt("orcpt-empty-type", "ORCPT=;bob@example.com", BAD, "RFC 3461 4.2"),
    rcpt("orcpt-type-no-atom", "ORCPT=a(b;bob@example.com", BAD, "RFC 3461 4.2: an atom"),
    rcpt("orcpt-empty-address", "ORCPT=rfc822;", BAD, "RFC 3461 4.2"),
    rcpt("orcpt-two-semicolons", "ORCPT=rfc822;a;b", TAKEN, "RFC 3461 4: a semicolon is an xchar"),
    rcpt("orcpt-of-500", "ORCPT=rfc822;" + "x" * 493, TAKEN, "RFC 3461 4.2"),
    rcpt("orcpt-of-501", "ORCPT=rfc822;" + "x" * 494, BAD, "RFC 3461 4.2"),
    rcpt("orcpt-twice", "ORCPT=rfc822;a ORCPT=rfc822;a", BAD, "RFC 5321 4.1.1.11"),
    rcpt("orcpt-utf8-escaped", "ORCPT=utf-8;b\\x{FC}b@example.com", TAKEN, "RFC 6533 3"),
    rcpt("orcpt-utf8", "ORCPT=utf-8;b\u00fcb@example.com", "553 5.6.7", "RFC 6533 3: needs SMTPUTF8"),
    rcpt("orcpt-utf8-as-rfc822", "ORCPT=rfc822;b\u00fcb@example.com", BAD, "RFC 3461 4.2: ASCII"),
    rcpt("ret", "RET=FULL", UNKNOWN, "RFC 3461 4.3: of MAIL"),
    rcpt("envid", "ENVID=x", UNKNOWN, "RFC 3461 4.4: of MAIL"),
    Row("orcpt-utf8-with-smtputf8", READY,
        "MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<d@e.f> ORCPT=UTF-8;b\u00fcb@example.com\r\n".encode(), f"{OK} | {TAKEN}",
        RCPTED, "RFC 6533 3"),
    Row("bad-parameter-changes-nothing", MAILED, b"RCPT TO:<d@e.f> NOTIFY=X\r\nDATA\r\n", f"{BAD} | 503 5.5.1", MAILED,
        "RFC 5321 4.1.1.11"),
    Row("after-helo", START, b"HELO x\r\nMAIL FROM:<a@b.c> RET=FULL\r\n", f"250 | {UNKNOWN}", READY, "RFC 5321 3.2"),
    Row("rcpt-after-helo", START, b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<d@e.f> NOTIFY=NEVER\r\n",
        f"250 | {OK} | {UNKNOWN}", MAILED, "RFC 5321 3.2"),
    Row("ret-not-offered", READY, b"MAIL FROM:<a@b.c> RET=FULL\r\n", UNKNOWN, READY, "row 89", NO_DSN),
    Row("envid-not-offered", READY, b"MAIL FROM:<a@b.c> ENVID=x\r\n", UNKNOWN, READY, "row 89", NO_DSN),
    Row("notify-not-offered", MAILED, b"RCPT TO:<d@e.f> NOTIFY=NEVER\r\n", UNKNOWN, MAILED, "row 89", NO_DSN),
    Row("orcpt-not-offered", MAILED, b"RCPT TO:<d@e.f> ORCPT=rfc822;d@e.f\r\n", UNKNOWN, MAILED, "row 89", NO_DSN),
    Row("lmtp", READY, b"MAIL FROM:<> RET=HDRS\r\nRCPT TO:<d@e.f> NOTIFY=NEVER\r\n", f"{OK} | {TAKEN}", RCPTED,
        "RFC 2033 4.1: extensions are the same", LMTP_OPTIONS),
]  # fmt: skip


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("row", ROWS, ids=attrgetter("id"))
def test_row(row: Row, how: Cut) -> None:
    row.play(how)


def test_row_ids_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_mail_event_carries_what_was_said() -> None:
    session = in_state(READY)
    session.feed(b"MAIL FROM:<> ENVID=QQ+2B1+20x RET=hdrs\r\n")
    event = session.events[-1]
    assert isinstance(event, MailFrom)
    assert (event.dsn_return, event.envelope_id) == (DsnReturn.HEADERS, "QQ+1 x")


@pytest.mark.parametrize(
    ("parameters", "notify", "original"),
    [
        pytest.param("", set(), None, id="nothing"),
        pytest.param(" NOTIFY=never", {DsnNotify.NEVER}, None, id="never"),
        pytest.param(" NOTIFY=DELAY,FAILURE", {DsnNotify.FAILURE, DsnNotify.DELAY}, None, id="two"),
        pytest.param(" ORCPT=RFC822;B+2Bb@e.f", set(), OriginalRecipient("RFC822", "B+b@e.f"), id="case-is-kept"),
        pytest.param(" ORCPT=utf-8;b\\x{FC}b", set(), OriginalRecipient("utf-8", "b\\x{FC}b"), id="escape-stands"),
        pytest.param(" ORCPT=utf-8;b\u00fcb+2B", set(), OriginalRecipient("utf-8", "b\u00fcb+"), id="utf-8"),
    ],
)
def test_rcpt_event_carries_what_was_said(
    parameters: str, notify: set[DsnNotify], original: OriginalRecipient | None
) -> None:
    session = in_state(READY)
    session.feed(f"MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<d@e.f>{parameters}\r\n".encode())
    event = session.events[-1]
    assert isinstance(event, RcptTo)
    assert event.notify == frozenset(notify)
    assert event.original == original


def test_original_recipient_prints_as_it_came() -> None:
    assert str(OriginalRecipient("rfc822", "b+b@e.f")) == "rfc822;b+b@e.f"


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=30))
def test_xtext_is_read_back(text: str) -> None:
    """Any printable ASCII, encoded as RFC 3461 4 asks for."""
    plain = {chr(code) for code in range(0x21, 0x7F)} - set("+=")
    xtext = "".join(char if char in plain else f"+{ord(char):02X}" for char in text)
    session = in_state(READY)
    session.feed(f"MAIL FROM:<> ENVID={xtext}\r\n".encode())
    event = session.events[-1]
    assert isinstance(event, MailFrom)
    assert event.envelope_id == text
