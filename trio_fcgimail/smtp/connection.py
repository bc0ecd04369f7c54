"""The server side of an SMTP or LMTP session, without any input or output of its own.

Give it what was received, take its events, answer them, and write the bytes that come out, in order::

    while True:
        match conn.next_event():
            case Signal.NEED_DATA: conn.receive_data(receive())        # b"" means end of file
            case Connected() | Hello() | ... as event: send(conn.accept(event))
            case CommandRejected(to_send=data) | ...: send(data)
            case ConnectionClosed(): break

No command is looked at before the last event was answered, so a pipelining client cannot run ahead of its embedder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never, final

from trio_fcgimail.smtp import catalogue, commands
from trio_fcgimail.smtp.buffer import MAX_COMMAND_OCTETS, ReceiveBuffer
from trio_fcgimail.smtp.content import (
    ChunkOrder,
    ChunkReader,
    ContentJudge,
    DataReader,
    Fault,
    HopelessContentError,
    Newlines,
    Phase,
)
from trio_fcgimail.smtp.defaults import default_reply
from trio_fcgimail.smtp.errors import CommandError, LocalProtocolError, RemoteProtocolError
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
    Signal,
    TransactionReset,
)
from trio_fcgimail.smtp.options import Extension, GreetingWord, RepliesAtEnd, ServerOptions
from trio_fcgimail.smtp.order import check_order
from trio_fcgimail.smtp.parameters import BodyType
from trio_fcgimail.smtp.replies import Outcome, Reply
from trio_fcgimail.smtp.state import State, Verb, is_legal, next_state

_MAX_SKIPPED_OCTETS: Final = 16 << 20  # ours: how much more than a message a refused BDAT chunk may hold


class Waiting(Enum):
    """What the core waits for, so that the embedder can choose a deadline; the core knows no clock."""

    COMMAND = "a command"
    DATA = "the data of a message"
    ANSWER = "the embedder"
    NOTHING = "nothing, it is closed"


class _Input(Enum):
    OPEN = "more may come"
    ENDED = "the client has closed"


class _Line(Enum):
    WHOLE = "lines are read"
    DROPPING = "the rest of an over-long line is thrown away"


@final
@dataclass(frozen=True, slots=True)
class _Chunk:
    """A BDAT whose octets are under way (RFC 3030 2)."""

    octets: int
    order: ChunkOrder

    @property
    def verb(self) -> Verb:
        return Verb.BDAT_LAST if self.order is ChunkOrder.LAST else Verb.BDAT


@final
@dataclass(slots=True)
class _Skip:
    """Octets of a refused chunk, to be thrown away before the refusal is said."""

    chunk: _Chunk
    reply: Reply
    left: int


@final
@dataclass(slots=True)
class _Transaction:
    """What the core itself must know of the mail under way."""

    smtputf8: bool = False
    body: BodyType | None = None
    recipients: int = 0


_BAD_COMMAND_CODES: Final = frozenset({500, 501, 502, 503, 504, 555})
_BARE_VERBS: Final = frozenset({Verb.DATA, Verb.RSET, Verb.QUIT})
_FAULT_REPLIES: Final = {Fault.TOO_BIG: catalogue.MESSAGE_TOO_BIG, Fault.BARE_NEWLINE: catalogue.BARE_NEWLINE}


@final
class ServerConnection:
    """One SMTP or LMTP session, server side (RFC 5321, RFC 2033).

    Args:
        options: dialect, extensions and limits.

    Attributes:
        options: as given.
        state: where the session is; only replies move it.

    After RemoteProtocolError or a closing reply ``state`` is CLOSED, and only ``ConnectionClosed`` follows.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.state = State.CONNECTED
        self._buffer = ReceiveBuffer()
        self._input = _Input.OPEN
        self._line = _Line.WHOLE
        self._greeting: GreetingWord | None = None
        self._transaction = _Transaction()
        self._judge: ContentJudge | None = None  # of the message under way
        self._data: DataReader | None = None
        self._chunks: ChunkReader | None = None
        self._chunk: _Chunk | None = None  # whose octets are read now, or after DataBegun was answered
        self._skip: _Skip | None = None
        self._pending: Answerable | None = None
        self._close_reason = CloseReason.REPLY
        self._bad_commands = 0
        self._refused_recipients = 0
        self._messages = 0

    # What the embedder asks

    @property
    def waiting_for(self) -> Waiting:
        """Which deadline applies now."""
        if self.state is State.CLOSED:
            return Waiting.NOTHING
        if self._pending is not None or self.state is State.CONNECTED:
            return Waiting.ANSWER
        reads_content = self.state is State.DATA or self._chunk is not None or self._skip is not None
        return Waiting.DATA if reads_content else Waiting.COMMAND

    @property
    def in_transaction(self) -> bool:
        """Whether a mail is under way: MAIL was accepted and its end was not yet answered."""
        return self.state in _TRANSACTION_STATES

    # What comes from the client

    def receive_data(self, data: bytes) -> None:
        """Buffer octets from the client; ``b""`` says that it has closed its side.

        Raises:
            LocalProtocolError: data after the end of file, or more than the buffer holds: read only at NEED_DATA.
        """
        if self._input is _Input.ENDED:
            raise LocalProtocolError("data after the end of file")
        if data:
            self._buffer.append(data)
        else:
            self._input = _Input.ENDED

    def next_event(self) -> Event | Signal:
        """The next event, or a signal.

        Raises:
            RemoteProtocolError: the stream cannot be followed; its ``reply`` is to be sent, then the connection closed.
        """
        if self.state is State.CLOSED:
            return ConnectionClosed(self._close_reason)
        if self._pending is not None:
            return PAUSED
        if self.state is State.CONNECTED:
            return self._ask(Connected())
        if self._skip is not None:
            return self._next_skipped(self._skip)
        try:
            if self._data is not None:
                return self._next_data(self._data)
            if self._chunks is not None and self._chunk is not None:
                return self._next_of_chunk(self._chunks, self._chunk)
        except HopelessContentError as exc:
            reply = catalogue.BARE_NEWLINE_CLOSE if exc.fault is Fault.BARE_NEWLINE else catalogue.MESSAGE_TOO_BIG
            raise self._fail(exc.fault.value, reply) from exc
        return self._next_command()

    # What the embedder answers

    def accept(self, event: Answerable, reply: Reply | None = None) -> bytes:
        """Answer the last event with 2xx (354 for DATA), by default the one that fits it; returns the bytes to write.

        Raises:
            LocalProtocolError: the event is not the one that waits, or the reply is none of acceptance.
        """
        owed = self._replies_owed(event)
        if reply is None:
            reply = default_reply(event, self.options)
        if reply.outcome not in (Outcome.OK, Outcome.GO):
            raise LocalProtocolError(f"{reply.code} accepts nothing")
        return self._answer(event, [reply] * owed)

    def reject(self, event: Answerable, reply: Reply) -> bytes:
        """Answer the last event with 4xx or 5xx; 421 and 521 close. Returns the bytes to write.

        Raises:
            LocalProtocolError: the event is not the one that waits, or the reply is one of acceptance.
        """
        if reply.outcome not in (Outcome.NO, Outcome.CLOSE):
            raise LocalProtocolError(f"{reply.code} rejects nothing")
        return self._answer(event, [reply] * self._replies_owed(event))

    def reply_each(self, event: MessageEnd, replies: Sequence[Reply]) -> bytes:
        """Answer the end of the data recipient by recipient (LMTP, RFC 2033 4.2), in the order of their RCPTs.

        Raises:
            LocalProtocolError: the number of replies is not that of the accepted recipients, or this is SMTP.
        """
        if self.options.dialect.replies_at_end is not RepliesAtEnd.EACH:
            raise LocalProtocolError(f"one reply answers the whole message in {self.options.dialect.name}")
        if len(replies) != (owed := self._replies_owed(event)):
            raise LocalProtocolError(f"{owed} replies are owed, not {len(replies)}")
        if any(reply.outcome is Outcome.GO for reply in replies):
            raise LocalProtocolError("3xx ends nothing")
        return self._answer(event, replies)

    def close(self, reply: Reply) -> bytes:
        """End the session from our side at any moment: a deadline, a shutdown. ``reply`` must be 421 or 521.

        Raises:
            LocalProtocolError: the reply does not close, or the session is closed already.
        """
        if reply.outcome is not Outcome.CLOSE or self.state is State.CLOSED:
            raise LocalProtocolError("close() takes a 421 or 521, once")
        self._pending = None
        return self._move(Verb.UNKNOWN, reply)

    # Answers

    def _ask(self, event: Answerable) -> Answerable:
        self._pending = event
        return event

    def _replies_at_end(self) -> int:
        each = self.options.dialect.replies_at_end is RepliesAtEnd.EACH
        return self._transaction.recipients if each else 1

    def _replies_owed(self, event: Answerable) -> int:
        if self._pending is None or self._pending is not event:
            raise LocalProtocolError("this event does not wait for an answer")
        return self._replies_at_end() if isinstance(event, MessageEnd) else 1

    def _answer(self, event: Answerable, replies: Sequence[Reply]) -> bytes:
        if isinstance(event, DataBegun) and self._chunk is not None:
            return self._answer_chunk(self._chunk, replies[0])
        verb = _VERB_OF[type(event)]
        if isinstance(event, MessageEnd) and self._chunks is not None:
            verb = Verb.BDAT_LAST
        data = self._move(verb, *replies)  # raises before anything has changed
        self._pending = None
        match event:
            case Hello(word=word) if replies[0].outcome is Outcome.OK:
                self._greeting = word
                self._forget_transaction()
            case MailFrom(smtputf8=smtputf8, body=body) if self.state is State.MAIL:
                self._transaction = _Transaction(smtputf8=smtputf8, body=body)
            case RcptTo():
                self._count_recipient(replies[0])
            case DataBegun() if self.state is State.DATA:
                self._data = DataReader(self._new_judge())
            case MessageEnd():
                self._end_message()
            case Connected() | Hello() | MailFrom() | DataBegun():
                pass
            case _:
                assert_never(event)
        return data

    def _answer_chunk(self, chunk: _Chunk, reply: Reply) -> bytes:
        """The first BDAT of a message is wanted or not: it is answered when its octets were read."""
        match reply.outcome:
            case Outcome.CLOSE:
                self._chunk = self._pending = None
                return self._move(chunk.verb, reply)
            case Outcome.NO:
                self._chunk = None
                self._skip = _Skip(chunk, reply, chunk.octets)
            case Outcome.OK | Outcome.GO:
                self._chunks = ChunkReader(self._new_judge())
                self._chunks.begin(chunk.octets, chunk.order)
            case _:
                assert_never(reply.outcome)
        self._pending = None
        return b""

    def _new_judge(self) -> ContentJudge:
        newlines = Newlines.BINARY if self._transaction.body is BodyType.BINARY_MIME else Newlines.TEXT
        self._judge = ContentJudge(self.options.bare_newline, newlines, self.options.max_message_octets)
        return self._judge

    def _count_recipient(self, reply: Reply) -> None:
        if reply.outcome is Outcome.OK:
            self._transaction.recipients += 1
        elif reply.code >= 500:
            self._refused_recipients += 1

    def _forget_transaction(self) -> None:
        self._transaction = _Transaction()
        self._judge = self._data = self._chunks = self._chunk = None

    def _end_message(self) -> None:
        self._forget_transaction()
        self._messages += 1

    def _render(self, reply: Reply) -> bytes:
        return reply.render(
            enhanced=Extension.ENHANCED_STATUS_CODES in self.options.extensions,
            utf8=self._transaction.smtputf8,
        )

    def _move(self, verb: Verb, *replies: Reply) -> bytes:
        """Let the reply move the state, and encode it; of several, the first that closes decides, else the first."""
        decisive = next((reply for reply in replies if reply.outcome is Outcome.CLOSE), replies[0])
        self.state = next_state(self.state, verb, decisive.outcome)
        if self.state is State.CLOSED:
            self._close_reason = CloseReason.QUIT if verb is Verb.QUIT else CloseReason.REPLY
        return b"".join(self._render(reply) for reply in replies)

    def _fail(self, message: str, reply: Reply) -> RemoteProtocolError:
        self.state = State.CLOSED
        self._close_reason = CloseReason.ERROR
        return RemoteProtocolError(message, reply=reply, to_send=self._render(reply))

    def _starved(self) -> Event | Signal:
        """Nothing usable is buffered."""
        if self._input is _Input.OPEN:
            return NEED_DATA
        self.state = State.CLOSED
        self._close_reason = CloseReason.EOF
        return ConnectionClosed(CloseReason.EOF)

    # The content of a message

    def _next_data(self, reader: DataReader) -> Event | Signal:
        if data := reader.read(self._buffer):
            return MessageChunk(data)
        if reader.phase is not Phase.ENDED:
            return self._starved()
        return self._end_of_content(Verb.END_OF_DATA)

    def _next_of_chunk(self, reader: ChunkReader, chunk: _Chunk) -> Event | Signal:
        if data := reader.read(self._buffer):
            return MessageChunk(data)
        if reader.left:
            return self._starved()
        self._chunk = None
        return self._end_of_content(chunk.verb)

    def _end_of_content(self, verb: Verb) -> Event:
        """The end of the data, or of a chunk: the core refuses what is at fault, the embedder answers for the rest."""
        assert self._judge is not None
        if (reply := _FAULT_REPLIES.get(self._judge.fault)) is not None:
            return self._refuse_message(verb, reply)
        if verb is Verb.BDAT:
            return self._settle(verb, catalogue.CHUNK_OK)
        return self._ask(MessageEnd(self._judge.octets))

    def _refuse_message(self, verb: Verb, reply: Reply) -> MessageRefused:
        replies = 1 if verb is Verb.BDAT else self._replies_at_end()
        to_send = self._move(verb, *[reply] * replies)
        if verb is not Verb.BDAT:
            self._end_message()
        return MessageRefused(reply, to_send)

    def _next_skipped(self, skip: _Skip) -> Event | Signal:
        skip.left -= self._buffer.drop(skip.left)
        if skip.left:
            return self._starved()
        self._skip = None
        if is_legal(self.state, skip.chunk.verb) and skip.reply is not catalogue.NOT_OFFERED:
            return self._refuse_message(skip.chunk.verb, skip.reply)
        return self._reject(Verb.BDAT, skip.reply)

    # Commands

    def _next_command(self) -> Event | Signal:
        while (end := self._buffer.find_line_end()) is None:
            if len(self._buffer) > MAX_COMMAND_OCTETS:
                self._line = _Line.DROPPING
            if self._line is _Line.DROPPING:
                self._buffer.drop(len(self._buffer) - 1)  # the last octet may be the CR of its end
            return self._starved()
        line = self._buffer.take(end + 2)
        too_long = self._line is _Line.DROPPING or len(line) > MAX_COMMAND_OCTETS
        self._line = _Line.WHOLE
        if too_long:
            return self._reject(Verb.UNKNOWN, catalogue.LINE_TOO_LONG)
        return self._run(line[:-2])

    def _run(self, line: bytes) -> Event | Signal:
        verb = Verb.UNKNOWN
        try:
            word, rest = commands.split_line(line)
            verb = word.verb
            if verb is Verb.BDAT:
                return self._on_bdat(word, rest)
            check_order(self.state, word, self.options)
            return self._dispatch(word, rest)
        except CommandError as exc:
            return self._reject(verb, exc.reply)

    def _dispatch(self, word: commands.Word, rest: str) -> Event:
        verb = word.verb
        if verb in _BARE_VERBS and rest:
            raise CommandError(catalogue.NO_ARGUMENTS)
        match verb:
            case Verb.GREET if word.greeting is not None:
                return self._ask(Hello(word.greeting, commands.parse_greeting(rest)))
            case Verb.MAIL:
                return self._on_mail(rest)
            case Verb.RCPT:
                return self._on_rcpt(rest)
            case Verb.DATA if self._transaction.body is BodyType.BINARY_MIME:
                raise CommandError(catalogue.NEED_BDAT)
            case Verb.DATA:
                return self._ask(DataBegun(DataCommand.DATA))
            case Verb.RSET:
                to_send = self._move(verb, catalogue.RESET_OK)
                self._forget_transaction()
                return TransactionReset(to_send)
            case Verb.QUIT:
                return self._settle(verb, catalogue.BYE)
            case Verb.NOOP:
                return self._settle(verb, catalogue.OK)
            case Verb.HELP:
                return self._settle(verb, catalogue.HELP)
            case Verb.VRFY if rest:
                return self._settle(verb, catalogue.CANNOT_VERIFY)
            case Verb.VRFY:
                raise CommandError(catalogue.BAD_ARGUMENTS)
            case _:
                raise CommandError(catalogue.NOT_OFFERED)

    def _reject(self, verb: Verb, reply: Reply) -> CommandRejected:
        """Refuse a command by ourselves; too many mistakes close the session."""
        if reply.code in _BAD_COMMAND_CODES:
            self._bad_commands += 1
            limit = self.options.max_bad_commands
            if limit is not None and self._bad_commands > limit:
                reply = catalogue.TOO_MANY_BAD_COMMANDS
        elif verb is Verb.RCPT:
            self._count_recipient(reply)
        moved = Verb.UNKNOWN if reply is catalogue.NOT_OFFERED else verb  # what is not offered does nothing
        return CommandRejected(verb, reply, self._move(moved, reply))

    def _settle(self, verb: Verb, reply: Reply) -> CommandAnswered:
        return CommandAnswered(verb, reply, self._move(verb, reply))

    def _offered(self) -> frozenset[Extension]:
        """The extensions whose parameters may be used: none after HELO (RFC 5321 4.1.1.1)."""
        return frozenset() if self._greeting is GreetingWord.HELO else self.options.extensions

    def _on_mail(self, rest: str) -> Event:
        path, parameters = commands.parse_mail(rest, self._offered(), self.options.paths)
        limit = self.options.max_message_octets
        declared = parameters.declared_octets
        if limit is not None and declared is not None and declared > limit:
            raise CommandError(catalogue.MESSAGE_TOO_BIG)
        if self.options.max_messages is not None and self._messages >= self.options.max_messages:
            raise CommandError(catalogue.TOO_MANY_MESSAGES)
        return self._ask(
            MailFrom(
                path=path,
                declared_octets=declared,
                body=parameters.body,
                smtputf8=parameters.smtputf8,
                dsn_return=parameters.dsn_return,
                envelope_id=parameters.envelope_id,
            )
        )

    def _on_rcpt(self, rest: str) -> Event:
        options = self.options
        if options.max_refused_recipients is not None and self._refused_recipients >= options.max_refused_recipients:
            raise CommandError(catalogue.TOO_MANY_REFUSED_RECIPIENTS)
        smtputf8 = self._transaction.smtputf8
        path, parameters = commands.parse_rcpt(rest, self._offered(), options.paths, smtputf8=smtputf8)
        if options.max_recipients is not None and self._transaction.recipients >= options.max_recipients:
            raise CommandError(catalogue.TOO_MANY_RECIPIENTS)
        return self._ask(RcptTo(path, parameters.notify, parameters.original))

    def _on_bdat(self, word: commands.Word, rest: str) -> Event | Signal:
        """Wanted or not, the octets behind BDAT are data and no commands: a refused chunk is eaten before its reply."""
        try:
            chunk = _Chunk(*commands.parse_chunk(rest))
        except CommandError as exc:
            raise self._fail("the size of a chunk cannot be read", exc.reply) from exc
        if chunk.octets > (self.options.max_message_octets or 0) + _MAX_SKIPPED_OCTETS:
            raise self._fail("a chunk is too big to be skipped", catalogue.MESSAGE_TOO_BIG)
        if (refusal := self._refusal_of(word, chunk)) is not None:
            self._skip = _Skip(chunk, refusal, chunk.octets)
            return self._next_skipped(self._skip)
        self._chunk = chunk
        if self._chunks is None:
            return self._ask(DataBegun(DataCommand.BDAT))
        self._chunks.begin(chunk.octets, chunk.order)
        return self.next_event()

    def _refusal_of(self, word: commands.Word, chunk: _Chunk) -> Reply | None:
        try:
            check_order(self.state, word, self.options)
        except CommandError as exc:
            return exc.reply
        if self.state is State.CHUNKS_REFUSED:
            return catalogue.CHUNKS_REFUSED
        limit = self.options.max_message_octets
        octets = chunk.octets + (0 if self._judge is None else self._judge.octets)
        return catalogue.MESSAGE_TOO_BIG if limit is not None and octets > limit else None


_TRANSACTION_STATES: Final = frozenset({State.MAIL, State.RCPT, State.DATA, State.CHUNKING, State.CHUNKS_REFUSED})
_VERB_OF: Final[Mapping[type[Answerable], Verb]] = {
    Connected: Verb.CONNECT,
    Hello: Verb.GREET,
    MailFrom: Verb.MAIL,
    RcptTo: Verb.RCPT,
    DataBegun: Verb.DATA,
    MessageEnd: Verb.END_OF_DATA,
}
