"""One FastCGI request over Trio: connect, send all of it, read while writing.

What is known when it fails decides what may be done next (docs/design.md, "Upstream"), so the errors say it: nothing
was sent before ``UpstreamUnavailable``; after ``UpstreamUnexecuted`` the script has not run; after ``UpstreamBroken``
and ``UpstreamTimeout`` it may have.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, assert_never, final

import trio

from trio_fcgimail import fastcgi
from trio_fcgimail.config import TcpAddress, UnixAddress, UpstreamAddress
from trio_fcgimail.mail import MAX_ANSWER_OCTETS, MAX_STDERR_OCTETS, Answer, Parameter, clean, find_loss
from trio_fcgimail.server.spool import SpoolReadError

_RECEIVE_OCTETS: Final = 65_536
_GATHER_OCTETS: Final = 65_536  # of a request, before they are written: a small mail is one write
_TAIL_OCTETS: Final = 9  # the empty STDIN record, and one octet without which nothing is executed
_REQUEST_ID: Final = 1  # nginx's and everybody's choice; nothing is multiplexed here


class UpstreamError(Exception):
    """Base: there is no answer of the script.

    Attributes:
        stderr: What it wrote to STDERR all the same, as in an answer.
    """

    stderr: bytes = b""


class UpstreamUnavailable(UpstreamError):  # noqa: N818 - named for who failed, as its siblings are
    """Nothing was sent: no connection was to be had. Trying again can double nothing."""


class UpstreamUnexecuted(UpstreamError):  # noqa: N818
    """Something was sent, but the script has not run and will not. Trying again can double nothing."""


class UpstreamTimeout(UpstreamError):  # noqa: N818
    """The time is over; the script may have run, or may run still."""


class UpstreamBroken(UpstreamError):  # noqa: N818
    """The connection or its framing broke; the script may have run."""


@final
@dataclass(frozen=True, slots=True)
class Body:
    """A request body whose length is known before it is read.

    Args:
        octets: exactly what ``pieces`` will give in all.
        pieces: begins a reading, which is closed when the request is over; another try begins another one.
    """

    octets: int
    pieces: Callable[[], AsyncGenerator[bytes, None]]


@final
class CleanEnd(Enum):
    """What it means that the server closed after a whole request, without a single octet of response."""

    UNKNOWN = "the script may have run"
    UNEXECUTED = "the script has not run"  # php-fpm: 497 of 497, while a worker that was killed resets


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and what may become of its connection.

    Args:
        is_reusable: the whole request was sent, END_REQUEST came with its padding, and nothing behind it.
    """

    answer: Answer
    is_reusable: bool


class Connect(Protocol):
    """How a connection comes about: :func:`connect`, or what stands in for it."""

    async def __call__(self, address: UpstreamAddress, *, seconds: float) -> trio.abc.Stream:
        """Connect within so many seconds. Raises UpstreamUnavailable."""
        ...


async def connect(address: UpstreamAddress, *, seconds: float) -> trio.SocketStream:
    """Connect to a FastCGI server.

    Raises:
        UpstreamUnavailable: it could not be done, for whatever reason, within so many seconds.
    """
    try:
        with trio.fail_after(seconds):
            match address:
                case UnixAddress(path=path):
                    return await _connect_unix(path)
                case TcpAddress(host=host, port=port):
                    return await trio.open_tcp_stream(host, port)
    except trio.TooSlowError as exc:
        raise UpstreamUnavailable(f"{address}: no connection within {seconds:g} s") from exc
    except OSError as exc:
        raise UpstreamUnavailable(f"{address}: {_explain(exc)}") from exc
    except UnicodeError as exc:  # what the resolver makes of a label that is empty or too long
        raise UpstreamUnavailable(f"{address}: not the name of a host") from exc


async def _connect_unix(path: str) -> trio.SocketStream:
    """Connect without waiting: a unix socket answers at once, and EAGAIN means that its listen queue is full.

    trio.open_unix_socket takes that EAGAIN for a connection under way and hands out a socket that never connects.
    """
    await trio.lowlevel.checkpoint()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _explain(exc: OSError) -> str:
    """One line for an operator; an OSError of several attempts names them all."""
    match exc.errno:
        case errno.EAGAIN:
            return "its listen queue is full"
        case errno.ENOENT:
            return "there is no such socket"
        case errno.ECONNREFUSED:
            return "nobody listens there"
        case errno.EACCES:
            return "we may not write to that socket (mode or owner)"
        case _:
            causes = exc.__cause__.exceptions if isinstance(exc.__cause__, BaseExceptionGroup) else ()
            reasons = dict.fromkeys(_explain(cause) for cause in causes if isinstance(cause, OSError))
            return "; ".join(reasons) or exc.strerror or str(exc)


def has_input(stream: trio.abc.Stream) -> bool:
    """Whether an idle connection has something to read, which is its end or a fault: nobody asked for anything.

    Only sockets can tell.
    """
    if not isinstance(stream, trio.SocketStream):
        return False
    poll = select.poll()
    poll.register(stream.socket.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


async def close(stream: trio.abc.Stream) -> None:
    """Close at once, also when cancelled; a socket without a checkpoint."""
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
    else:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def request(
    stream: trio.abc.Stream,
    parameters: Sequence[Parameter],
    body: Body | None,
    *,
    seconds: float,
    max_output_octets: int = MAX_ANSWER_OCTETS,
) -> Answer:
    """Send one request on a fresh connection and read its answer; then the connection is closed, whatever happened.

    Closing at once matters: a php-fpm worker waits for it before it takes the next request.

    Args:
        stream: connected; owned from here on.

    The other arguments and the errors are those of :func:`exchange`.
    """
    try:
        reply = await exchange(stream, parameters, body, seconds=seconds, max_output_octets=max_output_octets)
        return reply.answer
    finally:
        await trio.aclose_forcefully(stream)


async def exchange(
    stream: trio.abc.Stream,
    parameters: Sequence[Parameter],
    body: Body | None,
    *,
    seconds: float,
    keep_connection: bool = False,
    clean_end: CleanEnd = CleanEnd.UNKNOWN,
    heard: Callable[[], None] | None = None,
    max_output_octets: int = MAX_ANSWER_OCTETS,
) -> Reply:
    """Send one request and read its answer. The connection stays open, whatever happened: close it, or use it again.

    Args:
        stream: connected, with no request under way.
        parameters: see :func:`~trio_fcgimail.mail.get_parameters`; CONTENT_LENGTH agrees with ``body``.
        seconds: for all of it.
        keep_connection: asks the server not to close (KEEP_CONN).
        clean_end: what is known of this server.
        heard: called at the first octets of the response.
        max_output_octets: more output than this is no answer.

    Raises:
        UpstreamUnexecuted: no answer, and the script has not run.
        UpstreamTimeout: no complete answer in time.
        UpstreamBroken: no complete answer, and none to come.
    """
    half = _Exchange(stream, clean_end, heard, max_output_octets)
    try:
        with trio.move_on_after(seconds) as scope:
            async with aclosing(half.requested(parameters, body, keep_connection)) as parts:
                if not await half.send_at_once(parts):
                    await half.send_and_read(parts)
        if scope.cancelled_caught:
            raise UpstreamTimeout(f"no complete answer within {seconds:g} s{half.remark()}")
        return half.reply()
    except UpstreamError as exc:
        exc.stderr = half.stderr()
        raise


class _Sending(Enum):
    UNDER_WAY = "not all of the request was sent"
    LAST_PART = "the end of the request was not sent"
    DONE = ""
    FAILED = "sending the request failed"


@final
class _Exchange:
    """The two halves of one request, which run side by side: a script may answer before it has read."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        clean_end: CleanEnd,
        heard: Callable[[], None] | None,
        max_output_octets: int,
    ) -> None:
        self._stream = stream
        self._clean_end = clean_end
        self._heard = heard
        self._received = 0  # octets of response
        self._max_output_octets = max_output_octets
        self._app_status = 0
        self._conn = fastcgi.ClientConnection()
        self._head_reader = fastcgi.ResponseHeadReader()
        self._head: fastcgi.ResponseHead | None = None
        self._output = bytearray()
        self._stderr = bytearray()
        self._sending = _Sending.UNDER_WAY
        self._part = b""  # taken from the request, not yet sent
        self._problem: UpstreamError | None = None
        self._send_error: Exception | None = None

    async def requested(
        self, parameters: Sequence[Parameter], body: Body | None, keep_connection: bool
    ) -> AsyncGenerator[bytes, None]:
        """The octets to send, in parts of some size; the last is marked by ``_sending`` before it is given."""
        gathered = self._conn.begin_request(_REQUEST_ID, params=parameters, keep_connection=keep_connection)
        if body is not None:
            async with aclosing(body.pieces()) as pieces:
                async for piece in pieces:
                    if len(gathered) >= _GATHER_OCTETS:
                        yield gathered
                        gathered = b""
                    gathered += self._conn.send_stdin(_REQUEST_ID, piece)
        gathered += self._conn.end_stdin(_REQUEST_ID)
        self._sending = _Sending.LAST_PART  # before it is written: the answer may overtake this task
        yield gathered

    async def send_at_once(self, parts: AsyncGenerator[bytes, None]) -> bool:
        """Hand a small request to the kernel whole, and read the answer: no task is needed for what does not wait.

        Returns:
            False when the kernel did not take all of it, or there is more.
        """
        if not isinstance(self._stream, trio.SocketStream):
            return False
        try:
            self._part = await anext(parts)
            if self._sending is not _Sending.LAST_PART:
                return False
            with suppress(BlockingIOError):
                taken = os.write(self._stream.socket.fileno(), self._part)  # does not block: Trio's sockets never do
                self._part = self._part[taken:]
        except OSError as exc:
            self._fail_to_send(exc)
        except (SpoolReadError, fastcgi.LocalProtocolError) as exc:
            self._fail_to_make(exc)
            return True
        else:
            if self._part:
                return False
            self._sending = _Sending.DONE
        await self.read()
        return True

    async def send_and_read(self, parts: AsyncGenerator[bytes, None]) -> None:
        """Send in one task and read in another."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, parts, nursery.cancel_scope)
            if not await self.read():
                nursery.cancel_scope.cancel()  # else the writer must come to its end, too: see reply()

    async def _send(self, parts: AsyncGenerator[bytes, None], scope: trio.CancelScope) -> None:
        """Send it all. When the connection breaks the reader goes on: what came back may still explain it.

        Args:
            scope: cancelled when there will be nothing to read, as the request could not be made.
        """
        try:
            if self._part:
                await self._send_part(self._part)
            async for part in parts:
                await self._send_part(part)
        except trio.BrokenResourceError as exc:
            self._fail_to_send(exc)
        except (SpoolReadError, fastcgi.LocalProtocolError) as exc:
            self._fail_to_make(exc)
            scope.cancel()
        else:
            self._sending = _Sending.DONE

    async def _send_part(self, part: bytes) -> None:
        """Send a part. The very end of a request goes by itself, so that whoever fails before knows it was not sent."""
        if self._sending is _Sending.LAST_PART and len(part) > _TAIL_OCTETS:
            self._sending = _Sending.UNDER_WAY
            await self._stream.send_all(part[:-_TAIL_OCTETS])
            self._sending = _Sending.LAST_PART
            part = part[-_TAIL_OCTETS:]
        await self._stream.send_all(part)

    def _fail_to_send(self, exc: Exception) -> None:
        self._sending = _Sending.FAILED
        self._send_error = exc

    def _fail_to_make(self, exc: Exception) -> None:
        self._sending = _Sending.FAILED
        self._problem = self._problem or UpstreamBroken(f"the request could not be made: {exc}")

    async def read(self) -> bool:
        """Read to END_REQUEST, or to what makes an answer impossible; whether it was the former."""
        try:
            while not self._take_events():
                data = await self._stream.receive_some(_RECEIVE_OCTETS)
                if not data:
                    await self._let_writer_settle()
                elif not self._received and self._heard is not None:
                    self._heard()
                self._received += len(data)
                self._conn.receive_data(data)
        except fastcgi.ProtocolError as exc:
            self._problem = UpstreamBroken(f"{exc}{self.remark()}")
        except trio.BrokenResourceError as exc:
            await self._let_writer_settle()
            self._problem = self._ended("the connection broke", CleanEnd.UNKNOWN)
            self._problem.__cause__ = exc
        return self._problem is None

    async def _let_writer_settle(self) -> None:
        """Let the writer notice what the kernel has already told it.

        Trio's send sleeps for one round of the scheduler after the kernel has taken the octets: until then a request
        that is wholly sent looks as if its last part were not.
        """
        for _ in range(2):
            await trio.lowlevel.checkpoint()

    def _ended(self, how: str, means: CleanEnd) -> UpstreamError:
        """The connection is over before its time: what that says of the script.

        A request that was not sent to its end was not executed: whoever runs one waits for all of it.
        """
        is_unsent = self._sending is not _Sending.DONE
        is_unexecuted = not self._received and (is_unsent or means is CleanEnd.UNEXECUTED)
        return (UpstreamUnexecuted if is_unexecuted else UpstreamBroken)(f"{how}{self.remark()}")

    def _take_events(self) -> bool:
        """Use what was received; whether this was the last of it."""
        while True:
            match self._conn.next_event():
                case fastcgi.Signal.NEED_DATA:
                    return False
                case fastcgi.StdoutChunk(data=data):
                    self._take_output(data)
                    if len(self._output) > self._max_output_octets:
                        self._problem = UpstreamBroken(f"more than {self._max_output_octets} octets of output")
                        return True
                case fastcgi.StderrChunk(data=data):
                    self._stderr += data
                    if len(self._stderr) > 2 * MAX_STDERR_OCTETS:
                        self._shorten_stderr()
                case fastcgi.RequestEnded(protocol_status=status, app_status=app_status):
                    self._app_status = app_status
                    if status is not fastcgi.ProtocolStatus.REQUEST_COMPLETE:
                        # With output the script has begun all the same, whatever the server says.
                        kind = UpstreamBroken if self._head is not None or self._output else UpstreamUnexecuted
                        self._problem = kind(f"the request was not executed: {status.name}{self.remark()}")
                    elif self._sending is _Sending.UNDER_WAY:
                        self._problem = UpstreamBroken(f"answered too early{self.remark()}")
                    return True
                case fastcgi.ConnectionClosed():
                    self._problem = self._ended("closed without END_REQUEST", self._clean_end)
                    return True
                case (
                    fastcgi.StreamEnded()
                    | fastcgi.ValuesReceived()
                    | fastcgi.UnknownTypeReported()
                    | fastcgi.RecordIgnored()
                ):
                    pass  # nothing to learn from
                case event:
                    assert_never(event)

    def stderr(self) -> bytes:
        """What came on STDERR, at most ``MAX_STDERR_OCTETS`` and what PHP says of a loss."""
        self._shorten_stderr()
        return bytes(self._stderr)

    def _shorten_stderr(self) -> None:
        """Keep both ends of it, and in front what it says of a lost request, wherever that stood."""
        if (excess := len(self._stderr) - MAX_STDERR_OCTETS) > 0:
            loss = find_loss(self._stderr)
            half = MAX_STDERR_OCTETS // 2
            del self._stderr[half : half + excess]
            if loss and not find_loss(self._stderr):
                self._stderr[:0] = loss + b"\n"

    def _take_output(self, data: bytes) -> None:
        self._head_reader.receive_data(data)
        while True:
            match self._head_reader.next_event():
                case fastcgi.ResponseHead() as head:
                    self._head = head
                case fastcgi.BodyChunk(data=piece):
                    self._output += piece
                case fastcgi.Signal.NEED_DATA:
                    return
                case fastcgi.ResponseEnded():
                    raise AssertionError("nobody told the reader of an end")
                case event:
                    assert_never(event)

    def reply(self) -> Reply:
        """The answer, if there is one.

        Raises:
            UpstreamBroken: there is none, or it was given before the script can have seen the whole request.
        """
        if self._problem is not None:
            raise self._problem
        if self._sending is not _Sending.DONE:
            raise UpstreamBroken(f"answered too early{self.remark()}") from self._send_error
        if self._head is None:
            raise UpstreamBroken(f"no output, not even a head{self.remark()}")
        answer = Answer(self._head.status, bytes(self._output), self.stderr(), self._head.headers, self._app_status)
        return Reply(answer, self._conn.is_reusable)

    def remark(self) -> str:
        """What else is known, for the log."""
        remarks = [self._sending.value] if self._sending.value else []
        if self._head is not None:
            remarks.append(f"HTTP status {self._head.status}, {len(self._output)} octets of output")
        if self._stderr:
            remarks.append(f"STDERR: {clean(bytes(self._stderr), 300)}")
        return "".join(f"; {remark}" for remark in remarks)
