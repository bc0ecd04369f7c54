"""The process: HTTP on the sockets that it inherited, until its parent is gone.

The nursery tree::

    _serve (nursery)
    ├── _obey               takes the parent's reports; the parent's end is ours
    ├── _look               asks for one each second
    ├── Channel.write_out   sends ours
    └── hypercorn           a task for each connection
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
import sys
from typing import Final, assert_never, cast

import msgspec
import structlog.typing
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import Framework
from starlette.types import ASGIApp

from trio_fcgimail.config import Settings
from trio_fcgimail.server.listeners import accept_problems_to
from trio_fcgimail.server.log import make_log
from trio_fcgimail.server.logfile import LogFile
from trio_fcgimail.server.status.monitor import LOOK_SECONDS, Monitor
from trio_fcgimail.server.status.web import make_app
from trio_fcgimail.server.workers.channel import Channel, Cut, Reopen
from trio_fcgimail.server.workers.report import Look, Report, StatusStart, ToStatus
from trio_fcgimail.server.workers.rights import Identity, become

MAX_DESCRIPTORS: Final = 128  # ours: connections that are served at once, and some more
MAX_HEAD_OCTETS: Final = 16_384  # of a request
_IDLE_SECONDS: Final = 15.0  # a page that is open asks every second
_READ_SECONDS: Final = 15.0
_LEFT_TO_THE_PARENT: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM)
_DECODER: Final = msgspec.msgpack.Decoder(ToStatus)


def main() -> None:
    """Run as a process: the first argument is the file descriptor of our end of the socket pair."""
    for number in _LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    trio.run(_main, int(sys.argv[1]))


async def _main(descriptor: int) -> None:
    os.set_inheritable(descriptor, False)
    channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor))))
    try:
        start = await channel.receive(_DECODER)
        if isinstance(start, StatusStart):
            await _serve(start, channel)
    finally:
        await channel.aclose()


async def _serve(start: StatusStart, channel: Channel) -> None:
    settings = pickle.loads(start.settings)  # noqa: S301 - from our own parent, over a private socket pair
    assert isinstance(settings, Settings)
    file = LogFile(settings.log.file)
    log = make_log(settings.log, file)
    _limit_descriptors()
    monitor = Monitor(settings)
    app = make_app(monitor, start.password, log)  # which reads files that the user may not be able to
    if start.uid is not None and start.gid is not None:
        become(Identity(start.uid, start.gid, start.user))
    try:
        with accept_problems_to(log):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.write_out)
                nursery.start_soon(_look, channel, monitor)
                nursery.start_soon(_answer, app, start.sockets)
                await _obey(channel, monitor, file, log)
                nursery.cancel_scope.cancel()
    finally:
        file.close()


def _limit_descriptors() -> None:
    """Whoever opens very many connections finds that no more are accepted, and takes nothing else from anybody."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(MAX_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


async def _look(channel: Channel, monitor: Monitor) -> None:
    """Ask each second, unless the last question is still on its way."""
    while True:
        if channel.is_clear:
            channel.post(Look(monitor.mails_seen))
        await trio.sleep(LOOK_SECONDS)


async def _obey(channel: Channel, monitor: Monitor, file: LogFile, log: structlog.typing.FilteringBoundLogger) -> None:
    """Take what the parent says, to its end."""
    while (message := await channel.receive(_DECODER)) is not None:
        match message:
            case Report():
                monitor.take(message)
            case Reopen():
                try:
                    file.reopen()
                except OSError as exc:
                    log.error("cannot reopen the log file", problem=str(exc))
            case Cut():
                return
            case StatusStart():
                raise AssertionError("the process is started once")
            case _:
                assert_never(message)


def _config(sockets: list[int]) -> Config:
    config = Config()
    config.bind = [f"fd://{descriptor}" for descriptor in sockets]
    config.accesslog = None
    config.errorlog = None
    config.h11_max_incomplete_size = MAX_HEAD_OCTETS
    config.keep_alive_timeout = _IDLE_SECONDS
    config.read_timeout = int(_READ_SECONDS)
    config.include_server_header = False
    return config


async def _answer(app: ASGIApp, sockets: list[int]) -> None:
    await serve(cast(Framework, app), _config(sockets), shutdown_trigger=trio.sleep_forever)
