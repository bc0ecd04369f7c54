"""A stream with deadlines, which asks the scheduler for nothing that the kernel takes at once.

Trio's own methods of a socket go through the scheduler at every call, so that no task can keep the others waiting. The
callers here wait for the other side after each answer anyway, and a wait is what costs most of all.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import Final, Protocol, final

import trio

from trio_fcgimail.server.alarms import Alarm, Alarms

RECEIVE_OCTETS: Final = 65_536
_AFTER_FULL_OCTETS: Final = 131_072  # ours: who had filled the one is in the midst of a large mail; half the waits


class Wire(Protocol):
    """A stream to somebody. It is not owned: who opened it closes it, after ``release``."""

    async def send(self, data: bytes, seconds: float) -> None:
        """Send all of it.

        Args:
            seconds: how long one that does not read may hold us up.

        Raises:
            trio.TooSlowError: it was not sent in time, or not all of it.
            trio.BrokenResourceError: the connection is no more.
        """

    async def receive(self, due: float) -> bytes:
        """Wait for octets; ``b""`` is the end.

        Args:
            due: until when, by Trio's clock.

        Raises:
            trio.TooSlowError: nothing came until then, or until what ``hasten`` says.
            trio.BrokenResourceError: the connection is no more.
        """

    def hasten(self, due: float) -> None:
        """Let the ``receive`` that is under way, if one is, end at ``due`` if not sooner."""

    def release(self) -> None:
        """No more is to be sent or received this way."""


@final
class StreamWire:
    """A wire over any stream, with a cancel scope for each wait."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._receiving: trio.CancelScope | None = None

    async def send(self, data: bytes, seconds: float) -> None:
        """As in `Wire`."""
        with trio.fail_after(seconds):
            await self._stream.send_all(data)

    async def receive(self, due: float) -> bytes:
        """As in `Wire`."""
        with trio.CancelScope(deadline=due) as scope:
            self._receiving = scope
            try:
                return bytes(await self._stream.receive_some(RECEIVE_OCTETS))
            finally:
                self._receiving = None
        raise trio.TooSlowError

    def hasten(self, due: float) -> None:
        """As in `Wire`."""
        if self._receiving is not None:
            self._receiving.deadline = min(self._receiving.deadline, due)

    def release(self) -> None:
        """As in `Wire`."""


def send_at_once(socket: trio.socket.SocketType, data: bytes) -> int:
    """Send what the kernel takes now, without a turn of the scheduler; how many octets that were.

    Raises:
        trio.BrokenResourceError: the connection is no more.
    """
    try:
        return os.write(socket.fileno(), data)  # does not block: Trio's sockets never do
    except BlockingIOError:
        return 0
    except OSError as exc:
        raise trio.BrokenResourceError from exc


@final
class SocketWire:
    """A wire over a socket: what the kernel takes at once costs one system call, and no wait costs a cancel scope.

    Args:
        stream: of the socket.
        alarms: those that run.
    """

    __slots__ = ("_alarm", "_is_late", "_octets", "_socket", "_stream")

    def __init__(self, stream: trio.SocketStream, alarms: Alarms) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._alarm = Alarm(alarms, self._ring)
        self._is_late = False
        self._octets = RECEIVE_OCTETS  # to ask for

    async def send(self, data: bytes, seconds: float) -> None:
        """As in `Wire`."""
        sent = send_at_once(self._socket, data)
        if sent < len(data):
            with trio.fail_after(seconds):
                await self._stream.send_all(data[sent:])

    async def receive(self, due: float) -> bytes:
        """As in `Wire`."""
        self._is_late = False
        self._alarm.set(due)
        try:
            # While the others have their turns it mostly comes, on a server that has something to do; to have the
            # kernel call us takes longer.
            await trio.lowlevel.checkpoint()
            while True:
                try:
                    data = os.read(self._socket.fileno(), self._octets)
                except BlockingIOError:
                    if self._is_late:  # it rang before there was a wait to be ended
                        raise trio.TooSlowError from None
                    await trio.lowlevel.wait_readable(self._socket)
                    continue
                self._octets = RECEIVE_OCTETS if len(data) < RECEIVE_OCTETS else _AFTER_FULL_OCTETS
                return data
        except trio.ClosedResourceError:
            if self._is_late:
                raise trio.TooSlowError from None
            raise
        except OSError as exc:
            raise trio.BrokenResourceError from exc
        finally:
            self._alarm.off()

    def hasten(self, due: float) -> None:
        """As in `Wire`."""
        if due < self._alarm.due < math.inf:
            self._alarm.set(due)

    def release(self) -> None:
        """As in `Wire`."""
        self._alarm.close()

    def half_close(self) -> None:
        """Send nothing any more."""
        with suppress(OSError):  # who is gone has no use for it, as Trio has it
            self._socket.shutdown(trio.socket.SHUT_WR)

    def _ring(self) -> None:
        self._is_late = True
        trio.lowlevel.notify_closing(self._socket)  # wakes who waits for it; the socket stays as it is


def wire_over(stream: trio.abc.Stream, alarms: Alarms) -> Wire:
    """The wire that fits a stream."""
    return SocketWire(stream, alarms) if isinstance(stream, trio.SocketStream) else StreamWire(stream)


async def close(stream: trio.abc.Stream) -> None:
    """Close at once, also when cancelled; a socket without a checkpoint."""
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
    else:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
