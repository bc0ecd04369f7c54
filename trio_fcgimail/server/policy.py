"""What the settings alone say to an address, before any script is asked."""

from __future__ import annotations

from trio_fcgimail.config import Settings
from trio_fcgimail.mail import comparable_domain
from trio_fcgimail.smtp import Mailbox, Reply, catalogue


def sender_refusal(path: Mailbox | None) -> Reply | None:
    """Why a reverse-path is refused, if it is; None is ``<>``."""
    return None if path is None else _name_refusal(path)


def recipient_refusal(path: Mailbox, settings: Settings) -> Reply | None:
    """Why a recipient is refused, if it is. ``<postmaster>`` without a domain never is (RFC 5321 4.5.1)."""
    if path.domain is None:
        return None
    refusal = _name_refusal(path)
    if refusal is not None:
        return refusal
    if settings.null_mx_hosts.holds(path.domain):
        return catalogue.DOMAIN_TAKES_NO_MAIL
    return None if settings.allowed_hosts.holds(path.domain) else catalogue.RELAY_DENIED


def _name_refusal(path: Mailbox) -> Reply | None:
    if path.domain is None:
        return None
    try:
        comparable_domain(path.domain)
    except ValueError:
        return catalogue.INVALID_U_LABEL
    return None
