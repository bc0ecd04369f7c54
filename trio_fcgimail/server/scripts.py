"""Asking the scripts: a free connection, a request, a verdict. Whatever goes wrong becomes a temporary failure."""

from __future__ import annotations

from typing import Final, final

import structlog.typing

from trio_fcgimail.config import FastcgiSettings, Settings
from trio_fcgimail.mail import (
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
from trio_fcgimail.server.pool import Kind, Pool, PoolRules
from trio_fcgimail.server.upstream import Body, CleanEnd, Connect, UpstreamError, connect
from trio_fcgimail.smtp import Mailbox, catalogue

_KINDS: Final = {Stage.VALIDATE: Kind.VALIDATE, Stage.SAVE: Kind.SAVE}
_EVERYONE: Final = Verdict(Meaning.ACCEPTED, catalogue.RECIPIENT_OK, "no validate script")


@final
class Scripts:
    """The scripts of one configuration, behind the FastCGI servers that it names.

    Run ``run`` as long as anybody is asked.

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
        self._hostname = settings.hostname
        self._fastcgi = settings.fastcgi
        self._scripts = settings.scripts
        self._unexpected = settings.scripts.unexpected_output
        self._pool = _pool(settings.fastcgi, log, connect)

    @property
    def save_deadline_seconds(self) -> float:
        """The longest that a save can take, waiting and all tries included."""
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
        body = message.form()
        parameters = post_parameters(
            self._scripts.save, body.octets, hostname=self._hostname, remote_ip=envelope.session.peer.ip
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
        """One request, in as many tries as it takes and may take. Raises UpstreamError."""
        return await self._pool.request(_KINDS[stage], parameters, body, seconds=seconds)

    async def run(self) -> None:
        """Look after the connections, until cancelled; outlives the last request."""
        await self._pool.run()


def _pool(fastcgi: FastcgiSettings, log: structlog.typing.FilteringBoundLogger | None, connect: Connect) -> Pool:
    rules = PoolRules(
        max_connections=fastcgi.max_connections,
        reserve=fastcgi.reserve_for_validate,
        keep_alive=fastcgi.keep_alive,
        wait_seconds=fastcgi.wait_seconds,
        connect_seconds=fastcgi.connect_seconds,
    )
    clean_end = CleanEnd.UNEXECUTED if fastcgi.clean_eof_means_unexecuted else CleanEnd.UNKNOWN
    return Pool(fastcgi.upstreams, rules, clean_end=clean_end, log=log, connect=connect)
