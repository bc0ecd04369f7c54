"""Mailboxes: what they mean, how they print, and that both ways agree."""

from __future__ import annotations

import re
import string
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.smtp.support import codes, in_state
from trio_fcgimail.smtp import LocalProtocolError, Mailbox, State, grammar, is_address_literal, is_domain
from trio_fcgimail.smtp.address import BadPathError, parse_mailbox, parse_path

LOCAL_PARTS = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cc", "Cs"]), max_size=24)
GENERAL_LITERALS = st.from_regex(grammar.GENERAL_ADDRESS_LITERAL, fullmatch=True)
DOMAINS = GENERAL_LITERALS | st.sampled_from(
    ["example.net", "EXAMPLE.net", "a", "b\u00fccher.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", "\u00fc" * 33]
)
# Texts near the grammar: most are no path, many are
NEARLY = st.lists(
    st.sampled_from(
        ["a", "B", ".", '"', "\\", "@", " ", ",", ":", "x.y", "-", "[", "]", "192.0.2.1", "@[X:", "\u00fc", "\u0085"]
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("path", "meaning", "printed"),
    [
        pytest.param("<a@b.c>", Mailbox("a", "b.c"), "a@b.c", id="plain"),
        pytest.param('<"a"@b.c>', Mailbox("a", "b.c"), "a@b.c", id="needless-quotes"),
        pytest.param('<"\\a\\ b"@b.c>', Mailbox("a b", "b.c"), '"a b"@b.c', id="needless-escapes"),
        pytest.param('<"a\\"b\\\\c"@b.c>', Mailbox('a"b\\c', "b.c"), '"a\\"b\\\\c"@b.c', id="needed-escapes"),
        pytest.param('<""@b.c>', Mailbox("", "b.c"), '""@b.c', id="empty-local-part"),
        pytest.param('<"a..b"@b.c>', Mailbox("a..b", "b.c"), '"a..b"@b.c', id="dots-need-quotes"),
        pytest.param('<"a@b>"@b.c>', Mailbox("a@b>", "b.c"), '"a@b>"@b.c', id="at-and-bracket"),
        pytest.param("<@r.s,@[192.0.2.1]:a@b.c>", Mailbox("a", "b.c"), "a@b.c", id="route-dropped"),
        pytest.param("<Postmaster>", Mailbox("Postmaster", None), "Postmaster", id="postmaster"),
        pytest.param("<A@B.C>", Mailbox("A", "B.C"), "A@B.C", id="case-kept"),
        pytest.param("<a@[IPv6:::1]>", Mailbox("a", "[IPv6:::1]"), "a@[IPv6:::1]", id="literal"),
        pytest.param("<a@[X-25:(1;!,]>", Mailbox("a", "[X-25:(1;!,]"), "a@[X-25:(1;!,]", id="literal-general"),
        pytest.param("<\u00fc@b\u00fc.c>", Mailbox("\u00fc", "b\u00fc.c"), "\u00fc@b\u00fc.c", id="utf8"),
    ],
)
def test_path_meaning_and_print(path: str, meaning: Mailbox, printed: str) -> None:
    assert parse_path(path) == meaning
    assert str(meaning) == printed


def test_null_path_is_none() -> None:
    assert parse_path("<>") is None


@pytest.mark.parametrize(
    "text", ["", "a", "a@", "@b", "a@b@c", "a b@c", '"a"b@c', "a@[1.2.3]", "a@b..c", "\u2028@b", "a@\x80"]
)
def test_no_mailbox(text: str) -> None:
    with pytest.raises(BadPathError):
        parse_mailbox(text)


@settings(deadline=None)
@given(LOCAL_PARTS, DOMAINS)
def test_print_then_parse_is_the_same(local_part: str, domain: str) -> None:
    try:
        mailbox = Mailbox(local_part, domain)
    except LocalProtocolError:
        assume(False)
        raise
    assert parse_mailbox(str(mailbox)) == mailbox


@settings(deadline=None)
@given(NEARLY)
def test_parse_then_print_then_parse_is_the_same(text: str) -> None:
    try:
        mailbox = parse_path(f"<{text}>")
    except BadPathError:
        return
    if mailbox is not None:
        assert parse_path(f"<{mailbox}>") == mailbox
        assert str(mailbox).isprintable() or not mailbox.is_ascii
        assert not set(str(mailbox)) & set("\r\n\0\u0085\u2028\u2029")


@settings(deadline=None)
@given(st.text(alphabet=string.ascii_letters + string.digits + ".-_[]:", max_size=40))
def test_domain_and_literal_never_both(text: str) -> None:
    assert not (is_domain(text) and is_address_literal(text))


@pytest.mark.parametrize(
    ("local_part", "domain"),
    [
        pytest.param("x" * 65, "b.c", id="local-part-of-65"),
        pytest.param("\u00fc" * 33, "b.c", id="local-part-of-66-octets"),
        pytest.param("a\r\nb", "b.c", id="crlf"),
        pytest.param("a\0", "b.c", id="nul"),
        pytest.param("a\u0085", "b.c", id="nel"),
        pytest.param("a\ud800", "b.c", id="surrogate"),
        pytest.param("a", None, id="no-domain"),
        pytest.param("po\u017ftmaster", None, id="long-s"),
        pytest.param("a", "", id="empty-domain"),
        pytest.param("a", "b c", id="blank-in-domain"),
        pytest.param("a", "b.c\r\n", id="crlf-in-domain"),
        pytest.param("a", "\ud800", id="surrogate-in-domain"),
        pytest.param("a", "[\ud800]", id="surrogate-in-literal"),
        pytest.param("a", "[X:\ud800]", id="surrogate-in-general-literal"),
        pytest.param("a", "[X:\r\n]", id="crlf-in-general-literal"),
        pytest.param("a", "[X:a]\n", id="lf-after-general-literal"),
        pytest.param("a", '[X:"]', id="quotation-mark-in-general-literal"),
        pytest.param("a", "[X:>]", id="bracket-in-general-literal"),
        pytest.param("a", "[X:b@c]", id="at-in-general-literal"),
        pytest.param("a", "[X:" + "1" * 252 + "]", id="general-literal-of-256"),
        pytest.param("a", "[" + "1" * 300 + "]", id="literal-too-long"),
    ],
)
def test_mailbox_that_smtp_cannot_write_is_refused(local_part: str, domain: str | None) -> None:
    with pytest.raises(LocalProtocolError):
        Mailbox(local_part, domain)


def test_is_ascii() -> None:
    assert Mailbox("a", "b.c").is_ascii
    assert Mailbox("Postmaster", None).is_ascii
    assert not Mailbox("\u00fc", "b.c").is_ascii
    assert not Mailbox("a", "b\u00fc.c").is_ascii


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param("a" * 63 + ".b", True, id="label-of-63"),
        pytest.param("a" * 64 + ".b", False, id="label-of-64"),
        pytest.param(".".join(["a" * 63] * 3 + ["a" * 63]), True, id="255-octets"),
        pytest.param(".".join(["a" * 63] * 4 + ["a"]), False, id="257-octets"),
        pytest.param("\u00fc" * 32, True, id="u-label-of-64-octets"),
        pytest.param("\u00fc" * 127 + "a", True, id="u-label-of-255-octets"),
        pytest.param("\u00fc" * 128, False, id="u-label-of-256-octets"),
        pytest.param("\u00fc." + "a" * 64, False, id="label-of-64-beside-u-label"),
        pytest.param("a.", False, id="dot-at-the-end"),
        pytest.param("-a", False, id="hyphen-first"),
        pytest.param("a-", False, id="hyphen-last"),
        pytest.param("a--b", True, id="hyphens-inside"),
        pytest.param("1.2", True, id="digits"),
    ],
)
def test_is_domain(text: str, answer: bool) -> None:
    assert is_domain(text) is answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        pytest.param("[192.0.2.1]", True, id="ipv4"),
        pytest.param("[300.1.1.1]", False, id="ipv4-out-of-range"),
        pytest.param("[192.0.2.01]", False, id="ipv4-octal"),
        pytest.param("[IPv6:2001:db8::1]", True, id="ipv6"),
        pytest.param("[iPV6:::ffff:192.0.2.1]", True, id="ipv6-any-case-of-tag"),
        pytest.param("[IPv6:2001:db8::g]", False, id="ipv6-bad"),
        pytest.param("[IPv6:]", False, id="ipv6-empty"),
        pytest.param("[IPv6:fe80::1%eth0]", False, id="ipv6-zone"),
        pytest.param("[2001:db8::1]", False, id="ipv6-untagged"),
        pytest.param("[IPv4:192.0.2.1]", True, id="any-other-tag"),
        pytest.param("[0:1]", True, id="tag-of-a-digit"),
        pytest.param("[-a:1]", True, id="tag-hyphen-first"),
        pytest.param("[a-:1]", False, id="tag-hyphen-last"),
        pytest.param("[foo]", False, id="no-tag"),
        pytest.param("[foo:]", False, id="no-content"),
        pytest.param("[:foo]", False, id="empty-tag"),
        pytest.param("[]", False, id="empty"),
        pytest.param("X:1", False, id="no-brackets"),
        pytest.param("[X:" + "1" * 251 + "]", True, id="255-octets"),
        pytest.param("[X:" + "1" * 252 + "]", False, id="256-octets"),
    ],
)
def test_is_address_literal(text: str, answer: bool) -> None:
    assert is_address_literal(text) is answer


def test_content_of_a_general_literal_is_dcontent_without_four() -> None:
    taken = {code for code in range(0x110000) if is_address_literal(f"[X:{chr(code)}]")}
    assert taken == {*range(33, 91), *range(94, 127)} - set(map(ord, '"<>@'))  # RFC 5321 4.1.3


@settings(deadline=None)
@given(GENERAL_LITERALS)
def test_general_literal_stands_in_every_command(literal: str) -> None:
    assume(is_address_literal(literal))
    session = in_state(State.START)
    lines = f"EHLO {literal}\r\nMAIL FROM:<a@{literal}> SIZE=1\r\nRCPT TO:<@{literal},@b:c@{literal}>\r\n"
    replies = codes(session.feed(lines.encode()))
    too_long = len(literal) > grammar.MAX_PATH_OCTETS // 3  # then a path may be
    assert too_long or replies == ["250", "250 2.1.0", "250 2.1.5"]


# None matches, so that every way to match is tried. At this length a quadratic grammar takes minutes, a linear one
# milliseconds, so that the bound in seconds can be generous. On the wire a line has 2048 octets at most.
MANY = 100_000
HOSTILE = [
    pytest.param(grammar.PATH_TOKEN, "<" + "a" * MANY, id="path-open"),
    pytest.param(grammar.PATH_TOKEN, "<" + '"' * MANY, id="path-quotes"),
    pytest.param(grammar.PATH_TOKEN, "<" + '"\\"' * MANY, id="path-escapes"),
    pytest.param(grammar.PATH_TOKEN, "<" + '"a"' * MANY, id="path-strings"),
    pytest.param(grammar.MAILBOX, "a." * MANY, id="atoms"),
    pytest.param(grammar.MAILBOX, '"' + "\\a" * MANY, id="quoted-pairs"),
    pytest.param(grammar.MAILBOX, "a@" + "a-" * MANY, id="hyphens"),
    pytest.param(grammar.MAILBOX, "a@" + "a" * MANY + "!", id="label"),
    pytest.param(grammar.MAILBOX, "a@" + "a." * MANY, id="labels"),
    pytest.param(grammar.MAILBOX, "a@[" + ":" * MANY, id="literal"),
    pytest.param(grammar.MAILBOX, "a@[X:" + "a]" * MANY, id="general-literal"),
    pytest.param(grammar.GENERAL_ADDRESS_LITERAL, "[" + "a-" * MANY, id="tag"),
    pytest.param(grammar.GENERAL_ADDRESS_LITERAL, "[" + "a:" * MANY, id="tags"),
    pytest.param(grammar.A_D_L, "@a," * MANY, id="route"),
    pytest.param(grammar.A_D_L, "@a-a.a," * MANY, id="route-of-labels"),
    pytest.param(grammar.A_D_L, "@[a]," * MANY, id="route-of-literals"),
    pytest.param(grammar.ESMTP_PARAMETER, "a-" * MANY + "\0", id="keyword"),
    pytest.param(grammar.ESMTP_PARAMETER, "a=" + "b" * MANY + "=", id="value"),
    pytest.param(grammar.GREETING_NAME, "a" * MANY + "\0", id="greeting"),
]


@pytest.mark.parametrize(("rule", "text"), HOSTILE)
def test_grammar_is_linear(rule: re.Pattern[str], text: str) -> None:
    began = time.process_time()
    assert rule.fullmatch(text) is None
    assert rule.match(text) is None or rule in (grammar.ESMTP_PARAMETER, grammar.GREETING_NAME, grammar.MAILBOX)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("inside", ['"' * 2000, "a." * 1000, "@a," * 600, "[" * 2000, "a@[IPv6:" + ":" * 1900 + "]"])
def test_hostile_path_of_a_whole_line_is_refused(inside: str) -> None:
    session = in_state(State.READY)
    assert codes(session.feed(f"MAIL FROM:<{inside}>\r\n".encode())) == ["501 5.1.7"]
