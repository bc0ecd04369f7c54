"""XCLIENT: a trusted proxy says on whose behalf it speaks. ``row n`` is the number in our conformance table."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Final

import pytest

from tests.smtp.support import ALL, DATA, EHLO, EVERYTHING, LHLO, MAIL, OPTIONS, Cut, Row, codes, habits, in_state
from trio_fcgimail.smtp import (
    LMTP,
    Answerable,
    Extension,
    GreetingWord,
    Mechanism,
    Reply,
    ServerOptions,
    State,
    Tls,
    Unavailable,
    Xclient,
    XclientAttributes,
    XclientUse,
    catalogue,
)

START, READY, MAILED, RCPTED = State.START, State.READY, State.MAIL, State.RCPT
PROXY: Final = replace(OPTIONS, xclient=XclientUse.ALLOWED)
BAD: Final = "501 5.5.4"
NO, LATER = Unavailable.UNAVAILABLE, Unavailable.TEMPUNAVAIL
AUTH: Final = b"AUTH PLAIN AGEAYg==\r\n"


def xclient(name: str, argument: bytes, reply: str, why: str, options: ServerOptions = PROXY) -> Row:
    """A row after EHLO; accepted, it leads back to the greeting."""
    wire = b"XCLIENT" + argument + b"\r\n"
    return Row(name, READY, wire, reply, START if reply == "220" else READY, why, options)


ROWS = [
    xclient("address", b" ADDR=192.0.2.9", "220", "row 162"),
    xclient("lower-case", b" addr=192.0.2.9 proto=esmtp", "220", "RFC 5321 2.4"),
    xclient("several-blanks", b"  ADDR=192.0.2.9   PORT=25 ", "220", "RFC 5321 4.1.1"),
    Row("then-ehlo", READY, b"XCLIENT ADDR=192.0.2.9\r\n" + EHLO + MAIL, "220 | 250 | 250 2.1.0", MAILED, "row 162",
        PROXY),
    Row("before-hello", START, b"XCLIENT ADDR=192.0.2.9\r\n", "220", START, "there is no mail to disturb", PROXY),
    Row("again", START, b"XCLIENT ADDR=192.0.2.9\r\nXCLIENT PORT=25\r\n" + EHLO, "220 | 220 | 250", READY,
        "a proxy may say it in pieces", PROXY),
    Row("forgets-the-greeting", READY, b"XCLIENT PORT=1\r\n" + MAIL, "220 | 503 5.5.1", START, "row 162", PROXY),
    Row("forgets-helo", START, b"HELO x\r\n" + EHLO + b"XCLIENT PORT=1\r\n" + EHLO, "250 | 250 | 220 | 250", READY,
        "its keywords are told anew", PROXY),
    Row("in-mail", MAILED, b"XCLIENT ADDR=192.0.2.9\r\n", "503 5.5.1", MAILED, "row 164", PROXY),
    Row("in-rcpt", RCPTED, b"XCLIENT ADDR=192.0.2.9\r\n" + DATA, "503 5.5.1 | 354", State.DATA, "row 164", PROXY),
    Row("between-chunks", State.CHUNKING, b"XCLIENT ADDR=192.0.2.9\r\n", "503 5.5.1", State.CHUNKING, "row 164", PROXY),
    Row("order-before-syntax", MAILED, b"XCLIENT\r\n", "503 5.5.1", MAILED, "out of place is told first", PROXY),
    Row("lmtp", READY, b"XCLIENT ADDR=192.0.2.9\r\n" + LHLO, "220 | 250", READY, "the same table",
        replace(PROXY, dialect=LMTP)),
    xclient("not-allowed", b" ADDR=192.0.2.9", "502 5.5.1", "row 161, S18", OPTIONS),
    xclient("not-allowed-and-broken", b" nonsense", "502 5.5.1", "row 161", OPTIONS),
    xclient("not-among-the-extensions", b" ADDR=192.0.2.9", "502 5.5.1", "RFC 5321 4.2.4",
            replace(PROXY, extensions=ALL - {Extension.XCLIENT})),
    Row("after-helo", START, b"HELO x\r\nXCLIENT PORT=1\r\n", "250 | 502 5.5.1", READY, "HELO offers nothing", PROXY),
    # Attributes
    xclient("nothing", b"", BAD, "a peer of ours dies of it"),
    xclient("no-value", b" ADDR", BAD, "NAME=value"),
    xclient("empty-value", b" ADDR=", BAD, "NAME=value"),
    xclient("no-name", b" =192.0.2.9", BAD, "NAME=value"),
    xclient("unknown", b" FOO=bar", BAD, "row 163"),
    xclient("unknown-behind-known", b" ADDR=192.0.2.9 FOO=bar", BAD, "row 163"),
    xclient("twice", b" PORT=1 PORT=1", BAD, "which one?"),
    xclient("twice-in-other-case", b" PORT=1 port=1", BAD, "which one?"),
    xclient("long-s-is-no-s", " DE\u017fTPORT=1".encode(), BAD, "names fold case in ASCII only"),
    xclient("reverse-name-of-another", b" REVERSE_NAME=a.example", BAD, "not among those that EHLO lists"),
    xclient("name", b" NAME=client.example", "220", "a host name"),
    xclient("name-with-blank", b" NAME=a+20b", BAD, "no host name"),
    xclient("name-too-long", b" NAME=" + b"x" * 256, BAD, "RFC 5321 4.5.3.1.2"),
    xclient("name-parenthesis", b" NAME=a(b)", BAD, "would be a comment in the trace header"),
    xclient("address-out-of-range", b" ADDR=999.1.1.1", BAD, "row 165"),
    xclient("address-name", b" ADDR=client.example", BAD, "row 165"),
    xclient("address-ipv6", b" ADDR=IPV6:2001:db8::1", "220", "the tag of RFC 5321 4.1.3"),
    xclient("address-ipv6-lower-case", b" ADDR=ipv6:2001:DB8::1", "220", "RFC 5321 2.4"),
    xclient("address-ipv6-untagged", b" ADDR=2001:db8::1", BAD, "the tag is needed"),
    xclient("address-ipv6-zone", b" ADDR=IPV6:fe80::1%eth0", BAD, "a zone means nothing to us"),
    xclient("address-ipv6-of-ipv4", b" ADDR=IPV6:192.0.2.9", BAD, "no IPv6 address"),
    xclient("address-in-brackets", b" ADDR=[192.0.2.9]", BAD, "no literal"),
    xclient("port-zero", b" PORT=0", BAD, "no port"),
    xclient("port-highest", b" PORT=65535", "220", "16 bits"),
    xclient("port-too-high", b" PORT=65536", BAD, "16 bits"),
    xclient("port-letters", b" PORT=smtp", BAD, "digits"),
    xclient("port-negative", b" PORT=-1", BAD, "digits"),
    xclient("port-six-digits", b" PORT=000025", BAD, "five digits"),
    xclient("protocol-smtp", b" PROTO=SMTP", "220", "SMTP or ESMTP"),
    xclient("protocol-lmtp", b" PROTO=LMTP", BAD, "SMTP or ESMTP"),
    xclient("helo", b" HELO=[192.0.2.9]", "220", "what EHLO takes"),
    xclient("helo-escape", b" HELO=a+1Bb", BAD, "it would reach logs"),
    xclient("helo-crlf", b" HELO=a+0D+0Ab", BAD, "it would break the trace header"),
    xclient("login", b" LOGIN=bob", "220", "xtext"),
    xclient("login-nul", b" LOGIN=b+00b", BAD, "no controls"),
    xclient("login-of-255", b" LOGIN=" + b"x" * 255, "220", "as for AUTH"),
    xclient("login-of-256", b" LOGIN=" + b"x" * 256, BAD, "as for AUTH"),
    xclient("destination", b" DESTADDR=IPV6:::1 DESTPORT=587", "220", "where the client came"),
    xclient("destination-address-bad", b" DESTADDR=1.2.3", BAD, "an address"),
    xclient("destination-port-bad", b" DESTPORT=x", BAD, "a port"),
    xclient("xtext-bad-hex", b" LOGIN=a+2G", BAD, "xtext"),
    xclient("xtext-cut-short", b" LOGIN=a+2", BAD, "xtext"),
    xclient("xtext-plus-alone", b" LOGIN=a+", BAD, "xtext"),
    xclient("xtext-bad-utf8", b" LOGIN=a+FF", BAD, "UTF-8"),
    xclient("raw-utf8", " LOGIN=b\u00fcb".encode(), BAD, "xtext is ASCII"),
    xclient("unavailable", b" NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE]", "220", "no such value"),
    xclient("unavailable-for-now", b" NAME=[TEMPUNAVAIL] HELO=[TEMPUNAVAIL]", "220", "a lookup failed"),
    xclient("unavailable-lower-case", b" NAME=[tempunavail]", "220", "RFC 5321 2.4"),
    xclient("unavailable-misspelt", b" PORT=[NOTAVAILABLE]", BAD, "two words and no others"),
    # LOGIN and AUTH
    Row("login-makes-auth-503", START, b"XCLIENT LOGIN=bob\r\n" + EHLO + AUTH, "220 | 250 | 503 5.5.1", READY,
        "somebody has authenticated", EVERYTHING),
    Row("login-unavailable", START, b"XCLIENT LOGIN=[UNAVAILABLE]\r\n" + EHLO + AUTH, "220 | 250 | 235 2.7.0", READY,
        "nobody has", EVERYTHING),
    Row("login-not-said", START, b"XCLIENT ADDR=192.0.2.9\r\n" + EHLO + AUTH, "220 | 250 | 235 2.7.0", READY,
        "nobody has", EVERYTHING),
    Row("login-of-the-proxy-is-not-the-client-s", READY, AUTH + b"XCLIENT ADDR=192.0.2.9\r\n" + EHLO + AUTH,
        "235 2.7.0 | 220 | 250 | 235 2.7.0", READY, "the client behind it has said nothing yet", EVERYTHING),
    Row("login-does-not-outlive-the-next", START, b"XCLIENT LOGIN=bob\r\nXCLIENT PORT=1\r\n" + EHLO + AUTH,
        "220 | 220 | 250 | 235 2.7.0", READY, "who it is, is said with each", EVERYTHING),
    Row("login-is-forgotten-by-tls", START, b"XCLIENT LOGIN=bob\r\n" + EHLO + b"STARTTLS\r\n<TLS>" + EHLO + AUTH,
        "220 | 250 | 220 2.0.0 | 250 | 235 2.7.0", READY, "RFC 3207 4.2", EVERYTHING),
    Row("tls-stays", READY, b"XCLIENT ADDR=192.0.2.9\r\n" + EHLO + b"STARTTLS\r\n", "220 | 250 | 503 5.5.1", READY,
        "it is that of the proxy", replace(PROXY, tls=Tls.ACTIVE)),
    Row("counts-are-ours", READY, b"XYZZY\r\n" * 5 + b"XCLIENT ADDR=192.0.2.9\r\nXYZZY\r\n",
        "500 5.5.1 | " * 5 + "220 | 421 4.7.0", State.CLOSED, "bad commands are counted on", PROXY),
]  # fmt: skip


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("row", ROWS, ids=attrgetter("id"))
def test_row(row: Row, how: Cut) -> None:
    row.play(how)


def test_row_ids_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


def said(argument: bytes) -> XclientAttributes:
    session = in_state(READY, PROXY)
    session.feed(b"XCLIENT " + argument + b"\r\n")
    event = session.events[-1]
    assert isinstance(event, Xclient)
    return event.attributes


@pytest.mark.parametrize(
    ("argument", "attributes"),
    [
        pytest.param(b"NAME=Client.Example", XclientAttributes(name="Client.Example"), id="name"),
        pytest.param(b"ADDR=192.0.2.9", XclientAttributes(address="192.0.2.9"), id="address"),
        pytest.param(b"ADDR=IPV6:2001:DB8:0::1", XclientAttributes(address="2001:db8::1"), id="address-ipv6"),
        pytest.param(b"PORT=00025", XclientAttributes(port=25), id="port"),
        pytest.param(b"PROTO=smtp", XclientAttributes(protocol=GreetingWord.HELO), id="smtp"),
        pytest.param(b"PROTO=ESMTP", XclientAttributes(protocol=GreetingWord.EHLO), id="esmtp"),
        pytest.param(b"HELO=my_pc", XclientAttributes(helo="my_pc"), id="helo"),
        pytest.param(b"LOGIN=b+C3+bcb+20=+2B", XclientAttributes(login="b\u00fcb =+"), id="login"),
        pytest.param(b"DESTADDR=IPV6:::1", XclientAttributes(destination_address="::1"), id="to"),
        pytest.param(b"DESTPORT=587", XclientAttributes(destination_port=587), id="to-port"),
        pytest.param(
            b"NAME=[UNAVAILABLE] ADDR=[TEMPUNAVAIL] PORT=[UNAVAILABLE] PROTO=[TEMPUNAVAIL]",
            XclientAttributes(name=NO, address=LATER, port=NO, protocol=LATER),
            id="unavailable",
        ),
        pytest.param(
            b"HELO=+5BUNAVAILABLE+5D LOGIN=[unavailable] DESTADDR=[UNAVAILABLE] DESTPORT=[TEMPUNAVAIL]",
            XclientAttributes(helo=NO, login=NO, destination_address=NO, destination_port=LATER),
            id="unavailable-too",
        ),
    ],
)
def test_attributes(argument: bytes, attributes: XclientAttributes) -> None:
    assert said(argument) == attributes


def test_greeting_anew_on_the_wire() -> None:
    session = in_state(READY, PROXY)
    assert session.feed(b"XCLIENT PORT=1\r\n") == b"220 mx.example.com ESMTP\r\n"
    lmtp = in_state(READY, replace(PROXY, dialect=LMTP))
    assert lmtp.feed(b"XCLIENT PORT=1\r\n") == b"220 mx.example.com LMTP\r\n"


def test_refused_by_the_embedder_changes_nothing() -> None:
    """A login by AUTH included."""

    def not_this_one(event: Answerable) -> Reply | None:
        return catalogue.RELAY_DENIED if isinstance(event, Xclient) else habits(event)

    session = in_state(READY, replace(EVERYTHING, auth_mechanisms=frozenset(Mechanism)), not_this_one)
    assert codes(session.feed(AUTH + b"XCLIENT LOGIN=x\r\n" + AUTH + MAIL)) == [
        "235 2.7.0",
        "550 5.7.1",
        "503 5.5.1",
        "250 2.1.0",
    ]


def test_nobody_is_trusted_by_default() -> None:
    assert OPTIONS.xclient is XclientUse.REFUSED
