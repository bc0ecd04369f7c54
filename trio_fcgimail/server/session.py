"""One connection: the SMTP core on one side, a stream and the scripts on the other.

The core decides what is legal, the settings and the scripts what is wanted; here is only who waits for what, and for
how long. Every wait has a deadline that is named in the settings.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from typing import Final, assert_never, final

import structlog.typing
import trio

from trio_fcgimail import smtp
from trio_fcgimail.config import TlsMode
from trio_fcgimail.mail import (
    BodyLines,
    DsnWish,
    Envelope,
    EnvelopeDraft,
    Meaning,
    Peer,
    Verdict,
    failed,
    received_header,
)
from trio_fcgimail.mail import Session as SessionFacts
from trio_fcgimail.server.entrance import Entrance
from trio_fcgimail.server.gateway import Gateway, MailReport
from trio_fcgimail.server.ledger import Place, Rate
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.log import ConnectionEnd, log_connection
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.metrics import CommandEar
from trio_fcgimail.server.outlet import GOODBYE_SECONDS, ClientGoneError, Outlet
from trio_fcgimail.server.pace import DataPace
from trio_fcgimail.server.policy import Policy
from trio_fcgimail.server.spool import SpoolFullError
from trio_fcgimail.server.tls import HandshakeError, start_tls
from trio_fcgimail.server.visitor import Claim, Visitor, closing, introduced, log_introduction, options_for
from trio_fcgimail.smtp import Reply, catalogue

_RECEIVE_OCTETS: Final = 65_536
DRAIN_IDLE_SECONDS: Final = 5.0  # how long a client may be silent between two mails once its session is to end


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
        self._counts = gateway.counts
        self._ear = CommandEar(gateway.counts)
        self._outlet = Outlet(stream, self._limits.idle_seconds, gateway.counts)
        self._facts = SessionFacts(visitor.peer, dialect=entrance.options.dialect, tls=visitor.tls)
        self._claim = Claim()
        self._draft: EnvelopeDraft | None = None  # of the transaction under way
        self._message: IncomingMessage | None = None
        self._pace: DataPace | None = None
        self._drain = Drain.NO
        self._transactions = 0  # that came to their end
        self._began = trio.current_time()
        self._mails = 0  # that were judged
        self._octets = 0  # received
        self._reason = "cut"  # why it ended, until something else is known
        self._scope = trio.CancelScope()
        self._idle_scope: trio.CancelScope | None = None
        self._command_due: float | None = None  # while a command is waited for
        self._save_scope: trio.CancelScope | None = None

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
        if self._idle_scope is not None and self._is_to_end:
            patience = 0 if self._conn.state is smtp.State.CONNECTED else DRAIN_IDLE_SECONDS  # to who waits for us
            self._idle_scope.deadline = min(self._idle_scope.deadline, trio.current_time() + patience)

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
        if self._save_scope is not None:
            self._save_scope.cancel()
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
            if isinstance(exc.__cause__, trio.TooSlowError):
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
            with trio.move_on_after(GOODBYE_SECONDS, shield=True):
                await trio.aclose_forcefully(self._transport)
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
                if isinstance(event, smtp.ConnectionClosed):
                    self._reason = event.reason.value
                    break
                if not isinstance(event, smtp.Signal):
                    self._command_due = None
                    self._ear.hear(event)
                await self._handle(event)
            except smtp.RemoteProtocolError as exc:
                self._reason = smtp.CloseReason.ERROR.value
                self._note(exc.reply)
                self._log.info("client not understood", problem=str(exc), reply=exc.reply.text)
                self._outlet.say(exc.to_send)
                break
            if self._outlet.is_due:
                await self._outlet.flush()
        await self._outlet.flush()
        await self._outlet.close_politely()

    async def _handle(self, event: smtp.Event | smtp.Signal) -> None:
        match event:
            case smtp.Signal.NEED_DATA:
                await self._receive()
            case (
                smtp.Connected()
                | smtp.Hello()
                | smtp.StartTls()
                | smtp.Authenticate()
                | smtp.Xclient()
                | smtp.MailFrom()
            ) if self._is_to_end:
                self._answer(event, catalogue.SHUTTING_DOWN)
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
            case smtp.MailFrom():
                await self._begin(event)
            case smtp.RcptTo():
                await self._take_recipient(event)
            case smtp.DataBegun():
                await self._begin_data(event)
            case smtp.MessageChunk(data=data):
                await self._take_chunk(data)
            case smtp.MessageEnd():
                await self._end(event)
            case smtp.MessageRefused(reply=reply, to_send=to_send):
                self._note(reply)
                self._tell_refused(reply)
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
            case smtp.Signal.PAUSED | smtp.ConnectionClosed():
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
        if not self._limits.banner_delay_seconds:
            return None
        data = b""
        with trio.move_on_after(self._limits.banner_delay_seconds) as self._idle_scope:
            if self._is_to_end:
                self._idle_scope.cancel()
            with suppress(trio.BrokenResourceError):  # which is noticed when it is greeted
                data = bytes(await self._stream.receive_some(_RECEIVE_OCTETS))
        self._idle_scope = None
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
        reply = refusal or await self._policy.connection(self._facts)
        self._answer(event, None if reply.outcome is smtp.Outcome.OK else closing(reply))

    async def _hear_greeting(self, event: smtp.Hello) -> None:
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
        self._stream, tls = await start_tls(self._transport, context, seconds=self._limits.tls_handshake_seconds)
        self._outlet.use(self._stream)
        self._forget_mail()
        self._claim = Claim()
        self._facts = SessionFacts(self._facts.peer, dialect=self._facts.dialect, tls=self._visitor.tls or tls)

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
        return "" if self._draft is None else self._draft.queue_id

    async def _begin(self, event: smtp.MailFrom) -> None:
        if (refusal := await self._place.count(Rate.MESSAGES)) is not None:
            self._answer(event, refusal)
            return
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
            self._draft = EnvelopeDraft(envelope)
        self._answer(event, reply)

    async def _take_recipient(self, event: smtp.RcptTo) -> None:
        if (refusal := await self._place.count(Rate.RECIPIENTS)) is not None:
            self._answer(event, refusal)
            return
        wish = DsnWish(event.notify, event.original)
        self._answer(event, await self._policy.recipient(self._transaction(), event.path, wish))

    def _transaction(self) -> EnvelopeDraft:
        assert self._draft is not None, "the core lets nothing of a transaction pass before MAIL"
        return self._draft

    async def _begin_data(self, event: smtp.DataBegun) -> None:
        settings = self._gateway.settings
        envelope = self._transaction().envelope
        is_binary = envelope.body_type is smtp.BodyType.BINARY_MIME  # and no octet of it is a line's (RFC 3030 3)
        lines = BodyLines.CRLF if is_binary else settings.scripts.line_ends
        message = self._message = IncomingMessage(envelope, self._gateway.room, lines, settings.scripts.body)
        if settings.chain.trace_header:
            trace = received_header(envelope, hostname=settings.hostname, now=self._gateway.now())
            await self._spool(message.add_trace(trace))
        self._outlet.say(self._conn.accept(event))

    async def _take_chunk(self, data: bytes) -> None:
        if self._message is not None:  # else its spool is full: read on to the end, where the sender is told
            await self._spool(self._message.add(data))

    async def _spool(self, writing: Awaitable[None]) -> None:
        try:
            await writing
        except SpoolFullError as exc:
            self._log.error("spool is full", queue_id=self._queue_id, problem=str(exc))
            self._drop_message()

    async def _end(self, event: smtp.MessageEnd) -> None:
        """The final dot: nothing is ours before the script has said so."""
        await self._outlet.flush()
        replies = await self._settle(self._transaction().envelope.verdicts_owed, event.octets)
        self._forget_mail()
        if self._conn.options.dialect.replies_at_end is smtp.RepliesAtEnd.EACH:
            self._outlet.say(self._conn.reply_each(event, replies))
        else:
            self._answer(event, replies[0])

    async def _settle(self, owed: int, octets: int) -> tuple[Reply, ...]:
        message, began = self._message, trio.current_time()
        limit = self._limits.max_received
        if message is None:
            full = Verdict(Meaning.FAILED, catalogue.INSUFFICIENT_STORAGE, "spool is full")
            self._tell(None, self._transaction().envelope, full, octets)
            return (full.reply,) * owed
        if limit is not None and (fields := message.header_facts().received) > limit:
            self._gateway.hits.count(Limit.MAX_RECEIVED)
            verdicts = (Verdict(Meaning.REFUSED, catalogue.MAIL_LOOP, f"mail loop: {fields} Received fields"),) * owed
        else:
            verdicts = await self._save(message, owed)
        self._report(message, verdicts, trio.current_time() - began)
        return tuple(verdict.reply for verdict in verdicts)

    async def _save(self, message: IncomingMessage, owed: int) -> tuple[Verdict, ...]:
        """Ask the chain, shielded: once sent the request will run, whoever goes away meanwhile.

        The shield ends with its own deadline, or when the server gives up waiting (``cut``).
        """
        chain = self._gateway.chain
        deadline = trio.current_time() + chain.save_deadline_seconds + GOODBYE_SECONDS
        with trio.CancelScope(deadline=deadline, shield=True) as scope:
            self._save_scope = scope
            try:
                return await chain.save(message)
            finally:
                self._save_scope = None
        return (failed("the wait for the verdict was cut"),) * owed

    def _report(self, message: IncomingMessage, verdicts: tuple[Verdict, ...], seconds: float) -> None:
        """Tell of a mail: once, or where its recipients fared differently, once for each of them."""
        envelope = message.envelope
        if len(set(verdicts)) == 1:
            self._tell(message, envelope, verdicts[0], message.octets, seconds)
            return
        for recipient, verdict in zip(envelope.recipients, verdicts, strict=True):
            self._tell(message, replace(envelope, recipients=(recipient,)), verdict, message.octets, seconds)

    def _tell_refused(self, reply: Reply) -> None:
        """The protocol has refused a mail; of further chunks nobody is told."""
        if self._draft is not None:
            octets = 0 if self._message is None else self._message.octets
            verdict = Verdict(Meaning.REFUSED, reply, "refused by the protocol")
            self._tell(None, self._draft.envelope, verdict, octets)

    def _tell(
        self, message: IncomingMessage | None, envelope: Envelope, verdict: Verdict, octets: int, seconds: float = 0.0
    ) -> None:
        """Tell of one mail. Without its message, nobody has looked at the content."""
        received = None if message is None else message.received()
        self._mails += 1
        self._counts.judged(verdict.meaning, octets, seconds)
        report = MailReport(
            envelope=envelope,
            subject="" if received is None else received.subject,
            octets=octets,
            digest="" if received is None else received.digest,
            verdict=verdict,
            seconds=seconds,
            client=self._client,
            via=self._via,
            trip=None if message is None else message.trip,
        )
        for observer in self._gateway.observers:
            try:
                observer.mail(report)
            except Exception:  # noqa: BLE001 - the verdict stands, whatever becomes of the telling
                self._log.exception("observer failed", queue_id=self._queue_id)

    def _forget_mail(self) -> None:
        self._transactions += self._draft is not None
        self._draft = None
        self._pace = None
        self._drop_message()

    def _drop_message(self) -> None:
        if self._message is not None:
            self._message.close()
            self._message = None

    # The stream

    async def _receive(self) -> None:
        """Wait for the client, under the deadline of what the core waits for."""
        await self._outlet.flush()
        match self._conn.waiting_for:
            case smtp.Waiting.DATA:
                await self._receive_data()
            case smtp.Waiting.COMMAND:
                if self._message is None:
                    self._pace = None  # that of a chunk which nobody wanted
                now = trio.current_time()
                if self._command_due is None:
                    self._command_due = now + self._limits.idle_seconds  # for all of it, however it trickles in
                await self._receive_within(max(self._command_due - now, 0), Limit.IDLE_SECONDS)
            case smtp.Waiting.ANSWER | smtp.Waiting.HANDSHAKE | smtp.Waiting.NOTHING:
                raise AssertionError("the core asked for data that it does not wait for")
            case waiting:
                assert_never(waiting)

    async def _receive_data(self) -> None:
        """Data have their floor, whether they are kept or thrown away."""
        if self._pace is None:
            self._pace = DataPace(self._limits.data_seconds, self._limits.data_floor_octets_per_second)
        if self._pace.is_too_slow():
            self._close(catalogue.TOO_SLOW)
            self._gateway.hits.count(Limit.DATA_FLOOR)
        else:
            await self._receive_within(self._limits.data_seconds, Limit.DATA_SECONDS)

    async def _receive_within(self, seconds: float, limit: Limit) -> None:
        began = trio.current_time()
        with trio.move_on_after(seconds) as scope:
            if not self._conn.in_transaction:
                self._idle_scope = scope
                self.drain(self._drain)
            try:
                data = await self._stream.receive_some(_RECEIVE_OCTETS)
            except trio.BrokenResourceError:
                data = b""  # a reset is an end as well
            finally:
                self._idle_scope = None
        if scope.cancelled_caught and self._is_to_end:
            self._close(catalogue.SHUTTING_DOWN)
        elif scope.cancelled_caught:
            self._gateway.hits.count(limit)
            self._close(catalogue.TIMED_OUT)
        else:
            self._octets += len(data)
            self._counts.received_octets += len(data)
            if self._pace is not None:
                self._pace.count(len(data), trio.current_time() - began)
            self._conn.receive_data(bytes(data))
        self._outlet.begin_gathering()

    def _close(self, reply: Reply) -> None:
        self._log.info("connection closed by us", queue_id=self._queue_id, reply=reply.text)
        self._outlet.say(self._conn.close(reply))

    async def _say_goodbye(self, reply: Reply) -> None:
        """The last words of a session that is being ended, verdicts that were not sent yet among them."""
        if self._outlet.is_torn or self._conn.waiting_for is smtp.Waiting.HANDSHAKE:
            return  # what is said to a client that waits for TLS can only be misunderstood
        if self._conn.state is not smtp.State.CLOSED:
            self._outlet.say(self._conn.close(reply))
        with trio.move_on_after(GOODBYE_SECONDS, shield=True):
            try:
                await self._outlet.flush()
                await self._outlet.close_politely()
            except ClientGoneError:
                pass
