"""One FastCGI request over Trio: connect, send all of it, read while writing.

What is known when it fails decides what may be done next (docs/design.md, "Upstream"), so the errors say it: nothing
was sent before ``UpstreamUnavailable``; after ``UpstreamUnexecuted`` the script has not run; after ``UpstreamBroken``
and ``UpstreamTimeout`` it may have.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from enum import Enum
from functools import partial
from typing import Final, assert_never, final

import trio

from trio_fcgimail import fastcgi
from trio_fcgimail.mail import MAX_ANSWER_OCTETS, MAX_STDERR_OCTETS, Answer, Parameter, clean, find_loss
from trio_fcgimail.server.spool import SpoolReadError
from trio_fcgimail.server.upstream.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnexecuted
from trio_fcgimail.server.upstream.model import Body, CleanEnd, Reply
from trio_fcgimail.server.wire import RECEIVE_OCTETS, Wire, send_at_once

_GATHER_OCTETS: Final = 65_536  # of a request, before they are written: a small mail is one write
_TAIL_OCTETS: Final = 9  # the empty STDIN record, and one octet without which nothing is executed
_NO_PARAMS: Final = fastcgi.ConstantParams()
_REQUEST_ID: Final = 1  # nginx's and everybody's choice; nothing is multiplexed here


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
    heard: Callable[[float], None] | None = None,
    max_output_octets: int = MAX_ANSWER_OCTETS,
    constant: fastcgi.ConstantParams = _NO_PARAMS,
    wire: Wire | None = None,
    began: float | None = None,
) -> Reply:
    """Send one request and read its answer. The connection stays open, whatever happened: close it, or use it again.

    Args:
        stream: connected, with no request under way.
        parameters: see :func:`~trio_fcgimail.mail.get_parameters`; CONTENT_LENGTH agrees with ``body``.
        seconds: for all of it.
        keep_connection: asks the server not to close (KEEP_CONN).
        clean_end: what is known of this server.
        heard: called at the first octets of a response that does not come whole with them, with the time.
        began: when the time begins to run, by Trio's clock; None for now.
        max_output_octets: more output than this is no answer.
        constant: more parameters, which go before the others.
        wire: over the stream, whose own way to wait is used for a request that is sent at once.

    Raises:
        UpstreamUnexecuted: no answer, and the script has not run.
        UpstreamTimeout: no complete answer in time.
        UpstreamBroken: no complete answer, and none to come.
    """
    half = _Exchange(stream, clean_end, heard, max_output_octets)
    due = (trio.current_time() if began is None else began) + seconds
    try:
        is_sent = half.send_whole(parameters, constant, body, keep_connection)
        if is_sent and wire is not None:
            await half.read(partial(wire.receive, due))
        else:
            with trio.fail_at(due):
                if is_sent:
                    await half.read(partial(stream.receive_some, RECEIVE_OCTETS))
                else:
                    await half.send_and_read(half.requested(parameters, constant, body, keep_connection))
        return half.reply()
    except trio.TooSlowError:
        exc = UpstreamTimeout(f"no complete answer within {seconds:g} s{half.remark()}")
        exc.stderr = half.stderr()
        raise exc from None
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
        heard: Callable[[float], None] | None,
        max_output_octets: int,
    ) -> None:
        self._stream = stream
        self._clean_end = clean_end
        self._heard = heard
        self._received = 0  # octets of response
        self._received_at = 0.0  # the latest of them
        self._max_output_octets = max_output_octets
        self._app_status = 0
        self._conn = fastcgi.ClientConnection()
        self._head_reader: fastcgi.ResponseHeadReader | None = None  # for output that does not come whole
        self._head: fastcgi.ResponseHead | None = None
        self._output = bytearray()
        self._stderr = bytearray()
        self._sending = _Sending.UNDER_WAY
        self._part = b""  # taken from the request, not yet sent
        self._problem: UpstreamError | None = None
        self._send_error: Exception | None = None

    def send_whole(
        self,
        parameters: Sequence[Parameter],
        constant: fastcgi.ConstantParams,
        body: Body | None,
        keep_connection: bool,
    ) -> bool:
        """Hand a request to the kernel whole, if it is at hand whole.

        Returns:
            False when there is something left to be sent; else the answer, or what explains a failure, can be read.
        """
        whole = b"" if body is None else body.whole
        if whole is None or not isinstance(self._stream, trio.SocketStream):
            return False
        try:
            octets = self._conn.request(
                _REQUEST_ID, params=parameters, constant=constant, body=whole, keep_connection=keep_connection
            )
        except fastcgi.LocalProtocolError as exc:
            self._fail_to_make(exc)
            return True
        try:
            sent = send_at_once(self._stream.socket, octets)
        except trio.BrokenResourceError as exc:
            self._fail_to_send(exc)
            return True
        if sent < len(octets):
            self._sending = _Sending.LAST_PART
            self._part = octets[sent:]
            return False
        self._sending = _Sending.DONE
        return True

    async def requested(
        self,
        parameters: Sequence[Parameter],
        constant: fastcgi.ConstantParams,
        body: Body | None,
        keep_connection: bool,
    ) -> AsyncGenerator[bytes, None]:
        """The octets to send, in parts of some size; the last is marked by ``_sending`` before it is given."""
        if self._part:
            yield self._part
            return
        gathered = self._conn.begin_request(
            _REQUEST_ID, params=parameters, constant=constant, keep_connection=keep_connection
        )
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

    async def send_and_read(self, parts: AsyncGenerator[bytes, None]) -> None:
        """Send in one task and read in another."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, parts, nursery.cancel_scope)
            if not await self.read(partial(self._stream.receive_some, RECEIVE_OCTETS)):
                nursery.cancel_scope.cancel()  # else the writer must come to its end, too: see reply()
        self._received_at = trio.current_time()

    async def _send(self, parts: AsyncGenerator[bytes, None], scope: trio.CancelScope) -> None:
        """Send it all. When the connection breaks the reader goes on: what came back may still explain it.

        Args:
            scope: cancelled when there will be nothing to read, as the request could not be made.
        """
        try:
            async with aclosing(parts):
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

    async def read(self, receive: Callable[[], Awaitable[bytes | bytearray]]) -> bool:
        """Read to END_REQUEST, or to what makes an answer impossible; whether it was the former."""
        try:
            while self._problem is None:
                data = await receive()
                self._received_at = trio.current_time()
                if not data:
                    await self._let_writer_settle()
                is_first = not self._received
                self._received += len(data)
                self._conn.receive_data(data)
                if is_first:
                    if self._take_answer():
                        break
                    if data and self._heard is not None:
                        self._heard(self._received_at)
                if self._take_events():
                    break
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

    def _take_answer(self) -> bool:
        """Use what was received first, if it is all; else it is taken piece by piece."""
        answer = self._conn.next_answer(_REQUEST_ID)
        if answer is None:
            return False
        self._stderr += answer.stderr
        try:
            if answer.stdout:
                self._head, self._output[:] = fastcgi.read_response(answer.stdout)
        except fastcgi.RemoteProtocolError:
            self._take_output(answer.stdout)  # which tells half a head from one that is none
        self._check_size()
        self._end(answer.protocol_status, answer.app_status)
        return True

    def _take_events(self) -> bool:
        """Use what was received; whether this was the last of it."""
        while True:
            match self._conn.next_event():
                case fastcgi.Signal.NEED_DATA:
                    return False
                case fastcgi.StdoutChunk(data=data):
                    self._take_output(data)
                    if self._problem is not None:
                        return True
                case fastcgi.StderrChunk(data=data):
                    self._stderr += data
                    if len(self._stderr) > 2 * MAX_STDERR_OCTETS:
                        self._shorten_stderr()
                case fastcgi.RequestEnded(protocol_status=status, app_status=app_status):
                    self._end(status, app_status)
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

    def _end(self, status: fastcgi.ProtocolStatus, app_status: int) -> None:
        """END_REQUEST: the last that there is to know."""
        self._app_status = app_status
        if self._problem is not None:
            return
        if status is not fastcgi.ProtocolStatus.REQUEST_COMPLETE:
            # With output the script has begun all the same, whatever the server says.
            kind = UpstreamBroken if self._head is not None or self._output else UpstreamUnexecuted
            self._problem = kind(f"the request was not executed: {status.name}{self.remark()}")
        elif self._sending is _Sending.UNDER_WAY:
            self._problem = UpstreamBroken(f"answered too early{self.remark()}")

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
        if self._head_reader is None:
            self._head_reader = fastcgi.ResponseHeadReader()
        self._head_reader.receive_data(data)
        while True:
            match self._head_reader.next_event():
                case fastcgi.ResponseHead() as head:
                    self._head = head
                case fastcgi.BodyChunk(data=piece):
                    self._output += piece
                case fastcgi.Signal.NEED_DATA:
                    return self._check_size()
                case fastcgi.ResponseEnded():
                    raise AssertionError("nobody told the reader of an end")
                case event:
                    assert_never(event)

    def _check_size(self) -> None:
        if len(self._output) > self._max_output_octets:
            self._problem = UpstreamBroken(f"more than {self._max_output_octets} octets of output")

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
        return Reply(answer, self._conn.is_reusable, self._received_at)

    def remark(self) -> str:
        """What else is known, for the log."""
        remarks = [self._sending.value] if self._sending.value else []
        if self._head is not None:
            remarks.append(f"HTTP status {self._head.status}, {len(self._output)} octets of output")
        if self._stderr:
            remarks.append(f"STDERR: {clean(bytes(self._stderr), 300)}")
        return "".join(f"; {remark}" for remark in remarks)
