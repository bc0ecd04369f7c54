"""What an embedder chooses: dialect, extensions, limits. All values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, final

from trio_fcgimail.smtp import grammar
from trio_fcgimail.smtp.errors import LocalProtocolError
from trio_fcgimail.smtp.symbol import Symbol


class GreetingWord(Symbol):
    """The command that opens a session: two in SMTP (RFC 5321 4.1.1.1), one in LMTP (RFC 2033 4.1)."""

    HELO = "HELO"
    EHLO = "EHLO"
    LHLO = "LHLO"


class RepliesAtEnd(Enum):
    """How many replies answer the end of the data."""

    ONE = "one for the message"
    EACH = "one for each accepted recipient, in order"


@final
@dataclass(frozen=True, slots=True)
class Dialect:
    """SMTP and LMTP differ in these values and in nothing else."""

    name: str
    banner_word: str
    greetings: frozenset[GreetingWord]
    replies_at_end: RepliesAtEnd


SMTP: Final = Dialect("smtp", "ESMTP", frozenset({GreetingWord.HELO, GreetingWord.EHLO}), RepliesAtEnd.ONE)
LMTP: Final = Dialect("lmtp", "LMTP", frozenset({GreetingWord.LHLO}), RepliesAtEnd.EACH)


class Extension(Symbol):
    """The service extensions that the core speaks, by their EHLO keyword."""

    PIPELINING = "PIPELINING"  # RFC 2920
    SIZE = "SIZE"  # RFC 1870
    EIGHT_BIT_MIME = "8BITMIME"  # RFC 6152
    SMTPUTF8 = "SMTPUTF8"  # RFC 6531
    ENHANCED_STATUS_CODES = "ENHANCEDSTATUSCODES"  # RFC 2034
    CHUNKING = "CHUNKING"  # RFC 3030
    BINARYMIME = "BINARYMIME"  # RFC 3030; needs CHUNKING
    DSN = "DSN"  # RFC 3461
    LIMITS = "LIMITS"  # RFC 9422
    STARTTLS = "STARTTLS"  # RFC 3207
    AUTH = "AUTH"  # RFC 4954
    REQUIRETLS = "REQUIRETLS"  # RFC 8689
    XCLIENT = "XCLIENT"  # Postfix's XCLIENT protocol


class Tls(Enum):
    """What can be said of the encryption of a connection; the core itself never encrypts."""

    NONE = "there is none"
    AVAILABLE = "STARTTLS turns it on"
    ACTIVE = "it is on"


class Mechanism(Enum):
    """The SASL mechanisms of AUTH that the core speaks."""

    PLAIN = "PLAIN"  # RFC 4616
    LOGIN = "LOGIN"  # never standardised, and what many clients know


class AuthChannel(Enum):
    """Over what credentials may come."""

    TLS_ONLY = "over TLS alone"  # RFC 4954 4
    ANY = "also in the clear"


class XclientUse(Enum):
    """Whether this client may say on whose behalf it speaks. For proxies that are trusted by their address."""

    REFUSED = "it may not"
    ALLOWED = "it may"


class Paths(Enum):
    """How strictly the paths of MAIL and RCPT are read."""

    STRICT = "with their brackets, as RFC 5321 4.1.2 has them"
    LENIENT = "the brackets may be missing, as printers and scanners leave them out"


class BareNewline(Enum):
    """What a bare CR or LF within the data leads to. In none of the three does it end a line or the data."""

    REJECT = "reject"  # read to the true end, answer 550 5.5.2, go on
    CLOSE = "close"  # 521 5.5.2 at once
    NORMALIZE = "normalize"  # a bare LF becomes CR LF, a bare CR is dropped


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The settings of one connection. A limit of None means none.

    Args:
        hostname: what the banner and EHLO say: a domain or an address literal, ASCII.
        extensions: that may be offered; each is, as soon as it applies (:class:`~trio_fcgimail.smtp.offer.Offer`).
        tls: at the beginning of the connection; ACTIVE for TLS from the first octet (RFC 8314 3).
        auth_mechanisms: of AUTH; with none, AUTH does not apply.
        max_message_octets: of the data after unstuffing, CRLF counted as two (RFC 1870 3).
        max_recipients: accepted ones in a transaction; more are 452 4.5.3. RFC 5321 4.5.3.1.8 asks for 100 at least.
        max_messages: transactions in a connection; one more is 421 4.7.0.
        max_bad_commands: replies 500 to 504 and 555 of the core; one more is 421 4.7.0.
        max_refused_recipients: 5xx to RCPT; one more RCPT is 421 4.7.0. A 4xx never counts.
        max_failed_logins: 535 to AUTH; the last of them is said as 421 4.7.0.

    Raises:
        LocalProtocolError: the host name cannot stand in a banner, or a limit is below one.
    """

    hostname: str
    dialect: Dialect = SMTP
    extensions: frozenset[Extension] = field(default=frozenset(Extension))
    tls: Tls = Tls.NONE
    auth_mechanisms: frozenset[Mechanism] = frozenset()
    auth_channel: AuthChannel = AuthChannel.TLS_ONLY
    xclient: XclientUse = XclientUse.REFUSED
    bare_newline: BareNewline = BareNewline.REJECT
    paths: Paths = Paths.STRICT
    max_message_octets: int | None = 26_214_400
    max_recipients: int | None = 100
    max_messages: int | None = 1000
    max_bad_commands: int | None = 5
    max_refused_recipients: int | None = 20
    max_failed_logins: int | None = 3

    def __post_init__(self) -> None:
        if not self.hostname.isascii() or not (
            grammar.is_domain(self.hostname) or grammar.is_address_literal(self.hostname)
        ):
            raise LocalProtocolError(f"no host name for a banner: {self.hostname!r}")
        limits = (
            self.max_message_octets,
            self.max_recipients,
            self.max_messages,
            self.max_bad_commands,
            self.max_refused_recipients,
            self.max_failed_logins,
        )
        if any(limit is not None and limit < 1 for limit in limits):
            raise LocalProtocolError("a limit is at least one, or None for none")
        if Extension.BINARYMIME in self.extensions and Extension.CHUNKING not in self.extensions:
            raise LocalProtocolError("BINARYMIME needs CHUNKING (RFC 3030 3)")
