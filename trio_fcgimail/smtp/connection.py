"""The server side of an SMTP or LMTP session, without any input or output of its own.

Give it what was received, take its events, answer them, and write the bytes that come out, in order::

    while True:
        match conn.next_event():
            case Signal.NEED_DATA: conn.receive_data(receive())        # b"" means end of file
            case Connected() | Hello() | ... as event: send(conn.accept(event))
            case CommandRejected(to_send=data) | ...: send(data)
            case ConnectionClosed(): break

The answer to ``StartTls`` is followed by the handshake, which is not the core's, and by ``tls_started()``.
No command is looked at before the last event was answered, so a pipelining client cannot run ahead of its embedder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, assert_never, final

from trio_fcgimail.smtp import catalogue, commands
from trio_fcgimail.smtp.buffer import MAX_COMMAND_OCTETS, Line, LineReader, ReceiveBuffer
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
from trio_fcgimail.smtp.errors import LocalProtocolError, RemoteProtocolError
from trio_fcgimail.smtp.events import (
    NEED_DATA,
    PAUSED,
    Answerable,
    Authenticate,
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
    StartTls,
    TransactionReset,
    Waiting,
    Xclient,
)
from trio_fcgimail.smtp.interpreter import (
    Ask,
    Challenge,
    EatChunk,
    Lost,
    Refuse,
    Settle,
    Situation,
    Step,
    TakeChunk,
    interpret,
    interpret_response,
)
from trio_fcgimail.smtp.offer import Offer, make_offer
from trio_fcgimail.smtp.options import Extension, RepliesAtEnd, ServerOptions, Tls
from trio_fcgimail.smtp.replies import Outcome, Reply
from trio_fcgimail.smtp.sasl import MAX_SASL_OCTETS, Login, SaslExchange
from trio_fcgimail.smtp.state import TRANSACTION_STATES, State, Verb, next_state
from trio_fcgimail.smtp.tally import BAD_COMMAND_CODES, Tally
from trio_fcgimail.smtp.transaction import Reader, Transaction


class _Input(Enum):
    OPEN = "more may come"
    ENDED = "the client has closed"


_TLS_HELLO: Final = b"\x16\x03"  # a handshake record of any version (RFC 8446 5.1); no command begins so
_FAULT_REPLIES: Final = {Fault.TOO_BIG: catalogue.MESSAGE_TOO_BIG, Fault.BARE_NEWLINE: catalogue.BARE_NEWLINE}
_HOPELESS_REPLIES: Final = {**_FAULT_REPLIES, Fault.BARE_NEWLINE: catalogue.BARE_NEWLINE_CLOSE}


@final
class ServerConnection:
    """One SMTP or LMTP session, server side (RFC 5321, RFC 2033).

    Args:
        options: dialect, extensions and limits.

    Attributes:
        options: as given.
        state: where the session is; only replies move it, and the end of a TLS handshake.
        tls: whether the connection is encrypted, as far as the embedder has told.

    After RemoteProtocolError or a closing reply ``state`` is CLOSED, and only ``ConnectionClosed`` follows.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.state = State.CONNECTED
        self.tls = options.tls
        self._offer = make_offer(options, self.tls, None)
        self._buffer = ReceiveBuffer()
        self._input = _Input.OPEN
        self._lines = LineReader()
        self._content: Reader | None = None  # what reads now; None: commands are read
        self._login = Login.NONE
        self._sasl: SaslExchange | None = None  # while in State.SASL
        self._transaction = Transaction(self.options)
        self._first_chunk: Chunk | None = None  # read once DataBegun was answered
        self._pending: Answerable | None = None
        self._close_reason = CloseReason.REPLY
        self._tally = Tally(options)

    # What the embedder asks

    @property
    def waiting_for(self) -> Waiting:
        """Which deadline applies now."""
        if self.state is State.CLOSED:
            return Waiting.NOTHING
        if self.state is State.TLS_PENDING:
            return Waiting.HANDSHAKE
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
            LocalProtocolError: data after the end of file or during a TLS handshake, or more than the buffer holds:
                read only at NEED_DATA.
        """
        if self._input is _Input.ENDED:
            raise LocalProtocolError("data after the end of file")
        if self.state is State.TLS_PENDING:
            raise LocalProtocolError("what comes now is for TLS, until tls_started()")
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
        if self._pending is not None or self.state is State.TLS_PENDING:
            return PAUSED
        if self.state is State.CONNECTED:
            return self._ask(Connected())
        return self._next_command() if self._content is None else self._next_content(self._content)

    # What the embedder answers

    def accept(self, event: Answerable, reply: Reply | None = None) -> bytes:
        """Answer the last event with 2xx (354 for DATA), by default the one that fits it; returns the bytes to write.

        Raises:
            LocalProtocolError: the event is not the one that waits, or the reply is none of acceptance.
            RemoteProtocolError: StartTls, and the client sent more in the clear behind it: write its ``to_send``
                and close.
        """
        owed = self._replies_owed(event)
        if isinstance(event, StartTls):
            self._check_nothing_follows()
        if reply is None:
            reply = default_reply(event, self.options, self._next_offer(event))
        if reply.outcome is not (Outcome.GO if isinstance(event, DataBegun) else Outcome.OK):
            raise LocalProtocolError(f"{reply.code} does not accept {type(event).__name__}")
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

        Returns the bytes to write: none during a TLS handshake, where no plain reply may go (RFC 3207 4.1).

        Raises:
            LocalProtocolError: the reply does not close, or the session is closed already.
        """
        if reply.outcome is not Outcome.CLOSE or self.state is State.CLOSED:
            raise LocalProtocolError("close() takes a 421 or 521, once")
        may_speak = self.state is not State.TLS_PENDING
        self._pending = None
        data = self._move(Verb.UNKNOWN, reply)
        return data if may_speak else b""

    def tls_started(self) -> None:
        """The TLS handshake behind STARTTLS succeeded: all that the client said before is forgotten (RFC 3207 4.2).

        Raises:
            LocalProtocolError: no handshake was under way.
        """
        self._check_tls_pending()
        self.state = next_state(self.state, Verb.TLS_HANDSHAKE, Outcome.OK)
        self.tls = Tls.ACTIVE
        self._input = _Input.OPEN
        self._begin_anew()

    def tls_failed(self) -> None:
        """The TLS handshake failed. There is nothing left to say (RFC 3207 4.1): close the connection.

        Raises:
            LocalProtocolError: no handshake was under way.
        """
        self._check_tls_pending()
        self.state = next_state(self.state, Verb.TLS_HANDSHAKE, Outcome.NO)
        self._close_reason = CloseReason.ERROR

    def _check_tls_pending(self) -> None:
        if self.state is not State.TLS_PENDING:
            raise LocalProtocolError("no TLS handshake is under way")

    def _check_nothing_follows(self) -> None:
        """Octets behind STARTTLS may be an attacker's, to be taken for the client's once TLS is on (RFC 3207 4.2)."""
        if len(self._buffer):
            raise self._fail("plaintext behind STARTTLS", catalogue.PLAINTEXT_BEHIND_STARTTLS)

    def _begin_anew(self) -> None:
        self._login = Login.NONE
        self._transaction = Transaction(self.options)
        self._offer = make_offer(self.options, self.tls, None)

    # Answers

    def _next_offer(self, event: Answerable) -> Offer:
        """What is offered once ``event`` is accepted."""
        return make_offer(self.options, self.tls, event.word) if isinstance(event, Hello) else self._offer

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
        if isinstance(event, Authenticate):
            replies = [self._tally.count_login(replies[0])]
        data = self._move(self._verb_of(event), *replies)  # raises before anything has changed
        self._pending = None
        match event:
            case Hello() if replies[0].outcome is Outcome.OK:
                self._offer = self._next_offer(event)
                self._transaction = Transaction(self.options)
            case Authenticate():
                self._sasl = None
                self._login = Login.DONE if replies[0].outcome is Outcome.OK else Login.NONE
            case Xclient(attributes=attributes) if replies[0].outcome is Outcome.OK:
                self._begin_anew()
                self._login = Login.DONE if isinstance(attributes.login, str) else Login.NONE
            case MailFrom(smtputf8=smtputf8, body=body) if self.state is State.MAIL:
                self._transaction = Transaction(self.options, smtputf8, body)
            case RcptTo():
                self._count_recipient(replies[0])
            case DataBegun() if self.state is State.DATA:
                self._content = self._transaction.read_data()
            case MessageEnd():
                self._end_message()
            case Connected() | Hello() | StartTls() | Xclient() | MailFrom() | DataBegun():
                pass
            case _:
                assert_never(event)
        return data

    def _verb_of(self, event: Answerable) -> Verb:
        match event:
            case MessageEnd() if self._transaction.chunks is not None:
                return Verb.BDAT_LAST
            case Authenticate() if self.state is State.SASL:
                return Verb.SASL_RESPONSE
            case _:
                return _VERB_OF[type(event)]

    def _answer_first_chunk(self, chunk: Chunk, reply: Reply) -> bytes:
        """The message is wanted or not; its first BDAT is answered when the octets were read (RFC 3030 2)."""
        data = b""
        if reply.outcome is Outcome.GO:
            self._content = self._transaction.read_first_chunk(chunk)
        elif reply.outcome is Outcome.CLOSE:
            data = self._move(chunk.verb, reply)
        else:
            self._content = self._transaction.skip(chunk, reply, Refused.MESSAGE)
        self._pending = self._first_chunk = None
        return data

    def _count_recipient(self, reply: Reply) -> None:
        if reply.outcome is Outcome.OK:
            self._transaction.recipients += 1
        else:
            self._tally.count_refused_recipient(reply)

    def _end_message(self) -> None:
        self._transaction = Transaction(self.options)
        self._tally.count_message()

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
        self._pending = None
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
        if self._lines.is_at_start and self._buffer.startswith(_TLS_HELLO):
            return self._reject(Verb.UNKNOWN, catalogue.NOT_SMTP)
        line = self._lines.read(self._buffer, self._max_line_octets())
        if line is None:
            return self._starved()
        return self._take(self._interpret(line) if self._sasl is None else interpret_response(line, self._sasl))

    def _interpret(self, line: Line) -> Step:
        return interpret(
            line, Situation(self.state, self.options, self._offer, self._transaction, self._tally, self._login)
        )

    def _max_line_octets(self) -> int:
        if len(self._buffer) <= MAX_COMMAND_OCTETS:
            return MAX_COMMAND_OCTETS
        begins_auth = commands.begins_auth(self._buffer.peek(commands.AUTH_WORD_OCTETS))
        return MAX_SASL_OCTETS if self._sasl is not None or begins_auth else MAX_COMMAND_OCTETS

    def _take(self, step: Step) -> Event | Signal:
        """Do what a line came to."""
        match step:
            case Ask(event=event):
                if isinstance(event, StartTls):
                    self._check_nothing_follows()
                return self._ask(event)
            case Settle(verb=Verb.RSET, reply=reply):
                to_send = self._move(Verb.RSET, reply)
                self._transaction = Transaction(self.options)
                return TransactionReset(to_send)
            case Settle(verb=verb, reply=reply):
                return self._settle(verb, reply)
            case Challenge(verb=verb, reply=reply, exchange=exchange):
                self._sasl = exchange
                return self._settle(verb, reply)
            case Refuse(verb=verb, reply=reply):
                self._sasl = None
                return self._reject(verb, reply)
            case TakeChunk(chunk=chunk):
                return self._take_chunk(chunk)
            case EatChunk(chunk=chunk, reply=reply, refused=refused):
                self._content = self._transaction.skip(chunk, reply, refused)
                return self.next_event()
            case Lost(problem=problem, reply=reply):
                raise self._fail(problem, reply)
            case _:
                assert_never(step)

    def _take_chunk(self, chunk: Chunk) -> Event | Signal:
        chunks = self._transaction.chunks
        if chunks is None:
            self._first_chunk = chunk
            return self._ask(DataBegun(DataCommand.BDAT))
        chunks.begin(chunk)
        self._content = chunks
        return self.next_event()

    def _reject(self, verb: Verb, reply: Reply) -> CommandRejected:
        """Refuse a command by ourselves; too many mistakes close the session."""
        if verb is Verb.RCPT and reply.code not in BAD_COMMAND_CODES:
            self._tally.count_refused_recipient(reply)
        reply = self._tally.count_mistake(reply)
        moving = verb if verb is Verb.SASL_RESPONSE else Verb.UNKNOWN  # which moves nothing, but may close
        return CommandRejected(verb, reply, self._move(moving, reply))

    def _settle(self, verb: Verb, reply: Reply) -> CommandAnswered:
        return CommandAnswered(verb, reply, self._move(verb, reply))


_VERB_OF: Final[Mapping[type[Answerable], Verb]] = {
    Connected: Verb.CONNECT,
    Hello: Verb.GREET,
    StartTls: Verb.STARTTLS,
    Authenticate: Verb.AUTH,
    Xclient: Verb.XCLIENT,
    MailFrom: Verb.MAIL,
    RcptTo: Verb.RCPT,
    DataBegun: Verb.DATA,
    MessageEnd: Verb.END_OF_DATA,
}
