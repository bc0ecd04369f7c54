"""What is known of one mail besides its content, and the identifier it goes by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import assert_never, final

from trio_fcgimail.smtp import BodyType, DsnNotify, DsnReturn, GreetingWord, Mailbox, OriginalRecipient


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
    """The protocol of the trace header (RFC 3848, RFC 6531 4.3)."""

    SMTP = "SMTP"
    ESMTP = "ESMTP"
    LMTP = "LMTP"
    UTF8SMTP = "UTF8SMTP"
    UTF8LMTP = "UTF8LMTP"


@final
@dataclass(frozen=True, slots=True)
class Session:
    """What outlives one mail of a connection: who is there, and how it introduced itself."""

    peer: Peer
    greeting: GreetingWord
    helo: str

    @property
    def protocol(self) -> str:
        """``smtp`` or ``lmtp``, as scripts get it."""
        return "lmtp" if self.greeting is GreetingWord.LHLO else "smtp"


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

    @property
    def verdicts_owed(self) -> int:
        """How many verdicts its end is owed: one, or in LMTP one for each recipient (RFC 2033 4.2)."""
        return len(self.recipients) if self.session.greeting is GreetingWord.LHLO else 1

    @property
    def sender(self) -> str:
        """The reverse-path as scripts get it: ``""`` for a bounce."""
        return "" if self.mail_from is None else str(self.mail_from)

    @property
    def with_keyword(self) -> WithKeyword:
        """The protocol keyword (RFC 3848); the UTF8 ones once SMTPUTF8 was asked for (RFC 6531 4.3)."""
        match self.session.greeting:
            case GreetingWord.LHLO:
                return WithKeyword.UTF8LMTP if self.smtputf8 else WithKeyword.LMTP
            case GreetingWord.EHLO:
                return WithKeyword.UTF8SMTP if self.smtputf8 else WithKeyword.ESMTP
            case GreetingWord.HELO:
                return WithKeyword.SMTP
            case word:
                assert_never(word)


def new_queue_id(microseconds: int, randomness: bytes) -> str:
    """An identifier of lower-case hexadecimal digits.

    The time keeps two runs of a server apart, 40 bits of chance two processes within one microsecond.

    Args:
        microseconds: since the epoch.
        randomness: five octets.
    """
    return f"{microseconds:013x}{randomness[:5].hex()}"
