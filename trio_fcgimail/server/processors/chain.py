"""The processors of one configuration, in order, and what their answers come to.

A mail is accepted only when a processor has said that it stored it, or that it is to be discarded. Towards the sender
it is all or nothing: whatever goes wrong after a store is 451, and the digest lets stores recognise the retry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, final

import structlog.typing
import trio

from trio_fcgimail.config import Processor as BuiltIn
from trio_fcgimail.config import Settings, Step
from trio_fcgimail.mail import Envelope, Meaning, Stage, Verdict, clean
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.processors.interface import (
    Context,
    Failed,
    GoOn,
    Mail,
    Processor,
    RecipientAnswer,
    Refused,
    SaveAnswer,
)
from trio_fcgimail.server.processors.outcome import Outcomes
from trio_fcgimail.server.processors.registry import ChainError, ProcessorSource, make_processor
from trio_fcgimail.server.scripts import Scripts
from trio_fcgimail.smtp import Mailbox, catalogue

SET_UP_SECONDS: Final = 60.0  # of one processor; a database may have to wake up
TEAR_DOWN_SECONDS: Final = 10.0  # likewise

_EVERYONE: Final = Verdict(Meaning.ACCEPTED, catalogue.RECIPIENT_OK, "nobody is asked")


@final
@dataclass(frozen=True, slots=True)
class _Member:
    """A processor and its name."""

    name: str
    processor: Processor


@final
class Chain:
    """What recipients and mails go through. Serve within ``ready``.

    Args:
        settings: checked.
        scripts: the FastCGI side.
        log: told what processors do wrong.
        now: the wall clock, with a time zone.
        registered: processors of the user's own, by name.

    Raises:
        ChainError: a processor is not to be had, or the mails would be stored nowhere.
    """

    def __init__(
        self,
        settings: Settings,
        scripts: Scripts,
        *,
        log: structlog.typing.FilteringBoundLogger,
        now: Callable[[], datetime],
        registered: Mapping[str, ProcessorSource] | None = None,
    ) -> None:
        chain = settings.chain
        if not chain.discard and not any(step.stores for step in chain.save):
            raise ChainError(
                "no processor of chain.save stores mails; chain.discard = true would answer 250 and drop them"
            )
        self._settings = settings
        self._scripts = scripts
        self._log = log
        self._now = now
        members = {step: self._make(step, registered or {}) for step in (*chain.save, *chain.validate)}
        self._members = tuple(members.values())
        self._savers = tuple(members[step] for step in chain.save)
        self._keeps_time = len(self._savers) == 1 and self._savers[0].processor.keeps_time
        self._validators = tuple(members[step] for step in self._asked_at_rcpt(members))
        wait_seconds = settings.fastcgi.wait_seconds
        waits = {step: wait_seconds if step is BuiltIn.FASTCGI else 0.0 for step in members}
        self._save_wait = max((waits[step] for step in chain.save), default=0.0)
        self._validate_wait = max(waits.values(), default=0.0)

    def _make(self, step: Step, registered: Mapping[str, ProcessorSource]) -> _Member:
        return _Member(step.value, make_processor(step, self._scripts, registered))

    def _asked_at_rcpt(self, members: Mapping[Step, _Member]) -> list[Step]:
        """Those of the validate list, and before them the stores that cannot do without."""
        listed = self._settings.chain.validate
        others = (step for step in self._settings.chain.save if step not in listed)
        steps = [*(step for step in others if members[step].processor.asked_at_rcpt), *listed]
        has_script = self._scripts.has(Stage.VALIDATE)
        return [step for step in steps if has_script or step is not BuiltIn.FASTCGI]

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Have the processors set up within, and torn down behind, in the opposite order. Raises ChainError."""
        async with AsyncExitStack() as stack:
            for member in self._members:
                await self._set_up(member)
                stack.push_async_callback(self._tear_down, member)
            yield

    async def _set_up(self, member: _Member) -> None:
        context = Context(
            settings=self._settings,
            log=self._log.bind(processor=member.name),
            now=self._now,
        )
        try:
            with trio.fail_after(SET_UP_SECONDS):
                await member.processor.set_up(context)
        except Exception as exc:
            self._log.exception("processor cannot be set up", processor=member.name)
            raise ChainError(f"the processor {member.name} cannot be set up: {type(exc).__name__}: {exc}") from exc

    async def _tear_down(self, member: _Member) -> None:
        try:
            with trio.fail_after(TEAR_DOWN_SECONDS) as scope:
                scope.shield = True
                await member.processor.tear_down()
        except Exception:  # noqa: BLE001 - the others are to be torn down as well
            self._log.exception("processor cannot be torn down", processor=member.name)

    # Recipients

    @property
    def validates(self) -> bool:
        """Whether anybody is asked about recipients."""
        return bool(self._validators)

    @property
    def validates_postmaster(self) -> bool:
        """Whether that holds for ``<postmaster>``, too, whom all others are to take (RFC 5321 4.5.1)."""
        return any(member.processor.asked_at_rcpt for member in self._validators)

    async def validate(self, envelope: Envelope, recipient: Mailbox, *, bare: bool = False) -> Verdict:
        """Ask about a recipient.

        Args:
            bare: it is ``<postmaster>``; only stores are asked.
        """
        note = _EVERYONE.reason
        for member in self._validators:
            if bare and not member.processor.asked_at_rcpt:
                continue
            match await self._validate(member, envelope, recipient):
                case GoOn(note=said):
                    note = said or note
                case Refused(reply=reply, note=said):
                    return Verdict(Meaning.REFUSED, reply, clean(said or f"refused by {member.name}", 500))
                case Failed(reason=reason, reply=reply):
                    return Verdict(Meaning.FAILED, reply, clean(reason, 500))
        return Verdict(Meaning.ACCEPTED, catalogue.RECIPIENT_OK, clean(note, 500))

    async def _validate(self, member: _Member, envelope: Envelope, recipient: Mailbox) -> RecipientAnswer:
        seconds = self._validate_wait + self._settings.scripts.validate_seconds
        asking = partial(member.processor.validate, envelope, recipient)
        deadline = None if member.processor.keeps_time else trio.current_time() + seconds
        answer = await self._ask(member, asking, envelope.queue_id, deadline)
        if isinstance(answer, RecipientAnswer):
            return answer
        return self._strange(member, answer, envelope.queue_id)

    # Mails

    @property
    def save_deadline_seconds(self) -> float:
        """The longest that all of the chain can take for a mail, waiting included."""
        return self._save_wait + self._settings.scripts.save_seconds

    async def save(self, message: IncomingMessage) -> tuple[Verdict, ...]:
        """Hand over a mail. Only a verdict that accepts may be answered 250.

        Returns:
            As many as ``Envelope.verdicts_owed`` says, in LMTP in the order of the recipients.
        """
        mail = Mail(message)
        outcomes = Outcomes(message.envelope)
        deadline = None if self._keeps_time else trio.current_time() + self.save_deadline_seconds
        for member in self._savers:
            answer = await self._save(member, mail, deadline)
            for reason in outcomes.take(answer, member.name):
                self._log.warning("mail stored in part only", queue_id=message.envelope.queue_id, reason=reason)
            if not outcomes.is_open:
                break
            mail.keep_recipients(outcomes.kept)
        return outcomes.verdicts(discards=self._settings.chain.discard)

    async def _save(self, member: _Member, mail: Mail, deadline: float | None) -> SaveAnswer:
        queue_id = mail.envelope.queue_id
        answer = await self._ask(member, partial(member.processor.save, mail), queue_id, deadline)
        if isinstance(answer, SaveAnswer):
            return answer
        return self._strange(member, answer, queue_id)

    async def _ask(
        self, member: _Member, asking: Callable[[], Awaitable[object]], queue_id: str, deadline: float | None
    ) -> object:
        """An answer, whatever it is, or that there was none: a processor may do anything but harm to others.

        Args:
            deadline: None for one that keeps to its own.
        """
        try:
            if deadline is None:
                return await asking()
            with trio.CancelScope(deadline=deadline):
                return await asking()
            return Failed(f"{member.name} has not answered in time")
        except Exception as exc:  # noqa: BLE001 - it is the code of others
            self._log.exception("processor failed", processor=member.name, queue_id=queue_id)
            return Failed(f"{member.name} raised {type(exc).__name__}")

    def _strange(self, member: _Member, answer: object, queue_id: str) -> Failed:
        kind = type(answer).__name__
        self._log.error("processor gave no answer that is one", processor=member.name, queue_id=queue_id, answer=kind)
        return Failed(f"{member.name} answered with a {kind}")
