"""A child: serves on the sockets that it inherited, until its parent says otherwise or is gone.

The nursery tree::

    _serve (nursery)
    ├── _obey           reads the parent's messages; the parent's end is the server's stop
    ├── _stop_at_term   a signal to this process alone
    └── Server.run      see trio_fcgimail.server.app
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from typing import Final, assert_never

import msgspec
import structlog.typing
import trio

from trio_fcgimail.config import Settings
from trio_fcgimail.server.app import Ending, Server
from trio_fcgimail.server.listeners import ListenError
from trio_fcgimail.server.log import LogFile, LogObserver, make_log
from trio_fcgimail.server.workers.channel import Channel, Cut, Failed, Ready, Reopen, Retire, Start, Stop, ToChild
from trio_fcgimail.server.workers.rights import Identity, become

EXIT_CUT: Final = 3  # sessions were cut; 0 is for a drained server, 1 for a failure
_LEFT_TO_THE_PARENT: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_DECODER: Final = msgspec.msgpack.Decoder(ToChild)


def main() -> None:
    """Run as a process: the first argument is the file descriptor of our end of the socket pair."""
    for number in _LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(trio.run(_main, int(sys.argv[1])))


async def _main(descriptor: int) -> int:
    os.set_inheritable(descriptor, False)
    channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor))))
    start = await channel.receive(_DECODER)
    if not isinstance(start, Start):
        return 1
    settings = pickle.loads(start.settings)  # noqa: S301 - from our own parent, over a private socket pair
    assert isinstance(settings, Settings)
    try:
        return await _serve(settings, start, channel)
    except* (ListenError, OSError) as group:
        await channel.send(Failed("; ".join(map(str, group.exceptions))))
    return 1


async def _serve(settings: Settings, start: Start, channel: Channel) -> int:
    file = LogFile(settings.log.file)
    log = make_log(settings.log, file)
    if settings.workers > 1:
        log = log.bind(worker=start.number)
    server = Server(settings, log=log, observers=[LogObserver(log)])
    sockets = [[_inherit(descriptor) for descriptor in descriptors] for descriptors in start.sockets]
    ending = Ending.CUT
    try:
        entrances = server.open_entrances()
        if start.uid is not None and start.gid is not None:
            become(Identity(start.uid, start.gid, start.user))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, channel, server, file, log)
            await nursery.start(_stop_at_term, server)
            nursery.start_soon(channel.send, Ready())
            ending = await server.serve(list(zip(entrances, sockets, strict=True)))
            nursery.cancel_scope.cancel()
    finally:
        file.close()
    return EXIT_CUT if ending is Ending.CUT else 0


def _inherit(descriptor: int) -> trio.SocketListener:
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def _obey(channel: Channel, server: Server, file: LogFile, log: structlog.typing.FilteringBoundLogger) -> None:
    while True:
        match await channel.receive(_DECODER):
            case None:
                log.error("the parent is gone; stopping")
                server.stop()
                return
            case Retire():
                server.retire()
            case Stop():
                server.stop()
            case Cut():
                server.cut()
            case Reopen():
                try:
                    file.reopen()
                except OSError as exc:
                    log.error("cannot reopen the log file", problem=str(exc))
            case Start():
                raise AssertionError("a child is started once")
            case message:
                assert_never(message)


async def _stop_at_term(server: Server, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            server.stop()


if __name__ == "__main__":
    main()
