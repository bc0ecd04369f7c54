"""The embedded FastCGI responder: the real protocol over a unix socket, for the scripts of :mod:`.script`.

The tree::

    Responder.run (nursery)    accepts, when one of ``connections`` places is free
    └── _serve ...             one for each connection

A connection's exception ends in _serve. Each connection has a cancel scope of its own, whose deadline moves on with
what is waited for.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final, NoReturn, assert_never, final

import structlog.typing
import trio

from trio_fcgimail import fastcgi
from trio_fcgimail.demo.script import Output, ScriptRun
from trio_fcgimail.server.maildir import Maildir

_RECEIVE_OCTETS: Final = 65_536
_BACKLOG: Final = 64  # who waits beyond the connections being served
_PAUSE_SECONDS: Final = 0.1  # when accept() fails for want of descriptors, as in trio.serve_listeners
_TEXT: Final = ((b"Content-Type", b"text/plain; charset=utf-8"),)


@final
@dataclass(frozen=True, slots=True)
class ResponderLimits:
    """How many, and how long.

    Args:
        connections: served at a time; the others wait in the listen queue.
        begin_seconds: from the accept, or the answer before, until the parameters of a request have come.
        silence_seconds: between two pieces of what the client sends; likewise for taking an answer.
        request_seconds: from the parameters to the answer, storing included.
    """

    connections: int = 5
    begin_seconds: float = 10.0
    silence_seconds: float = 10.0
    request_seconds: float = 60.0


_DEFAULT_LIMITS: Final = ResponderLimits()


@final
class Responder:
    """Answers FastCGI requests until cancelled.

    Args:
        maildir: where ``save`` stores.
        log: told of requests that fail.
    """

    def __init__(
        self,
        maildir: Maildir,
        *,
        log: structlog.typing.FilteringBoundLogger,
        limits: ResponderLimits = _DEFAULT_LIMITS,
    ) -> None:
        self._maildir = maildir
        self._log = log
        self._limits = limits

    async def run(self, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen on a unix socket and serve.

        Args:
            path: does not exist yet; in a folder that is ours alone.
            task_status: told once clients can connect.

        Raises:
            OSError: the socket cannot be made.
        """
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            await sock.bind(str(path))
            sock.listen(_BACKLOG)
            async with trio.open_nursery() as nursery:
                task_status.started()
                await self._accept(trio.SocketListener(sock), nursery)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> NoReturn:
        places = trio.Semaphore(self._limits.connections)
        while True:
            await places.acquire()
            try:
                stream = await listener.accept()
            except OSError as exc:
                places.release()
                self._log.error("cannot accept", problem=str(exc))
                await trio.sleep(_PAUSE_SECONDS)
            else:
                nursery.start_soon(self._serve, stream, places)

    async def _serve(self, stream: trio.abc.Stream, places: trio.Semaphore) -> None:
        """One connection, from the accept to the close."""
        conversation = _Conversation(stream, self._maildir, self._log, self._limits)
        try:
            await conversation.run()
        except fastcgi.RemoteProtocolError as exc:
            self._log.warning("FastCGI client not understood", problem=str(exc))
        except trio.BrokenResourceError:
            self._log.warning("FastCGI client gone")
        except trio.TooSlowError as exc:
            self._log.warning("FastCGI client too slow", problem=str(exc) or "silence")
        except Exception:  # noqa: BLE001 - whatever it is, it must not touch another connection
            self._log.exception("FastCGI connection failed")
        finally:
            places.release()
            await trio.aclose_forcefully(stream)


class _Course(Enum):
    GOES_ON = auto()
    OVER = auto()


@final
class _Conversation:
    """What is said over one connection."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        maildir: Maildir,
        log: structlog.typing.FilteringBoundLogger,
        limits: ResponderLimits,
    ) -> None:
        self._stream = stream
        self._maildir = maildir
        self._log = log
        self._limits = limits
        self._conn = fastcgi.ResponderConnection(
            fastcgi.ResponderOptions(
                max_requests=1, max_connections=limits.connections, roles=frozenset({fastcgi.Role.RESPONDER})
            )
        )
        self._script: ScriptRun | None = None
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve one request after the other.

        Raises:
            TooSlowError: a deadline has passed.
            BrokenResourceError: the client cannot be written to.
            RemoteProtocolError: the client does not speak FastCGI.
        """
        with self._scope:
            self._allow(self._limits.begin_seconds)
            try:
                while await self._take(self._conn.next_event()) is _Course.GOES_ON:
                    pass
            finally:
                await self._forget_script()
        if self._scope.cancelled_caught:
            raise trio.TooSlowError("no whole request in time")

    def _allow(self, seconds: float) -> None:
        self._scope.deadline = trio.current_time() + seconds

    async def _take(self, event: fastcgi.ResponderEvent | fastcgi.Signal) -> _Course:
        match event:
            case fastcgi.Signal.NEED_DATA:
                await self._receive()
            case fastcgi.RequestBegun(params=params):
                self._allow(self._limits.request_seconds)
                self._script = ScriptRun(dict(params), self._maildir, log=self._log)
            case fastcgi.StdinChunk(data=data):
                await self._open_script().take(data)
            case fastcgi.StdinEnded(request_id=request_id):
                output = await self._open_script().finish()
                return await self._end_request(self._answer(request_id, output))
            case fastcgi.RequestAborted(request_id=request_id):
                return await self._end_request(self._conn.end_request(request_id))
            case (
                fastcgi.RequestRefused(to_send=to_send)
                | fastcgi.ValuesRequested(to_send=to_send)
                | fastcgi.UnknownType(to_send=to_send)
            ):
                await self._send(to_send)
                return self._course()
            case fastcgi.RecordIgnored():
                pass
            case fastcgi.ConnectionClosed():
                return _Course.OVER
            case fastcgi.Signal.PAUSED | fastcgi.DataChunk() | fastcgi.DataEnded():
                raise AssertionError(f"{event} cannot be: a request is answered at once, and is never a filter's")
            case _:
                assert_never(event)
        return _Course.GOES_ON

    def _open_script(self) -> ScriptRun:
        assert self._script is not None, "the core lets no STDIN pass outside a request"
        return self._script

    def _answer(self, request_id: int, output: Output) -> bytes:
        page = fastcgi.encode_response_head(output.status, _TEXT) + output.text.encode() + b"\n"
        return self._conn.send_stdout(request_id, page) + self._conn.end_request(request_id)

    async def _end_request(self, to_send: bytes) -> _Course:
        """Tidy up first: who has the answer finds nothing half done."""
        await self._forget_script()
        await self._send(to_send)
        self._allow(self._limits.begin_seconds)
        return self._course()

    def _course(self) -> _Course:
        return _Course.OVER if self._conn.must_close else _Course.GOES_ON

    async def _forget_script(self) -> None:
        if self._script is not None:
            await self._script.close()
            self._script = None

    async def _receive(self) -> None:
        with trio.fail_after(self._limits.silence_seconds):
            data = await self._stream.receive_some(_RECEIVE_OCTETS)
        self._conn.receive_data(data)

    async def _send(self, data: bytes) -> None:
        with trio.fail_after(self._limits.silence_seconds):
            await self._stream.send_all(data)
