"""Asking the scripts: a free connection, a request, a verdict. Whatever goes wrong becomes a temporary failure."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, final

import structlog.typing
import trio

from trio_fcgimail.config import FastcgiSettings, RemoteAddr, ScriptSettings, Settings
from trio_fcgimail.mail import (
    BOUNDARY_RANDOM_OCTETS,
    Answer,
    Envelope,
    Field,
    Meaning,
    Parameter,
    Session,
    Stage,
    Verdict,
    auth_fields,
    encode_fields,
    failed,
    get_parameters,
    hide_in_stderr,
    hide_password,
    judge,
    judge_each,
    judge_login,
    mail_fields,
    post_parameters,
    session_fields,
    validate_fields,
)
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.upstream import Body, Connect, UpstreamError, UpstreamUnavailable, connect, request
from trio_fcgimail.smtp import Credentials, Mailbox, Secret, catalogue

GIVE_UP_SECONDS: Final = 2.0  # when the FastCGI server refuses at once; docs/design.md, "Upstream"
_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.25

_NO_SCRIPT: Final = {
    Stage.CONNECT: Verdict(Meaning.ACCEPTED, catalogue.OK, "no connect script"),
    Stage.HELO: Verdict(Meaning.ACCEPTED, catalogue.OK, "no helo script"),
    Stage.MAIL: Verdict(Meaning.ACCEPTED, catalogue.SENDER_OK, "no mail script"),
    Stage.VALIDATE: Verdict(Meaning.ACCEPTED, catalogue.RECIPIENT_OK, "no validate script"),
}
_NOBODY: Final = Verdict(Meaning.REFUSED, catalogue.BAD_CREDENTIALS, "no auth script")


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
        self._own_parameters = _own_parameters(settings.scripts)
        self._paths = {
            Stage.CONNECT: settings.scripts.connect,
            Stage.HELO: settings.scripts.helo,
            Stage.AUTH: settings.scripts.auth,
            Stage.MAIL: settings.scripts.mail,
            Stage.VALIDATE: settings.scripts.validate,
        }
        self._total = trio.CapacityLimiter(settings.fastcgi.max_connections)
        self._saves = trio.CapacityLimiter(_save_connections(settings.fastcgi))

    @property
    def save_deadline_seconds(self) -> float:
        """The longest that a save can take, waiting included."""
        return self._fastcgi.wait_seconds + self._scripts.save_seconds

    def has(self, stage: Stage) -> bool:
        """Whether there is a script to ask; without one everybody passes, but nobody logs in."""
        return self._paths[stage] is not None

    async def connect(self, session: Session) -> Verdict:
        """Ask whether a client is to be served."""
        return await self._ask_to_pass(Stage.CONNECT, session, session_fields(session, "connect"))

    async def helo(self, session: Session) -> Verdict:
        """Ask whether a client is wanted by the name that it gives itself."""
        return await self._ask_to_pass(Stage.HELO, session, session_fields(session, "helo"))

    async def mail(self, envelope: Envelope) -> Verdict:
        """Ask whether a sender is wanted."""
        return await self._ask_to_pass(Stage.MAIL, envelope.session, mail_fields(envelope), envelope.queue_id)

    async def validate(self, envelope: Envelope, recipient: Mailbox) -> Verdict:
        """Ask whether a recipient is wanted."""
        fields = validate_fields(envelope, recipient)
        return await self._ask_to_pass(Stage.VALIDATE, envelope.session, fields, envelope.queue_id)

    async def _ask_to_pass(self, stage: Stage, session: Session, fields: list[Field], queue_id: str = "") -> Verdict:
        script = self._paths[stage]
        if script is None:
            return _NO_SCRIPT[stage]
        parameters = get_parameters(script, fields, hostname=self._hostname, remote_ip=session.peer.ip)
        answer = await self._ask(stage, queue_id, parameters, None, self._scripts.validate_seconds)
        if isinstance(answer, Verdict):
            return answer
        return judge(stage, answer, unexpected=self._unexpected, queue_id=queue_id)

    async def authenticate(self, session: Session, credentials: Credentials) -> Verdict:
        """Ask whether somebody is who they say; by POST, as query strings end up in logs of access."""
        script = self._scripts.auth
        if script is None:
            return _NOBODY
        form = encode_fields(auth_fields(session, credentials))
        parameters = post_parameters(script, len(form), hostname=self._hostname, remote_ip=session.peer.ip)
        body = Body(len(form), partial(_one_piece, form))
        password = credentials.password
        answer = await self._ask(Stage.AUTH, "", parameters, body, self._scripts.validate_seconds, hidden=password)
        if isinstance(answer, Verdict):
            return answer
        return judge_login(answer, password)

    async def save(self, message: IncomingMessage) -> tuple[Verdict, ...]:
        """Hand over a mail. Only a verdict that accepts may be answered 250.

        Returns:
            As many as ``Envelope.verdicts_owed`` says, in LMTP in the order of the recipients.
        """
        envelope = message.envelope
        asked = message.save_request(os.urandom(BOUNDARY_RANDOM_OCTETS))
        body = message.body(asked)
        script = self._scripts.save
        assert script is not None, "the settings have it with FastCGI in the chain"
        parameters = post_parameters(
            script,
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
        self,
        stage: Stage,
        queue_id: str,
        parameters: list[Parameter],
        body: Body | None,
        seconds: float,
        hidden: Secret | None = None,
    ) -> Answer | Verdict:
        """An answer of the script, or what it means that there is none; ``hidden`` stays out of the log."""
        parameters = [(name, self._own_parameters.get(name, value)) for name, value in parameters]
        try:
            answer = await self.call(stage, parameters, body, seconds=seconds)
        except UpstreamError as exc:
            self._log_oddities(stage, queue_id, exc.stderr, hidden=hidden)
            return failed(_explain(exc, hidden), stage)
        self._log_oddities(stage, queue_id, answer.stderr, answer.app_status, hidden)
        return answer

    def _log_oddities(
        self, stage: Stage, queue_id: str, stderr: bytes, app_status: int = 0, hidden: Secret | None = None
    ) -> None:
        """STDERR and appStatus decide nothing, but they are what an operator looks for."""
        if self._log is not None and (stderr or app_status):
            text = (stderr if hidden is None else hide_in_stderr(stderr, hidden)).decode("utf-8", "replace")
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
                    for limiter in (self._saves, self._total) if stage is Stage.SAVE else (self._total,):
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


def _explain(exc: UpstreamError, hidden: Secret | None) -> str:
    if hidden is None:
        return f"{type(exc).__name__}: {exc}"
    if exc.stderr:  # of which the text has a part, perhaps cut within the password
        return f"{type(exc).__name__}: see what the script wrote to STDERR"
    return hide_password(f"{type(exc).__name__}: {exc}".encode(), hidden).decode()


async def _one_piece(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


def _own_parameters(scripts: ScriptSettings) -> dict[bytes, bytes]:
    """What the settings have scripts see instead of what is."""
    own: dict[bytes, bytes] = {}
    if scripts.remote_addr is RemoteAddr.LOOPBACK:
        own[b"REMOTE_ADDR"] = scripts.remote_addr.value.encode()
    if scripts.server_software is not None:
        own[b"SERVER_SOFTWARE"] = scripts.server_software.encode()
    return own


def _save_connections(fastcgi: FastcgiSettings) -> int:
    """How many connections saves may take; with a single one there is no reserve."""
    return max(fastcgi.max_connections - fastcgi.reserve_for_validate, 1)
