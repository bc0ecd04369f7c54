"""The client's octets, one by one or in a heap, to steps: lines of commands and of AUTH, and the content of messages.

This is where it is known which octets are commands and which are not. Nothing of the session changes here.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, assert_never, final

from trio_fcgimail.smtp import catalogue
from trio_fcgimail.smtp.buffer import MAX_COMMAND_OCTETS, LineReader, ReceiveBuffer
from trio_fcgimail.smtp.commands import AUTH_WORD_OCTETS, begins_auth
from trio_fcgimail.smtp.content import (
    ChunkReader,
    ChunkSkipper,
    ContentJudge,
    DataReader,
    Fault,
    HopelessContentError,
    Refused,
)
from trio_fcgimail.smtp.errors import LocalProtocolError
from trio_fcgimail.smtp.events import MessageChunk, MessageEnd
from trio_fcgimail.smtp.interpreter import interpret, interpret_response
from trio_fcgimail.smtp.sasl import MAX_SASL_OCTETS, SaslExchange
from trio_fcgimail.smtp.standing import Standing
from trio_fcgimail.smtp.state import Verb
from trio_fcgimail.smtp.steps import Lost, Refuse, RefuseMessage, Settle, Step
from trio_fcgimail.smtp.transaction import Reader

_TLS_HELLO: Final = b"\x16\x03"  # a handshake record of any version (RFC 8446 5.1); no command begins so
_FAULT_REPLIES: Final = {Fault.TOO_BIG: catalogue.MESSAGE_TOO_BIG, Fault.BARE_NEWLINE: catalogue.BARE_NEWLINE}
_HOPELESS_REPLIES: Final = {**_FAULT_REPLIES, Fault.BARE_NEWLINE: catalogue.BARE_NEWLINE_CLOSE}


class _Input(Enum):
    OPEN = "more may come"
    ENDED = "the client has closed"


_ENDED: Final = _Input.ENDED
_NO_FAULT: Final = Fault.NONE
_END_OF_DATA: Final = Verb.END_OF_DATA


@final
class Intake:
    """What was received and not yet used, and what reads it.

    Attributes:
        content: what reads a message; None while commands are read.
        exchange: the one of AUTH that the next line belongs to, if any.
    """

    __slots__ = ("_buffer", "_input", "_lines", "content", "exchange")

    def __init__(self) -> None:
        self._buffer = ReceiveBuffer()
        self._input = _Input.OPEN
        self._lines = LineReader()
        self.content: Reader | None = None
        self.exchange: SaslExchange | None = None

    @property
    def is_empty(self) -> bool:
        """Whether everything that was received was used."""
        return not len(self._buffer)

    @property
    def has_ended(self) -> bool:
        """Whether the client has closed its side."""
        return self._input is _ENDED

    def append(self, data: bytes) -> None:
        """Take octets, or the end of file. Raises LocalProtocolError: data behind it, or more than the buffer holds."""
        if self._input is _ENDED:
            raise LocalProtocolError("data after the end of file")
        if data:
            self._buffer.append(data)
        else:
            self._input = _Input.ENDED

    def reopen(self) -> None:
        """What comes now comes through TLS, whatever became of the stream below."""
        self._input = _Input.OPEN

    def next_step(self, now: Standing) -> Step | None:
        """What comes next, or None when more octets are needed for it."""
        return self._next_command(now) if self.content is None else self._next_content(self.content)

    def _next_command(self, now: Standing) -> Step | None:
        buffered = len(self._buffer)
        if not buffered:
            return None
        if self._lines.is_at_start and self._buffer.startswith(_TLS_HELLO):
            return Refuse(Verb.UNKNOWN, catalogue.NOT_SMTP)
        most = MAX_COMMAND_OCTETS if buffered <= MAX_COMMAND_OCTETS else self._max_line_octets()
        line = self._lines.read(self._buffer, most)
        if line is None:
            return None
        return interpret(line, now) if self.exchange is None else interpret_response(line, self.exchange)

    def _max_line_octets(self) -> int:
        is_of_auth = self.exchange is not None or begins_auth(self._buffer.peek(AUTH_WORD_OCTETS))
        return MAX_SASL_OCTETS if is_of_auth else MAX_COMMAND_OCTETS

    def _next_content(self, content: Reader) -> Step | None:
        try:
            if data := content.read(self._buffer):
                return MessageChunk(data)
        except HopelessContentError as exc:
            return Lost(exc.fault.value, _HOPELESS_REPLIES[exc.fault])
        if not content.ended:
            return None
        self.content = None
        match content:
            case DataReader(judge=judge):
                return _end_of_content(_END_OF_DATA, judge)
            case ChunkReader(chunk=chunk, judge=judge):
                return _end_of_content(chunk.verb, judge)
            case ChunkSkipper(refused=Refused.COMMAND, reply=reply):
                return Refuse(Verb.BDAT, reply)
            case ChunkSkipper(chunk=chunk, reply=reply):
                return RefuseMessage(chunk.verb, reply)
            case _:
                assert_never(content)


def _end_of_content(verb: Verb, judge: ContentJudge) -> Step:
    """The end of the data, or of a chunk: the core refuses what is at fault, the embedder answers for the rest."""
    if judge.fault is not _NO_FAULT:
        return RefuseMessage(verb, _FAULT_REPLIES[judge.fault])
    if verb is _END_OF_DATA or verb is Verb.BDAT_LAST:
        return MessageEnd(judge.octets)
    return Settle(verb, catalogue.CHUNK_OK)
