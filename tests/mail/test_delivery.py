"""What the processors Header and Hasher make of an envelope."""

from __future__ import annotations

from datetime import UTC, datetime
from email import message_from_bytes, policy
from typing import Final

import pytest
from hypothesis import given

from tests.mail.support import BOB, CAROL, QUEUE_ID, envelope, envelopes
from trio_fcgimail.mail import Envelope, Peer, TlsFacts, are_header_lines, delivery_header, recipient_hash
from trio_fcgimail.smtp import GreetingWord, Mailbox

NOW: Final = datetime(2026, 11, 22, 9, 23, 54, tzinfo=UTC)
TLS: Final = TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384")


def header(mail: Envelope) -> str:
    octets = delivery_header(mail, hostname="mx.example.com", primary_mail_host="mail.example", now=NOW)
    assert are_header_lines(octets)
    return octets.decode()


def expected(client: str, keyword: str = "ESMTP", delivered: str = "Delivered-To: bob@mail.example\r\n") -> str:
    return (
        f"{delivered}Received: from {client}\r\n\tby mx.example.com with {keyword} id {QUEUE_ID};\r\n"
        "\tSun, 22 Nov 2026 09:23:54 +0000\r\n"
    )


@pytest.mark.parametrize(
    ("mail", "lines"),
    [
        pytest.param(envelope(BOB), expected("client.example ([192.0.2.1])"), id="one"),
        pytest.param(envelope(BOB, CAROL), expected("client.example ([192.0.2.1])", delivered=""), id="two"),
        pytest.param(envelope(BOB, tls=TLS), expected("client.example ([192.0.2.1])", "ESMTPS"), id="tls"),
        pytest.param(
            envelope(BOB, greeting=GreetingWord.HELO), expected("client.example ([192.0.2.1])", "SMTP"), id="helo"
        ),
        pytest.param(envelope(BOB, helo="a b"), expected("[192.0.2.1] ([192.0.2.1])"), id="no-name"),
        pytest.param(envelope(BOB, helo="a b", peer=Peer("", 0)), expected("localhost"), id="unix-and-no-name"),
        pytest.param(envelope(BOB, peer=Peer("", 0)), expected("client.example"), id="unix"),
        pytest.param(
            envelope(BOB, peer=Peer("2001:db8::1", 1)), expected("client.example ([IPv6:2001:db8::1])"), id="ipv6"
        ),
        pytest.param(
            envelope(Mailbox("b b", "example.com")),
            expected("client.example ([192.0.2.1])", delivered='Delivered-To: "b b"@mail.example\r\n'),
            id="quoted",
        ),
    ],
)
def test_header_is_exactly(mail: Envelope, lines: str) -> None:
    assert header(mail) == lines


@given(mail=envelopes())
def test_header_of_any_envelope_is_a_header(mail: Envelope) -> None:
    parsed = message_from_bytes(header(mail).encode() + b"\r\nx", policy=policy.compat32)
    assert parsed.keys() == (["Delivered-To"] if len(mail.recipients) == 1 else []) + ["Received"]
    assert parsed.get_payload() == "x"


def test_hash_is_of_mail_and_recipient() -> None:
    hashes = {recipient_hash(queue_id, recipient) for queue_id in ("q1", "q2") for recipient in (BOB, CAROL)}
    assert len(hashes) == 4
    assert all(len(digits) == 32 and int(digits, 16) >= 0 for digits in hashes)
    assert recipient_hash("q1", BOB) == recipient_hash("q1", BOB)
