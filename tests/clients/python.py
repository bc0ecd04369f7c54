"""The clients that are libraries of Python."""

import asyncio
import smtplib
import ssl
from pathlib import Path
from typing import assert_never

import aiosmtplib

from tests.clients.routes import HELO, HOST, SECONDS, Channel, Login, Mail, Mechanism, Outcome, Route


def _trusting(route: Route) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(route.authority))


def _options(mail: Mail) -> list[str]:
    options = [] if mail.content.isascii() else ["BODY=8BITMIME"]
    return [*options, "SMTPUTF8"] if mail.has_foreign_address else options


def _connect(route: Route) -> smtplib.SMTP:
    match route.channel:
        case Channel.PLAIN:
            return smtplib.SMTP(HOST, route.port, local_hostname=HELO, timeout=SECONDS)
        case Channel.STARTTLS:
            client = smtplib.SMTP(HOST, route.port, local_hostname=HELO, timeout=SECONDS)
            client.starttls(context=_trusting(route))
            return client
        case Channel.IMPLICIT:
            return smtplib.SMTP_SSL(HOST, route.port, local_hostname=HELO, timeout=SECONDS, context=_trusting(route))
        case Channel.LMTP:
            return smtplib.LMTP(str(route.socket), local_hostname=HELO, timeout=SECONDS)
        case other:
            assert_never(other)


def _log_in(client: smtplib.SMTP, login: Login) -> None:
    client.ehlo()
    client.user, client.password = login.username, login.password
    match login.mechanism:
        case Mechanism.PLAIN:
            client.auth("PLAIN", client.auth_plain)
        case Mechanism.LOGIN:
            client.auth("LOGIN", client.auth_login)
        case other:
            assert_never(other)


def by_smtplib(route: Route, mail: Mail, folder: Path) -> Outcome:
    """Python's own."""
    with _connect(route) as client:
        try:
            if route.login is not None:
                _log_in(client, route.login)
            client.sendmail(mail.sender, mail.recipients, mail.content, mail_options=_options(mail))
        except smtplib.SMTPRecipientsRefused as exc:
            return Outcome(False, repr(exc.recipients))
        except smtplib.SMTPResponseException as exc:
            return Outcome(False, f"{exc.smtp_code} {exc.smtp_error!r}")
    return Outcome(True, "250")


async def _send(route: Route, mail: Mail) -> None:
    client = aiosmtplib.SMTP(
        hostname=HOST,
        port=route.port,
        local_hostname=HELO,
        timeout=SECONDS,
        use_tls=route.channel is Channel.IMPLICIT,
        start_tls=route.channel is Channel.STARTTLS,
        tls_context=None if route.channel is Channel.PLAIN else _trusting(route),
    )
    transport: asyncio.BaseTransport | None = None
    try:
        async with client:
            transport = client.transport
            await client.ehlo()
            match route.login:
                case None:
                    pass
                case Login(Mechanism.PLAIN, username, password):
                    await client.auth_plain(username, password)
                case Login(Mechanism.LOGIN, username, password):
                    await client.auth_login(username, password)
            await client.sendmail(mail.sender, list(mail.recipients), mail.content, mail_options=_options(mail))
    finally:
        if isinstance(transport, asyncio.WriteTransport):
            # It does not wait for the end of TLS, which would come after that of the event loop.
            transport.abort()
            await asyncio.sleep(0)


def by_aiosmtplib(route: Route, mail: Mail, folder: Path) -> Outcome:
    """Its like for asyncio."""
    assert route.channel is not Channel.LMTP
    try:
        asyncio.run(_send(route, mail))
    except aiosmtplib.SMTPRecipientsRefused as exc:
        return Outcome(False, "; ".join(f"{one.code} {one.message}" for one in exc.recipients))
    except aiosmtplib.SMTPResponseException as exc:
        return Outcome(False, f"{exc.code} {exc.message}")
    return Outcome(True, "250")
