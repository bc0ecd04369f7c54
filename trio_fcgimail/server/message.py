"""A mail while it comes in: everything that is learnt in passing, so that it is never read twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Final, final

from trio_fcgimail.mail import (
    BodyEncoder,
    BodyLines,
    BodyMeter,
    Envelope,
    HeaderFacts,
    HeaderReader,
    MailDigest,
    Received,
    encode_fields,
    save_fields,
)
from trio_fcgimail.server.spool import Spool, SpoolRoom
from trio_fcgimail.server.upstream import Body

_BODY_NAME: Final = b"body="


@final
class IncomingMessage:
    """The content of one mail, spooled, with its digest, its header's facts and the size of its form."""

    def __init__(self, envelope: Envelope, room: SpoolRoom, lines: BodyLines) -> None:
        self.envelope = envelope
        self.octets = 0  # of the content as received
        self._lines = lines
        self._spool = Spool(room)
        self._digest = MailDigest(envelope.mail_from, envelope.recipients)
        self._headers = HeaderReader()
        self._meter = BodyMeter()

    async def add_trace(self, header: bytes) -> None:
        """Put a header of ours in front. It is no part of the digest. Raises SpoolFullError."""
        self._meter.add(header)
        await self._spool.write(header)

    async def add(self, data: bytes) -> None:
        """Take the next piece of the content. Raises SpoolFullError."""
        self.octets += len(data)
        self._headers.feed(data)
        self._digest.update(data)
        self._meter.add(data)
        await self._spool.write(data)

    def header_facts(self) -> HeaderFacts:
        """What the header said, as far as it came."""
        return self._headers.facts()

    def received(self) -> Received:
        """What the save script is told about the content, once it is complete."""
        return Received(self.header_facts().subject, self._digest.hexdigest(), self._meter.size(self._lines))

    def form(self) -> Body:
        """The request body of the save script: ``body`` first, as its name sorts there, then the other fields."""
        rest = b"&" + encode_fields(save_fields(self.envelope, self.received()))
        octets = len(_BODY_NAME) + self._meter.encoded_size(self._lines) + len(rest)
        return Body(octets, partial(self._form_pieces, rest))

    async def _form_pieces(self, rest: bytes) -> AsyncGenerator[bytes, None]:
        yield _BODY_NAME
        encoder = BodyEncoder(self._lines)
        async with aclosing(self._spool.pieces()) as pieces:
            async for piece in pieces:
                if encoded := encoder.encode(piece):
                    yield encoded
        yield encoder.finish() + rest

    def close(self) -> None:
        """Forget the content."""
        self._spool.close()
