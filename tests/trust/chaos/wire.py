"""One connection of a sender."""

import socket
import ssl
import struct
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.certificates import HOSTNAME
from tests.trust.chaos.attempts import Manner, Route

REPLY_SECONDS = 60.0  # several times what the server may take; a reply that takes longer never comes
_LARGEST_REPLY = 65_536
_ABORT = struct.pack("ii", 1, 0)  # close() is a reset


class HungError(Exception):
    """The connection stands, and no reply comes."""


class CutError(Exception):
    """We have cut the connection, as the plan says."""


class GoneError(Exception):
    """The connection is no more."""


class RefusedError(Exception):
    """5xx, which nothing here has earned."""


#: Whatever an end of a connection may look like.
GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError)


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the server listens."""

    ports: dict[Route, int]
    lmtp: Path
    trusting: ssl.SSLContext


class Wire:
    """A connection, in the clear at first."""

    def __init__(self, sock: trio.SocketStream) -> None:
        self._sock = sock
        self._stream: trio.abc.Stream = sock
        self._unread = bytearray()

    @classmethod
    async def connect(cls, doors: Doors, route: Route) -> "Wire":
        """Open one. Raises GoneError."""
        try:
            with trio.fail_after(REPLY_SECONDS):
                if route is Route.LMTP:
                    return cls(await trio.open_unix_socket(doors.lmtp))
                return cls(await trio.open_tcp_stream("127.0.0.1", doors.ports[route]))
        except OSError as exc:
            raise GoneError("cannot connect") from exc

    async def encrypt(self, context: ssl.SSLContext) -> None:
        """TLS from here on. Raises GoneError, HungError."""
        stream = trio.SSLStream(self._sock, context, server_hostname=HOSTNAME)
        try:
            with trio.move_on_after(REPLY_SECONDS) as scope:
                await stream.do_handshake()
        except GONE as exc:
            raise GoneError("broken in the handshake") from exc
        if scope.cancelled_caught:
            raise HungError("no end of the TLS handshake")
        self._stream = stream

    async def send(self, data: bytes) -> None:
        """All of it. Raises GoneError, HungError."""
        try:
            with trio.move_on_after(REPLY_SECONDS) as scope:
                await self._stream.send_all(data)
        except GONE as exc:
            raise GoneError("broken while we sent") from exc
        if scope.cancelled_caught:
            raise HungError("our octets are not read")

    async def reply(self) -> str:
        """One, its last line. Raises GoneError, HungError."""
        with trio.move_on_after(REPLY_SECONDS):
            while True:
                line = await self._line()
                if line[3:4] != "-":
                    return line
        raise HungError("no reply")

    async def _line(self) -> str:
        while (end := self._unread.find(b"\r\n")) < 0:
            try:
                data = await self._stream.receive_some(_LARGEST_REPLY)
            except GONE as exc:
                raise GoneError("broken while we waited for a reply") from exc
            if not data:
                raise GoneError("end of file while we waited for a reply")
            self._unread += data
        line = self._unread[:end].decode("ascii", "backslashreplace")
        del self._unread[: end + 2]
        return line

    async def cut(self, manner: Manner) -> None:
        """End it as a network or a program would that breaks."""
        if manner is Manner.RESET and self._sock.socket.family != socket.AF_UNIX:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        await self.close()

    async def end_sending(self) -> None:
        """Half of it: what the server says still comes. Raises GoneError."""
        try:
            self._sock.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise GoneError("broken before a half close") from exc

    async def close(self) -> None:
        """At once."""
        await trio.aclose_forcefully(self._sock)
