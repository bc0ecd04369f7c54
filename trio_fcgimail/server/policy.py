"""Who is served, and whose mail is taken: our own rules first, then the scripts', each answer told to the log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Final, final

import structlog.typing
import trio

from trio_fcgimail.config import Settings
from trio_fcgimail.mail import DsnWish, Envelope, EnvelopeDraft, Meaning, Session, Stage, Verdict, comparable_domain
from trio_fcgimail.server.entrance import Entrance
from trio_fcgimail.server.gateway import Gateway
from trio_fcgimail.smtp import Credentials, Mailbox, Reply, catalogue

_LOG_LINES: Final = {
    Stage.CONNECT: "connection",
    Stage.HELO: "greeting",
    Stage.AUTH: "login",
    Stage.MAIL: "sender",
    Stage.VALIDATE: "recipient",
}


def sender_refusal(path: Mailbox | None) -> Reply | None:
    """Why a reverse-path is refused, if it is; None is ``<>``."""
    return None if path is None else _name_refusal(path)


def recipient_refusal(path: Mailbox, settings: Settings) -> Reply | None:
    """Why a recipient is refused, if it is. ``<postmaster>`` without a domain never is (RFC 5321 4.5.1)."""
    if path.domain is None:
        return None
    refusal = _name_refusal(path)
    if refusal is not None:
        return refusal
    if settings.null_mx_hosts.holds(path.domain):
        return catalogue.DOMAIN_TAKES_NO_MAIL
    return None if settings.allowed_hosts.holds(path.domain) else catalogue.RELAY_DENIED


@final
class Policy:
    """Decides for the sessions of one listener. Every method gives the reply; one of 2xx says yes.

    Args:
        log: of the session.
    """

    def __init__(self, entrance: Entrance, gateway: Gateway, log: structlog.typing.FilteringBoundLogger) -> None:
        self._listener = entrance.settings
        self._settings = gateway.settings
        self._scripts = gateway.scripts
        self._chain = gateway.chain
        self._log = log

    async def connection(self, session: Session) -> Reply:
        """Whether a client is served at all."""
        if not self._scripts.has(Stage.CONNECT):
            return catalogue.OK
        return await self._ask(Stage.CONNECT, self._scripts.connect(session))

    async def greeting(self, session: Session) -> Reply:
        """Whether a client is served under the name that it gives itself."""
        if not self._scripts.has(Stage.HELO):
            return catalogue.OK
        return await self._ask(Stage.HELO, self._scripts.helo(session), helo=session.helo)

    async def login(self, session: Session, credentials: Credentials) -> Reply:
        """Whether somebody is who they say."""
        user = credentials.username
        if credentials.identity not in ("", user):  # nobody here may act for another (RFC 4616 2)
            self._log.info("login refused", user=user, identity=credentials.identity)
            return catalogue.BAD_CREDENTIALS
        return await self._ask(Stage.AUTH, self._scripts.authenticate(session, credentials), user=user)

    async def sender(self, envelope: Envelope) -> Reply:
        """Whether mail of a sender is taken."""
        is_stranger = self._listener.require_auth and envelope.session.auth_user is None
        refusal = catalogue.AUTH_REQUIRED if is_stranger else sender_refusal(envelope.mail_from)
        if refusal is not None:
            self._log.info("sender refused", mail_from=envelope.sender, reply=refusal.text)
            return refusal
        if not self._scripts.has(Stage.MAIL):
            return catalogue.SENDER_OK
        asking = self._scripts.mail(envelope)
        return await self._ask(Stage.MAIL, asking, queue_id=envelope.queue_id, mail_from=envelope.sender)

    async def recipient(self, draft: EnvelopeDraft, path: Mailbox, wish: DsnWish) -> Reply:
        """Whether a recipient is taken, who then is added to the draft."""
        here = draft.envelope.session.hostname or self._settings.hostname
        recipient = path if path.domain is not None else Mailbox(path.local_part, here)
        refusal = recipient_refusal(path, self._settings)
        if refusal is not None and not (refusal is catalogue.RELAY_DENIED and self._may_relay(draft.envelope.session)):
            self._log.info("recipient refused", queue_id=draft.queue_id, rcpt=str(path), reply=refusal.text)
            return refusal
        if not draft.has_room_for(recipient, wish):
            return catalogue.TOO_MANY_RECIPIENTS
        reply = catalogue.RECIPIENT_OK
        if path.domain is not None or self._chain.validates_postmaster:
            reply = await self._validate(draft.envelope, recipient, path)
        if reply.code == catalogue.RECIPIENT_OK.code:
            draft.add(recipient, wish)
        return reply

    def _may_relay(self, session: Session) -> bool:
        return self._listener.auth_any_recipient and session.auth_user is not None

    async def _validate(self, envelope: Envelope, recipient: Mailbox, path: Mailbox) -> Reply:
        return await self._ask(
            Stage.VALIDATE,
            self._chain.validate(envelope, recipient, bare=path.domain is None),
            queue_id=envelope.queue_id,
            mail_from=envelope.sender,
            rcpt=str(recipient),
        )

    async def _ask(self, stage: Stage, asking: Awaitable[Verdict], **facts: str) -> Reply:
        """Ask a script, and tell what came of it, if there is one to ask."""
        began = trio.current_time()
        verdict = await asking
        is_asked = self._chain.validates if stage is Stage.VALIDATE else self._scripts.has(stage)
        is_detail = stage is Stage.VALIDATE and verdict.meaning is Meaning.ACCEPTED  # the line of its mail names it
        level = logging.DEBUG if is_detail else logging.INFO  # structlog's levels are those of the standard library
        if is_asked and self._log.is_enabled_for(level):
            self._log.log(
                level,
                _LOG_LINES[stage],
                **facts,
                verdict=verdict.meaning.value,
                reply=verdict.reply.text,
                reason=verdict.reason,
                milliseconds=round(1000 * (trio.current_time() - began)),
            )
        return verdict.reply


def _name_refusal(path: Mailbox) -> Reply | None:
    if path.domain is None:
        return None
    try:
        comparable_domain(path.domain)
    except ValueError:
        return catalogue.INVALID_U_LABEL
    return None
