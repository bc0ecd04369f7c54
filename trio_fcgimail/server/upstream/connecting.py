"""Connections to FastCGI servers: how they come about, whether they are still good, and their end."""

from __future__ import annotations

import errno
import select
import socket
from typing import Protocol

import trio

from trio_fcgimail.config import TcpAddress, UnixAddress, UpstreamAddress
from trio_fcgimail.server.upstream.errors import UpstreamUnavailable


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
        match address:
            case UnixAddress(path=path):
                return await _connect_unix(path)
            case TcpAddress(host=host, port=port):
                with trio.fail_after(seconds):
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
