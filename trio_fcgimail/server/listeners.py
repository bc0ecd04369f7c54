"""Opening what we listen on, with one clear line when that cannot be done."""

from __future__ import annotations

import errno
import ipaddress
import logging
import math
import os
import shutil
import socket
import stat
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final, NoReturn, TypeAlias, assert_never, final

import structlog.typing
import trio

from trio_fcgimail.config import (
    BoundAddress,
    ListenAddress,
    ListenerSettings,
    SystemdAddress,
    TcpAddress,
    UnixAddress,
    parse_ip,
    unmapped,
)
from trio_fcgimail.mail import Peer

ListenerKey: TypeAlias = tuple[ListenAddress, int]  # with a number, as port 0 may stand there several times

_BACKLOG: Final = 1024  # ours: short bursts wait in the kernel; the kernel's somaxconn cuts it further
_TRIO_LOGGER: Final = "trio.serve_listeners"  # trio's reference names it
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})  # accept(2)
_SHORTAGE_SECONDS: Final = 0.1  # as long as Trio waits for it to end
# What Linux tells of a connection that broke before it was accepted (accept(2)), or that a firewall forbids.
_OF_ONE_CONNECTION: Final[frozenset[int]] = frozenset(
    vars(errno)[name]
    for name in (
        "ECONNABORTED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "ENOSR",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTO",
        "EPROTONOSUPPORT",
        "ESOCKTNOSUPPORT",
        "ETIMEDOUT",
    )
    if name in vars(errno)  # not every system knows all of them
)
_ACCEPTS_IN_TURN: Final = 4  # ours: few, as other processes may have less to do
_CROWD_SECONDS: Final = 0.001  # ours: between two turns, for other processes; still some 2,500 clients a second
_QUIET_SECONDS: Final = 1.0  # there are ten complaints in that


class StartError(Exception):
    """The server cannot start; the text is one line for the user."""


class ListenError(StartError):
    """An address cannot be listened on; the text is one line for the user."""


def keyed(listeners: Sequence[ListenerSettings]) -> Iterator[tuple[ListenerKey, ListenerSettings]]:
    """What each listener is known by, also after its other settings have changed."""
    seen: Counter[ListenAddress] = Counter()
    for listener in listeners:
        yield (listener.address, seen[listener.address]), listener
        seen[listener.address] += 1


def cap_name(key: ListenerKey, listener: ListenerSettings) -> str:
    """By what name its connections are counted; "" when it has no limit of its own."""
    return "" if listener.connections is None else f"{key[0]} {key[1]}"


def connection_caps(listeners: Sequence[ListenerSettings]) -> dict[str, int]:
    """How many connections each listener may have that has a limit of its own."""
    return {cap_name(key, one): one.connections for key, one in keyed(listeners) if one.connections is not None}


async def open_listeners(listener: ListenerSettings) -> list[trio.SocketListener]:
    """Open one listener of the settings; a host name may stand for several addresses.

    Raises:
        ListenError: it cannot be done.
    """
    try:
        match listener.address:
            case TcpAddress(host="*", port=port):
                return list(await trio.open_tcp_listeners(port, backlog=_BACKLOG))
            case TcpAddress(host=host, port=port):
                return list(await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG))
            case UnixAddress(path=path):
                return [_open_unix(Path(path), listener.mode, listener.group)]
            case SystemdAddress():
                raise ListenError(f"cannot listen on {listener.address}: no socket of that name was handed over")
            case _:
                assert_never(listener.address)
    except (OSError, LookupError, UnicodeError) as exc:
        raise ListenError(f"cannot listen on {listener.address}: {_explain(exc)}") from exc


def _open_unix(path: Path, mode: int | None, group: str | None) -> trio.SocketListener:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody may connect before mode and group are right: the socket is born closed to all others.
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        _give_rights(path, 0o666 & ~before if mode is None else mode, group)
        sock.listen(_BACKLOG)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.close()
        raise


def _give_rights(path: Path, mode: int, group: str | None) -> None:
    """Give a socket its mode and group: that very socket, and not what a link leads to that stands in its place."""
    if sys.platform != "linux":
        if group is not None:
            shutil.chown(path, group=group)
        path.chmod(mode)
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTSOCK, "something else stands in the place of the socket")
        itself = Path(f"/proc/self/fd/{descriptor}")  # the kernel has no fchmod() for what is only held
        if group is not None:
            shutil.chown(itself, group=group)
        itself.chmod(mode)
    finally:
        os.close(descriptor)


def change_rights(listener: ListenerSettings) -> None:
    """Give the file of a unix socket that is open already the mode and the group of the settings.

    Raises:
        ListenError: it cannot be done.
    """
    if not isinstance(listener.address, UnixAddress):
        return
    umask = os.umask(0o177)
    os.umask(umask)
    try:
        _give_rights(
            Path(listener.address.path), 0o666 & ~umask if listener.mode is None else listener.mode, listener.group
        )
    except (OSError, LookupError) as exc:
        raise ListenError(f"cannot give {listener.address} its mode and group: {_explain(exc)}") from exc


def _remove_stale(path: Path) -> None:
    """Remove the socket of a server that is gone. One that is alive, or no socket at all, is left alone."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return  # alive, busy or not ours: bind() will say what is wrong


def bound_address(listener: trio.SocketListener) -> BoundAddress:
    """Where a listener really listens: port 0 has become a number."""
    name = listener.socket.getsockname()
    if listener.socket.family == socket.AF_UNIX:
        return UnixAddress(os.fsdecode(name))
    return TcpAddress(str(ipaddress.ip_address(name[0])), int(name[1]))


def close_listener(listener: trio.SocketListener) -> None:
    """Stop listening at once; a unix socket's file goes with it. Closing twice does nothing."""
    remove_socket_file(listener)
    listener.socket.close()


def remove_socket_file(listener: trio.SocketListener) -> None:
    """Let nobody else connect to a unix socket, which is still open: who closes it without this leaves its file."""
    if listener.socket.fileno() < 0:  # cancelled while stopping: Trio has closed it
        return
    address = bound_address(listener)
    if isinstance(address, UnixAddress):
        Path(address.path).unlink(missing_ok=True)


def _at_once() -> float:
    return 0


async def accept_on(
    listener: trio.SocketListener,
    serve: Callable[[trio.SocketStream], Awaitable[None]],
    nursery: trio.Nursery,
    patience: Callable[[], float] = _at_once,
) -> NoReturn:
    """Accept connections, until cancelled; then the listener is closed.

    As ``trio.serve_listeners``, complaints and all, with two differences. Several are accepted in one turn of the
    scheduler, which is long when there is much to do: else so many could wait that clients give up. And whoever serves
    a connection has closed it, whatever happens: Trio closes it once more to be sure, which takes a tenth of the time
    of a short connection.

    Args:
        serve: called for each, as a task of ``nursery``.
        patience: for how many seconds those who listen to the same socket may be quicker; for less when many come.
    """
    async with listener:
        plain = socket.socket(fileno=listener.socket.fileno())  # the same one, whose accept() does not wait
        plain.settimeout(0)
        longest = math.inf  # to be patient
        try:
            while True:
                await trio.lowlevel.wait_readable(listener.socket)
                if (seconds := min(patience(), longest)) > 0:
                    await trio.sleep(seconds)
                    if listener.socket.fileno() < 0:  # its number may be another file's by now
                        raise trio.ClosedResourceError
                longest = math.inf
                try:
                    for _ in range(_ACCEPTS_IN_TURN):
                        sock, _ = plain.accept()
                        nursery.start_soon(serve, trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
                    longest = _CROWD_SECONDS  # enough for everybody; but whoever is first should not have them all
                except BlockingIOError:
                    pass  # those were all; or another process was quicker
                except OSError as exc:
                    if exc.errno in _SHORTAGES:
                        _complain(exc)
                        await trio.sleep(_SHORTAGE_SECONDS)
                    elif exc.errno not in _OF_ONE_CONNECTION:
                        raise
        finally:
            plain.detach()


def _complain(exc: OSError) -> None:
    logging.getLogger(_TRIO_LOGGER).log(
        logging.ERROR,
        "accept returned %s (%s); retrying in %s seconds",
        errno.errorcode[exc.errno or 0],
        exc.strerror,
        _SHORTAGE_SECONDS,
    )


@final
class _AcceptLog(logging.Handler):
    """Turns complaints about accept, traceback and all, into short lines of the log, and not too many."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger, *, propagated: bool) -> None:
        super().__init__()
        self._log = log
        self.propagated = propagated  # whether the logger told others, before the first of us came
        self._quiet_until = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        now = trio.current_time()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            self._log.error("cannot accept", problem=record.getMessage())


@contextmanager
def accept_problems_to(log: structlog.typing.FilteringBoundLogger) -> Iterator[None]:
    """While this lasts, a lack of file descriptors or memory at accept is told in our log alone.

    Several may last at once, as at a reload, and end in any order.
    """
    logger = logging.getLogger(_TRIO_LOGGER)
    others = _accept_logs(logger)
    handler = _AcceptLog(log, propagated=others[0].propagated if others else logger.propagate)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        if not _accept_logs(logger):
            logger.propagate = handler.propagated


def _accept_logs(logger: logging.Logger) -> list[_AcceptLog]:
    return [handler for handler in logger.handlers if isinstance(handler, _AcceptLog)]


def peer_of(stream: trio.SocketStream) -> Peer:
    """Who is connected; an IPv4 address mapped into IPv6 is shown as IPv4, a zone is dropped.

    Raises:
        OSError: the client is gone already.
    """
    name = stream.socket.getpeername()
    if stream.socket.family == socket.AF_UNIX:
        return Peer("", 0)
    return Peer(_shown(name[0]), int(name[1]))


@lru_cache(maxsize=1024)  # many come again
def _shown(ip: str) -> str:
    return str(unmapped(parse_ip(ip.partition("%")[0])))


def _explain(exc: OSError | LookupError | UnicodeError) -> str:
    match exc:
        case UnicodeError():  # what the resolver makes of a label that is empty or too long
            return "not the name of a host"
        case OSError(errno=errno.EADDRINUSE):
            return "the address is in use; is another server running there?"
        case OSError(errno=errno.EACCES | errno.EPERM):
            return "not permitted; ports below 1024 are for root"
        case OSError(errno=errno.EADDRNOTAVAIL):
            return "this machine does not have that address"
        case OSError(strerror=str(text)):
            return text
        case _:
            return str(exc)
