"""One mail of a session, from MAIL to its verdict: what it is made of, and what becomes of it."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import final

import structlog.typing
import trio

from trio_fcgimail import smtp
from trio_fcgimail.mail import BodyLines, Envelope, EnvelopeDraft, Meaning, Verdict, failed, received_header
from trio_fcgimail.server.gateway import Gateway, MailReport
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.outlet import GOODBYE_SECONDS
from trio_fcgimail.server.spool import SpoolFullError
from trio_fcgimail.smtp import Reply, catalogue


@final
class MailTransaction:
    """A mail under way.

    Args:
        envelope: all of it but the recipients.
        log: of the session.
        client: as in `MailReport`; ``via`` likewise.

    Attributes:
        draft: the envelope, as far as it came.
        told: how many reports there were of it.
    """

    __slots__ = ("_client", "_gateway", "_log", "_message", "_saving", "_via", "draft", "told")

    def __init__(
        self,
        envelope: Envelope,
        gateway: Gateway,
        log: structlog.typing.FilteringBoundLogger,
        *,
        client: str = "",
        via: str = "",
    ) -> None:
        self.draft = EnvelopeDraft(envelope)
        self.told = 0
        self._client = client
        self._via = via
        self._gateway = gateway
        self._log = log
        self._message: IncomingMessage | None = None  # None once its spool is full
        self._saving: trio.CancelScope | None = None

    @property
    def has_content(self) -> bool:
        """Whether content of it is kept."""
        return self._message is not None

    async def begin_data(self) -> None:
        """The content comes now."""
        settings = self._gateway.settings
        envelope = self.draft.envelope
        is_binary = envelope.body_type is smtp.BodyType.BINARY_MIME  # and no octet of it is a line's (RFC 3030 3)
        lines = BodyLines.CRLF if is_binary else settings.scripts.line_ends
        message = self._message = IncomingMessage(
            envelope, self._gateway.room, lines, settings.scripts.body, may_have_bare_cr=is_binary
        )
        if settings.chain.trace_header:
            trace = received_header(envelope, hostname=envelope.session.hostname, now=self._gateway.now())
            await self._spool(message.add_trace(trace))

    async def take(self, data: bytes) -> None:
        """A piece of the content. Once the spool is full it is read on to the end, where the sender is told."""
        if self._message is not None:
            await self._spool(self._message.add(data))

    async def _spool(self, writing: Awaitable[None]) -> None:
        try:
            await writing
        except SpoolFullError as exc:
            self._log.error("spool is full", queue_id=self.draft.queue_id, problem=str(exc))
            self.close()

    async def settle(self, octets: int) -> tuple[Reply, ...]:
        """The content is complete: nothing is ours before the script has said so.

        Args:
            octets: of the content, kept or not.

        Returns:
            As many replies as ``Envelope.verdicts_owed`` says.
        """
        message = self._message
        if message is None:
            full = Verdict(Meaning.FAILED, catalogue.INSUFFICIENT_STORAGE, "spool is full")
            self._tell(None, self.draft.envelope, full, octets)
            return (full.reply,) * self.draft.envelope.verdicts_owed
        owed = message.envelope.verdicts_owed
        limit = self._gateway.settings.limits.max_received
        began = trio.current_time()
        if limit is not None and (fields := message.header_facts().received) > limit:
            self._gateway.hits.count(Limit.MAX_RECEIVED)
            verdicts = (Verdict(Meaning.REFUSED, catalogue.MAIL_LOOP, f"mail loop: {fields} Received fields"),) * owed
        else:
            verdicts = await self._save(message, owed, began)
        self._report(message, verdicts, trio.current_time() - began)
        return tuple([verdict.reply for verdict in verdicts])

    async def _save(self, message: IncomingMessage, owed: int, now: float) -> tuple[Verdict, ...]:
        """Ask the chain, shielded: once sent the request will run, whoever goes away meanwhile.

        The shield ends with its own deadline, or when the server gives up waiting (``cut``).
        """
        chain = self._gateway.chain
        deadline = now + chain.save_deadline_seconds + GOODBYE_SECONDS
        with trio.CancelScope(deadline=deadline, shield=True) as scope:
            self._saving = scope
            try:
                return await chain.save(message)
            finally:
                self._saving = None
        return (failed("the wait for the verdict was cut"),) * owed

    def cut(self) -> None:
        """Wait for no verdict any longer."""
        if self._saving is not None:
            self._saving.cancel()

    def _report(self, message: IncomingMessage, verdicts: tuple[Verdict, ...], seconds: float) -> None:
        """Tell of a mail: once, or where its recipients fared differently, once for each of them."""
        envelope = message.envelope
        if len(verdicts) == 1 or len(set(verdicts)) == 1:
            self._tell(message, envelope, verdicts[0], message.octets, seconds)
            return
        for recipient, verdict in zip(envelope.recipients, verdicts, strict=True):
            self._tell(message, replace(envelope, recipients=(recipient,)), verdict, message.octets, seconds)

    def refused(self, reply: Reply) -> None:
        """The protocol has refused it."""
        octets = 0 if self._message is None else self._message.octets
        verdict = Verdict(Meaning.REFUSED, reply, "refused by the protocol")
        self._tell(None, self.draft.envelope, verdict, octets)

    def _tell(
        self, message: IncomingMessage | None, envelope: Envelope, verdict: Verdict, octets: int, seconds: float = 0.0
    ) -> None:
        """Tell of it. Without its message, nobody has looked at the content."""
        self.told += 1
        self._gateway.counts.judged(verdict.meaning, octets, seconds)
        report = MailReport(
            envelope=envelope,
            subject="" if message is None else message.header_facts().subject,
            octets=octets,
            digest="" if message is None else message.digest,
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
                self._log.exception("observer failed", queue_id=self.draft.queue_id)

    def close(self) -> None:
        """Forget the content."""
        if self._message is not None:
            self._message.close()
            self._message = None
