"""Asking the scripts: a free connection, a request, a verdict. Whatever goes wrong becomes a temporary failure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from functools import partial
from typing import Final, final

import structlog.typing

from trio_fcgimail.config import FastcgiSettings, RemoteAddr, Settings
from trio_fcgimail.fastcgi import ConstantParams
from trio_fcgimail.mail import (
    BOUNDARY_RANDOM_OCTETS,
    FORM_TYPE,
    Answer,
    Envelope,
    Field,
    Meaning,
    Parameter,
    Session,
    Stage,
    Verdict,
    auth_fields,
    body_parameters,
    constant_parameters,
    encode_fields,
    failed,
    hide_in_stderr,
    hide_password,
    judge,
    judge_each,
    judge_login,
    mail_fields,
    query_string,
    request_parameters,
    session_fields,
    validate_fields,
)
from trio_fcgimail.server.chance import Chance
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.metrics import Counts
from trio_fcgimail.server.pool import Budget, Kind, Pool, PoolRules, PoolSnapshot, Trip
from trio_fcgimail.server.upstream import Body, CleanEnd, Connect, UpstreamError, connect
from trio_fcgimail.smtp import Credentials, Mailbox, Secret, catalogue

_NO_SCRIPT: Final = {
    Stage.CONNECT: Verdict(Meaning.ACCEPTED, catalogue.OK, "no connect script"),
    Stage.HELO: Verdict(Meaning.ACCEPTED, catalogue.OK, "no helo script"),
    Stage.MAIL: Verdict(Meaning.ACCEPTED, catalogue.SENDER_OK, "no mail script"),
    Stage.VALIDATE: Verdict(Meaning.ACCEPTED, catalogue.RECIPIENT_OK, "no validate script"),
}
_KINDS: Final = {Stage.SAVE: Kind.SAVE, Stage.VALIDATE: Kind.VALIDATE}
_POSTED: Final = frozenset({Stage.AUTH, Stage.SAVE})
_NOBODY: Final = Verdict(Meaning.REFUSED, catalogue.BAD_CREDENTIALS, "no auth script")


@final
class Scripts:
    """The scripts of one configuration, behind the FastCGI servers that it names.

    Run ``run`` as long as anybody is asked.

    Args:
        settings: checked.
        log: told what scripts write to STDERR; None for nobody.
        connect: how connections come about.
        budget: what they are leased from; None for one of our own.
        counts: told of each request; None for nobody.
    """

    def __init__(
        self,
        settings: Settings,
        log: structlog.typing.FilteringBoundLogger | None = None,
        connect: Connect = connect,
        budget: Budget | None = None,
        counts: Counts | None = None,
    ) -> None:
        self._log = log
        self._chance = Chance()
        self._counts = counts or Counts()
        self._fastcgi = settings.fastcgi
        self._scripts = settings.scripts
        self._unexpected = settings.scripts.unexpected_output
        paths = {
            Stage.CONNECT: settings.scripts.connect,
            Stage.HELO: settings.scripts.helo,
            Stage.AUTH: settings.scripts.auth,
            Stage.MAIL: settings.scripts.mail,
            Stage.VALIDATE: settings.scripts.validate,
            Stage.SAVE: settings.scripts.save,
        }
        self._asked = {stage: None if path is None else _Script(stage, path, settings) for stage, path in paths.items()}
        self._pool = _pool(settings.fastcgi, log, connect, budget)

    @property
    def save_deadline_seconds(self) -> float:
        """The longest that a save can take, waiting and all tries included."""
        return self._fastcgi.wait_seconds + self._scripts.save_seconds

    def has(self, stage: Stage) -> bool:
        """Whether there is a script to ask; without one everybody passes, but nobody logs in."""
        return self._asked[stage] is not None

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
        script = self._asked[stage]
        if script is None:
            return _NO_SCRIPT[stage]
        parameters = script.parameters(session, fields)
        answer = await self._ask(script, session, queue_id, parameters, None, self._scripts.validate_seconds)
        if isinstance(answer, Verdict):
            return answer
        return judge(stage, answer, unexpected=self._unexpected, queue_id=queue_id)

    async def authenticate(self, session: Session, credentials: Credentials) -> Verdict:
        """Ask whether somebody is who they say; by POST, as query strings end up in logs of access."""
        script = self._asked[Stage.AUTH]
        if script is None:
            return _NOBODY
        form = encode_fields(auth_fields(session, credentials))
        parameters = [*script.parameters(session), *body_parameters(FORM_TYPE, len(form))]
        body = Body(len(form), partial(_one_piece, form), form)
        password = credentials.password
        seconds = self._scripts.validate_seconds
        answer = await self._ask(script, session, "", parameters, body, seconds, hidden=password)
        if isinstance(answer, Verdict):
            return answer
        return judge_login(answer, password)

    async def save(self, message: IncomingMessage) -> tuple[Verdict, ...]:
        """Hand over a mail. Only a verdict that accepts may be answered 250.

        Returns:
            As many as ``Envelope.verdicts_owed`` says, in LMTP in the order of the recipients.
        """
        envelope = message.envelope
        asked = message.save_request(self._chance.octets(BOUNDARY_RANDOM_OCTETS))
        body = message.body(asked)
        script = self._asked[Stage.SAVE]
        assert script is not None, "the settings have it with FastCGI in the chain"
        parameters = [
            *script.parameters(envelope.session, asked.query),
            *body_parameters(asked.content_type, body.octets),
            *asked.parameters,
        ]
        owed, queue_id = envelope.verdicts_owed, envelope.queue_id
        seconds = self._scripts.save_seconds
        answer = await self._ask(script, envelope.session, queue_id, parameters, body, seconds, trip=message.trip)
        if isinstance(answer, Verdict):
            return (answer,) * owed
        return judge_each(answer, owed, unexpected=self._unexpected, queue_id=queue_id)

    async def _ask(
        self,
        script: _Script,
        session: Session,
        queue_id: str,
        parameters: list[Parameter],
        body: Body | None,
        seconds: float,
        hidden: Secret | None = None,
        trip: Trip | None = None,
    ) -> Answer | Verdict:
        """An answer of the script, or what it means that there is none; ``hidden`` stays out of the log."""
        stage = script.stage
        constant = script.constant(session.hostname)
        trip = Trip() if trip is None else trip
        try:
            answer = await self._pool.request(
                script.kind, parameters, body, seconds=seconds, constant=constant, trip=trip
            )
        except UpstreamError as exc:
            trip.stderr = self._log_oddities(stage, queue_id, exc.stderr, hidden=hidden)
            return failed(_explain(exc, hidden), stage)
        finally:
            self._counts.asked(stage, trip)
        trip.stderr = self._log_oddities(stage, queue_id, answer.stderr, answer.app_status, hidden)
        return answer

    def _log_oddities(
        self, stage: Stage, queue_id: str, stderr: bytes, app_status: int = 0, hidden: Secret | None = None
    ) -> str:
        """STDERR and appStatus decide nothing, but they are what an operator looks for. Returns STDERR, decoded."""
        if not (stderr or app_status):
            return ""
        text = (stderr if hidden is None else hide_in_stderr(stderr, hidden)).decode("utf-8", "replace")
        if self._log is not None:
            self._log.warning("script stderr", queue_id=queue_id, stage=stage.value, app_status=app_status, stderr=text)
        return text

    @property
    def upstreams(self) -> tuple[str, ...]:
        """The addresses of the FastCGI servers, in the order of ``pool``."""
        return tuple(map(str, self._fastcgi.upstreams))

    def pool(self) -> PoolSnapshot:
        """The state of the connections to them."""
        return self._pool.snapshot()

    async def run(self) -> None:
        """Look after the connections, until cancelled; outlives the last request."""
        await self._pool.run()


def _explain(exc: UpstreamError, hidden: Secret | None) -> str:
    if hidden is None:
        return f"{type(exc).__name__}: {exc}"
    if exc.stderr:  # of which the text has a part, perhaps cut within the password
        return f"{type(exc).__name__}: see what the script wrote to STDERR"
    return hide_password(f"{type(exc).__name__}: {exc}".encode(), hidden).decode()


async def _one_piece(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


@final
class _Script:
    """A script, and what all requests to it have in common.

    Attributes:
        kind: of its requests.
    """

    __slots__ = ("_constants", "_hostname", "_is_remote_hidden", "_path", "_software", "kind", "stage")

    def __init__(self, stage: Stage, path: str, settings: Settings) -> None:
        self.stage: Final = stage
        self.kind: Final = _KINDS.get(stage, Kind.POLICY)
        self._path = path
        self._is_remote_hidden = settings.scripts.remote_addr is RemoteAddr.LOOPBACK
        self._hostname = settings.hostname
        self._software = settings.scripts.server_software
        self._constants: dict[str, ConstantParams] = {}  # as many as listeners have names

    def constant(self, hostname: str) -> ConstantParams:
        """The parameters of all its requests from listeners of that name; empty for the name of the server."""
        if (found := self._constants.get(hostname)) is None:
            method = "POST" if self.stage in _POSTED else "GET"
            constant = dict(constant_parameters(self._path, method, hostname=hostname or self._hostname))
            if self._software is not None:
                constant[b"SERVER_SOFTWARE"] = self._software.encode()
            found = self._constants[hostname] = ConstantParams(tuple(constant.items()))
        return found

    def parameters(self, session: Session, query: Iterable[Field] = ()) -> list[Parameter]:
        """Those of one request."""
        remote_ip = RemoteAddr.LOOPBACK.value if self._is_remote_hidden else session.peer.ip
        return request_parameters(self._path, query_string(query), remote_ip=remote_ip)


def _pool(
    fastcgi: FastcgiSettings,
    log: structlog.typing.FilteringBoundLogger | None,
    connect: Connect,
    budget: Budget | None,
) -> Pool:
    rules = PoolRules(
        max_connections=fastcgi.max_connections,
        reserve=fastcgi.reserve_for_validate,
        keep_alive=fastcgi.keep_alive,
        is_known_to_keep=fastcgi.clean_eof_means_unexecuted,
        wait_seconds=fastcgi.wait_seconds,
        connect_seconds=fastcgi.connect_seconds,
    )
    clean_end = CleanEnd.UNEXECUTED if fastcgi.clean_eof_means_unexecuted else CleanEnd.UNKNOWN
    return Pool(fastcgi.upstreams, rules, clean_end=clean_end, log=log, connect=connect, budget=budget)
