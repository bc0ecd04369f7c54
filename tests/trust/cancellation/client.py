"""An SMTP client over a stream that may be taken from it at any time; it believes nothing but what it is told."""

from __future__ import annotations

import itertools
import re
import ssl
from typing import Final, final

import trio

from tests.certificates import Authority

_READ_OCTETS: Final = 65_536
_NUMBERS: Final = itertools.count(1)
_QUEUED: Final = re.compile(rb"250 2\.0\.0 OK: queued as (\S+)")


class GoneError(Exception):
    """There is nobody to talk to any more, or not about what was meant."""


@final
class Client:
    """One client.

    Args:
        socket: to the server.
        authority: whose certificates it believes.

    Attributes:
        promised: the queue ids of all mails that it was told of as queued, once for each such reply.
    """

    def __init__(self, socket: trio.SocketStream, authority: Authority) -> None:
        self.promised: list[str] = []
        self._authority = authority
        self._socket = socket
        self._stream: trio.abc.Stream = socket
        self._unread = bytearray()

    def vanish(self) -> None:
        """Close without a word, from wherever that is called."""
        self._socket.socket.close()

    async def send(self, data: bytes) -> None:
        """Send octets as they are. Raises GoneError."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise GoneError from exc

    async def reply(self, code: bytes = b"250") -> bytes:
        """One reply, which must begin so. Raises GoneError."""
        lines = [await self._line()]
        while lines[-1][3:4] == b"-":
            lines.append(await self._line())
        if not lines[-1].startswith(code):
            raise GoneError(lines[-1])
        return b"".join(lines)

    async def _line(self) -> bytes:
        while b"\n" not in self._unread:
            try:
                data = await self._stream.receive_some(_READ_OCTETS)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise GoneError from exc
            if not data:
                raise GoneError("end")
            self._unread += data
        line, _, rest = self._unread.partition(b"\n")
        self._unread = bytearray(rest)
        if (found := _QUEUED.match(line)) is not None:
            self.promised.append(found[1].decode())
        return bytes(line) + b"\n"

    async def ask(self, command: bytes, code: bytes = b"250") -> bytes:
        """Send a line, and get the reply. Raises GoneError."""
        await self.send(command + b"\r\n")
        return await self.reply(code)

    async def hello(self, word: bytes = b"EHLO") -> None:
        """Take the banner, and greet."""
        await self.reply(b"220")
        await self.ask(word + b" client.example")

    async def outcome(self, replies: int = 1) -> None:
        """Read the replies to a mail, none of which may refuse it for ever. Raises GoneError."""
        for _ in range(replies):
            reply = await self.reply(b"")
            assert reply[:1] in b"24", reply

    async def begin(self, *recipients: str) -> None:
        """The envelope, step by step. Raises GoneError."""
        await self.ask(b"MAIL FROM:<a@client.example>")
        for recipient in recipients or ("bob",):
            await self.ask(f"RCPT TO:<{recipient}@example.com>".encode())

    async def mail(self, name: str, *recipients: str, body: bytes = b"Well?\r\n", replies: int = 1) -> None:
        """A mail by DATA, step by step. Raises GoneError."""
        await self.begin(*recipients)
        await self.ask(b"DATA", b"354")
        await self.send(content(name, body) + b".\r\n")
        await self.outcome(replies)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Encrypt. Raises GoneError."""
        await self.ask(b"STARTTLS", b"220")
        await self.handshake(context)
        await self.ask(b"EHLO client.example")

    async def handshake(self, context: ssl.SSLContext) -> None:
        """Speak TLS from here on. Raises GoneError."""
        encrypted = self._authority.client(self._socket, context)
        try:
            await encrypted.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise GoneError from exc
        self._stream = encrypted

    async def quit(self) -> None:
        """Leave politely. Raises GoneError."""
        await self.ask(b"QUIT", b"221")

    async def drain(self) -> None:
        """Read replies until the server closes, and heed none of them."""
        while True:
            try:
                await self._line()
            except GoneError:
                return


def content(name: str, body: bytes) -> bytes:
    """A mail that bears its name, and is like no other."""
    return b"Subject: %b\r\nMessage-ID: <%d@client.example>\r\n\r\n%b" % (name.encode(), next(_NUMBERS), body)
