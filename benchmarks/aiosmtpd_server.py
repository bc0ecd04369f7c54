"""aiosmtpd with a FastCGI handler that keeps its connections: the best that was found for it.

Form values are encoded in C, a request is one write, replies of php-fpm are read by a Protocol without streams, and as
many connections as PHP has workers are kept, the one used last first. aiosmtpd itself runs as it comes, without its
Controller, which would add a thread.

python -m benchmarks.aiosmtpd_server PORT SOCKET VALIDATE SAVE [CERTIFICATE KEY]
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Final, Protocol, final

from aiosmtpd.smtp import SMTP

from benchmarks import wire

_CONNECTIONS: Final = 4
_MAX_MESSAGE_OCTETS: Final = 64 * 1024 * 1024


class _Peer(Protocol):
    """What of aiosmtpd's Session is used."""

    host_name: str


class _Mail(Protocol):
    """What of aiosmtpd's Envelope is used."""

    mail_from: str
    rcpt_tos: list[str]
    content: bytes


@final
class _Connection(asyncio.Protocol):
    """A kept connection: one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.BaseTransport | None = None
        self._received = b""
        self._waiter: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def call(self, request: bytes) -> asyncio.Future[bytes]:
        """Make a request; the future gets what the script printed."""
        assert isinstance(self._transport, asyncio.WriteTransport)
        self._received = b""
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return waiter

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = wire.answer(self._received)
        if answer is not None and self._waiter is not None:
            self._waiter.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or EOFError())


@final
class _Pool:
    def __init__(self, path: str) -> None:
        self._path = path
        self._free = asyncio.Semaphore(_CONNECTIONS)
        self._idle: list[_Connection] = []

    async def call(self, request: bytes) -> bytes:
        async with self._free:
            if self._idle:
                connection = self._idle.pop()
            else:
                _, connection = await asyncio.get_running_loop().create_unix_connection(_Connection, self._path)
            answer = await connection.call(request)
            self._idle.append(connection)
            return answer


@final
class Handler:
    """aiosmtpd's hooks: RCPT is a GET, the mail a POST."""

    def __init__(self, path: str, validate: str, save: str) -> None:
        self._pool = _Pool(path)
        self._validate = validate
        self._save = save

    async def handle_RCPT(  # noqa: N802 - aiosmtpd finds it by this name
        self, server: SMTP, session: _Peer, envelope: _Mail, address: str, options: list[str]
    ) -> str:
        """Ask for a recipient."""
        del server, session, options
        query = b"mail_from=%s&rcpt_to=%s" % (_value(envelope.mail_from), _value(address))
        if await self._pool.call(wire.get(self._validate, query)) != b"PASSED":
            return "550 5.1.1 No such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: _Peer, envelope: _Mail) -> str:  # noqa: N802 - as above
        """Hand over a mail."""
        del server
        recipients = [b"rcpt_to_%d=%s" % pair for pair in enumerate(map(_value, envelope.rcpt_tos))]
        fields = [
            b"body=" + wire.form_value(envelope.content.replace(b"\r\n", b"\n")),
            b"helo=" + _value(session.host_name),
            b"mail_from=" + _value(envelope.mail_from),
            *recipients,
            b"remote_ip=127.0.0.1&tls_on=false",
        ]
        if await self._pool.call(wire.post(self._save, b"&".join(fields))) != b"SAVED":
            return "451 4.3.0 Not saved"
        return "250 2.0.0 OK"


def _value(text: str) -> bytes:
    return wire.form_value(text.encode())


async def _serve(port: int, handler: Handler, context: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()

    def factory() -> SMTP:
        return SMTP(handler, hostname="localhost", loop=loop, data_size_limit=_MAX_MESSAGE_OCTETS, ident="aiosmtpd")

    server = await loop.create_server(factory, "127.0.0.1", port, ssl=context, backlog=1024)
    await server.serve_forever()


def main(port: int, path: str, validate: str, save: str, *certificate: str) -> None:
    """Serve for ever; with a certificate and a key, over TLS."""
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
    asyncio.run(_serve(port, Handler(path, validate, save), context))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
