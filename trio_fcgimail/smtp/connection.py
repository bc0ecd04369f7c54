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

from . import catalogue, commands
from .buffer import MAX_COMMAND_OCTETS, ReceiveBuffer
from .commands import CommandError
from .content import ContentReader, Fault, HopelessContentError, Phase
from .errors import LocalProtocolError, RemoteProtocolError
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
    Signal,
    TransactionReset,
)
from .options import Extension, GreetingWord, RepliesAtEnd, ServerOptions
from .replies import Outcome, Reply
from .state import State, Verb, is_legal, next_state

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
@dataclass(slots=True)
class _Transaction:
    """What the core itself must know of the mail under way."""

    smtputf8: bool = False
    recipients: int = 0


_BAD_SEQUENCE: Final[Mapping[tuple[State, Verb], Reply]] = {
    (State.START, Verb.MAIL): catalogue.GREET_FIRST,
    (State.START, Verb.RCPT): catalogue.GREET_FIRST,
    (State.START, Verb.DATA): catalogue.GREET_FIRST,
    (State.READY, Verb.RCPT): catalogue.NEED_MAIL,
    (State.READY, Verb.DATA): catalogue.NEED_MAIL,
    (State.MAIL, Verb.MAIL): catalogue.NESTED_MAIL,
    (State.RCPT, Verb.MAIL): catalogue.NESTED_MAIL,
    (State.MAIL, Verb.DATA): catalogue.NEED_RECIPIENTS,
}
_BAD_COMMAND_CODES: Final = frozenset({500, 501, 502, 503, 504, 555})
_BARE_VERBS: Final = frozenset({Verb.DATA, Verb.RSET, Verb.QUIT})
_NOT_OFFERED: Final = frozenset({Verb.BDAT, Verb.EXPN, Verb.STARTTLS, Verb.AUTH, Verb.XCLIENT})


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
        self._skip_octets = 0  # of a refused chunk that are still to come
        self._greeting: GreetingWord | None = None
        self._transaction = _Transaction()
        self._content: ContentReader | None = None
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
        return Waiting.DATA if self.state is State.DATA else Waiting.COMMAND

    @property
    def in_transaction(self) -> bool:
        """Whether a mail is under way: MAIL was accepted and its end was not yet answered."""
        return self.state in (State.MAIL, State.RCPT, State.DATA, State.CHUNKING)

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
        if self.state is State.DATA and self._content is not None:
            return self._next_content(self._content)
        return self._next_command()

    # What the embedder answers

    def accept(self, event: Answerable, reply: Reply | None = None) -> bytes:
        """Answer the last event with 2xx (354 for DATA), by default the one that fits it; returns the bytes to write.

        Raises:
            LocalProtocolError: the event is not the one that waits, or the reply is none of acceptance.
        """
        owed = self._replies_owed(event)
        if reply is None:
            reply = self._default_reply(event)
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
        data = self._move(_VERB_OF[type(event)], *replies)  # raises before anything has changed
        self._pending = None
        match event:
            case Hello(word=word) if replies[0].outcome is Outcome.OK:
                self._greeting = word
                self._transaction = _Transaction()
            case MailFrom(smtputf8=smtputf8) if self.state is State.MAIL:
                self._transaction = _Transaction(smtputf8=smtputf8)
            case RcptTo():
                self._count_recipient(replies[0])
            case DataBegun():
                self._content = ContentReader(self.options.bare_newline, self.options.max_message_octets)
            case MessageEnd():
                self._end_message()
            case Connected() | Hello() | MailFrom():
                pass
            case _:
                assert_never(event)
        return data

    def _count_recipient(self, reply: Reply) -> None:
        if reply.outcome is Outcome.OK:
            self._transaction.recipients += 1
        elif reply.code >= 500:
            self._refused_recipients += 1

    def _end_message(self) -> None:
        self._content = None
        self._transaction = _Transaction()
        self._messages += 1

    def _default_reply(self, event: Answerable) -> Reply:
        options = self.options
        match event:
            case Connected():
                return Reply(220, None, (f"{options.hostname} {options.dialect.banner_word}",))
            case Hello(word=GreetingWord.HELO):
                return Reply(250, None, (options.hostname,))
            case Hello():
                return Reply(250, None, (options.hostname, *self._keywords()))
            case MailFrom():
                return catalogue.SENDER_OK
            case RcptTo():
                return catalogue.RECIPIENT_OK
            case DataBegun():
                return catalogue.START_DATA
            case MessageEnd():
                return catalogue.OK
            case _:
                assert_never(event)

    def _keywords(self) -> list[str]:
        limit = self.options.max_message_octets
        size = "SIZE" if limit is None else f"SIZE {limit}"
        return [
            size if extension is Extension.SIZE else extension.value
            for extension in Extension
            if extension in self.options.extensions
        ]

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
        return RemoteProtocolError(message, reply=reply)

    def _starved(self) -> Event | Signal:
        """Nothing usable is buffered."""
        if self._input is _Input.OPEN:
            return NEED_DATA
        self.state = State.CLOSED
        self._close_reason = CloseReason.EOF
        return ConnectionClosed(CloseReason.EOF)

    # The data of a message

    def _next_content(self, content: ContentReader) -> Event | Signal:
        try:
            if data := content.read(self._buffer):
                return MessageChunk(data)
        except HopelessContentError as exc:
            reply = catalogue.BARE_NEWLINE_CLOSE if exc.fault is Fault.BARE_NEWLINE else catalogue.MESSAGE_TOO_BIG
            raise self._fail(exc.fault.value, reply) from exc
        if content.phase is not Phase.ENDED:
            return self._starved()
        match content.fault:
            case Fault.NONE:
                return self._ask(MessageEnd(content.octets))
            case Fault.TOO_BIG:
                reply = catalogue.MESSAGE_TOO_BIG
            case Fault.BARE_NEWLINE:
                reply = catalogue.BARE_NEWLINE
            case _:
                assert_never(content.fault)
        to_send = self._move(Verb.END_OF_DATA, *[reply] * self._replies_at_end())
        self._end_message()
        return MessageRefused(reply, to_send)

    # Commands

    def _next_command(self) -> Event | Signal:
        if self._skip_octets:
            self._skip_octets -= self._buffer.drop(self._skip_octets)
            if self._skip_octets:
                return self._starved()
            return self._reject(Verb.BDAT, self._refusal_of_bdat())
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
            self._check_order(word)
            return self._dispatch(word, rest)
        except CommandError as exc:
            return self._reject(verb, exc.reply)

    def _dispatch(self, word: commands.Word, rest: str) -> Event | Signal:
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
            case Verb.DATA:
                return self._ask(DataBegun())
            case Verb.BDAT:
                return self._on_bdat(rest)
            case Verb.RSET:
                to_send = self._move(verb, catalogue.RESET_OK)
                self._transaction = _Transaction()
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

    def _check_order(self, word: commands.Word) -> None:
        """Refuse what is unknown, not offered or out of place, in this order."""
        greetings = self.options.dialect.greetings
        unknown = word.verb is Verb.UNKNOWN or (word.greeting is not None and word.greeting not in greetings)
        if self.state is State.REFUSED and word.verb not in (Verb.QUIT, Verb.BDAT):
            raise CommandError(catalogue.NO_SERVICE_HERE)
        if unknown:
            raise CommandError(catalogue.UNKNOWN_COMMAND)
        if word.verb not in _NOT_OFFERED and not is_legal(self.state, word.verb):
            raise CommandError(_BAD_SEQUENCE.get((self.state, word.verb), catalogue.BAD_SEQUENCE))

    def _reject(self, verb: Verb, reply: Reply) -> CommandRejected:
        """Refuse a command by ourselves; too many mistakes close the session."""
        if reply.code in _BAD_COMMAND_CODES:
            self._bad_commands += 1
            limit = self.options.max_bad_commands
            if limit is not None and self._bad_commands > limit:
                reply = catalogue.TOO_MANY_BAD_COMMANDS
        elif verb is Verb.RCPT:
            self._count_recipient(reply)
        return CommandRejected(verb, reply, self._move(verb, reply))

    def _settle(self, verb: Verb, reply: Reply) -> CommandAnswered:
        return CommandAnswered(verb, reply, self._move(verb, reply))

    def _on_mail(self, rest: str) -> Event:
        offered = frozenset[Extension]() if self._greeting is GreetingWord.HELO else self.options.extensions
        path, parameters = commands.parse_mail(rest, offered)
        limit = self.options.max_message_octets
        declared = parameters.declared_octets
        if limit is not None and declared is not None and declared > limit:
            raise CommandError(catalogue.MESSAGE_TOO_BIG)
        if self.options.max_messages is not None and self._messages >= self.options.max_messages:
            raise CommandError(catalogue.TOO_MANY_MESSAGES)
        return self._ask(
            MailFrom(path=path, declared_octets=declared, body=parameters.body, smtputf8=parameters.smtputf8)
        )

    def _on_rcpt(self, rest: str) -> Event:
        options = self.options
        if options.max_refused_recipients is not None and self._refused_recipients >= options.max_refused_recipients:
            raise CommandError(catalogue.TOO_MANY_REFUSED_RECIPIENTS)
        path = commands.parse_rcpt(rest, smtputf8=self._transaction.smtputf8)
        if options.max_recipients is not None and self._transaction.recipients >= options.max_recipients:
            raise CommandError(catalogue.TOO_MANY_RECIPIENTS)
        return self._ask(RcptTo(path))

    def _on_bdat(self, rest: str) -> Event | Signal:
        """Not offered, yet its octets are data and never commands: they are eaten before the 502 (RFC 3030 2)."""
        try:
            octets = commands.parse_chunk_octets(rest)
        except CommandError as exc:
            raise self._fail("the size of a chunk cannot be read", exc.reply) from exc
        if octets > (self.options.max_message_octets or 0) + _MAX_SKIPPED_OCTETS:
            raise self._fail("a chunk is too big to be skipped", catalogue.MESSAGE_TOO_BIG)
        if not octets:
            raise CommandError(self._refusal_of_bdat())
        self._skip_octets = octets
        return self._next_command()

    def _refusal_of_bdat(self) -> Reply:
        return catalogue.NO_SERVICE_HERE if self.state is State.REFUSED else catalogue.NOT_OFFERED


_VERB_OF: Final[Mapping[type[Answerable], Verb]] = {
    Connected: Verb.CONNECT,
    Hello: Verb.GREET,
    MailFrom: Verb.MAIL,
    RcptTo: Verb.RCPT,
    DataBegun: Verb.DATA,
    MessageEnd: Verb.END_OF_DATA,
}
