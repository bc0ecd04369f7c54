"""What goes out to a client: replies, gathered for a pipelined group and sent whole or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Final, final

import trio

from trio_fcgimail.server.metrics import Counts
from trio_fcgimail.server.wire import RECEIVE_OCTETS, SocketWire, Wire

_FLUSH_OCTETS: Final = 16_384  # replies to a pipelined group are gathered up to here
_GATHER_SECONDS: Final = 1.0  # and for at most this long, however slow the scripts are that they come from
_CLOSE_NOTIFY_SECONDS: Final = 1.0  # ours: some clients wait for the end of TCP before they answer that of TLS
GOODBYE_SECONDS: Final = 2.0  # for the closing handshake, and for the last words when we are being stopped
# Ours: what the kernel may hold of a client that has not seen our last reply yet (net.ipv4.tcp_wmem, tcp_rmem: 4 and 6
# MiB at most).
FAREWELL_OCTETS: Final = 8 << 20


class ClientGoneError(Exception):
    """The client cannot be written to any more."""


class _Line(Enum):
    CLEAR = "between two replies"
    TORN = "perhaps within a reply: nothing that is said now can be understood"


@final
class Outlet:
    """Gathers replies and sends them.

    Args:
        wire: to the client; not owned.
        seconds: how long a client that does not read may hold us up.
        counts: told of each reply.
    """

    __slots__ = ("_counts", "_gathered", "_line", "_seconds", "_since", "_wire")

    def __init__(self, wire: Wire, seconds: float, counts: Counts | None = None) -> None:
        self._wire = wire
        self._seconds = seconds
        self._counts = counts or Counts()
        self._gathered = bytearray()
        self._since = trio.current_time()
        self._line = _Line.CLEAR

    def tear(self) -> None:
        """Nothing may be said from now on: a handshake is under way."""
        self._line = _Line.TORN

    def use(self, wire: Wire) -> None:
        """Go on over another wire, now that it is ready."""
        self._wire = wire
        self._line = _Line.CLEAR

    def say(self, reply: bytes) -> None:
        """Add a reply to what is gathered."""
        self._gathered += reply
        self._counts.said(reply)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._gathered

    @property
    def is_torn(self) -> bool:
        """Whether sending was cut off within a reply, so that no other can follow."""
        return self._line is _Line.TORN

    @property
    def is_due(self) -> bool:
        """Whether enough was gathered, or for long enough."""
        gathered = len(self._gathered)
        return gathered > _FLUSH_OCTETS or (gathered > 0 and trio.current_time() - self._since > _GATHER_SECONDS)

    def begin_gathering(self, now: float) -> None:
        """What is said from now on answers what was received just now, by Trio's clock."""
        self._since = now

    async def flush(self) -> None:
        """Send what was gathered. When cancelled before it has begun, all of it is still there.

        Raises:
            ClientGoneError: the connection broke, or the client does not read.
        """
        if not self._gathered:
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        data = bytes(self._gathered)
        self._gathered.clear()
        self._line = _Line.TORN
        try:
            await self._wire.send(data, self._seconds)
        except (trio.TooSlowError, trio.BrokenResourceError) as exc:
            raise ClientGoneError from exc
        self._line = _Line.CLEAR
        self._counts.sent_octets += len(data)


async def close_politely(stream: trio.abc.Stream, wire: Wire | None = None) -> None:
    """Half-close, and wait for the client's own close.

    Closing with unread octets in the kernel would destroy our last reply on its way. What comes is read for a while,
    but not from a client that goes on and on.

    Args:
        wire: over the stream, which may know how to wait for less.
    """
    if isinstance(wire, SocketWire):
        with suppress(trio.TooSlowError, trio.BrokenResourceError):
            due = trio.current_time() + GOODBYE_SECONDS
            wire.half_close()
            await _read_out(partial(wire.receive, due))
        return
    with trio.move_on_after(GOODBYE_SECONDS), suppress(trio.BrokenResourceError):
        stream = await _leave_tls(stream)
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
            await _read_out(partial(stream.receive_some, RECEIVE_OCTETS))


async def _read_out(receive: Callable[[], Awaitable[bytes | bytearray]]) -> None:
    received = 0
    while received < FAREWELL_OCTETS and (data := await receive()):
        received += len(data)


async def _leave_tls(stream: trio.abc.Stream) -> trio.abc.Stream:
    """Tell the client that nothing was cut off (RFC 8446 6.1), and go on below TLS.

    A client that still talks, or does not answer, has its replies all the same.
    """
    if not isinstance(stream, trio.SSLStream):
        return stream
    transport: trio.abc.Stream = stream.transport_stream
    with trio.move_on_after(_CLOSE_NOTIFY_SECONDS), suppress(trio.BrokenResourceError):
        await stream.unwrap()
    return transport
