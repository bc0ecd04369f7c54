"""What the octets of a client come to, told as values: reading them ends here, acting on them begins.

Whoever makes a step changes nothing of the session; the connection takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from trio_fcgimail.smtp.content import Chunk, Refused
from trio_fcgimail.smtp.events import (
    Authenticate,
    DataBegun,
    Hello,
    MailFrom,
    MessageChunk,
    MessageEnd,
    RcptTo,
    StartTls,
    Xclient,
)
from trio_fcgimail.smtp.replies import Reply
from trio_fcgimail.smtp.sasl import SaslExchange
from trio_fcgimail.smtp.state import Verb


@final
@dataclass(frozen=True, slots=True)
class Settle:
    """The core answers by itself."""

    verb: Verb
    reply: Reply


@final
@dataclass(frozen=True, slots=True)
class Challenge:
    """The exchange of AUTH goes on."""

    verb: Verb
    reply: Reply
    exchange: SaslExchange


@final
@dataclass(frozen=True, slots=True)
class Refuse:
    """The client's mistake, or a limit; nothing changes."""

    verb: Verb
    reply: Reply


@final
@dataclass(frozen=True, slots=True)
class TakeChunk:
    """The octets behind are the next ones of a message."""

    chunk: Chunk


@final
@dataclass(frozen=True, slots=True)
class EatChunk:
    """The octets behind are to be thrown away before the refusal is said."""

    chunk: Chunk
    reply: Reply
    refused: Refused


@final
@dataclass(frozen=True, slots=True)
class RefuseMessage:
    """A message, or a chunk of it, was read to its end, and the core itself refuses it."""

    verb: Verb
    reply: Reply


@final
@dataclass(frozen=True, slots=True)
class Lost:
    """What follows can be anything: the connection is to be closed."""

    problem: str
    reply: Reply


# What the embedder decides is told as the event that asks him, and content as the event that passes it on.
Asked = MailFrom | RcptTo | DataBegun | MessageEnd | Hello | StartTls | Authenticate | Xclient
Step = MessageChunk | Asked | Settle | Challenge | Refuse | TakeChunk | EatChunk | RefuseMessage | Lost
