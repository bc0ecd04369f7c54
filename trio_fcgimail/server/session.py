"""One connection: the SMTP core on one side, a stream and the scripts on the other.

The core decides what is legal, the settings and the scripts what is wanted; here is only who waits for what, and for
how long. Every wait has a deadline that is named in the settings.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import replace
from enum import Enum
from typing import Final, assert_never, final

import structlog.typing
import trio

from trio_fcgimail import smtp
from trio_fcgimail.config import TlsMode
from trio_fcgimail.mail import DsnWish, Envelope, Peer
from trio_fcgimail.mail import Session as SessionFacts
from trio_fcgimail.server.effort import (
    CONNECTION_SECONDS,
    EVENT_SECONDS,
    HANDSHAKE_SECONDS,
    OCTET_SECONDS,
    QUESTION_SECONDS,
    TURN_OCTETS,
    Effort,
)
from trio_fcgimail.server.entrance import Entrance
from trio_fcgimail.server.gateway import Gateway
from trio_fcgimail.server.ledger import Place, Rate
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.log import ConnectionEnd, log_connection
from trio_fcgimail.server.metrics import CommandEar
from trio_fcgimail.server.outlet import GOODBYE_SECONDS, ClientGoneError, Outlet, close_politely
from trio_fcgimail.server.pace import DataPace
from trio_fcgimail.server.policy import Policy
from trio_fcgimail.server.tls import HandshakeError, HandshakeTimeoutError, start_tls
from trio_fcgimail.server.transaction import MailTransaction
from trio_fcgimail.server.visitor import Claim, Visitor, closing, introduced, log_introduction, options_for
from trio_fcgimail.server.wire import close, wire_over
from trio_fcgimail.smtp import Reply, catalogue

DRAIN_IDLE_SECONDS: Final = 5.0  # how long a client may be silent between two mails once its session is to end
# Ours: one command takes some 20 µs. A client may have sent thousands of them at once, and what answers them without a
# script waits for nothing, so that all other sessions would wait for it.
_EVENTS_IN_TURN: Final = 32
_EVENTS_IN_BEGINNING: Final = 3  # a greeting and a MAIL cost as much more
_EVENTS_IN_QUESTION: Final = round(QUESTION_SECONDS / EVENT_SECONDS)


class Drain(Enum):
    """Why, and how soon, a session is to end between two mails."""

    NO = "it is not"
    RETIRING = "others serve from now on: once its first transaction is over"
    STOPPING = "nobody does: at its next command"


@final
class Session:
    """Serves one client until it or we close.

    Args:
        stream: owned from here on.
        visitor: who is there.
        entrance: the listener that it came by.
        gateway: what all sessions share.
        place: what it takes up of the limits; whoever made it gives it back.
        refusal: greet with this instead of 220; None to serve.
    """

    # Slots: an idle connection is little else than this object, and a dictionary of so many names takes 1.5 KB.
    __slots__ = (
        "_began",
        "_claim",
        "_client",
        "_command_due",
        "_conn",
        "_drain",
        "_ear",
        "_effort",
        "_entrance",
        "_events_in_turn",
        "_facts",
        "_gateway",
        "_idle_seconds",
        "_limits",
        "_log",
        "_mail",
        "_mails",
        "_octets",
        "_octets_in_turn",
        "_outlet",
        "_pace",
        "_place",
        "_policy",
        "_reason",
        "_refusal",
        "_scope",
        "_stream",
        "_transactions",
        "_transport",
        "_via",
        "_visitor",
        "_wire",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        visitor: Visitor,
        entrance: Entrance,
        gateway: Gateway,
        place: Place,
        refusal: Reply | None = None,
    ) -> None:
        self._transport = stream
        self._stream = stream  # which TLS goes around
        self._entrance = entrance
        self._gateway = gateway
        self._limits = gateway.settings.limits
        self._refusal = refusal
        self._visitor = visitor
        self._place = place
        self._client = visitor.peer.ip or "unix"  # as the log has it, and so the next one
        self._via = "" if visitor.via is None else visitor.via.ip or "unix"
        self._log: structlog.typing.FilteringBoundLogger = gateway.log.bind(peer=self._client)
        if self._via:
            self._log = self._log.bind(via=self._via)
        self._policy = Policy(entrance, gateway, self._log)
        self._conn = smtp.ServerConnection(options_for(visitor, entrance, self._limits))
        self._idle_seconds = entrance.settings.idle_seconds or self._limits.idle_seconds
        self._wire = wire_over(stream, gateway.alarms)
        self._ear = CommandEar(gateway.counts)
        self._outlet = Outlet(self._wire, self._idle_seconds, gateway.counts)
        self._facts = SessionFacts(
            visitor.peer, dialect=entrance.options.dialect, tls=visitor.tls, hostname=entrance.options.hostname
        )
        self._claim = Claim()
        self._mail: MailTransaction | None = None  # under way
        self._pace: DataPace | None = None
        self._drain = Drain.NO
        self._transactions = 0  # that came to their end
        self._began = trio.current_time()
        self._mails = 0  # that were judged
        self._octets = 0  # received
        self._reason = "cut"  # why it ended, until something else is known
        self._scope = trio.CancelScope()
        self._effort = Effort(gateway.efforts, place.metered, CONNECTION_SECONDS)  # which the doorman has accounted for
        self._octets_in_turn = 0
        self._events_in_turn = 0  # since others were last sure to have had theirs
        self._command_due: float | None = None  # while a command is waited for

    # From outside

    @property
    def peer(self) -> Peer:
        """Who was let in; whom a proxy speaks for by XCLIENT is not asked."""
        return self._visitor.peer

    @property
    def is_over(self) -> bool:
        """Whether all has been said, and only the client's own close is awaited."""
        return self._conn.state is smtp.State.CLOSED and self._outlet.is_empty

    def drain(self, drain: Drain) -> None:
        """End the session between two transactions, with 421; a transaction under way goes on."""
        self._drain = drain
        if self._is_to_end:
            self._wire.hasten(self._latest_end())

    def _latest_end(self) -> float:
        """Until when a client that says nothing is waited for, once its session is to end: not at all if for us."""
        patience = 0 if self._conn.state is smtp.State.CONNECTED else DRAIN_IDLE_SECONDS
        return trio.current_time() + patience

    @property
    def _is_to_end(self) -> bool:
        match self._drain:
            case Drain.NO:
                return False
            case Drain.RETIRING:
                return self._transactions > 0 and not self._conn.in_transaction
            case Drain.STOPPING:
                return not self._conn.in_transaction
            case _:
                assert_never(self._drain)

    def cut(self) -> None:
        """End the session now, with 421; a sender who waits for a verdict is told 451 first."""
        if self._mail is not None:
            self._mail.cut()
        self._scope.cancel()

    async def run(self) -> None:
        """Serve the client, in a cancel scope of its own. Its faults end here; ours are logged, and 421 to it."""
        with self._scope:
            await self._run()

    async def _run(self) -> None:
        try:
            if self._entrance.settings.tls is TlsMode.IMPLICIT:
                await self._start_tls()
            await self._converse()
        except HandshakeError as exc:
            if isinstance(exc, HandshakeTimeoutError):
                self._gateway.hits.count(Limit.TLS_HANDSHAKE_SECONDS)
            self._reason = "no TLS"
            self._log.info("no TLS", problem=str(exc))
        except ClientGoneError:
            self._reason = "the client does not read"
            self._log.info("client gone", state=self._conn.state.name)
        except Exception:  # noqa: BLE001 - whatever it is, it must not touch another session
            self._reason = "a fault of ours"
            self._log.exception("session failed", state=self._conn.state.name)
            await self._say_goodbye(catalogue.LOCAL_ERROR_CLOSING)
        except BaseException:  # cancelled, alone or in a group: the server stops
            await self._say_goodbye(catalogue.SHUTTING_DOWN)
            raise
        finally:
            self._forget_mail()
            self._wire.release()
            await close(self._transport)
            if self._refusal is None:  # else a line tells of that already
                self._tell_end()

    def _tell_end(self) -> None:
        end = ConnectionEnd(
            facts=self._facts,
            listener=self._entrance.settings.address,
            mails=self._mails,
            octets=self._octets,
            seconds=trio.current_time() - self._began,
            reason=self._reason,
        )
        log_connection(self._log, end)

    # The conversation

    async def _converse(self) -> None:
        while True:
            try:
                event = self._conn.next_event()
                if isinstance(event, smtp.Signal):
                    assert event is smtp.Signal.NEED_DATA, "nothing that waits for an answer is left without one here"
                    await self._receive()
                elif isinstance(event, smtp.ConnectionClosed):
                    self._reason = event.reason.value
                    break
                else:
                    if self._outlet.is_due:
                        await self._outlet.flush()
                        self._outlet.begin_gathering(trio.current_time())
                    self._command_due = None
                    self._ear.hear(event)
                    await self._handle(event)
            except smtp.RemoteProtocolError as exc:
                self._reason = smtp.CloseReason.ERROR.value
                self._note(exc.reply)
                self._log.info("client not understood", problem=str(exc), reply=exc.reply.text)
                self._outlet.say(exc.to_send)
                break
            self._events_in_turn += 1
            if self._events_in_turn > _EVENTS_IN_TURN:
                await trio.sleep(self._account())  # at least, let others have their turns
        await self._outlet.flush()
        await self._leave()

    def _account(self) -> float:
        """Put what was done to the client's account; how long it has to wait, if it has us work for nothing."""
        cost = self._events_in_turn * EVENT_SECONDS + self._octets_in_turn * OCTET_SECONDS
        self._events_in_turn = self._octets_in_turn = 0
        return self._effort.spend(cost)

    async def _handle(self, event: smtp.Event) -> None:
        match event:  # what each mail brings first: the order is that of looking
            case smtp.RcptTo():
                await self._take_recipient(event)
            case smtp.MessageChunk(data=data):
                await self._transaction().take(data)
            case smtp.MessageEnd():
                await self._end(event)
            case smtp.DataBegun():
                await self._transaction().begin_data()
                self._outlet.say(self._conn.accept(event))
            case (
                smtp.MailFrom()
                | smtp.Connected()
                | smtp.Hello()
                | smtp.StartTls()
                | smtp.Authenticate()
                | smtp.Xclient()
            ) if self._drain is not Drain.NO and self._is_to_end:
                self._answer(event, catalogue.SHUTTING_DOWN)
            case smtp.MailFrom():
                await self._begin(event)
            case smtp.Connected():
                await self._greet(event)
            case smtp.Hello():
                await self._hear_greeting(event)
            case smtp.StartTls():
                self._outlet.say(self._conn.accept(event))
                await self._start_tls()
                self._conn.tls_started()
            case smtp.Authenticate():
                await self._authenticate(event)
            case smtp.Xclient():
                await self._be_introduced(event)
            case smtp.MessageRefused(reply=reply, to_send=to_send):
                self._note(reply)
                if self._mail is not None:  # of further chunks nobody is told
                    self._mail.refused(reply)
                self._forget_mail()
                self._outlet.say(to_send)
            case smtp.TransactionReset(to_send=to_send):
                self._forget_mail()
                self._outlet.say(to_send)
            case smtp.CommandAnswered() if self._is_to_end and self._conn.state is not smtp.State.CLOSED:
                self._close(catalogue.SHUTTING_DOWN)  # instead of the 250 to NOOP, which was not said yet
            case smtp.CommandAnswered(to_send=to_send):
                self._outlet.say(to_send)
            case smtp.CommandRejected(verb=verb, reply=reply, to_send=to_send):
                self._note(reply)
                self._log.debug("command refused", verb=verb.name, reply=reply.text)
                self._outlet.say(to_send)
            case smtp.ConnectionClosed():
                raise AssertionError(f"{event} is not for here")
            case _:
                assert_never(event)

    def _answer(self, event: smtp.Answerable, reply: Reply | None = None) -> None:
        """Accept with the default reply or another one, or reject, as the reply says."""
        if reply is None or reply.outcome is smtp.Outcome.OK:
            self._outlet.say(self._conn.accept(event, reply))
        else:
            self._note(reply)
            self._outlet.say(self._conn.reject(event, reply))

    def _note(self, reply: Reply) -> None:
        """Count and tell a refusal when it comes from a limit."""
        limit = self._gateway.hits.count_reply(reply)
        if limit is not None:
            self._log.info("over a limit", queue_id=self._queue_id, limit=limit.value, reply=reply.text)

    async def _greet(self, event: smtp.Connected) -> None:
        refusal = self._refusal or await self._pause()
        if refusal is None:
            reply = await self._policy.connection(self._facts)
            self._answer(event, None if reply.outcome is smtp.Outcome.OK else reply)
        else:
            self._gateway.hits.count_reply(refusal)
            self._log.info("connection refused", reply=refusal.text)
            self._outlet.say(self._conn.reject(event, refusal))

    async def _pause(self) -> Reply | None:
        """Keep silent for a while: who talks into it does not listen either (RFC 5321 3.1)."""
        seconds = self._limits.banner_delay_seconds
        if not seconds:
            return None
        due = self._latest_end() if self._is_to_end else trio.current_time() + seconds
        data = b""
        with suppress(trio.TooSlowError, trio.BrokenResourceError):  # what is broken is noticed when it is greeted
            data = await self._wire.receive(due)
        if self._is_to_end:
            return catalogue.SHUTTING_DOWN
        return catalogue.TALKED_TOO_EARLY if data else None

    async def _be_introduced(self, event: smtp.Xclient) -> None:
        """A proxy says for whom it speaks: all begins anew for that client, as if it had just connected."""
        log_introduction(self._log, event.attributes)
        self._facts, self._claim = introduced(self._facts, event.attributes), self._claim.adopt(event.attributes)
        self._forget_mail()
        self._client, self._via = self._facts.peer.ip or "unknown", self._visitor.peer.ip or "unix"
        self._log = self._log.bind(peer=self._client, via=self._via)
        self._policy = Policy(self._entrance, self._gateway, self._log)
        refusal = await self._place.stand_for(self._facts.peer.ip)
        self._effort = Effort(self._gateway.efforts, self._place.metered)
        reply = refusal or await self._policy.connection(self._facts)
        self._answer(event, None if reply.outcome is smtp.Outcome.OK else closing(reply))

    async def _hear_greeting(self, event: smtp.Hello) -> None:
        self._events_in_turn += _EVENTS_IN_BEGINNING
        facts = self._claim.apply(self._facts, event)
        reply = await self._policy.greeting(facts)
        if reply.outcome is not smtp.Outcome.OK:
            self._answer(event, reply)
            return
        self._facts = facts
        self._forget_mail()
        self._answer(event)

    async def _start_tls(self) -> None:
        """Encrypt, and forget what was said in the clear (RFC 3207 4.2). Raises HandshakeError."""
        context = self._entrance.context
        assert context is not None, "the settings let no listener offer TLS without a certificate"
        await self._outlet.flush()
        self._outlet.tear()
        if (due := self._effort.spend(HANDSHAKE_SECONDS)) > 0:
            await trio.sleep(due)
        seconds = self._limits.tls_handshake_seconds
        with self._gateway.handshakes.one_more() if self._refusal is None else nullcontext(trio.CancelScope()) as scope:
            self._stream, tls = await start_tls(self._transport, context, seconds=seconds, scope=scope)
        self._wire.release()
        self._wire = wire_over(self._stream, self._gateway.alarms)
        self._outlet.use(self._wire)
        self._forget_mail()
        self._claim = Claim()
        facts = self._facts
        self._facts = SessionFacts(
            facts.peer, dialect=facts.dialect, tls=self._visitor.tls or tls, hostname=facts.hostname
        )

    async def _authenticate(self, event: smtp.Authenticate) -> None:
        reply = await self._policy.login(self._facts, event.credentials)
        if reply.outcome is smtp.Outcome.OK:
            self._facts = replace(self._facts, auth_user=event.credentials.username)
        self._answer(event, reply)
        if reply.code == catalogue.BAD_CREDENTIALS.code and self._conn.state is smtp.State.CLOSED:
            self._gateway.hits.count(Limit.FAILED_LOGINS)

    # A transaction

    @property
    def _queue_id(self) -> str:
        return "" if self._mail is None else self._mail.draft.queue_id

    async def _begin(self, event: smtp.MailFrom) -> None:
        if (refusal := await self._place.count(Rate.MESSAGES)) is not None:
            self._answer(event, refusal)
            return
        self._events_in_turn += _EVENTS_IN_BEGINNING
        envelope = Envelope(
            queue_id=self._gateway.queue_id(),
            session=self._facts,
            mail_from=event.path,
            body_type=event.body,
            smtputf8=event.smtputf8,
            dsn_return=event.dsn_return,
            envelope_id=event.envelope_id,
            require_tls=event.require_tls,
        )
        reply = await self._policy.sender(envelope)
        if reply.outcome is smtp.Outcome.OK:
            self._mail = MailTransaction(envelope, self._gateway, self._log, client=self._client, via=self._via)
        self._answer(event, reply)

    async def _take_recipient(self, event: smtp.RcptTo) -> None:
        if (refusal := await self._place.count(Rate.RECIPIENTS)) is not None:
            self._answer(event, refusal)
            return
        self._events_in_turn += _EVENTS_IN_QUESTION
        wish = DsnWish(event.notify, event.original)
        self._answer(event, await self._policy.recipient(self._transaction().draft, event.path, wish))

    def _transaction(self) -> MailTransaction:
        assert self._mail is not None, "the core lets nothing of a transaction pass before MAIL"
        return self._mail

    async def _end(self, event: smtp.MessageEnd) -> None:
        """The final dot: nothing is ours before the script has said so."""
        await self._outlet.flush()
        replies = await self._transaction().settle(event.octets)
        self._effort.redeem()
        self._forget_mail()
        if self._conn.options.dialect.replies_at_end is smtp.RepliesAtEnd.EACH:
            self._outlet.say(self._conn.reply_each(event, replies))
        else:
            self._answer(event, replies[0])

    def _forget_mail(self) -> None:
        if self._mail is not None:
            self._transactions += 1
            self._mails += self._mail.told
            self._mail.close()
            self._mail = None
        self._pace = None

    # The stream

    async def _receive(self) -> None:
        """Wait for the client, under the deadline of what the core waits for."""
        if not self._outlet.is_empty:
            await self._outlet.flush()
        if (seconds := self._account()) > 0:
            await trio.sleep(seconds)
        now = trio.current_time()
        match self._conn.waiting_for:
            case smtp.Waiting.COMMAND:
                if self._mail is None or not self._mail.has_content:
                    self._pace = None  # that of a chunk which nobody wanted
                if self._command_due is None:  # for all of it, however it trickles in
                    self._command_due = now + self._idle_seconds
                await self._receive_until(now, self._command_due, Limit.IDLE_SECONDS)
            case smtp.Waiting.DATA:
                await self._receive_data(now)
            case smtp.Waiting.ANSWER | smtp.Waiting.HANDSHAKE | smtp.Waiting.NOTHING:
                raise AssertionError("the core asked for data that it does not wait for")
            case waiting:
                assert_never(waiting)

    async def _receive_data(self, now: float) -> None:
        """Data have their floor, whether they are kept or thrown away."""
        if self._pace is None:
            self._pace = DataPace(self._limits.data_seconds, self._limits.data_floor_octets_per_second)
        if self._pace.is_too_slow():
            self._close(catalogue.TOO_SLOW)
            self._gateway.hits.count(Limit.DATA_FLOOR)
        else:
            await self._receive_until(now, now + self._limits.data_seconds, Limit.DATA_SECONDS)

    async def _receive_until(self, now: float, due: float, limit: Limit) -> None:
        if self._drain is not Drain.NO and self._is_to_end:
            due = min(due, self._latest_end())
        try:
            data = await self._wire.receive(due)
        except trio.TooSlowError:
            if self._is_to_end:
                self._close(catalogue.SHUTTING_DOWN)
            else:
                self._gateway.hits.count(limit)
                self._close(catalogue.TIMED_OUT)
            return
        except trio.BrokenResourceError:
            data = b""  # a reset is an end as well
        later = trio.current_time()
        self._outlet.begin_gathering(later)
        octets = len(data)
        self._octets += octets
        self._octets_in_turn += octets + TURN_OCTETS
        self._gateway.counts.received_octets += octets
        if self._pace is not None:
            self._pace.count(octets, later - now)
        self._conn.receive_data(data)

    def _close(self, reply: Reply) -> None:
        self._log.info("connection closed by us", queue_id=self._queue_id, reply=reply.text)
        self._outlet.say(self._conn.close(reply))

    async def _leave(self) -> None:
        """Close as the client expects it; TLS is left once, even if that is cut short."""
        stream, self._stream = self._stream, self._transport
        await close_politely(stream, self._wire)

    async def _say_goodbye(self, reply: Reply) -> None:
        """The last words of a session that is being ended, verdicts that were not sent yet among them."""
        if self._outlet.is_torn or self._conn.waiting_for is smtp.Waiting.HANDSHAKE:
            return  # what is said to a client that waits for TLS can only be misunderstood
        if self._conn.state is not smtp.State.CLOSED:
            self._outlet.say(self._conn.close(reply))
        with trio.move_on_after(GOODBYE_SECONDS, shield=True):
            try:
                await self._outlet.flush()
                await self._leave()
            except ClientGoneError:
                pass
