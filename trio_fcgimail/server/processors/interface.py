"""What a processor is, what it gets, and what it may answer (docs/processors.md)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, Final, Generic, TypeAlias, TypeVar, cast, final

import structlog.typing

from trio_fcgimail.config import Settings
from trio_fcgimail.mail import Envelope, HeaderFacts, are_header_lines
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.smtp import Mailbox, Reply, catalogue

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")  # as scripts may name it: it stands in our reply

T = TypeVar("T")


# What a processor may answer


@final
@dataclass(frozen=True, slots=True)
class GoOn:
    """Nothing against it: the next processor is asked.

    Args:
        note: for the log.
    """

    note: str = ""


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """The mail is safe, as far as this processor is concerned; the next one is asked.

    Args:
        identifier: what the sender is told it is queued as, in place of our queue id; 1 to 64 of letters, digits,
            ``.``, ``_`` and ``-``.
        note: for the log.

    Raises:
        ValueError: the identifier is none.
    """

    identifier: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.identifier and _IDENTIFIER.fullmatch(self.identifier) is None:
            raise ValueError(f"not an identifier: {self.identifier!r}")


@final
@dataclass(frozen=True, slots=True)
class Discarded:
    """The mail is to be forgotten on purpose: 250 to the sender, and no other processor is asked."""

    note: str = ""


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """The chain ends, and the sender is told why.

    Args:
        reply: of 4xx or 5xx.
        note: for the log.

    Raises:
        ValueError: the reply is another one.
    """

    reply: Reply
    note: str = ""

    def __post_init__(self) -> None:
        _check_refusal(self.reply, 400, 599)


@final
@dataclass(frozen=True, slots=True)
class Failed:
    """It could not be done now: the chain ends, and the sender is told to come again.

    Args:
        reason: for the log, where it is a warning; never sent.
        reply: of 4xx.

    Raises:
        ValueError: the reply is another one.
    """

    reason: str
    reply: Reply = catalogue.LOCAL_ERROR

    def __post_init__(self) -> None:
        _check_refusal(self.reply, 400, 499)


def _check_refusal(reply: Reply, lowest: int, highest: int) -> None:
    if not lowest <= reply.code <= highest:
        raise ValueError(f"not a reply of {lowest} to {highest}: {reply.text}")


OneAnswer: TypeAlias = GoOn | Stored | Discarded | Refused | Failed
RecipientAnswer: TypeAlias = GoOn | Refused | Failed


@final
@dataclass(frozen=True, slots=True)
class EachRecipient:
    """An answer for each recipient of the envelope, in its order.

    In LMTP each has its own reply (RFC 2033 4.2), and the next processor gets the mail for those that are left. In
    SMTP there is one reply, so anything but the same for all is what the worst of them says.
    """

    answers: tuple[OneAnswer, ...]


SaveAnswer: TypeAlias = OneAnswer | EachRecipient


# What it gets


@final
class NoteKey(Generic[T]):
    """Names what a processor leaves for later ones; each is a key of its own. Keep it in a module, and import it."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


@final
class Notes:
    """What the processors of one mail leave for later ones."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: dict[object, object] = {}

    def put(self, key: NoteKey[T], value: T) -> None:
        """Leave a note, in place of the one before."""
        self._notes[key] = value

    def get(self, key: NoteKey[T]) -> T | None:
        """The note of a key, None when nobody has left one."""
        return cast("T | None", self._notes.get(key))


@final
class Mail:
    """One mail on its way through the chain.

    Attributes:
        incoming: The same for the processors of ours.
        notes: What earlier processors left, and later ones find.
        hashes: By Hasher, one for each recipient; else empty.
    """

    __slots__ = ("hashes", "incoming", "notes")

    def __init__(self, incoming: IncomingMessage) -> None:
        self.incoming = incoming
        self.notes = Notes()
        self.hashes: tuple[str, ...] = ()

    @property
    def envelope(self) -> Envelope:
        """Sender, recipients, queue id and session; in LMTP the recipients that no processor has answered for yet."""
        return self.incoming.envelope

    @property
    def header(self) -> HeaderFacts:
        """The decoded subject, and how often the mail was received before."""
        return self.incoming.header_facts()

    @property
    def header_block(self) -> bytes:
        """The header as received, its first 256 KiB, CRLF at the ends of its lines."""
        return self.incoming.header_block()

    @property
    def digest(self) -> str:
        """The same for every retry of the mail; 64 hexadecimal digits."""
        return self.incoming.digest

    @property
    def octets(self) -> int:
        """Of the content as received."""
        return self.incoming.octets

    @property
    def size(self) -> int:
        """Octets of :meth:`pieces`."""
        return self.incoming.size

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """The whole mail with CRLFs, what was put in front included, as often as it is needed.

        Close it when you do not read it to its end, by ``contextlib.aclosing``.
        """
        return self.incoming.pieces()

    def put_in_front(self, header: bytes) -> None:
        """Put header fields in front, for all later processors.

        Args:
            header: whole fields, each of their lines ended by CRLF.

        Raises:
            ValueError: these are no header fields.
        """
        if not are_header_lines(header):
            raise ValueError("not whole header fields with CRLF")
        self.incoming.put_in_front(header)

    def keep_recipients(self, positions: Sequence[int]) -> None:
        """Leave out all others. For the chain itself."""
        envelope = self.envelope
        if len(positions) == len(envelope.recipients):
            return
        wishes = envelope.dsn_wishes
        self.incoming = self.incoming.narrowed(
            replace(
                envelope,
                recipients=tuple(envelope.recipients[at] for at in positions),
                dsn_wishes=tuple(wishes[at] for at in positions) if wishes else (),
            )
        )
        self.hashes = tuple(self.hashes[at] for at in positions) if self.hashes else ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a processor is set up with.

    Args:
        log: says which processor it is.
        now: the wall clock, with a time zone.
    """

    settings: Settings
    log: structlog.typing.FilteringBoundLogger
    now: Callable[[], datetime]


class Processor:
    """One step of a chain. Override what is needed; what is not overridden lets everything pass.

    The same object serves many mails at the same time. Every method may wait, under the deadline of the chain. An
    exception is 451 to the sender and a traceback in the log.
    """

    asked_at_rcpt: ClassVar[bool] = False
    """Whether ``validate`` is asked although only the save list names the processor."""

    keeps_time: ClassVar[bool] = False
    """Whether each of its waits has a deadline of its own, so that nobody needs to watch it. For those of ours."""

    async def set_up(self, context: Context) -> None:
        """Get ready, before the first client is served. An exception ends the start."""

    async def tear_down(self) -> None:
        """Let go of everything, after the last client. Not called when ``set_up`` has raised."""

    async def validate(
        self,
        envelope: Envelope,  # noqa: ARG002 - for those who override it
        recipient: Mailbox,  # noqa: ARG002 - likewise
    ) -> RecipientAnswer:
        """Say whether a recipient is taken; those before it are in the envelope."""
        return GoOn()

    async def save(self, mail: Mail) -> SaveAnswer:  # noqa: ARG002 - for those who override it
        """Do what there is to do with a mail."""
        return GoOn()
