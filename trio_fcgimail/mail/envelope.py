"""What is known of one mail besides its content, and the identifier it goes by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final, assert_never, final

from trio_fcgimail.smtp import (
    SMTP,
    BodyType,
    Dialect,
    DsnNotify,
    DsnReturn,
    GreetingWord,
    Mailbox,
    OriginalRecipient,
    RepliesAtEnd,
)


@final
@dataclass(frozen=True, slots=True)
class Peer:
    """Who is connected: a textual IP address without zone and a port; both empty, ``""`` and 0, over a unix socket."""

    ip: str
    port: int


@final
@dataclass(frozen=True, slots=True)
class DsnWish:
    """What a sender wants to be told about one recipient (RFC 3461 4.1, 4.2); both absent: nothing special."""

    notify: frozenset[DsnNotify] = frozenset()
    original: OriginalRecipient | None = None


class WithKeyword(Enum):
    """The protocol of the trace header (RFC 3848, RFC 6531 4.3): S stands for TLS, A for AUTH."""

    SMTP = "SMTP"
    ESMTP = "ESMTP"
    ESMTPA = "ESMTPA"
    ESMTPS = "ESMTPS"
    ESMTPSA = "ESMTPSA"
    LMTP = "LMTP"
    LMTPA = "LMTPA"
    LMTPS = "LMTPS"
    LMTPSA = "LMTPSA"
    UTF8SMTP = "UTF8SMTP"
    UTF8SMTPA = "UTF8SMTPA"
    UTF8SMTPS = "UTF8SMTPS"
    UTF8SMTPSA = "UTF8SMTPSA"
    UTF8LMTP = "UTF8LMTP"
    UTF8LMTPA = "UTF8LMTPA"
    UTF8LMTPS = "UTF8LMTPS"
    UTF8LMTPSA = "UTF8LMTPSA"


_KEYWORDS: Final = {keyword.value: keyword for keyword in WithKeyword}


@final
@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What a client has proved by TLS to be.

    Args:
        subject: as RFC 4514 writes it; empty when there is none, or one that is too long to be shown.
        sha256: the fingerprint, in lower-case hex; empty when a proxy in front took the certificate.
    """

    subject: str
    sha256: str = ""


@final
@dataclass(frozen=True, slots=True)
class TlsFacts:
    """How a connection is encrypted, in OpenSSL's words: ``TLSv1.3``, ``TLS_AES_256_GCM_SHA384``.

    Args:
        client: None when it has shown no certificate that was verified.
    """

    protocol: str
    cipher: str
    client: ClientCertificate | None = None


@final
@dataclass(frozen=True, slots=True)
class Session:
    """What outlives one mail of a connection: who is there, and how it introduced itself.

    Args:
        greeting: the word of its greeting; None as long as there was none.
        helo: what it called itself; empty as long as there was no greeting.
        tls: None in the clear.
        auth_user: whom the script let in; None as long as nobody.
        hostname: what we call ourselves to it; empty for the name that we have everywhere.
    """

    peer: Peer
    greeting: GreetingWord | None = None
    helo: str = ""
    dialect: Dialect = SMTP
    tls: TlsFacts | None = None
    auth_user: str | None = None
    hostname: str = ""

    @property
    def protocol(self) -> str:
        """``smtp`` or ``lmtp``, as scripts get it."""
        return self.dialect.name


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One mail's envelope.

    Args:
        queue_id: unique over processes and restarts, see :func:`new_queue_id`.
        mail_from: the reverse-path; None for ``<>``.
        recipients: the accepted ones, in order, each with a domain.
        dsn_wishes: one for each recipient, in the same order; the duty of notifying is the script's.
        dsn_return: how much of the mail a notification is to return (RFC 3461 4.3).
        envelope_id: what a notification is to name the mail (RFC 3461 4.4).
        require_tls: whoever passes the mail on is to do so over TLS alone (RFC 8689); the duty is the script's.
    """

    queue_id: str
    session: Session
    mail_from: Mailbox | None
    recipients: tuple[Mailbox, ...] = ()
    dsn_wishes: tuple[DsnWish, ...] = ()
    dsn_return: DsnReturn | None = None
    envelope_id: str | None = None
    body_type: BodyType | None = None
    smtputf8: bool = False
    require_tls: bool = False

    def addressed_to(self, recipients: tuple[Mailbox, ...], dsn_wishes: tuple[DsnWish, ...]) -> Envelope:
        """The same for others. By name, as ``dataclasses.replace`` looks every field up, for each mail."""
        return Envelope(
            queue_id=self.queue_id,
            session=self.session,
            mail_from=self.mail_from,
            recipients=recipients,
            dsn_wishes=dsn_wishes,
            dsn_return=self.dsn_return,
            envelope_id=self.envelope_id,
            body_type=self.body_type,
            smtputf8=self.smtputf8,
            require_tls=self.require_tls,
        )

    @property
    def verdicts_owed(self) -> int:
        """How many verdicts its end is owed: one, or in LMTP one for each recipient (RFC 2033 4.2)."""
        return len(self.recipients) if self.session.dialect.replies_at_end is RepliesAtEnd.EACH else 1

    @property
    def sender(self) -> str:
        """The reverse-path as scripts get it: ``""`` for a bounce."""
        return "" if self.mail_from is None else str(self.mail_from)

    @property
    def with_keyword(self) -> WithKeyword:
        """The protocol keyword (RFC 3848); the UTF8 ones once SMTPUTF8 was asked for (RFC 6531 4.3)."""
        session = self.session
        return _with_keyword(session.greeting, self.smtputf8, session.tls is not None, session.auth_user is not None)


@cache  # two dozen at most
def _with_keyword(
    greeting: GreetingWord | None, smtputf8: bool, is_encrypted: bool, is_authenticated: bool
) -> WithKeyword:
    match greeting:
        case GreetingWord.LHLO:
            protocol = "UTF8LMTP" if smtputf8 else "LMTP"
        case GreetingWord.EHLO:
            protocol = "UTF8SMTP" if smtputf8 else "ESMTP"
        case GreetingWord.HELO | None:
            return WithKeyword.SMTP  # which knows neither TLS nor AUTH
        case _:
            assert_never(greeting)
    encrypted = "S" if is_encrypted else ""
    authenticated = "A" if is_authenticated else ""
    return _KEYWORDS[protocol + encrypted + authenticated]


def new_queue_id(microseconds: int, randomness: bytes) -> str:
    """An identifier of lower-case hexadecimal digits.

    The time keeps two runs of a server apart, 40 bits of chance two processes within one microsecond.

    Args:
        microseconds: since the epoch.
        randomness: five octets.
    """
    return f"{microseconds:013x}{randomness[:5].hex()}"
