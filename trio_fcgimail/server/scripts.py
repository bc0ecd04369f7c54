"""Asking the scripts: a free connection, a request, a verdict. Whatever goes wrong becomes a temporary failure."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, final

import structlog.typing
import trio

from trio_fcgimail.config import FastcgiSettings, Settings
from trio_fcgimail.mail import (
    BOUNDARY_RANDOM_OCTETS,
    Answer,
    Envelope,
    Meaning,
    Parameter,
    Stage,
    Verdict,
    failed,
    get_parameters,
    judge,
    judge_each,
    post_parameters,
    validate_fields,
)
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.upstream import Body, Connect, UpstreamError, UpstreamUnavailable, connect, request
from trio_fcgimail.smtp import Mailbox, catalogue

GIVE_UP_SECONDS: Final = 2.0  # when the FastCGI server refuses at once; docs/design.md, "Upstream"
_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.25

_EVERYONE: Final = Verdict(Meaning.ACCEPTED, catalogue.RECIPIENT_OK, "no validate script")


@final
class Scripts:
    """The scripts of one configuration, behind one FastCGI server.

    At most ``max_connections`` requests run at once, of which ``reserve_for_validate`` are kept for recipient checks,
    so that big mails cannot starve them. Who waits, waits here, where nothing was sent yet.

    Args:
        settings: checked.
        log: told what scripts write to STDERR; None for nobody.
        connect: how connections come about.
    """

    def __init__(
        self,
        settings: Settings,
        log: structlog.typing.FilteringBoundLogger | None = None,
        connect: Connect = connect,
    ) -> None:
        self._log = log
        self._connect_to = connect
        self._hostname = settings.hostname
        self._fastcgi = settings.fastcgi
        self._scripts = settings.scripts
        self._unexpected = settings.scripts.unexpected_output
        total = trio.CapacityLimiter(settings.fastcgi.max_connections)
        saves = trio.CapacityLimiter(_save_connections(settings.fastcgi))
        self._limiters = {Stage.VALIDATE: (total,), Stage.SAVE: (saves, total)}

    @property
    def save_deadline_seconds(self) -> float:
        """The longest that a save can take, waiting included."""
        return self._fastcgi.wait_seconds + self._scripts.save_seconds

    async def validate(self, envelope: Envelope, recipient: Mailbox) -> Verdict:
        """Ask whether a recipient is wanted; without a validate script everyone is."""
        script = self._scripts.validate
        if script is None:
            return _EVERYONE
        fields = validate_fields(envelope, recipient)
        parameters = get_parameters(script, fields, hostname=self._hostname, remote_ip=envelope.session.peer.ip)
        seconds = self._scripts.validate_seconds
        answer = await self._ask(Stage.VALIDATE, envelope.queue_id, parameters, None, seconds)
        if isinstance(answer, Verdict):
            return answer
        return judge(Stage.VALIDATE, answer, unexpected=self._unexpected, queue_id=envelope.queue_id)

    async def save(self, message: IncomingMessage) -> tuple[Verdict, ...]:
        """Hand over a mail. Only a verdict that accepts may be answered 250.

        Returns:
            As many as ``Envelope.verdicts_owed`` says, in LMTP in the order of the recipients.
        """
        envelope = message.envelope
        asked = message.save_request(os.urandom(BOUNDARY_RANDOM_OCTETS))
        body = message.body(asked)
        parameters = post_parameters(
            self._scripts.save,
            body.octets,
            hostname=self._hostname,
            remote_ip=envelope.session.peer.ip,
            fields=asked.query,
            content_type=asked.content_type,
            more=asked.parameters,
        )
        owed, queue_id = envelope.verdicts_owed, envelope.queue_id
        answer = await self._ask(Stage.SAVE, queue_id, parameters, body, self._scripts.save_seconds)
        if isinstance(answer, Verdict):
            return (answer,) * owed
        return judge_each(answer, owed, unexpected=self._unexpected, queue_id=queue_id)

    async def _ask(
        self, stage: Stage, queue_id: str, parameters: list[Parameter], body: Body | None, seconds: float
    ) -> Answer | Verdict:
        """An answer of the script, or what it means that there is none."""
        try:
            answer = await self.call(stage, parameters, body, seconds=seconds)
        except UpstreamError as exc:
            self._log_oddities(stage, queue_id, exc.stderr)
            return failed(f"{type(exc).__name__}: {exc}")
        self._log_oddities(stage, queue_id, answer.stderr, answer.app_status)
        return answer

    def _log_oddities(self, stage: Stage, queue_id: str, stderr: bytes, app_status: int = 0) -> None:
        """STDERR and appStatus decide nothing, but they are what an operator looks for."""
        if self._log is not None and (stderr or app_status):
            text = stderr.decode("utf-8", "replace")
            self._log.warning("script stderr", queue_id=queue_id, stage=stage.value, app_status=app_status, stderr=text)

    async def call(self, stage: Stage, parameters: list[Parameter], body: Body | None, *, seconds: float) -> Answer:
        """One request. Raises UpstreamError."""
        async with self._connection(stage) as stream:
            return await request(stream, parameters, body, seconds=seconds)

    @asynccontextmanager
    async def _connection(self, stage: Stage) -> AsyncIterator[trio.abc.Stream]:
        """A connection of our share, connected; given back when the request is over."""
        async with AsyncExitStack() as stack:
            try:
                with trio.fail_after(self._fastcgi.wait_seconds):
                    for limiter in self._limiters[stage]:
                        await stack.enter_async_context(limiter)
                    stream = await self._connect()
            except trio.TooSlowError as exc:
                raise UpstreamUnavailable(f"no free connection within {self._fastcgi.wait_seconds:g} s") from exc
            yield stream

    async def _connect(self) -> trio.abc.Stream:
        """Connect, and try again for a while when that fails at once: a pool that reloads is back in a moment."""
        give_up = trio.current_time() + GIVE_UP_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._connect_to(self._fastcgi.upstreams[0], seconds=self._fastcgi.connect_seconds)
            except UpstreamUnavailable:
                left = give_up - trio.current_time()
                if left <= 0:
                    raise
            await trio.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _save_connections(fastcgi: FastcgiSettings) -> int:
    """How many connections saves may take; with a single one there is no reserve."""
    return max(fastcgi.max_connections - fastcgi.reserve_for_validate, 1)
