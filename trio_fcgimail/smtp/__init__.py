"""The SMTP and LMTP server protocol (RFC 5321, RFC 2033), sans-IO: bytes in, events out, answers in, bytes out.

Start at :class:`ServerConnection`. The state table is :data:`TRANSITIONS`, the replies are in :mod:`.catalogue`.
"""

from trio_fcgimail.smtp import catalogue
from trio_fcgimail.smtp.address import Mailbox
from trio_fcgimail.smtp.buffer import MAX_BUFFER_OCTETS, MAX_COMMAND_OCTETS
from trio_fcgimail.smtp.connection import ServerConnection
from trio_fcgimail.smtp.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from trio_fcgimail.smtp.events import (
    NEED_DATA,
    PAUSED,
    Answerable,
    CloseReason,
    CommandAnswered,
    CommandRejected,
    Connected,
    ConnectionClosed,
    DataBegun,
    DataCommand,
    Event,
    Hello,
    MailFrom,
    MessageChunk,
    MessageEnd,
    MessageRefused,
    RcptTo,
    Settled,
    Signal,
    TransactionReset,
    Waiting,
)
from trio_fcgimail.smtp.grammar import is_address_literal, is_domain
from trio_fcgimail.smtp.options import (
    LMTP,
    SMTP,
    BareNewline,
    Dialect,
    Extension,
    GreetingWord,
    Paths,
    RepliesAtEnd,
    ServerOptions,
)
from trio_fcgimail.smtp.parameters import BodyType, DsnNotify, DsnReturn, OriginalRecipient
from trio_fcgimail.smtp.replies import EnhancedCode, Outcome, Reply
from trio_fcgimail.smtp.state import ANYWHERE, COMMAND_STATES, TRANSITIONS, State, Verb, is_legal, next_state

__all__ = [
    "ANYWHERE",
    "COMMAND_STATES",
    "LMTP",
    "MAX_BUFFER_OCTETS",
    "MAX_COMMAND_OCTETS",
    "NEED_DATA",
    "PAUSED",
    "SMTP",
    "TRANSITIONS",
    "Answerable",
    "BareNewline",
    "BodyType",
    "CloseReason",
    "CommandAnswered",
    "CommandRejected",
    "Connected",
    "ConnectionClosed",
    "DataBegun",
    "DataCommand",
    "Dialect",
    "DsnNotify",
    "DsnReturn",
    "EnhancedCode",
    "Event",
    "Extension",
    "GreetingWord",
    "Hello",
    "LocalProtocolError",
    "MailFrom",
    "Mailbox",
    "MessageChunk",
    "MessageEnd",
    "MessageRefused",
    "OriginalRecipient",
    "Outcome",
    "Paths",
    "ProtocolError",
    "RcptTo",
    "RemoteProtocolError",
    "RepliesAtEnd",
    "Reply",
    "ServerConnection",
    "ServerOptions",
    "Settled",
    "Signal",
    "State",
    "TransactionReset",
    "Verb",
    "Waiting",
    "catalogue",
    "is_address_literal",
    "is_domain",
    "is_legal",
    "next_state",
]
