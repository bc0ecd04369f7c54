"""An SMTP server on asyncio streams, many clients at once, that asks a coroutine about each recipient and each mail.

    python examples/smtp_asyncio.py [HOST:PORT]

The first line tells the address, ``127.0.0.1:2525`` unless another is named; port 0 takes any free one. Then one line
for each mail. A client that pipelines waits, like any other, until the coroutines have answered: the core looks at no
further command before.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import assert_never

from trio_fcgimail.smtp import (
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
    TransactionReset,
    catalogue,
)

OPTIONS = ServerOptions(hostname="localhost", max_message_octets=1 << 20)
IDLE_SECONDS = 300.0  # RFC 5321 4.5.3.2.7
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

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.connection = ServerConnection(OPTIONS)
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
                case Signal.PAUSED:
                    raise AssertionError("every event is answered before the next is asked for")
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

    async def answer(self, event: Event) -> bytes:
        """What to write because of the event."""
        accept, reject = self.connection.accept, self.connection.reject
        match event:
            case Connected() | DataBegun():
                return accept(event)
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


async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One client from its first octet to its last; what happens to it happens to nobody else."""
    try:
        await Session(reader, writer).run()
    except OSError as exc:
        print(f"a client is lost: {exc}", file=sys.stderr)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def main(arguments: Sequence[str]) -> None:
    """Listen, and serve everybody."""
    host, _, port = (arguments[0] if arguments else "127.0.0.1:2525").rpartition(":")
    server = await asyncio.start_server(serve_client, host, int(port))
    bound = server.sockets[0].getsockname()
    print(f"listening on {bound[0]}:{bound[1]}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
