"""What go-guerrilla's processors Header and Hasher make of a mail, without their faults; docs/processors.md."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

from trio_fcgimail.mail.envelope import Envelope
from trio_fcgimail.mail.trace import address_literal, format_date
from trio_fcgimail.smtp import Mailbox, is_address_literal, is_domain

_HASH_DIGITS: Final = 32  # as many as the Go processor's MD5 has


def delivery_header(envelope: Envelope, *, hostname: str, primary_mail_host: str, now: datetime) -> bytes:
    """``Delivered-To:`` and ``Received:`` with their CRLFs: four lines, folded by a TAB.

    ``Delivered-To`` is left out when there are several recipients, so that none learns of another (RFC 5321 7.2).

    Args:
        hostname: our own name, a domain or an address literal.
        primary_mail_host: the domain of ``Delivered-To``, whatever that of the recipient is.
        now: with a time zone.
    """
    lines = [
        f"Received: from {_client(envelope)}",
        f"\tby {hostname} with {envelope.with_keyword.value} id {envelope.queue_id};",
        f"\t{format_date(now)}",
    ]
    if len(envelope.recipients) == 1:
        lines.insert(0, f"Delivered-To: {Mailbox(envelope.recipients[0].local_part, primary_mail_host)}")
    return "".join(f"{line}\r\n" for line in lines).encode()


def recipient_hash(queue_id: str, recipient: Mailbox) -> str:
    """32 hexadecimal digits that no other mail and no other recipient has; a retry is another mail here."""
    octets = f"{queue_id}\0{recipient}".encode("utf-8", "replace")
    return hashlib.sha256(octets).hexdigest()[:_HASH_DIGITS]


def _client(envelope: Envelope) -> str:
    """Who sent it (RFC 5321 4.4), in one line: a name that is none is left out, as anything may stand in it."""
    session = envelope.session
    literal = address_literal(session.peer.ip) if session.peer.ip else ""
    name = session.helo if is_domain(session.helo) or is_address_literal(session.helo) else literal or "localhost"
    return f"{name} ({literal})" if literal else name
