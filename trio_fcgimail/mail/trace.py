"""The trace header that every mail gets in front (RFC 5321 4.4)."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache

from trio_fcgimail.mail.envelope import Envelope, TlsFacts
from trio_fcgimail.smtp import is_address_literal, is_domain


def address_literal(ip: str) -> str:
    """``[192.0.2.1]`` or ``[IPv6:2001:db8::1]`` (RFC 5321 4.1.3); an IPv4 address mapped into IPv6 is shown as IPv4."""
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"[IPv6:{address.compressed.partition('%')[0]}]"
        address = address.ipv4_mapped
    return f"[{address}]"


def received_header(envelope: Envelope, *, hostname: str, now: datetime) -> bytes:
    """The ``Received:`` field with its CRLFs.

    ``for`` is given only when there is one recipient, so that no recipient learns of another (RFC 5321 7.2).

    Args:
        hostname: our own name, a domain or an address literal.
        now: with a time zone.
    """
    lines = [
        f"Received: {_from_clause(envelope.session.helo, envelope.session.peer.ip)}",
        *_tls_comment(envelope.session.tls),
        f"by {hostname} with {envelope.with_keyword.value} id {envelope.queue_id}",
    ]
    if len(envelope.recipients) == 1:
        lines.append(f"for <{envelope.recipients[0]}>")
    text = "\r\n\t".join(lines) + ";\r\n\t" + format_date(now) + "\r\n"
    return text.encode()


def format_date(now: datetime) -> str:
    """A date-time of RFC 5322 3.3, to the second."""
    return _format_second(now.replace(microsecond=0) if now.microsecond else now, now.utcoffset())


@lru_cache(maxsize=4)
def _format_second(second: datetime, _offset: timedelta | None) -> str:
    return format_datetime(second)  # equal moments of different zones are equal, and their texts are not


def _tls_comment(tls: TlsFacts | None) -> list[str]:
    return [] if tls is None else [f"(using {tls.protocol} with cipher {tls.cipher})"]


@lru_cache(maxsize=256)
def _from_clause(helo: str, ip: str) -> str:
    """Extended-Domain of RFC 5321 4.4; what is no domain goes into a comment, where anything may stand."""
    proper = is_domain(helo) or is_address_literal(helo)
    if not ip:
        return f"from {helo}" if proper else f"from localhost (HELO {helo})"
    literal = address_literal(ip)
    return f"from {helo} ({literal})" if proper else f"from {literal} ({literal}) (HELO {helo})"
