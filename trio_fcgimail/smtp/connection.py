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
from enum import Enum
from typing import Final, assert_never, final

from trio_fcgimail.smtp import catalogue, commands
from trio_fcgimail.smtp.buffer import Length, Line, LineReader, ReceiveBuffer
from trio_fcgimail.smtp.content import (
    Chunk,
    ChunkReader,
    ChunkSkipper,
    ContentJudge,
    DataReader,
    Fault,
    HopelessContentError,
    Refused,
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
    Waiting,
)
from trio_fcgimail.smtp.options import Extension, GreetingWord, RepliesAtEnd, ServerOptions
from trio_fcgimail.smtp.order import check_order
from trio_fcgimail.smtp.parameters import BodyType
from trio_fcgimail.smtp.replies import Outcome, Reply
from trio_fcgimail.smtp.state import TRANSACTION_STATES, State, Verb, next_state
from trio_fcgimail.smtp.transaction import Reader, Transaction


class _Input(Enum):
    OPEN = "more may come"
    ENDED = "the client has closed"


_BAD_COMMAND_CODES: Final = frozenset({500, 501, 502, 503, 504, 555})
_BARE_VERBS: Final = frozenset({Verb.DATA, Verb.RSET, Verb.QUIT})
_FAULT_REPLIES: Final = {Fault.TOO_BIG: catalogue.MESSAGE_TOO_BIG, Fault.BARE_NEWLINE: catalogue.BARE_NEWLINE}
_HOPELESS_REPLIES: Final = {**_FAULT_REPLIES, Fault.BARE_NEWLINE: catalogue.BARE_NEWLINE_CLOSE}


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
        self._lines = LineReader()
        self._content: Reader | None = None  # what reads now; None: commands are read
        self._greeting: GreetingWord | None = None
        self._transaction = Transaction(self.options)
        self._first_chunk: Chunk | None = None  # read once DataBegun was answered
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
        return Waiting.COMMAND if self._content is None else Waiting.DATA

    @property
    def in_transaction(self) -> bool:
        """Whether a mail is under way: MAIL was accepted and its end was not yet answered."""
        return self.state in TRANSACTION_STATES

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
            RemoteProtocolError: the stream cannot be followed; write its ``to_send``, then close.
        """
        if self.state is State.CLOSED:
            return ConnectionClosed(self._close_reason)
        if self._pending is not None:
            return PAUSED
        if self.state is State.CONNECTED:
            return self._ask(Connected())
        return self._next_command() if self._content is None else self._next_content(self._content)

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

    def _replies_owed(self, event: Answerable) -> int:
        if self._pending is None or self._pending is not event:
            raise LocalProtocolError("this event does not wait for an answer")
        return self._transaction.replies_at_end if isinstance(event, MessageEnd) else 1

    def _answer(self, event: Answerable, replies: Sequence[Reply]) -> bytes:
        if isinstance(event, DataBegun) and self._first_chunk is not None:
            return self._answer_first_chunk(self._first_chunk, replies[0])
        verb = _VERB_OF[type(event)]
        if isinstance(event, MessageEnd) and self._transaction.chunks is not None:
            verb = Verb.BDAT_LAST
        data = self._move(verb, *replies)  # raises before anything has changed
        self._pending = None
        match event:
            case Hello(word=word) if replies[0].outcome is Outcome.OK:
                self._greeting = word
                self._transaction = Transaction(self.options)
            case MailFrom(smtputf8=smtputf8, body=body) if self.state is State.MAIL:
                self._transaction = Transaction(self.options, smtputf8, body)
            case RcptTo():
                self._count_recipient(replies[0])
            case DataBegun() if self.state is State.DATA:
                self._content = self._transaction.read_data()
            case MessageEnd():
                self._end_message()
            case Connected() | Hello() | MailFrom() | DataBegun():
                pass
            case _:
                assert_never(event)
        return data

    def _answer_first_chunk(self, chunk: Chunk, reply: Reply) -> bytes:
        """The message is wanted or not; its first BDAT is answered when the octets were read (RFC 3030 2)."""
        data = b""
        match reply.outcome:
            case Outcome.GO:
                self._content = self._transaction.read_first_chunk(chunk)
            case Outcome.OK:
                raise LocalProtocolError(f"{reply.code} answers no DataBegun")
            case Outcome.NO:
                self._content = self._transaction.skip(chunk, reply, Refused.MESSAGE)
            case Outcome.CLOSE:
                data = self._move(chunk.verb, reply)
            case _:
                assert_never(reply.outcome)
        self._pending = self._first_chunk = None
        return data

    def _count_recipient(self, reply: Reply) -> None:
        if reply.outcome is Outcome.OK:
            self._transaction.recipients += 1
        elif reply.code >= 500:
            self._refused_recipients += 1

    def _end_message(self) -> None:
        self._transaction = Transaction(self.options)
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

    def _next_content(self, content: Reader) -> Event | Signal:
        try:
            if data := content.read(self._buffer):
                return MessageChunk(data)
        except HopelessContentError as exc:
            raise self._fail(exc.fault.value, _HOPELESS_REPLIES[exc.fault]) from exc
        if not content.ended:
            return self._starved()
        self._content = None
        match content:
            case DataReader(judge=judge):
                return self._end_of_content(Verb.END_OF_DATA, judge)
            case ChunkReader(chunk=chunk, judge=judge):
                return self._end_of_content(chunk.verb, judge)
            case ChunkSkipper(refused=Refused.COMMAND, reply=reply):
                return self._reject(Verb.BDAT, reply)
            case ChunkSkipper(chunk=chunk, reply=reply):
                return self._refuse_message(chunk.verb, reply)
            case _:
                assert_never(content)

    def _end_of_content(self, verb: Verb, judge: ContentJudge) -> Event:
        """The end of the data, or of a chunk: the core refuses what is at fault, the embedder answers for the rest."""
        if (reply := _FAULT_REPLIES.get(judge.fault)) is not None:
            return self._refuse_message(verb, reply)
        if verb is Verb.BDAT:
            return self._settle(verb, catalogue.CHUNK_OK)
        return self._ask(MessageEnd(judge.octets))

    def _refuse_message(self, verb: Verb, reply: Reply) -> MessageRefused:
        owed = 1 if verb is Verb.BDAT else self._transaction.replies_at_end
        to_send = self._move(verb, *[reply] * owed)
        if verb is Verb.BDAT:
            self._transaction.refusal = reply
        else:
            self._end_message()
        return MessageRefused(reply, to_send)

    # Commands

    def _next_command(self) -> Event | Signal:
        line = self._lines.read(self._buffer)
        return self._starved() if line is None else self._run(line)

    def _run(self, line: Line) -> Event | Signal:
        verb = Verb.UNKNOWN
        try:
            if line.length is Length.TOO_LONG:
                raise CommandError(catalogue.LINE_TOO_LONG)
            word, rest = commands.split_line(line.octets)
            verb = word.verb
            if verb is Verb.BDAT:
                return self._on_bdat(word, rest)
            check_order(self.state, word, self.options.dialect, self._offered())
            return self._dispatch(word, rest)
        except CommandError as exc:
            if verb is Verb.UNKNOWN and commands.announces_chunk(line.octets):
                raise self._fail("a BDAT cannot be read", exc.reply) from exc
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
                self._transaction = Transaction(self.options)
                return TransactionReset(to_send)
            case Verb.QUIT:
                return self._settle(verb, catalogue.BYE)
            case Verb.NOOP:
                return self._settle(verb, catalogue.OK)
            case Verb.HELP:
                return self._settle(verb, catalogue.HELP)
            case Verb.VRFY if rest:
                return self._settle(verb, catalogue.CANNOT_VERIFY)
            case _:  # VRFY without a name: check_order lets no other verb pass
                raise CommandError(catalogue.BAD_ARGUMENTS)

    def _reject(self, verb: Verb, reply: Reply) -> CommandRejected:
        """Refuse a command by ourselves; too many mistakes close the session."""
        if reply.code in _BAD_COMMAND_CODES:
            self._bad_commands += 1
            limit = self.options.max_bad_commands
            if limit is not None and self._bad_commands > limit:
                reply = catalogue.TOO_MANY_BAD_COMMANDS
        elif verb is Verb.RCPT:
            self._count_recipient(reply)
        return CommandRejected(verb, reply, self._move(Verb.UNKNOWN, reply))  # which moves nothing, but may close

    def _settle(self, verb: Verb, reply: Reply) -> CommandAnswered:
        return CommandAnswered(verb, reply, self._move(verb, reply))

    def _offered(self) -> frozenset[Extension]:
        """The extensions that may be used: none after HELO (RFC 5321 4.1.1.1)."""
        return frozenset() if self._greeting is GreetingWord.HELO else self.options.extensions

    def _on_mail(self, rest: str) -> Event:
        event = commands.parse_mail(rest, self._offered(), self.options.paths)
        limit = self.options.max_message_octets
        if limit is not None and event.declared_octets is not None and event.declared_octets > limit:
            raise CommandError(catalogue.MESSAGE_TOO_BIG)
        if self.options.max_messages is not None and self._messages >= self.options.max_messages:
            raise CommandError(catalogue.TOO_MANY_MESSAGES)
        return self._ask(event)

    def _on_rcpt(self, rest: str) -> Event:
        options = self.options
        if options.max_refused_recipients is not None and self._refused_recipients >= options.max_refused_recipients:
            raise CommandError(catalogue.TOO_MANY_REFUSED_RECIPIENTS)
        event = commands.parse_rcpt(rest, self._offered(), options.paths, smtputf8=self._transaction.smtputf8)
        if options.max_recipients is not None and self._transaction.recipients >= options.max_recipients:
            raise CommandError(catalogue.TOO_MANY_RECIPIENTS)
        return self._ask(event)

    def _on_bdat(self, word: commands.Word, rest: str) -> Event | Signal:
        """Wanted or not, the octets behind BDAT are data and no commands: a refused chunk is eaten before its reply."""
        try:
            chunk = commands.parse_chunk(rest)
        except CommandError as exc:
            raise self._fail("the size of a chunk cannot be read", exc.reply) from exc
        try:
            check_order(self.state, word, self.options.dialect, self._offered())
        except CommandError as exc:
            self._content = self._transaction.skip(chunk, exc.reply, Refused.COMMAND)
            return self.next_event()
        if (refusal := self._transaction.refusal_of(chunk)) is not None:
            self._content = self._transaction.skip(chunk, refusal, Refused.MESSAGE)
        elif (chunks := self._transaction.chunks) is not None:
            chunks.begin(chunk)
            self._content = chunks
        else:
            self._first_chunk = chunk
            return self._ask(DataBegun(DataCommand.BDAT))
        return self.next_event()


_VERB_OF: Final[Mapping[type[Answerable], Verb]] = {
    Connected: Verb.CONNECT,
    Hello: Verb.GREET,
    MailFrom: Verb.MAIL,
    RcptTo: Verb.RCPT,
    DataBegun: Verb.DATA,
    MessageEnd: Verb.END_OF_DATA,
}
