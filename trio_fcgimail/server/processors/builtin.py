"""go-guerrilla's processors that look at a mail or add to it, and FastCGI, which hands it to the scripts."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, assert_never, final

import trio

from trio_fcgimail.mail import (
    Envelope,
    HeaderField,
    Meaning,
    Verdict,
    delivery_header,
    parse_header,
    recipient_hash,
)
from trio_fcgimail.server.processors.interface import (
    Context,
    Discarded,
    EachRecipient,
    Failed,
    GoOn,
    Mail,
    NoteKey,
    OneAnswer,
    Processor,
    RecipientAnswer,
    Refused,
    SaveAnswer,
    Stored,
)
from trio_fcgimail.server.scripts import Scripts
from trio_fcgimail.smtp import Mailbox

_LOGGED_FIELDS: Final = 100  # ours: a log line is cut anyway


@final
class Compressed:
    """The whole mail in zlib's format (RFC 1950), at its fastest level; made while it is read."""

    def __init__(self, mail: Mail) -> None:
        self._incoming = mail.incoming

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it, as often as needed, as long as the mail is on its way."""
        packer = zlib.compressobj(zlib.Z_BEST_SPEED)
        async with aclosing(self._incoming.pieces()) as pieces:
            async for piece in pieces:
                if packed := await trio.to_thread.run_sync(packer.compress, piece):
                    yield packed
        yield packer.flush()


#: The header's fields, by HeadersParser.
HEADER: Final[NoteKey[tuple[HeaderField, ...]]] = NoteKey("header")
#: The mail compressed, by Compressor.
COMPRESSED: Final[NoteKey[Compressed]] = NoteKey("compressed")


@final
class HeadersParser(Processor):
    """Leaves the fields of the header in the note ``HEADER``. The subject is known without it."""

    async def save(self, mail: Mail) -> SaveAnswer:
        """Parse."""
        mail.notes.put(HEADER, parse_header(mail.header_block))
        return GoOn()


@final
class Header(Processor):
    """Puts ``Delivered-To`` (of a single recipient) and ``Received`` in front."""

    _context: Context

    async def set_up(self, context: Context) -> None:
        """Learn our names."""
        self._context = context

    async def save(self, mail: Mail) -> SaveAnswer:
        """Put them there."""
        settings = self._context.settings
        hostname = mail.envelope.session.hostname or settings.hostname
        mail.put_in_front(
            delivery_header(
                mail.envelope,
                hostname=hostname,
                primary_mail_host=settings.header.primary_mail_host or settings.hostname,
                now=self._context.now(),
            )
        )
        return GoOn()


@final
class Hasher(Processor):
    """Gives every recipient of every mail a hash of its own, ``Mail.hashes``."""

    async def save(self, mail: Mail) -> SaveAnswer:
        """Hash."""
        envelope = mail.envelope
        mail.hashes = tuple(recipient_hash(envelope.queue_id, recipient) for recipient in envelope.recipients)
        return GoOn()


@final
class Debugger(Processor):
    """Logs envelope and header, when ``debugger.log_received_mails`` says so."""

    _context: Context

    async def set_up(self, context: Context) -> None:
        """Learn whether to log, and where."""
        self._context = context

    async def save(self, mail: Mail) -> SaveAnswer:
        """Log."""
        if self._context.settings.debugger.log_received_mails:
            envelope = mail.envelope
            fields = mail.notes.get(HEADER) or parse_header(mail.header_block)
            self._context.log.info(
                "mail received",
                queue_id=envelope.queue_id,
                mail_from=envelope.sender,
                rcpts=", ".join(map(str, envelope.recipients)),
                header="; ".join(f"{field.name}: {field.text}" for field in fields[:_LOGGED_FIELDS]),
            )
        return GoOn()


@final
class Compressor(Processor):
    """Leaves the mail in zlib's format in the note ``COMPRESSED``; later processors still get it as it is."""

    async def save(self, mail: Mail) -> SaveAnswer:
        """Leave it."""
        mail.notes.put(COMPRESSED, Compressed(mail))
        return GoOn()


@final
class FastCgi(Processor):
    """Hands recipients and mails to the scripts; docs/scripts.md."""

    keeps_time = True

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def validate(self, envelope: Envelope, recipient: Mailbox) -> RecipientAnswer:
        """Ask the validate script, when there is one."""
        verdict = await self._scripts.validate(envelope, recipient)
        match verdict.meaning:
            case Meaning.ACCEPTED | Meaning.DISCARDED:
                return GoOn(verdict.reason)
            case Meaning.REFUSED:
                return Refused(verdict.reply, verdict.reason)
            case Meaning.FAILED:
                return Failed(verdict.reason, verdict.reply)
            case _:
                assert_never(verdict.meaning)

    async def save(self, mail: Mail) -> SaveAnswer:
        """Ask the save script."""
        answers = tuple(map(_answer, await self._scripts.save(mail.incoming)))
        return answers[0] if len(answers) == 1 else EachRecipient(answers)


def _answer(verdict: Verdict) -> OneAnswer:
    match verdict.meaning:
        case Meaning.ACCEPTED:
            return Stored(verdict.identifier, verdict.reason)
        case Meaning.DISCARDED:
            return Discarded(verdict.reason)
        case Meaning.REFUSED:
            return Refused(verdict.reply, verdict.reason)
        case Meaning.FAILED:
            return Failed(verdict.reason, verdict.reply)
        case _:
            assert_never(verdict.meaning)
