"""What the core tells its embedder, and what the embedder owes in return.

Two kinds: those to be *answered* (``Answerable``), before which ``next_event`` gives ``PAUSED``; and those that the
core has settled by itself, whose ``to_send`` holds the reply that is to be written, in the order of the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, final

from trio_fcgimail.smtp.address import Mailbox
from trio_fcgimail.smtp.options import GreetingWord
from trio_fcgimail.smtp.parameters import BodyType, DsnNotify, DsnReturn, OriginalRecipient
from trio_fcgimail.smtp.replies import Reply
from trio_fcgimail.smtp.sasl import Credentials
from trio_fcgimail.smtp.state import Verb
from trio_fcgimail.smtp.xclient import XclientAttributes


class Signal(Enum):
    """What ``next_event`` returns when there is no event."""

    NEED_DATA = "call receive_data() first"
    PAUSED = "answer the last event first, or tell how the TLS handshake ended"


NEED_DATA: Final[Literal[Signal.NEED_DATA]] = Signal.NEED_DATA
PAUSED: Final[Literal[Signal.PAUSED]] = Signal.PAUSED


class DataCommand(Enum):
    """How the content of a message comes."""

    DATA = "DATA"
    BDAT = "BDAT"


class Waiting(Enum):
    """What the core waits for, so that the embedder can choose a deadline; the core knows no clock."""

    COMMAND = "a command"
    DATA = "the data of a message"
    ANSWER = "the embedder"
    HANDSHAKE = "the TLS handshake"
    NOTHING = "nothing, it is closed"


class CloseReason(Enum):
    """Why there is nothing more to come."""

    QUIT = "the client said QUIT"
    EOF = "the client closed"
    REPLY = "a reply of 421 or 521 closed"
    ERROR = "the stream could not be followed"


@final
@dataclass(frozen=True, slots=True)
class Connected:
    """The first event: nobody was greeted yet. accept() sends the banner; reject() with 554 or 421 turns away."""


@final
@dataclass(frozen=True, slots=True)
class Hello:
    """HELO, EHLO or LHLO (RFC 5321 4.1.1.1). Once accepted, a transaction under way is over: forget its envelope."""

    word: GreetingWord
    domain: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MailFrom:
    """MAIL (RFC 5321 4.1.1.2) that the grammar and the limits let pass."""

    path: Mailbox | None  # None for <>
    declared_octets: int | None  # SIZE=, RFC 1870; None when absent; never above the limit
    body: BodyType | None
    smtputf8: bool
    dsn_return: DsnReturn | None  # RET=, RFC 3461 4.3
    envelope_id: str | None  # ENVID=, RFC 3461 4.4, decoded
    require_tls: bool = False  # REQUIRETLS, RFC 8689 2
    submitter: Mailbox | None = None  # AUTH=, RFC 4954 5: who is said to have submitted it; None for <> and when absent


@final
@dataclass(frozen=True, slots=True)
class RcptTo:
    """RCPT (RFC 5321 4.1.1.3) that the grammar and the limits let pass. The order of accepted ones is LMTP's."""

    path: Mailbox
    notify: frozenset[DsnNotify] = frozenset()  # NOTIFY=, RFC 3461 4.1; empty when absent
    original: OriginalRecipient | None = None  # ORCPT=, RFC 3461 4.2


@final
@dataclass(frozen=True, slots=True)
class StartTls:
    """STARTTLS (RFC 3207 4). accept() says 220; once that was written, do the handshake, then call tls_started().

    Until then there is nothing to read: the next octets of the client belong to TLS. Once it began, forget all that the
    client has said: its greeting, its mail, its login.
    """


@final
@dataclass(frozen=True, slots=True)
class Authenticate:
    """AUTH (RFC 4954), with all that its exchange brought. accept() says 235; reject() with 535, 454 or 421."""

    credentials: Credentials


@final
@dataclass(frozen=True, slots=True)
class Xclient:
    """XCLIENT. accept() greets anew with 220, and the client begins again; forget its greeting, not who it now is."""

    attributes: XclientAttributes


@final
@dataclass(frozen=True, slots=True)
class DataBegun:
    """DATA, or the first BDAT, with at least one accepted recipient: the message begins.

    accept() sends 354 to DATA (RFC 5321 4.1.1.4) and nothing to BDAT (RFC 3030 2), which is answered once its octets
    were read. After reject() of a BDAT its octets are thrown away, and MessageRefused brings the reply; but 421 and 521
    are sent at once.
    """

    by: DataCommand


@final
@dataclass(frozen=True, slots=True)
class MessageChunk:
    """A piece of the message: dots unstuffed (DATA), CRLF kept and never split. Needs no answer."""

    data: bytes


@final
@dataclass(frozen=True, slots=True)
class MessageEnd:
    """The whole message was seen. accept() takes it, and only now is it ours; reject() does not."""

    octets: int


@final
@dataclass(frozen=True, slots=True)
class MessageRefused:
    """The message was read and refused, by the core or by a rejected DataBegun. Forget it and its envelope.

    With BDAT the client may go on sending chunks, each of which is refused by the same reply, up to LAST or RSET.
    """

    reply: Reply
    to_send: bytes


@final
@dataclass(frozen=True, slots=True)
class TransactionReset:
    """RSET (RFC 5321 4.1.1.5), answered. Forget the envelope."""

    to_send: bytes


@final
@dataclass(frozen=True, slots=True)
class CommandAnswered:
    """NOOP, HELP, VRFY, QUIT, a BDAT without LAST or a step of AUTH, answered; nothing changed but by QUIT."""

    verb: Verb
    reply: Reply
    to_send: bytes


@final
@dataclass(frozen=True, slots=True)
class CommandRejected:
    """The client's mistake or a limit, answered. Nothing changed, unless the reply closes."""

    verb: Verb
    reply: Reply
    to_send: bytes


@final
@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """Nothing follows. Close the connection; a transaction under way has come to nothing."""

    reason: CloseReason


Answerable = Connected | Hello | StartTls | Authenticate | Xclient | MailFrom | RcptTo | DataBegun | MessageEnd
Settled = MessageChunk | MessageRefused | TransactionReset | CommandAnswered | CommandRejected | ConnectionClosed
Event = Answerable | Settled
