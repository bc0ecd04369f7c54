"""What parent and child say to each other, and how it is framed: four octets of length, then MessagePack."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Final, TypeVar, final

import msgspec
import trio

MAX_MESSAGE_OCTETS: Final = 64 << 20  # ours: settings may name very many hosts, and nothing else is large
_LENGTH: Final = struct.Struct("!I")
_RECEIVE_OCTETS: Final = 65_536


class Start(msgspec.Struct, tag=True, frozen=True):
    """The first message to a child.

    Args:
        settings: pickled; only a parent of the same program is ever at the other end.
        sockets: the file descriptors of each listener, in the order of the settings.
        uid: whom to become, with ``gid`` and ``user``; None to stay.
    """

    number: int
    settings: bytes
    sockets: list[list[int]]
    uid: int | None = None
    gid: int | None = None
    user: str | None = None


class Retire(msgspec.Struct, tag=True, frozen=True):
    """Others take over: accept no more, and let each client end its first mail."""


class Stop(msgspec.Struct, tag=True, frozen=True):
    """The end has come: accept no more, let mails under way come to theirs."""


class Cut(msgspec.Struct, tag=True, frozen=True):
    """End now."""


class Reopen(msgspec.Struct, tag=True, frozen=True):
    """The log file was moved away."""


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The child accepts connections."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The child cannot serve; the text is one line for the user."""

    problem: str


ToChild = Start | Retire | Stop | Cut | Reopen
ToParent = Ready | Failed

_Message = TypeVar("_Message")


@final
class Channel:
    """One end of the socket pair. An end whose other side is gone reads None, and writes into the void.

    Args:
        stream: owned from here on.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray()
        self._sending = trio.Lock()

    async def send(self, message: ToChild | ToParent) -> None:
        """Send one message; to nobody, when the other side is gone."""
        data = self._encoder.encode(message)
        async with self._sending:
            # Whoever waits for an answer learns from receive() that nobody is there.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(_LENGTH.pack(len(data)) + data)

    async def receive(self, decoder: msgspec.msgpack.Decoder[_Message]) -> _Message | None:
        """The next message, or None when the other side is gone.

        Raises:
            msgspec.ValidationError: it is none of the expected ones.
        """
        head = await self._exactly(_LENGTH.size)
        if head is None:
            return None
        (octets,) = _LENGTH.unpack(head)
        if octets > MAX_MESSAGE_OCTETS:
            raise msgspec.ValidationError(f"a message of {octets} octets")
        data = await self._exactly(octets)
        return None if data is None else decoder.decode(data)

    async def _exactly(self, octets: int) -> bytes | None:
        while len(self._buffer) < octets:
            try:
                data = await self._stream.receive_some(_RECEIVE_OCTETS)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            self._buffer += data
        taken = bytes(self._buffer[:octets])
        del self._buffer[:octets]
        return taken

    async def aclose(self) -> None:
        """Close this end."""
        await trio.aclose_forcefully(self._stream)
