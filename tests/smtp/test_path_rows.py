"""MAIL and RCPT row by row: paths and parameters. ``row n`` is the number in our conformance table."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Final

import pytest

from tests.smtp.support import ALL, EHLO, OPTIONS, Cut, Row, in_state
from trio_fcgimail.smtp import BodyType, Extension, Mailbox, MailFrom, Paths, RcptTo, State

OK, BAD = "250 2.1.0", "501 5.1.7"
READY, MAILED, RCPTED = State.READY, State.MAIL, State.RCPT
DOMAIN_191: Final = b".".join([b"x" * 47] * 4)  # 191 octets: with a local part of 62 a path of 256
U_LABEL_66: Final = ("\u00fc" * 33).encode()
LIMIT: Final = 26_214_400
NO_SIZE: Final = replace(OPTIONS, extensions=ALL - {Extension.SIZE})
NO_UTF8: Final = replace(OPTIONS, extensions=ALL - {Extension.SMTPUTF8})
LENIENT: Final = replace(OPTIONS, paths=Paths.LENIENT)
NO_LIMIT: Final = replace(OPTIONS, max_message_octets=None)


def mail(name: str, argument: bytes, reply: str, why: str) -> Row:
    """A row of MAIL after EHLO; it opens a transaction exactly if it is accepted."""
    return Row("mail-" + name, READY, b"MAIL " + argument + b"\r\n", reply, MAILED if reply == OK else READY, why)


def rcpt(name: str, argument: bytes, reply: str, why: str) -> Row:
    """A row of RCPT after a MAIL without SMTPUTF8."""
    taken = reply == "250 2.1.5"
    return Row("rcpt-" + name, MAILED, b"RCPT " + argument + b"\r\n", reply, RCPTED if taken else MAILED, why)


def lenient(name: str, start: State, line: bytes, reply: str, why: str) -> Row:
    """A row where brackets may be missing."""
    end = {OK: MAILED, "250 2.1.5": RCPTED}.get(reply, start)
    return Row("lenient-" + name, start, line + b"\r\n", reply, end, why, LENIENT)


PATHS = [
    mail("null", b"FROM:<>", OK, "row 37, RFC 5321 4.5.5"),
    mail("nothing", b"", "501 5.5.4", "row 38"),
    mail("to", b"TO:<a@example.net>", "501 5.5.4", "row 39"),
    mail("no-colon", b"FROM <a@example.net>", "501 5.5.4", "RFC 5321 4.1.1.2"),
    mail("blank-before-path", b"FROM: <a@example.net>", OK, "many senders write one"),
    mail("mixed-case", b"fRoM:<a@example.net>", OK, "RFC 5321 2.4"),
    mail("unclosed", b"FROM:<a@example.net", BAD, "row 40"),
    mail("blank-in-local", b"FROM:<al ice@example.net>", BAD, "row 41"),
    mail("two-at", b"FROM:<a@b@example.net>", BAD, "row 42"),
    mail("no-local", b"FROM:<@example.net>", BAD, "row 43"),
    mail("no-domain", b"FROM:<a@>", BAD, "row 44"),
    mail("no-at", b"FROM:<a>", BAD, "RFC 5321 4.1.2"),
    mail("bell", b"FROM:<a\x07@example.net>", "500 5.5.2", "row 45"),
    mail("nul", b"FROM:<a\0@example.net>", "500 5.5.2", "row 45"),
    mail("cr", b"FROM:<a\r@example.net>", "500 5.5.2", "row 45"),
    mail("lf", b"FROM:<a\n@example.net>", "500 5.5.2", "row 45"),
    mail("quoted-blank", b'FROM:<"alice smith"@example.net>', OK, "row 46"),
    mail("quoted-brackets", b'FROM:<"a>b@c,d:e"@example.net>', OK, "row 47"),
    mail("quoted-escapes", b'FROM:<"al\\"i\\\\ce"@example.net>', OK, "row 48"),
    mail("quoted-empty", b'FROM:<""@example.net>', OK, "RFC 5321 4.1.2: Quoted-string may be empty"),
    mail("quoted-unclosed", b'FROM:<"a@example.net>', BAD, "RFC 5321 4.1.2"),
    mail("quoted-lone-escape", b'FROM:<"a\\"@example.net>', BAD, "RFC 5321 4.1.2"),
    mail("quoted-inside", b'FROM:<a"b"c@example.net>', BAD, "RFC 5321 4.1.2"),
    mail("route", b"FROM:<@a.b,@c.d:a@example.net>", OK, "RFC 5321 appendix C"),
    mail("route-to-nobody", b"FROM:<@a.b:>", BAD, "RFC 5321 4.1.2"),
    mail("route-without-colon", b"FROM:<@a.b,a@example.net>", BAD, "RFC 5321 4.1.2"),
    mail("ipv4", b"FROM:<a@[192.0.2.1]>", OK, "row 50"),
    mail("ipv4-out-of-range", b"FROM:<a@[300.1.1.1]>", BAD, "row 51"),
    mail("ipv4-short", b"FROM:<a@[192.0.2]>", BAD, "RFC 5321 4.1.3"),
    mail("ipv6", b"FROM:<a@[IPv6:2001:db8::1]>", OK, "row 52"),
    mail("ipv6-lower-case", b"FROM:<a@[ipv6:::1]>", OK, "RFC 5321 4.1.3: the tag is a literal of ABNF"),
    mail("ipv6-untagged", b"FROM:<a@[2001:db8::1]>", BAD, "RFC 5321 4.1.3: IPv6 needs its tag"),
    mail("literal-general", b"FROM:<a@[X25:31]>", OK, "RFC 5321 4.1.3: General-address-literal"),
    mail("literal-general-content", b"FROM:<a@[x-400:/c=de;a(b),:!]>", OK, "RFC 5321 4.1.3: any dcontent"),
    mail("literal-general-parameter", b"FROM:<a@[X25:31]> SIZE=1", OK, "the path ends at its bracket"),
    mail("literal-no-tag", b"FROM:<a@[foo]>", BAD, "RFC 5321 4.1.3"),
    mail("literal-empty-tag", b"FROM:<a@[:31]>", BAD, "RFC 5321 4.1.3: Ldh-str"),
    mail("literal-tag-hyphen-last", b"FROM:<a@[X-:31]>", BAD, "RFC 5321 4.1.3: Ldh-str"),
    mail("literal-tag-underscore", b"FROM:<a@[X_25:31]>", BAD, "RFC 5321 4.1.3: Ldh-str"),
    mail("literal-no-content", b"FROM:<a@[X25:]>", BAD, "RFC 5321 4.1.3: at least one dcontent"),
    mail("literal-blank", b"FROM:<a@[X25:3 1]>", BAD, "RFC 5321 4.1.3: dcontent"),
    mail("literal-backslash", b"FROM:<a@[X25:3\\1]>", BAD, "RFC 5321 4.1.3: dcontent"),
    mail("literal-brackets", b"FROM:<a@[X25:[31]]>", BAD, "RFC 5321 4.1.3: dcontent"),
    mail("literal-utf8", "FROM:<a@[X25:\u00fc]> SMTPUTF8".encode(), BAD, "RFC 6531 3.3 leaves dcontent alone"),
    mail("literal-quotation-mark", b'FROM:<a@[X25:"]>', BAD, "not taken: a quoted string would begin"),
    mail("literal-opening-bracket", b"FROM:<a@[X25:<]>", BAD, "not taken: a path would begin"),
    mail("literal-at", b"FROM:<a@[X25:b@c]>", BAD, "not taken: the last at-sign begins the domain"),
    mail("literal-in-a-route", b"FROM:<@[X25:a,b],@c:a@example.net>", OK, "RFC 5321 appendix C"),
    mail("literal-bracket-inside", b"FROM:<a@[X:>]>", "501 5.5.4", "the path ends at its bracket"),
    mail("ipv6-tag-upper-case", b"FROM:<a@[IPV6:::1]>", OK, "RFC 5321 4.1.3: the tag is a literal of ABNF"),
    mail("ipv6-holds-ipv4", b"FROM:<a@[IPv6:192.0.2.1]>", BAD, "RFC 5321 4.1.3: an IPv6 address behind this tag"),
    mail("ipv6-holds-words", b"FROM:<a@[IPv6:foo]>", BAD, "RFC 5321 4.1.3: as above"),
    mail("ipv6-untagged-zone", b"FROM:<a@[fe80::1%eth0]>", BAD, "fe80 is no tag"),
    mail("ipv6-zone", b"FROM:<a@[IPv6:fe80::1%eth0]>", BAD, "a zone means nothing to the other side"),
    mail("ipv6-bad", b"FROM:<a@[IPv6:1::2::3]>", BAD, "RFC 5321 4.1.3"),
    mail("literal-unclosed", b"FROM:<a@[192.0.2.1>", BAD, "RFC 5321 4.1.3"),
    mail("literal-empty", b"FROM:<a@[]>", BAD, "RFC 5321 4.1.3"),
    mail("local-of-64", b"FROM:<" + b"x" * 64 + b"@example.net>", OK, "row 53"),
    mail("local-of-65", b"FROM:<" + b"x" * 65 + b"@example.net>", BAD, "row 54"),
    mail("path-of-256", b"FROM:<" + b"x" * 62 + b"@" + DOMAIN_191 + b">", OK, "row 55"),
    mail("path-of-257", b"FROM:<" + b"x" * 63 + b"@" + DOMAIN_191 + b">", BAD, "RFC 5321 4.5.3.1.3"),
    mail("path-of-600", b"FROM:<" + b"x" * 586 + b"@example.net>", BAD, "row 56"),
    mail("u-label-of-66-octets", b"FROM:<a@" + U_LABEL_66 + b".net> SMTPUTF8", OK, "RFC 1035 2.3.4: of A-labels"),
    mail("label-of-64-beside-u-label", ("FROM:<a@\u00fc." + "x" * 64 + "> SMTPUTF8").encode(), BAD, "RFC 1035 2.3.4"),
    mail("label-of-64", b"FROM:<a@" + b"x" * 64 + b".net>", BAD, "RFC 1035 2.3.4"),
    mail("atext", b"FROM:<!#$%&'*+-/=?^_`{|}~@example.net>", OK, "row 57"),
    mail("outer-dots", b"FROM:<.a.@example.net>", BAD, "row 58"),
    mail("two-dots", b"FROM:<a..b@example.net>", BAD, "RFC 5321 4.1.2"),
    mail("hyphen-edge", b"FROM:<a@-example.net>", BAD, "S12"),
    mail("hyphen-last", b"FROM:<a@example-.net>", BAD, "S12"),
    mail("hyphen-at-the-very-end", b"FROM:<a@example.net->", BAD, "S12"),
    mail("domain-empty-label", b"FROM:<a@example..net>", BAD, "S12"),
    mail("domain-last-dot", b"FROM:<a@example.net.>", BAD, "RFC 5321 4.1.2: no dot at the end"),
    mail("domain-underscore", b"FROM:<a@ex_ample.net>", BAD, "RFC 5321 4.1.2"),
    mail("no-brackets", b"FROM:a@example.net", BAD, "row 69"),
    mail("angle-in-brackets", b"FROM:<<a@example.net>>", BAD, "RFC 5321 4.1.2"),
    mail("glued", b"FROM:<a@example.net>SIZE=1", "501 5.5.4", "row 65"),
    mail("postmaster", b"FROM:<postmaster>", BAD, "RFC 5321 4.1.1.3: a recipient only"),
    mail("refused", b"FROM:<bad@example.net>", "550 5.1.1", "the embedder decides"),
    rcpt("plain", b"TO:<bob@example.com>", "250 2.1.5", "RFC 5321 4.1.1.3"),
    rcpt("nothing", b"", "501 5.5.4", "RFC 5321 4.1.1.3"),
    rcpt("from", b"FROM:<bob@example.com>", "501 5.5.4", "RFC 5321 4.1.1.3"),
    rcpt("null", b"TO:<>", "501 5.1.3", "row 59"),
    rcpt("route", b"TO:<@a,@b:bob@example.com>", "250 2.1.5", "row 49"),
    rcpt("postmaster", b"TO:<postmaster>", "250 2.1.5", "row 60"),
    rcpt("postmaster-at", b"TO:<PostMaster@example.com>", "250 2.1.5", "row 61"),
    rcpt("postmaster-long-s", "TO:<po\u017ftmaster>".encode(), "501 5.1.3", "words fold case in ASCII only"),
    rcpt("upper-case-domain", b"TO:<bob@EXAMPLE.COM>", "250 2.1.5", "row 62"),
    rcpt("parameter", b"TO:<bob@example.com> FOO=bar", "555 5.5.4", "row 64"),
    rcpt("glued", b"TO:<bob@example.com>X", "501 5.5.4", "row 65"),
    rcpt("bad", b"TO:<bob@>", "501 5.1.3", "RFC 3463 3.2"),
    rcpt("utf8", "TO:<b\u00fcb@example.com>".encode(), "553 5.6.7", "RFC 6531 3.5"),
    rcpt("literal-general", b"TO:<bob@[X25:31]>", "250 2.1.5", "RFC 5321 4.1.3: General-address-literal"),
    rcpt("refused", b"TO:<bad@example.com>", "550 5.1.1", "the embedder decides"),
]
PARAMETERS = [
    mail("size", b"FROM:<a@b.c> SIZE=1000", OK, "row 70"),
    mail("size-at-limit", b"FROM:<a@b.c> SIZE=%d" % LIMIT, OK, "row 71"),
    mail("size-over-limit", b"FROM:<a@b.c> SIZE=%d" % (LIMIT + 1), "552 5.3.4", "row 72"),
    mail("size-zero", b"FROM:<a@b.c> SIZE=0", OK, "RFC 1870 4: a number"),
    mail("size-letters", b"FROM:<a@b.c> SIZE=abc", "501 5.5.4", "row 73"),
    mail("size-negative", b"FROM:<a@b.c> SIZE=-1", "501 5.5.4", "row 73"),
    mail("size-no-value", b"FROM:<a@b.c> SIZE", "501 5.5.4", "row 73"),
    mail("size-empty-value", b"FROM:<a@b.c> SIZE=", "501 5.5.4", "row 73"),
    mail("size-20-digits", b"FROM:<a@b.c> SIZE=" + b"9" * 20, "552 5.3.4", "row 74"),
    mail("size-21-digits", b"FROM:<a@b.c> SIZE=" + b"9" * 21, "501 5.5.4", "RFC 1870 4"),
    mail("size-arabic-digits", "FROM:<a@b.c> SIZE=\u0661".encode(), "501 5.5.4", "digits are ASCII"),
    mail("size-twice", b"FROM:<a@b.c> SIZE=1 size=1", "501 5.5.4", "RFC 5321 4.1.1.11"),
    mail("body-8bit", b"FROM:<a@b.c> BODY=8BITMIME", OK, "row 78"),
    mail("body-7bit", b"FROM:<a@b.c> body=7bit", OK, "row 78"),
    mail("body-unknown", b"FROM:<a@b.c> BODY=FOO", "501 5.5.4", "row 79"),
    mail("body-empty", b"FROM:<a@b.c> BODY=", "501 5.5.4", "row 79"),
    mail("body-no-value", b"FROM:<a@b.c> BODY", "501 5.5.4", "row 79"),
    mail("body-dotless-i", "FROM:<a@b.c> BODY=8B\u0131TMIME".encode(), "501 5.5.4", "words fold case in ASCII only"),
    mail("utf8-path-alone", "FROM:<\u00fc@b.c>".encode(), "553 5.6.7", "row 80"),
    mail("utf8-domain-alone", "FROM:<a@\u00fc.c>".encode(), "553 5.6.7", "row 80"),
    mail("smtputf8", "FROM:<\u00fc@b\u00fc.c> SMTPUTF8".encode(), OK, "row 81"),
    mail("smtputf8-value", b"FROM:<a@b.c> SMTPUTF8=yes", "501 5.5.4", "row 82"),
    mail("smtputf8-bad-octets", b"FROM:<\xff@b.c> SMTPUTF8", "500 5.5.2", "row 83"),
    mail("smtputf8-c1-control", b"FROM:<\xc2\x85@b.c> SMTPUTF8", BAD, "NEL would be a line end elsewhere"),
    mail("smtputf8-line-separator", "FROM:<\u2028@b.c> SMTPUTF8".encode(), BAD, "as above"),
    mail("unknown", b"FROM:<a@b.c> FOO=bar", "555 5.5.4", "row 63"),
    mail("requiretls", b"FROM:<a@b.c> REQUIRETLS", "555 5.5.4", "row 90"),
    mail("auth", b"FROM:<a@b.c> AUTH=<>", "555 5.5.4", "RFC 4954 5: not offered"),
    mail("no-keyword", b"FROM:<a@b.c> =1", "501 5.5.4", "RFC 5321 4.1.2"),
    mail("two-equals", b"FROM:<a@b.c> SIZE=1=2", "501 5.5.4", "RFC 5321 4.1.2"),
    mail("all-three", b"FROM:<a@b.c>  SIZE=1  BODY=8BITMIME  SMTPUTF8 ", OK, "in any order, blanks between"),
]
OTHER_OPTIONS = [
    Row("size-not-offered", READY, b"MAIL FROM:<a@b.c> SIZE=1\r\n", "555 5.5.4", READY, "RFC 5321 4.1.1.11", NO_SIZE),
    Row("smtputf8-not-offered", READY, b"MAIL FROM:<a@b.c> SMTPUTF8\r\n", "555 5.5.4", READY, "row 84", NO_UTF8),
    Row("size-without-limit", READY, b"MAIL FROM:<> SIZE=" + b"9" * 20 + b"\r\n", OK, MAILED, "RFC 1870 3", NO_LIMIT),
    Row("after-helo", State.START, b"HELO x\r\nMAIL FROM:<a@b.c> SIZE=1\r\n", "250 | 555 5.5.4", READY, "RFC 5321 3.2"),
    Row("ehlo-after-helo", State.START, b"HELO x\r\n" + EHLO + b"MAIL FROM:<a@b.c> SIZE=1\r\n",
        f"250 | 250 | {OK}", MAILED, "the last greeting counts"),
    Row("utf8-rcpt", READY, "MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<\u00fc@b\u00fc.c>\r\n".encode(), f"{OK} | 250 2.1.5",
        RCPTED, "RFC 6531 3.4"),
    Row("smtputf8-ends-with-its-mail", READY,
        "MAIL FROM:<> SMTPUTF8\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<\u00fc@b.c>\r\n".encode(),
        f"{OK} | 250 2.0.0 | {OK} | 553 5.6.7", MAILED, "RFC 6531 3.4: of one transaction"),
]  # fmt: skip
LENIENT_PATHS = [
    lenient("mail-bare", READY, b"MAIL FROM:a@example.net", OK, "row 69"),
    lenient("mail-bare-blank", READY, b"MAIL FROM: a@example.net", OK, "what printers say"),
    lenient(
        "mail-bare-parameter", READY, b"MAIL FROM:a@example.net SIZE=1 BODY=8BITMIME", OK, "the path ends at a blank"
    ),
    lenient("mail-bare-bad-parameter", READY, b"MAIL FROM:a@example.net FOO", "555 5.5.4", "row 63"),
    lenient("mail-bracketed", READY, b"MAIL FROM:<a@example.net> SIZE=1", OK, "as ever"),
    lenient("mail-null", READY, b"MAIL FROM:<>", OK, "as ever"),
    lenient("mail-nothing", READY, b"MAIL FROM:", BAD, "no path at all"),
    lenient("mail-only-parameter", READY, b"MAIL FROM: SIZE=1", BAD, "no path at all"),
    lenient("mail-unclosed", READY, b"MAIL FROM:<a@example.net", BAD, "half a pair of brackets is none"),
    lenient("mail-unopened", READY, b"MAIL FROM:a@example.net>", BAD, "as above"),
    lenient("mail-no-domain", READY, b"MAIL FROM:a", BAD, "RFC 5321 4.1.2"),
    lenient("mail-two-at", READY, b"MAIL FROM:a@b@example.net", BAD, "RFC 5321 4.1.2"),
    lenient("mail-too-long", READY, b"MAIL FROM:" + b"x" * 63 + b"@" + DOMAIN_191, BAD, "RFC 5321 4.5.3.1.3"),
    lenient("mail-utf8", READY, "MAIL FROM:\u00fc@b.c".encode(), "553 5.6.7", "row 80"),
    lenient("mail-quoted", READY, b'MAIL FROM:"a.b"@example.net', OK, "RFC 5321 4.1.2"),
    lenient("mail-quoted-blank", READY, b'MAIL FROM:"a b"@example.net', "501 5.5.4", "a blank needs brackets"),
    lenient("mail-no-colon", READY, b"MAIL FROM a@example.net", "501 5.5.4", "RFC 5321 4.1.1.2"),
    lenient("rcpt-bare", MAILED, b"RCPT TO:bob@example.com", "250 2.1.5", "row 69"),
    lenient("rcpt-bare-postmaster", MAILED, b"RCPT TO:postmaster", "250 2.1.5", "RFC 5321 4.5.1"),
    lenient("rcpt-bare-notify", MAILED, b"RCPT TO:bob@example.com NOTIFY=NEVER", "250 2.1.5", "as above"),
    lenient("rcpt-null", MAILED, b"RCPT TO:<>", "501 5.1.3", "row 59"),
    lenient("rcpt-nothing", MAILED, b"RCPT TO:", "501 5.1.3", "no path at all"),
    lenient("rcpt-display-name", MAILED, b"RCPT TO:Bob <bob@example.com>", "501 5.5.4", "no path of RFC 5321"),
]
ROWS = [*PATHS, *PARAMETERS, *OTHER_OPTIONS, *LENIENT_PATHS]


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("row", ROWS, ids=attrgetter("id"))
def test_row(row: Row, how: Cut) -> None:
    row.play(how)


def test_row_ids_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


def test_mail_event_carries_what_was_said() -> None:
    session = in_state(READY)
    session.feed('MAIL FROM:<@r:"\u00fc x"@b.c> SIZE=7 BODY=8BITMIME SMTPUTF8\r\n'.encode())
    assert session.events[-1] == MailFrom(
        path=Mailbox("\u00fc x", "b.c"),
        declared_octets=7,
        body=BodyType.EIGHT_BIT_MIME,
        smtputf8=True,
        dsn_return=None,
        envelope_id=None,
    )


def test_mail_event_tells_absent_from_given() -> None:
    session = in_state(READY)
    session.feed(b"MAIL FROM:<>\r\n")
    assert session.events[-1] == MailFrom(
        path=None, declared_octets=None, body=None, smtputf8=False, dsn_return=None, envelope_id=None
    )


def test_rcpt_event_keeps_case_and_drops_the_route() -> None:
    session = in_state(MAILED)
    session.feed(b"RCPT TO:<@a,@b:Bob@EXAMPLE.com>\r\nRCPT TO:<PostMaster>\r\n")
    assert session.events[-2:] == [RcptTo(Mailbox("Bob", "EXAMPLE.com")), RcptTo(Mailbox("PostMaster", None))]
