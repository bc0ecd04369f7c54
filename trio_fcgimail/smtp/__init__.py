"""The SMTP and LMTP server protocol (RFC 5321, RFC 2033), sans-IO: bytes in, events out, answers in, bytes out.

Start at :class:`ServerConnection`. The state table is :data:`TRANSITIONS`, the replies are in :mod:`.catalogue`.
"""

from . import catalogue
from .address import Mailbox
from .buffer import MAX_BUFFER_OCTETS, MAX_COMMAND_OCTETS
from .commands import BodyType
from .connection import ServerConnection, Waiting
from .errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from .events import (
    NEED_DATA,
    PAUSED,
    Answerable,
    CloseReason,
    CommandAnswered,
    CommandRejected,
    Connected,
    ConnectionClosed,
    DataBegun,
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
)
from .grammar import is_address_literal, is_domain
from .options import LMTP, SMTP, BareNewline, Dialect, Extension, GreetingWord, RepliesAtEnd, ServerOptions
from .replies import EnhancedCode, Outcome, Reply
from .state import ANYWHERE, COMMAND_STATES, TRANSITIONS, State, Verb, is_legal, next_state

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
    "Dialect",
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
    "Outcome",
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
