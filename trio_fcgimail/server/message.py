"""A mail while it comes in: everything that is learnt in passing, so that it is never read twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from copy import copy
from functools import partial
from typing import Final, final

from trio_fcgimail.mail import (
    BodyEncoder,
    BodyKind,
    BodyLines,
    BodyMeter,
    Envelope,
    HeaderFacts,
    HeaderReader,
    MailDigest,
    Received,
    SaveRequest,
    escape,
    lf_ended,
    save_fields,
    save_request,
)
from trio_fcgimail.server.pool import Trip
from trio_fcgimail.server.spool import Spool, SpoolRoom
from trio_fcgimail.server.upstream import Body

_WHOLE_OCTETS: Final = 65_536  # ours: a mail of this size is encoded at once, and goes to the script in one write
_FOLDS: Final = (b" ", b"\t")  # what goes on with the header field before (RFC 5322 2.2.3)
_ENCODED_OCTETS: Final = 65_536  # at once: a millisecond where every octet needs an escape


@final
class IncomingMessage:
    """The content of one mail, spooled, with its digest, its header's facts and the size of its form.

    Args:
        lines: how they end in a form; the other kinds have them as they came.
        kind: how the save script gets it.
        may_have_bare_cr: False where every CR is known to be part of a CRLF, as in the text that the SMTP core gives.

    Attributes:
        octets: of the content as received.
        trip: where its save request went, once there was one.
    """

    def __init__(
        self,
        envelope: Envelope,
        room: SpoolRoom,
        lines: BodyLines,
        kind: BodyKind = BodyKind.FORM,
        *,
        may_have_bare_cr: bool = True,
    ) -> None:
        self.envelope = envelope
        self.octets = 0
        self.trip = Trip()
        self._lines = lines if kind is BodyKind.FORM else BodyLines.CRLF
        self._kind = kind
        self._may_have_bare_cr = may_have_bare_cr
        self._front = b""  # header lines of processors, before all that was spooled
        self._parting = b""  # between a header of ours and the content, as long as there is no such header
        self._spool = Spool(room)
        self._digest = MailDigest(envelope.mail_from, envelope.recipients)
        self._headers = HeaderReader()
        self._meter: BodyMeter | None = None  # of a mail that is not small: a small one is looked at when it is whole
        self._small: bytes | None = None  # all of it as the script gets it, made when it is asked for

    async def add_trace(self, header: bytes) -> None:
        """Put a header of ours in front. It is no part of the digest. Raises SpoolFullError."""
        await self._keep(header)

    def put_in_front(self, header: bytes) -> None:
        """Put whole header lines in front of a content that is complete. They are no part of the digest."""
        header, self._parting = header + self._parting, b""
        self._front = header + self._front
        self._small = None
        if self._meter is not None:
            self._meter.add(header)

    def narrowed(self, envelope: Envelope) -> IncomingMessage:
        """The same content for some of the recipients; to be used in place of the old one, which still closes it."""
        other = copy(self)
        other.envelope = envelope
        return other

    async def add(self, data: bytes) -> None:
        """Take the next piece of the content. Raises SpoolFullError."""
        if not self.octets and data.startswith(_FOLDS):  # it has no header; let it not go on with ours
            self._parting = b"\r\n"
            if self._spool.size:
                parting, self._parting = self._parting, b""
                await self._keep(parting)
        self.octets += len(data)
        self._headers.feed(data)
        self._digest.update(data)
        await self._keep(data)

    async def _keep(self, data: bytes) -> None:
        must_flush = self._spool.append(data)
        if self._meter is not None:
            self._meter.add(data)
        elif self._kind is BodyKind.FORM and (must_flush or self._spool.size > _WHOLE_OCTETS):
            self._meter = BodyMeter(may_have_bare_cr=self._may_have_bare_cr)
            self._meter.add(self._spool.in_memory())
        if must_flush:
            await self._spool.flush()

    def header_facts(self) -> HeaderFacts:
        """What the header said, as far as it came."""
        return self._headers.facts()

    def header_block(self) -> bytes:
        """The header as received, without what we put in front and without the empty line, bounded."""
        return self._headers.block()

    @property
    def digest(self) -> str:
        """Of what was received so far; see :class:`~trio_fcgimail.mail.MailDigest`."""
        return self._digest.hexdigest()

    @property
    def size(self) -> int:
        """Octets of :meth:`pieces`."""
        return len(self._front) + self._spool.size

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The whole mail with CRLFs, what we put in front included; as often as needed. Raises SpoolReadError."""
        if self._front:
            yield self._front
        async with aclosing(self._spool.pieces()) as pieces:
            async for piece in pieces:
                yield piece

    def received(self) -> Received:
        """What the save script is told about the content, once it is complete."""
        return Received(self.header_facts().subject, self.digest, self._body_size())

    def _body_size(self) -> int:
        """Octets of the content as the script gets it."""
        if self._lines is BodyLines.CRLF:
            return self.size
        return len(self._whole()) if self._meter is None else self._meter.size(self._lines)

    def save_request(self, randomness: bytes) -> SaveRequest:
        """The request of the save script, all but the content, which is complete.

        Args:
            randomness: that nobody was shown before; see :data:`~trio_fcgimail.mail.BOUNDARY_RANDOM_OCTETS`.
        """
        fields = save_fields(self.envelope, self.received())
        queue_id = self.envelope.queue_id
        return save_request(self._kind, fields, self._content_octets(), queue_id=queue_id, randomness=randomness)

    def _content_octets(self) -> int:
        if self._kind is not BodyKind.FORM:
            return self.size
        return len(escape(self._whole())) if self._meter is None else self._meter.encoded_size(self._lines)

    def body(self, asked: SaveRequest) -> Body:
        """Its body, which can be read as often as needed until the message is closed."""
        whole: bytes | None = None
        if self._spool.is_in_memory and self.size <= _WHOLE_OCTETS:
            content = escape(self._whole()) if self._kind is BodyKind.FORM else self._whole()
            whole = b"".join((asked.before, content, asked.behind))
        return Body(asked.octets, partial(self._pieces, asked), whole)

    def _whole(self) -> bytes:
        """The content of a small mail as the script gets it."""
        if self._small is None:
            content = self._front + self._spool.in_memory()
            self._small = lf_ended(content) if self._lines is BodyLines.LF else content
        return self._small

    async def _pieces(self, asked: SaveRequest) -> AsyncGenerator[bytes, None]:
        if asked.before:
            yield asked.before
        async with aclosing(self._content()) as pieces:
            async for piece in pieces:
                yield piece
        if asked.behind:
            yield asked.behind

    def _content(self) -> AsyncGenerator[bytes, None]:
        return self._encoded() if self._kind is BodyKind.FORM else self.pieces()

    async def _encoded(self) -> AsyncGenerator[bytes, None]:
        encoder = BodyEncoder(self._lines, has_bare_cr=self._meter is None or self._meter.has_bare_cr)
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                for at in range(0, len(piece), _ENCODED_OCTETS):
                    if encoded := encoder.encode(piece[at : at + _ENCODED_OCTETS]):
                        yield encoded
        if rest := encoder.finish():
            yield rest

    def close(self) -> None:
        """Forget the content."""
        self._spool.close()
