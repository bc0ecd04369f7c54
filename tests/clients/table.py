"""Which client can do what: the tests send by it, and docs/clients.md shows it (tests/clients/page.py)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from tests.clients.postfix import by_postfix
from tests.clients.programs import by_curl, by_msmtp, by_nodemailer, by_smtp_source, by_swaks
from tests.clients.python import by_aiosmtplib, by_smtplib
from tests.clients.routes import Channel, Mail, Mechanism, Outcome, Route


class ClientName(Enum):
    """As its makers write it."""

    SMTPLIB = "smtplib"
    AIOSMTPLIB = "aiosmtplib"
    SWAKS = "swaks"
    MSMTP = "msmtp"
    CURL = "curl"
    NODEMAILER = "nodemailer"
    SMTP_SOURCE = "smtp-source"
    POSTFIX = "Postfix"


class Feature(Enum):
    """What a client may be able to do, as the page heads its columns."""

    PLAIN_MAIL = "plain mail"
    EIGHT_BIT = "8-bit mail"
    SMTPUTF8 = "SMTPUTF8"
    LARGE = "20 MB"
    SEVERAL = "several recipients"
    LMTP = "LMTP, unix socket"
    STARTTLS = "STARTTLS"
    IMPLICIT = "implicit TLS"
    AUTH_PLAIN = "AUTH PLAIN"
    AUTH_LOGIN = "AUTH LOGIN"


#: What the way to the server asks of a client.
OF_CHANNEL: Final[Mapping[Channel, frozenset[Feature]]] = {
    Channel.PLAIN: frozenset(),
    Channel.STARTTLS: frozenset({Feature.STARTTLS}),
    Channel.IMPLICIT: frozenset({Feature.IMPLICIT}),
    Channel.LMTP: frozenset({Feature.LMTP}),
}
OF_MECHANISM: Final[Mapping[Mechanism, Feature]] = {
    Mechanism.PLAIN: Feature.AUTH_PLAIN,
    Mechanism.LOGIN: Feature.AUTH_LOGIN,
}

#: What a client cannot do, and why. What is not here it can do, and the tests make it do so.
CANNOT: Final[Mapping[ClientName, Mapping[Feature, str]]] = {
    ClientName.SMTPLIB: {},
    ClientName.AIOSMTPLIB: {Feature.LMTP: "speaks SMTP only"},
    ClientName.SWAKS: {Feature.SMTPUTF8: "does not know the parameter"},
    ClientName.MSMTP: {Feature.SMTPUTF8: "does not know the parameter"},
    ClientName.CURL: {Feature.LMTP: "speaks SMTP only"},
    ClientName.NODEMAILER: {},
    ClientName.SMTP_SOURCE: {
        Feature.SMTPUTF8: "does not know the parameter",
        Feature.SEVERAL: "takes one address for all its mails",
        Feature.STARTTLS: "has no TLS",
        Feature.IMPLICIT: "has no TLS",
        Feature.AUTH_PLAIN: "has no AUTH",
        Feature.AUTH_LOGIN: "has no AUTH",
    },
    ClientName.POSTFIX: {},
}


@dataclass(frozen=True, slots=True)
class Client:
    """A client.

    Attributes:
        send: Sends a mail by a route; the folder is for its files.
        greeting: The protocol that its first word stands for, in SMTP.
        before: What it puts in front of every mail, as a pattern; lines end in LF here.
        behind: What it puts behind every mail.
        order: Of recipients, as it names them.
    """

    name: ClientName
    send: Callable[[Route, Mail, Path], Outcome]
    greeting: str = "ESMTP"
    before: str = ""
    behind: bytes = b""
    order: Callable[[Iterable[str]], list[str]] = list

    def reason_against(self, *features: Feature) -> str | None:
        """Why it cannot do one of these, or None when it can do all."""
        cannot = CANNOT[self.name]
        return next((cannot[feature] for feature in features if feature in cannot), None)


_DATE: Final = r"[A-Z][a-z]{2}, [ \d]\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4} \([\w+-]+\)"
_FROM_POSTFIX: Final = rf"Received: by client\.example\.net \(Postfix, from userid 0\)\n\tid [0-9A-F]+; {_DATE}\n"

CLIENTS: Final = (
    Client(ClientName.SMTPLIB, by_smtplib),
    Client(ClientName.AIOSMTPLIB, by_aiosmtplib),
    Client(ClientName.SWAKS, by_swaks),
    Client(ClientName.MSMTP, by_msmtp),
    Client(ClientName.CURL, by_curl),
    Client(ClientName.NODEMAILER, by_nodemailer),
    Client(ClientName.SMTP_SOURCE, by_smtp_source, greeting="SMTP", behind=b"\r\n"),
    Client(ClientName.POSTFIX, by_postfix, before=_FROM_POSTFIX, order=sorted),
)
