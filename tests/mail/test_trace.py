"""The trace header: RFC 5321 4.4, read back by the standard library too."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mail.support import BOB, CAROL, PEER, QUEUE_ID, TLS, envelope, envelopes
from trio_fcgimail.mail import Envelope, Peer, TlsFacts, address_literal, received_header
from trio_fcgimail.smtp import Mailbox

NOW: Final = datetime(2025, 3, 4, 5, 6, 7, 890, tzinfo=timezone(timedelta(hours=5, minutes=30)))
# RFC 5322 3.2: what a reader of structured fields takes for one thing, whatever stands in it
QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
LITERAL: Final = r"\[[^\[\]\\]*\]"
WORD: Final = rf"(?:{QUOTED}|{LITERAL}|[^\s()<>\[\]\\,;\"])+"
COMMENT: Final = r"\([^()\\]*\)"
FIELD: Final = re.compile(
    rf"Received: from {WORD}(?: {COMMENT}){{0,3}} by {WORD} with {WORD} id {WORD}(?: for <{WORD}>)?; [^;]+",
    re.ASCII,
)
DATE: Final = "Tue, 04 Mar 2025 05:06:07 +0530"


def trace(mail: Envelope) -> str:
    return received_header(mail, hostname="mx.example.com", now=NOW).decode()


def header(from_clause: str, with_keyword: str = "ESMTP", for_clause: str = "\r\n\tfor <bob@example.com>") -> str:
    by = f"by mx.example.com with {with_keyword} id {QUEUE_ID}"
    return f"Received: {from_clause}\r\n\t{by}{for_clause};\r\n\t{DATE}\r\n"


@pytest.mark.parametrize(
    ("peer", "helo", "clause"),
    [
        pytest.param(PEER, "client.example", "from client.example ([192.0.2.1])", id="ipv4"),
        pytest.param(Peer("2001:db8::1", 1), "c.example", "from c.example ([IPv6:2001:db8::1])", id="ipv6"),
        pytest.param(Peer("::ffff:192.0.2.1", 1), "c.example", "from c.example ([192.0.2.1])", id="mapped"),
        pytest.param(Peer("", 0), "c.example", "from c.example", id="unix"),
        pytest.param(PEER, "[192.0.2.9]", "from [192.0.2.9] ([192.0.2.1])", id="literal"),
        pytest.param(PEER, "[IPv6:::1]", "from [IPv6:::1] ([192.0.2.1])", id="literal-ipv6"),
        pytest.param(PEER, "[X25:(1;]", "from [X25:(1;] ([192.0.2.1])", id="literal-general"),
        pytest.param(PEER, "my_pc", "from [192.0.2.1] ([192.0.2.1]) (HELO my_pc)", id="odd-name"),
        pytest.param(PEER, "192.0.2.9:25", "from [192.0.2.1] ([192.0.2.1]) (HELO 192.0.2.9:25)", id="odd-address"),
        pytest.param(Peer("", 0), "my_pc", "from localhost (HELO my_pc)", id="unix-odd-name"),
    ],
)
def test_from_clause_rows(peer: Peer, helo: str, clause: str) -> None:
    assert trace(envelope(BOB, peer=peer, helo=helo)) == header(clause)


TLS_COMMENT: Final = "\r\n\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)"


@pytest.mark.parametrize(
    ("tls", "auth_user", "helo", "clause", "keyword"),
    [
        pytest.param(None, None, "c.example", "from c.example ([192.0.2.1])", "ESMTP", id="clear"),
        pytest.param(TLS, None, "c.example", f"from c.example ([192.0.2.1]){TLS_COMMENT}", "ESMTPS", id="tls"),
        pytest.param(None, "bob", "c.example", "from c.example ([192.0.2.1])", "ESMTPA", id="login-is-not-told"),
        pytest.param(
            TLS, "bob", "my_pc", f"from [192.0.2.1] ([192.0.2.1]) (HELO my_pc){TLS_COMMENT}", "ESMTPSA", id="all"
        ),
    ],
)
def test_with_keyword_rows(tls: TlsFacts | None, auth_user: str | None, helo: str, clause: str, keyword: str) -> None:
    """The keywords themselves are rows of test_envelope.py."""
    assert trace(envelope(BOB, helo=helo, tls=tls, auth_user=auth_user)) == header(clause, keyword)


@pytest.mark.parametrize(
    ("recipients", "clause"),
    [
        pytest.param((BOB,), "\r\n\tfor <bob@example.com>", id="one"),
        pytest.param((Mailbox("a;b(", "x.example"),), '\r\n\tfor <"a;b("@x.example>', id="quoted"),
        pytest.param((Mailbox("a", "[X25:)1(;]"),), "\r\n\tfor <a@[X25:)1(;]>", id="literal-general"),
        pytest.param((Mailbox("ü", "ö.example"),), "\r\n\tfor <ü@ö.example>", id="utf-8"),
        pytest.param((BOB, CAROL), "", id="several-learn-nothing-of-each-other"),
    ],
)
def test_for_clause_rows(recipients: tuple[Mailbox, ...], clause: str) -> None:
    assert trace(envelope(*recipients)) == header("from client.example ([192.0.2.1])", for_clause=clause)


@pytest.mark.parametrize(
    ("ip", "literal"),
    [
        pytest.param("192.0.2.1", "[192.0.2.1]", id="ipv4"),
        pytest.param("2001:DB8:0:0::1", "[IPv6:2001:db8::1]", id="ipv6-compressed"),
        pytest.param("::ffff:c000:201", "[192.0.2.1]", id="mapped"),
        pytest.param("fe80::1%eth0", "[IPv6:fe80::1]", id="a-zone-means-nothing-to-others"),
    ],
)
def test_address_literal_rows(ip: str, literal: str) -> None:
    assert address_literal(ip) == literal


@given(envelopes(), st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_any_trace_header_is_sound(mail: Envelope, now: datetime) -> None:
    octets = received_header(mail, hostname="mx.example.com", now=now)
    assert octets.endswith(b"\r\n")
    lines = octets[:-2].split(b"\r\n")
    assert lines[0].startswith(b"Received: ")
    assert all(line.startswith(b"\t") for line in lines[1:])
    assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", b"".join(lines))
    assert max(map(len, lines)) <= 998  # RFC 5322 2.1.1
    parsed = message_from_bytes(octets + b"Subject: x\r\n\r\nbody\r\n", policy=policy.default)
    assert list(parsed) == ["Received", "Subject"]
    assert not parsed.defects
    assert FIELD.fullmatch(b"".join(lines).decode().replace("\t", " "))
    value = str(parsed["Received"])
    assert parsedate_to_datetime(value.rpartition(";")[2]) == now.replace(microsecond=0)
    assert f" id {QUEUE_ID}" in value
    shown = [one for one in mail.recipients if f"<{one}>".encode() in octets]
    assert shown == list(mail.recipients if len(mail.recipients) == 1 else ())
