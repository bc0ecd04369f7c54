"""The exchange of AUTH (RFC 4954 4): PLAIN (RFC 4616) and LOGIN, from the command to the credentials.

Who they belong to is not decided here. No password is ever shown by ``repr`` or by an error.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, assert_never, final

from trio_fcgimail.smtp import catalogue, grammar
from trio_fcgimail.smtp.errors import CommandError
from trio_fcgimail.smtp.options import Mechanism
from trio_fcgimail.smtp.replies import Reply

MAX_SASL_OCTETS: Final = 12_288  # RFC 4954 4: of a line of the exchange and of the AUTH command, CRLF included
MAX_IDENTITY_OCTETS: Final = 255  # RFC 4616 2 asks for at least that

_CANCEL: Final = b"*"  # RFC 4954 4
_EMPTY: Final = "="  # an initial response of no octets, RFC 4954 4
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # RFC 4013 2.3 prohibits them as well


class Login(Enum):
    """Whether somebody has authenticated; once is enough for a session (RFC 4954 4)."""

    NONE = "nobody"
    DONE = "by AUTH, or by XCLIENT"


@final
class Secret:
    """A text that shows itself only to who asks for it by ``reveal``; no log line, no traceback has it.

    No dataclass, as ``dataclasses.asdict`` of an event would take it apart.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(...)"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a client claims to be, by one of the mechanisms.

    Args:
        identity: whom it wants to act as; empty for the user itself (RFC 4616 2).
        username: without controls, 1 to 255 octets in UTF-8.
        password: not empty, without controls.
    """

    mechanism: Mechanism
    identity: str
    username: str
    password: Secret


@final
@dataclass(slots=True)
class SaslExchange:
    """One exchange, from AUTH to its credentials."""

    mechanism: Mechanism
    _username: str | None = field(default=None, repr=False)  # of LOGIN, once it came

    def begin(self) -> Reply:
        """The first challenge, when the client sent no initial response."""
        match self.mechanism:
            case Mechanism.PLAIN:
                return catalogue.PLAIN_CHALLENGE
            case Mechanism.LOGIN:
                return catalogue.LOGIN_USERNAME
            case _:
                assert_never(self.mechanism)

    def respond(self, line: bytes) -> Reply | Credentials:
        """Take a line of the client, without its CRLF.

        Returns:
            The next challenge, or what all came to.

        Raises:
            CommandError: the client cancels, or the line cannot be read; the exchange is over.
        """
        if line == _CANCEL:
            raise CommandError(catalogue.AUTH_CANCELLED)
        return self.take(_decode(line))

    def take(self, response: str) -> Reply | Credentials:
        """Take a response that was decoded; see :meth:`respond`."""
        match self.mechanism:
            case Mechanism.PLAIN:
                return self._take_plain(response)
            case Mechanism.LOGIN:
                return self._take_login(response)
            case _:
                assert_never(self.mechanism)

    def _take_plain(self, response: str) -> Credentials:
        parts = response.split("\0")
        if len(parts) != 3:
            raise CommandError(catalogue.BAD_SASL_RESPONSE)
        identity, username, password = parts
        return self._credentials(identity, username, password)

    def _take_login(self, response: str) -> Reply | Credentials:
        if self._username is None:
            # At once: the letters of QUIT and RSET are base64, and no password is to be asked for in answer to them.
            _check_name(response)
            self._username = response
            return catalogue.LOGIN_PASSWORD
        return self._credentials("", self._username, response)

    def _credentials(self, identity: str, username: str, password: str) -> Credentials:
        _check_name(username)
        if identity:
            _check_name(identity)
        if not password or _CONTROLS.search(password):
            raise CommandError(catalogue.BAD_SASL_RESPONSE)
        return Credentials(mechanism=self.mechanism, identity=identity, username=username, password=Secret(password))


def begin_auth(rest: str, mechanisms: frozenset[Mechanism]) -> tuple[SaslExchange, Reply | Credentials]:
    """The argument of AUTH (RFC 4954 4): a mechanism, then perhaps an initial response.

    Raises:
        CommandError: 504 for a mechanism that is not offered, 501 for what cannot be read.
    """
    name, *responses = rest.split(" ")
    if not name or len(responses) > 1:
        raise CommandError(catalogue.BAD_ARGUMENTS)
    known = {mechanism.value: mechanism for mechanism in mechanisms}
    mechanism = known.get(grammar.fold(name))
    if mechanism is None:
        raise CommandError(catalogue.UNKNOWN_MECHANISM)
    exchange = SaslExchange(mechanism)
    if not responses:
        return exchange, exchange.begin()
    return exchange, exchange.take("" if responses[0] == _EMPTY else _decode(responses[0].encode()))


def _check_name(name: str) -> None:
    if not name or len(name.encode()) > MAX_IDENTITY_OCTETS or _CONTROLS.search(name):
        raise CommandError(catalogue.BAD_SASL_RESPONSE)


def _decode(line: bytes) -> str:
    try:
        return binascii.a2b_base64(line, strict_mode=True).decode()
    except ValueError:  # binascii.Error and UnicodeDecodeError are; the text of either would show what came
        raise CommandError(catalogue.BAD_SASL_RESPONSE) from None
