"""The yardstick: a bare mail server on Trio, with kept FastCGI connections and nothing else.

No limit, no deadline, no check, no log, no TLS: what is left is what any such server in Python has to do. Each command
is answered as if all were well; replies to a pipelined group go out in one write; a FastCGI request is one write and
mostly one read. Run by the benchmarks:  python -m benchmarks.sketch PORT SOCKET VALIDATE SAVE WORKERS
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import Final, final
from urllib.parse import quote_plus, urlencode

import trio

from benchmarks import wire

_RECEIVE_OCTETS: Final = 65_536
_END_OF_DATA: Final = b"\r\n.\r\n"
_CONNECTIONS: Final = 4  # as many as there are PHP workers


@final
class Pool:
    """Kept connections to php-fpm, the one used last first.

    Args:
        path: of its socket.
        connections: how many at most.
    """

    def __init__(self, path: str, connections: int) -> None:
        self._path = path
        self._free = trio.Semaphore(connections)
        self._idle: list[trio.SocketStream] = []

    async def call(self, request: bytes) -> bytes:
        """Make a request, and give what the script printed."""
        try:
            self._free.acquire_nowait()  # which is no checkpoint: most often nobody has to wait
        except trio.WouldBlock:
            await self._free.acquire()
        try:
            stream = self._idle.pop() if self._idle else await trio.open_unix_socket(self._path)
            await stream.send_all(request)
            received = b""
            while (answer := wire.answer(received)) is None:
                received += await stream.receive_some(_RECEIVE_OCTETS)
            self._idle.append(stream)
            return answer
        finally:
            self._free.release()


@final
@dataclass(frozen=True, slots=True)
class Scripts:
    """The two scripts, behind the pool."""

    pool: Pool
    validate: str
    save: str

    async def passes(self, sender: bytes, recipient: bytes) -> bool:
        """Ask for a recipient."""
        query = b"mail_from=%s&rcpt_to=%s" % (quote_plus(sender).encode(), quote_plus(recipient).encode())
        return await self.pool.call(wire.get(self.validate, query)) == b"PASSED"

    async def saved(self, sender: bytes, recipients: list[bytes], body: bytes) -> bool:
        """Hand over a mail."""
        fields = {"body": body, "helo": b"client", "mail_from": sender, "remote_ip": b"127.0.0.1", "tls_on": b"false"}
        fields |= {f"rcpt_to_{number}": recipient for number, recipient in enumerate(recipients)}
        return await self.pool.call(wire.post(self.save, urlencode(fields).encode())) == b"SAVED"


@final
class Session:
    """One connection."""

    def __init__(self, scripts: Scripts, stream: trio.SocketStream) -> None:
        self._scripts = scripts
        self._stream = stream
        self._received = bytearray()
        self._replies = b"220 sketch\r\n"
        self._sender = b""
        self._recipients: list[bytes] = []

    async def _receive(self) -> None:
        """Send what was gathered, then wait for more."""
        if self._replies:
            replies, self._replies = self._replies, b""
            await self._stream.send_all(replies)
        data = await self._stream.receive_some(_RECEIVE_OCTETS)
        if not data:
            raise EOFError
        self._received += data

    async def _line(self) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            await self._receive()
        line = bytes(self._received[:end])
        del self._received[: end + 2]
        return line

    async def _content(self) -> bytes:
        searched = 0
        while (end := self._received.find(_END_OF_DATA, searched)) < 0:
            searched = max(0, len(self._received) - len(_END_OF_DATA))
            await self._receive()
        content = bytes(self._received[: end + 2])
        del self._received[: end + len(_END_OF_DATA)]
        return content.replace(b"\r\n..", b"\r\n.").replace(b"\r\n", b"\n")

    async def serve(self) -> None:
        """Serve the client until it goes."""
        while True:
            line = await self._line()
            match line[:4].upper():
                case b"EHLO" | b"HELO":
                    self._replies += b"250-sketch\r\n250 PIPELINING\r\n"
                case b"MAIL":
                    self._sender, self._recipients = line[11:-1], []
                    self._replies += b"250 2.1.0 OK\r\n"
                case b"RCPT":
                    recipient = line[9:-1]
                    passes = await self._scripts.passes(self._sender, recipient)
                    self._recipients.append(recipient)
                    self._replies += b"250 2.1.5 OK\r\n" if passes else b"550 5.1.1 No\r\n"
                case b"DATA":
                    self._replies += b"354 Go\r\n"
                    body = await self._content()
                    saved = await self._scripts.saved(self._sender, self._recipients, body)
                    self._replies += b"250 2.0.0 OK\r\n" if saved else b"451 4.3.0 No\r\n"
                case b"QUIT":
                    await self._stream.send_all(self._replies + b"221 2.0.0 Bye\r\n")
                    return
                case _:
                    self._replies += b"250 OK\r\n"


async def _serve(scripts: Scripts, stream: trio.SocketStream) -> None:
    try:
        await Session(scripts, stream).serve()
    except (EOFError, trio.BrokenResourceError):
        pass  # it has gone
    finally:
        await trio.aclose_forcefully(stream)


async def _listen(port: int, scripts: Scripts) -> None:
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # the kernel deals connections out to the workers
    await sock.bind(("127.0.0.1", port))
    sock.listen(1024)
    await trio.serve_listeners(partial(_serve, scripts), [trio.SocketListener(sock)])


def main(port: int, php: str, validate: str, save: str, workers: int) -> None:
    """Serve for ever, in so many processes."""
    for _ in range(workers - 1):
        if os.fork() == 0:
            break
    trio.run(_listen, port, Scripts(Pool(php, _CONNECTIONS // workers), validate, save))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
