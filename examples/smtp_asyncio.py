"""An SMTP server on asyncio streams, many clients at once, that asks a coroutine about each recipient and each mail.

    python examples/smtp_asyncio.py [HOST:PORT [CERTIFICATE]]

The first line tells the address, ``127.0.0.1:2525`` unless another is named; port 0 takes any free one. Then one line
for each mail. With a certificate, a PEM file that holds its key too, STARTTLS is offered. A client that pipelines
waits, like any other, until the coroutines have answered: the core looks at no further command before.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import assert_never

from trio_fcgimail.smtp import (
    Authenticate,
    CommandAnswered,
    CommandRejected,
    Connected,
    ConnectionClosed,
    DataBegun,
    Event,
    Hello,
    Mailbox,
    MailFrom,
    MessageChunk,
    MessageEnd,
    MessageRefused,
    RcptTo,
    RemoteProtocolError,
    Reply,
    ServerConnection,
    ServerOptions,
    Signal,
    StartTls,
    Tls,
    TransactionReset,
    Xclient,
    catalogue,
)

OPTIONS = ServerOptions(hostname="localhost", max_message_octets=1 << 20)
IDLE_SECONDS = 300.0  # RFC 5321 4.5.3.2.7
HANDSHAKE_SECONDS = 30.0  # ours
READ_OCTETS = 65_536  # a quarter of what the core's buffer holds


async def refuses_recipient(recipient: Mailbox) -> Reply | None:
    """Look a recipient up; here there is but one who is unknown."""
    await asyncio.sleep(0)  # a database would be asked here, while other clients go on
    return catalogue.NO_SUCH_USER if recipient.local_part == "nobody" else None


async def refuses_mail(sender: Mailbox | None, recipients: Sequence[Mailbox], content: bytes) -> Reply | None:
    """Store a mail; whoever returns None has it in safety, as the client forgets it then."""
    await asyncio.sleep(0)
    if b"\r\nX-Refuse: yes\r\n" in b"\r\n" + content:
        return catalogue.LOCAL_ERROR
    print(f"mail from <{sender or ''}> to {', '.join(map(str, recipients))}: {len(content)} octets", flush=True)
    return None


class Session:
    """One client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: ssl.SSLContext | None) -> None:
        self.reader = reader
        self.writer = writer
        self.clear = (reader, writer)  # kept behind TLS, too: asyncio aborts a connection whose reader is thrown away
        self.tls = tls
        self.connection = ServerConnection(replace(OPTIONS, tls=Tls.NONE if tls is None else Tls.AVAILABLE))
        self.forget()

    def forget(self) -> None:
        """No mail is under way. The core remembers no addresses: what is wanted of the events is kept here."""
        self.sender: Mailbox | None = None
        self.recipients: list[Mailbox] = []
        self.content = bytearray()

    async def run(self) -> None:
        """Talk until either side has closed."""
        while True:
            try:
                event = self.connection.next_event()
            except RemoteProtocolError as exc:  # the stream makes no sense any more; ConnectionClosed comes next
                self.writer.write(exc.to_send)
                continue
            match event:
                case Signal.NEED_DATA:
                    await self.receive()
                case Signal.PAUSED:  # every event was answered, so it is the handshake that is due
                    await self.start_tls()
                case ConnectionClosed():
                    return await self.writer.drain()
                case _:
                    self.writer.write(await self.answer(event))

    async def receive(self) -> None:
        """Send what was answered, then give the core what the client sends; the deadline of both is ours."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                await self.writer.drain()
                data = await self.reader.read(READ_OCTETS)
        except TimeoutError:
            self.writer.write(self.connection.close(catalogue.TIMED_OUT))
        else:
            self.connection.receive_data(data)  # b"" at the end of file, which the core expects

    async def start_tls(self) -> None:
        """Go on over TLS, with a new reader: what the old one may have read ahead was not said within TLS.

        No ``drain()`` before: the loop would read on meanwhile, and the client's hello would be lost.
        """
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        old = self.writer.transport
        try:
            if self.tls is None:
                raise AssertionError("STARTTLS was not offered")
            transport = await loop.start_tls(
                old,
                protocol,
                self.tls,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
            if transport is None:
                raise ConnectionAbortedError("closed within the handshake")
        except OSError:  # ssl.SSLError is one, and so is what tells that the time is up
            self.connection.tls_failed()
            raise
        protocol.connection_made(transport)
        self.reader, self.writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)
        self.connection.tls_started()
        self.forget()

    async def answer(self, event: Event) -> bytes:
        """What to write because of the event."""
        accept, reject = self.connection.accept, self.connection.reject
        match event:
            case Connected() | StartTls() | DataBegun():
                return accept(event)
            case Authenticate() | Xclient():  # never asked: OPTIONS has no mechanism and trusts no proxy
                return reject(event, catalogue.NOT_OFFERED)
            case Hello():
                self.forget()
                return accept(event)
            case MailFrom(path=sender):
                self.forget()
                self.sender = sender
                return accept(event)
            case RcptTo(path=recipient):
                if (refusal := await refuses_recipient(recipient)) is not None:
                    return reject(event, refusal)
                self.recipients.append(recipient)
                return accept(event)
            case MessageChunk(data=data):
                self.content += data
                return b""
            case MessageEnd():
                refusal = await refuses_mail(self.sender, self.recipients, bytes(self.content))
                self.forget()
                return accept(event) if refusal is None else reject(event, refusal)
            case MessageRefused(to_send=to_send) | TransactionReset(to_send=to_send):
                self.forget()
                return to_send
            case CommandAnswered(to_send=to_send) | CommandRejected(to_send=to_send):
                return to_send
            case ConnectionClosed():
                return b""
            case _:
                assert_never(event)


async def serve_client(tls: ssl.SSLContext | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One client from its first octet to its last; what happens to it happens to nobody else."""
    session = Session(reader, writer, tls)
    try:
        await session.run()
    except OSError as exc:
        print(f"a client is lost: {exc}", file=sys.stderr)
    finally:
        session.writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):  # the server stops, and here nothing is left to do
            await session.writer.wait_closed()


async def main(arguments: Sequence[str]) -> None:
    """Listen, and serve everybody."""
    host, _, port = (arguments[0] if arguments else "127.0.0.1:2525").rpartition(":")
    tls = None
    if len(arguments) > 1:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(arguments[1])
    server = await asyncio.start_server(partial(serve_client, tls), host, int(port))
    bound = server.sockets[0].getsockname()
    print(f"listening on {bound[0]}:{bound[1]}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
