"""A FastCGI application server of our own that does well, and remembers which mails it has stored and said so."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final, final
from urllib.parse import parse_qs

import trio

from trio_fcgimail import fastcgi
from trio_fcgimail.config import ListenerSettings, TcpAddress, UnixAddress
from trio_fcgimail.server.listeners import open_listeners

_HEAD: Final = b"Content-type: text/plain\r\n\r\n"
_READ_OCTETS: Final = 65_536


class Manner(Enum):
    """How it treats connections that are kept."""

    KEEPS = "keeps them"
    PONDERS = "keeps them, and takes a second for a mail"
    RETIRES = "closes them at the next request, unanswered, as a worker of php-fpm that has done its share"


@final
class Store:
    """Takes every recipient, every login and every mail.

    Attributes:
        stored: the queue ids of the mails that it has got whole.
        said: those of which the whole answer was handed to the kernel.
        connections: how many there are.
        reused: how many requests came by a connection that had had one before.
        retired: how many of those were left unanswered.
    """

    def __init__(self, manner: Manner = Manner.KEEPS) -> None:
        self.stored: list[str] = []
        self.said: list[str] = []
        self.connections = 0
        self.reused = 0
        self.retired = 0
        self._manner = manner

    async def open(self, path: Path, port: int) -> list[trio.SocketListener]:
        """Listen on a unix socket and on loopback."""
        addresses = (UnixAddress(str(path)), TcpAddress("127.0.0.1", port))
        return [one for address in addresses for one in await open_listeners(ListenerSettings(address=address))]

    async def serve(self, listeners: list[trio.SocketListener]) -> None:
        """Serve, until cancelled."""
        await trio.serve_listeners(self._connection, listeners)

    async def _connection(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            with suppress(trio.BrokenResourceError, fastcgi.RemoteProtocolError):
                await self._requests(stream)
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)

    async def _requests(self, stream: trio.SocketStream) -> None:
        conn = fastcgi.ResponderConnection()
        answered = 0
        while not conn.must_close:
            body = bytearray()
            parameters: dict[bytes, bytes] = {}
            while True:
                event = conn.next_event()
                match event:
                    case fastcgi.Signal.NEED_DATA:
                        conn.receive_data(await stream.receive_some(_READ_OCTETS))
                    case fastcgi.RequestBegun(params=params):
                        parameters = dict(params)
                    case fastcgi.StdinChunk(data=data):
                        body += data
                    case fastcgi.StdinEnded():
                        break
                    case fastcgi.ConnectionClosed():
                        return
                    case _:
                        raise AssertionError(event)
            self.reused += answered > 0
            if answered and self._manner is Manner.RETIRES:
                self.retired += 1
                return
            await self._answer(stream, conn, parameters, bytes(body))
            answered += 1

    async def _answer(
        self,
        stream: trio.SocketStream,
        conn: fastcgi.ResponderConnection,
        parameters: dict[bytes, bytes],
        body: bytes,
    ) -> None:
        is_save = parameters[b"SCRIPT_FILENAME"].endswith(b"save.php")
        queue_id = ""
        if is_save:
            assert len(body) == int(parameters[b"CONTENT_LENGTH"])
            queue_id = parse_qs(body.decode("latin-1"))["queue_id"][0]
            self.stored.append(queue_id)
            if self._manner is Manner.PONDERS:
                await trio.sleep(1)
        verdict = b"SAVED" if is_save else b"PASSED"
        await stream.send_all(conn.send_stdout(1, _HEAD + verdict) + conn.end_request(1))
        if is_save:
            self.said.append(queue_id)
