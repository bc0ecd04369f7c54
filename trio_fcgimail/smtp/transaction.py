"""The mail under way, as far as the core itself must know it: addresses and content are the embedder's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from trio_fcgimail.smtp import catalogue
from trio_fcgimail.smtp.content import Chunk, ChunkReader, ChunkSkipper, ContentJudge, DataReader, Newlines, Refused
from trio_fcgimail.smtp.options import RepliesAtEnd, ServerOptions
from trio_fcgimail.smtp.parameters import BodyType
from trio_fcgimail.smtp.replies import Reply

_MAX_SKIPPED_OCTETS: Final = 16 << 20  # ours: how much more than a message a refused BDAT chunk may hold
_MAX_OCTETS: Final = 2**63 - 1  # ours: of a message by BDAT without a limit; no file holds more

_EACH: Final = RepliesAtEnd.EACH
_BINARY_MIME: Final = BodyType.BINARY_MIME
_TEXT: Final = Newlines.TEXT

Reader = DataReader | ChunkReader | ChunkSkipper


@final
@dataclass(slots=True)
class Transaction:
    """One mail, from MAIL to its end; a new one stands for none.

    Attributes:
        recipients: how many were accepted.
        chunks: what reads them, once a BDAT was wanted.
        refusal: the reply to a chunk, and to all those behind it.
    """

    options: ServerOptions
    smtputf8: bool = False
    body: BodyType | None = None
    recipients: int = 0
    chunks: ChunkReader | None = None
    refusal: Reply | None = None

    @property
    def replies_at_end(self) -> int:
        """How many replies the end of the message owes (RFC 2033 4.2)."""
        return self.recipients if self.options.dialect.replies_at_end is _EACH else 1

    def read_data(self) -> DataReader:
        """What reads the data behind DATA."""
        return DataReader(self._new_judge())

    def read_first_chunk(self, chunk: Chunk) -> ChunkReader:
        """What reads the first chunk that is wanted, and later those behind it."""
        self.chunks = ChunkReader(self._new_judge(), chunk)
        return self.chunks

    def skip(self, chunk: Chunk, reply: Reply, refused: Refused) -> ChunkSkipper:
        """What throws a chunk away."""
        return ChunkSkipper(chunk, reply, refused, (self.options.max_message_octets or 0) + _MAX_SKIPPED_OCTETS)

    def refusal_of(self, chunk: Chunk) -> Reply | None:
        """Why a chunk is not wanted: one before it was refused, or it makes the message too big (RFC 1870 6.3)."""
        if self.refusal is not None:
            return self.refusal
        limit = self.options.max_message_octets
        octets = chunk.octets + (0 if self.chunks is None else self.chunks.octets)
        return catalogue.MESSAGE_TOO_BIG if octets > (_MAX_OCTETS if limit is None else limit) else None

    def _new_judge(self) -> ContentJudge:
        newlines = Newlines.BINARY if self.body is _BINARY_MIME else _TEXT
        return ContentJudge(self.options.bare_newline, newlines, self.options.max_message_octets)
