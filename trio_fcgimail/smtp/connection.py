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
from typing import Final, assert_never, final

from trio_fcgimail.smtp import catalogue
from trio_fcgimail.smtp.content import Chunk, Refused
from trio_fcgimail.smtp.defaults import default_reply
from trio_fcgimail.smtp.errors import LocalProtocolError
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
from trio_fcgimail.smtp.intake import Intake
from trio_fcgimail.smtp.offer import Offer, make_offer
from trio_fcgimail.smtp.options import RepliesAtEnd, ServerOptions, Tls
from trio_fcgimail.smtp.replies import Outcome, Reply
from trio_fcgimail.smtp.sasl import Login
from trio_fcgimail.smtp.standing import Standing
from trio_fcgimail.smtp.state import TRANSACTION_STATES, State, Verb, next_state
from trio_fcgimail.smtp.steps import (
    Challenge,
    EatChunk,
    Lost,
    Refuse,
    RefuseMessage,
    Settle,
    Step,
    TakeChunk,
)
from trio_fcgimail.smtp.tally import BAD_COMMAND_CODES
from trio_fcgimail.smtp.transaction import Transaction


@final
class ServerConnection:
    """One SMTP or LMTP session, server side (RFC 5321, RFC 2033).

    Args:
        options: dialect, extensions and limits.

    Attributes:
        options: as given.

    After RemoteProtocolError or a closing reply ``state`` is CLOSED, and only ``ConnectionClosed`` follows.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._now = Standing(options)
        self._intake = Intake()
        self._first_chunk: Chunk | None = None  # read once DataBegun was answered
        self._pending: Answerable | None = None

    # What the embedder asks

    @property
    def state(self) -> State:
        """Where the session is; only replies move it, and the end of a TLS handshake."""
        return self._now.state

    @property
    def tls(self) -> Tls:
        """Whether the connection is encrypted, as far as the embedder has told."""
        return self._now.tls

    @property
    def waiting_for(self) -> Waiting:
        """Which deadline applies now."""
        if self._pending is None and self._now.state in _READING:
            return _COMMAND_AWAITED if self._intake.content is None else _DATA_AWAITED
        if self.state is State.CLOSED:
            return Waiting.NOTHING
        if self.state is State.TLS_PENDING:
            return Waiting.HANDSHAKE
        return Waiting.ANSWER

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
        if self._now.state is _TLS_PENDING:
            raise LocalProtocolError("what comes now is for TLS, until tls_started()")
        self._intake.append(data)

    def next_event(self) -> Event | Signal:
        """The next event, or a signal.

        Raises:
            RemoteProtocolError: the stream cannot be followed; write its ``to_send``, then close.
        """
        now = self._now
        if now.state not in _READING:
            return self._next_without_reading()
        if self._pending is not None:
            return PAUSED
        if (step := self._intake.next_step(now)) is not None:
            return self._take(step)
        if not self._intake.has_ended:
            return NEED_DATA
        now.end(CloseReason.EOF)
        return ConnectionClosed(CloseReason.EOF)

    def _next_without_reading(self) -> Event | Signal:
        if self._now.state is State.CLOSED:
            return ConnectionClosed(self._now.close_reason)
        if self._pending is None and self._now.state is State.CONNECTED:
            self._pending = Connected()
            return self._pending
        return PAUSED

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
        if reply.outcome is not (_GO if isinstance(event, DataBegun) else _OK):
            raise LocalProtocolError(f"{reply.code} does not accept {type(event).__name__}")
        return self._answer(event, (reply,) * owed)

    def reject(self, event: Answerable, reply: Reply) -> bytes:
        """Answer the last event with 4xx or 5xx; 421 and 521 close. Returns the bytes to write.

        Raises:
            LocalProtocolError: the event is not the one that waits, or the reply is one of acceptance.
        """
        if reply.outcome not in (Outcome.NO, Outcome.CLOSE):
            raise LocalProtocolError(f"{reply.code} rejects nothing")
        return self._answer(event, (reply,) * self._replies_owed(event))

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
        data = self._now.say(Verb.UNKNOWN, (reply,))
        return data if may_speak else b""

    def tls_started(self) -> None:
        """The TLS handshake behind STARTTLS succeeded: all that the client said before is forgotten (RFC 3207 4.2).

        Raises:
            LocalProtocolError: no handshake was under way.
        """
        self._end_handshake(Outcome.OK)
        self._now.tls = Tls.ACTIVE
        self._now.begin_anew()
        self._intake.reopen()

    def tls_failed(self) -> None:
        """The TLS handshake failed. There is nothing left to say (RFC 3207 4.1): close the connection.

        Raises:
            LocalProtocolError: no handshake was under way.
        """
        self._end_handshake(Outcome.NO)
        self._now.close_reason = CloseReason.ERROR

    def _end_handshake(self, outcome: Outcome) -> None:
        if self.state is not State.TLS_PENDING:
            raise LocalProtocolError("no TLS handshake is under way")
        self._now.state = next_state(State.TLS_PENDING, Verb.TLS_HANDSHAKE, outcome)

    def _check_nothing_follows(self) -> None:
        """Octets behind STARTTLS may be an attacker's, to be taken for the client's once TLS is on (RFC 3207 4.2)."""
        if not self._intake.is_empty:
            self._pending = None
            raise self._now.lose("plaintext behind STARTTLS", catalogue.PLAINTEXT_BEHIND_STARTTLS)

    # Answers

    def _next_offer(self, event: Answerable) -> Offer:
        """What is offered once ``event`` is accepted."""
        return make_offer(self.options, self.tls, event.word) if isinstance(event, Hello) else self._now.offer

    def _replies_owed(self, event: Answerable) -> int:
        if self._pending is None or self._pending is not event:
            raise LocalProtocolError("this event does not wait for an answer")
        return self._now.transaction.replies_at_end if isinstance(event, MessageEnd) else 1

    def _answer(self, event: Answerable, replies: Sequence[Reply]) -> bytes:
        now = self._now
        if self._first_chunk is not None:
            return self._answer_first_chunk(self._first_chunk, replies[0])
        if isinstance(event, Authenticate):
            replies = (now.tally.count_login(replies[0]),)
        data = now.say(self._verb_of(event), replies)  # raises before anything has changed
        self._pending = None
        match event:
            case RcptTo():
                self._count_recipient(replies[0])
            case MailFrom(smtputf8=smtputf8, body=body) if now.state is _MAIL:
                now.transaction = Transaction(self.options, smtputf8, body)
            case DataBegun() if now.state is _DATA:
                self._intake.content = now.transaction.read_data()
            case MessageEnd():
                self._end_message()
            case Hello() if replies[0].outcome is Outcome.OK:
                now.offer = self._next_offer(event)
                now.forget_mail()
            case Authenticate():
                self._intake.exchange = None
                now.login = Login.DONE if replies[0].outcome is Outcome.OK else Login.NONE
            case Xclient(attributes=attributes) if replies[0].outcome is Outcome.OK:
                now.begin_anew()
                now.login = Login.DONE if isinstance(attributes.login, str) else Login.NONE
            case Connected() | Hello() | StartTls() | Xclient() | MailFrom() | DataBegun():
                pass
            case _:
                assert_never(event)
        return data

    def _verb_of(self, event: Answerable) -> Verb:
        match event:
            case MessageEnd() if self._now.transaction.chunks is not None:
                return Verb.BDAT_LAST
            case Authenticate() if self.state is State.SASL:
                return Verb.SASL_RESPONSE
            case _:
                return _VERB_OF[type(event)]

    def _answer_first_chunk(self, chunk: Chunk, reply: Reply) -> bytes:
        """The message is wanted or not; its first BDAT is answered when the octets were read (RFC 3030 2)."""
        data = b""
        if reply.outcome is Outcome.GO:
            self._intake.content = self._now.transaction.read_first_chunk(chunk)
        elif reply.outcome is Outcome.CLOSE:
            data = self._now.say(chunk.verb, (reply,))
        else:
            self._intake.content = self._now.transaction.skip(chunk, reply, Refused.MESSAGE)
        self._pending = self._first_chunk = None
        return data

    def _count_recipient(self, reply: Reply) -> None:
        if reply.outcome is _OK:
            self._now.transaction.recipients += 1
        else:
            self._now.tally.count_refused_recipient(reply)

    def _end_message(self) -> None:
        self._now.forget_mail()
        self._now.tally.count_message()

    # What the client came with

    def _take(self, step: Step) -> Event | Signal:
        """Do what the client's octets came to."""
        match step:
            case MessageChunk():
                return step
            case MailFrom() | RcptTo() | DataBegun() | MessageEnd() | Hello() | Authenticate() | Xclient():
                self._pending = step
                return step
            case StartTls():
                self._check_nothing_follows()
                self._pending = step
                return step
            case Settle(verb=Verb.RSET, reply=reply):
                to_send = self._now.say(Verb.RSET, (reply,))
                self._now.forget_mail()
                return TransactionReset(to_send)
            case Settle(verb=verb, reply=reply):
                return self._settle(verb, reply)
            case Challenge(verb=verb, reply=reply, exchange=exchange):
                self._intake.exchange = exchange
                return self._settle(verb, reply)
            case Refuse(verb=verb, reply=reply):
                self._intake.exchange = None
                return self._reject(verb, reply)
            case TakeChunk(chunk=chunk):
                return self._take_chunk(chunk)
            case EatChunk(chunk=chunk, reply=reply, refused=refused):
                self._intake.content = self._now.transaction.skip(chunk, reply, refused)
                return self.next_event()
            case RefuseMessage(verb=verb, reply=reply):
                return self._refuse_message(verb, reply)
            case Lost(problem=problem, reply=reply):
                raise self._now.lose(problem, reply)
            case _:
                assert_never(step)

    def _take_chunk(self, chunk: Chunk) -> Event | Signal:
        chunks = self._now.transaction.chunks
        if chunks is None:
            self._first_chunk = chunk
            self._pending = DataBegun(DataCommand.BDAT)
            return self._pending
        chunks.begin(chunk)
        self._intake.content = chunks
        return self.next_event()

    def _refuse_message(self, verb: Verb, reply: Reply) -> MessageRefused:
        """A chunk is answered once, the end of a message for all who are owed a reply (RFC 2033 4.3)."""
        now = self._now
        owed = 1 if verb is Verb.BDAT else now.transaction.replies_at_end
        to_send = now.say(verb, (reply,) * owed)
        if verb is Verb.BDAT:
            now.transaction.refusal = reply
        else:
            self._end_message()
        return MessageRefused(reply, to_send)

    def _reject(self, verb: Verb, reply: Reply) -> CommandRejected:
        """Refuse a command by ourselves; too many mistakes close the session."""
        if verb is Verb.RCPT and reply.code not in BAD_COMMAND_CODES:
            self._now.tally.count_refused_recipient(reply)
        reply = self._now.tally.count_mistake(reply)
        moving = verb if verb is Verb.SASL_RESPONSE else Verb.UNKNOWN  # which moves nothing, but may close
        return CommandRejected(verb, reply, self._now.say(moving, (reply,)))

    def _settle(self, verb: Verb, reply: Reply) -> CommandAnswered:
        return CommandAnswered(verb, reply, self._now.say(verb, (reply,)))


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
_READING: Final = frozenset(State) - {State.CONNECTED, State.TLS_PENDING, State.CLOSED}
_COMMAND_AWAITED: Final = Waiting.COMMAND
_DATA_AWAITED: Final = Waiting.DATA
_TLS_PENDING: Final = State.TLS_PENDING
_MAIL: Final = State.MAIL
_DATA: Final = State.DATA
_OK: Final = Outcome.OK
_GO: Final = Outcome.GO
