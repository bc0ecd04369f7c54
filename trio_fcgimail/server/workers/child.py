"""A child: serves on the sockets that it inherited, until its parent says otherwise or is gone.

The nursery tree::

    _serve (nursery)
    ├── _obey               reads the parent's messages; the parent's end is the server's stop
    ├── Channel.write_out   sends ours
    ├── SharedBudget.run    gives back what others wait for
    ├── Relief.ask          once the memory of a crowd stays with us
    ├── _stop_at_term       a signal to this process alone
    └── Server.serve        once told to begin; see trio_fcgimail.server.app
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import sys
from dataclasses import replace
from typing import Final, assert_never, final

import msgspec
import structlog.typing
import trio

from trio_fcgimail.config import Settings
from trio_fcgimail.server.app import Ending, Server
from trio_fcgimail.server.entrance import Entrance, open_entrances
from trio_fcgimail.server.gateway import Observer
from trio_fcgimail.server.groups import leaves
from trio_fcgimail.server.listenerlogs import LogFiles, open_logs
from trio_fcgimail.server.listeners import StartError
from trio_fcgimail.server.log import LogObserver, make_log
from trio_fcgimail.server.pool import Kind
from trio_fcgimail.server.tlsnames import be_quiet_about_names
from trio_fcgimail.server.workers.budget import SharedBudget
from trio_fcgimail.server.workers.certificates import files_in_memory
from trio_fcgimail.server.workers.channel import (
    AskLease,
    AskRelief,
    Begin,
    Channel,
    Cut,
    Failed,
    LeaseGranted,
    LeasesScarce,
    LowerLease,
    Ping,
    Pong,
    Ready,
    ReleaseLease,
    Reopen,
    Retire,
    Start,
    Stop,
    ToChild,
    Verdict,
)
from trio_fcgimail.server.workers.ledger import SharedLedger
from trio_fcgimail.server.workers.reporter import RecentMails, Reporter
from trio_fcgimail.server.workers.rights import Identity, become

EXIT_CUT: Final = 3  # sessions were cut; 0 is for a server that drained or only retired, 1 for a failure
_LEFT_TO_THE_PARENT: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
_DECODER: Final = msgspec.msgpack.Decoder(ToChild)


def main() -> None:
    """Run as a process: the first argument is the file descriptor of our end of the socket pair."""
    for number in _LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    be_quiet_about_names()
    gc.freeze()  # what was imported stays: looking for garbage in it would take 40 ms each time
    sys.exit(trio.run(_main, int(sys.argv[1])))


async def _main(descriptor: int) -> int:
    os.set_inheritable(descriptor, False)
    channel = Channel(trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor))))
    try:
        start = await channel.receive(_DECODER)
        if isinstance(start, Start):
            return await _serve(start, channel)
    except* (StartError, OSError) as group:
        await channel.send(Failed("; ".join(map(str, leaves(group)))))
    finally:
        await channel.aclose()
    return 1


async def _serve(start: Start, channel: Channel) -> int:
    settings = pickle.loads(start.settings)  # noqa: S301 - from our own parent, over a private socket pair
    assert isinstance(settings, Settings)
    file = open_logs(settings)
    log = make_log(settings.log, file)
    if settings.workers > 1:
        log = log.bind(worker=start.number)
    ledger = SharedLedger(channel.post)
    share = max(settings.fastcgi.max_connections // settings.workers, 1)
    budget = SharedBudget([str(address) for address in settings.fastcgi.upstreams], _Leasing(channel), share)
    recent, has_status = RecentMails(), settings.status.address is not None
    observers: list[Observer] = [LogObserver(log)]
    if has_status:
        observers.append(recent)
    relief = Relief(channel, start.rest_seconds, log)
    server = Server(
        settings,
        log=log,
        observers=observers,
        ledger=ledger,
        budget=budget,
        tired=relief.is_wanted,
        has_siblings=settings.workers > 1,
    )
    reporter = Reporter(channel, server.samples, recent)
    sockets = [[_inherit(descriptor) for descriptor in descriptors] for descriptors in start.sockets]
    ending = Ending.DRAINED
    try:
        entrances = _open_entrances(settings, start)
        if start.uid is not None and start.gid is not None:
            become(Identity(start.uid, start.gid, start.user))
        async with trio.open_nursery() as nursery:
            orders = _Orders(channel, server, ledger, budget, share, file, log)
            nursery.start_soon(orders.obey)
            nursery.start_soon(channel.write_out)
            nursery.start_soon(budget.run)
            nursery.start_soon(relief.ask, server)
            if has_status:
                nursery.start_soon(reporter.run)
            await nursery.start(_stop_at_term, server)
            async with server.ready():
                channel.post(Ready())
                await orders.begun.wait()
                if not server.is_stopping:
                    ending = await server.serve(list(zip(entrances, sockets, strict=True)))
                if has_status:
                    await reporter.finish()
            nursery.cancel_scope.cancel()
    finally:
        for listener in (one for several in sockets for one in several):
            listener.socket.close()
        file.close()
    return EXIT_CUT if ending is Ending.CUT else 0


def _open_entrances(settings: Settings, start: Start) -> list[Entrance]:
    with files_in_memory(settings, start.files) as moved:
        pairs = zip(settings.listeners, open_entrances(moved), strict=True)
        return [replace(entrance, settings=listener) for listener, entrance in pairs]


def _inherit(descriptor: int) -> trio.SocketListener:
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


@final
class _Leasing:
    """Asks the parent for leases."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def ask(self, upstream: str, use: Kind) -> None:
        self._channel.post(AskLease(upstream, use))

    def lower(self, upstream: str) -> None:
        self._channel.post(LowerLease(upstream))

    def release(self, upstream: str, use: Kind) -> None:
        self._channel.post(ReleaseLease(upstream, use))


@final
class Relief:
    """Asks the parent that another serve in our place.

    Args:
        rest_seconds: how long we serve before we ask, and how long we wait before we ask again.

    Attributes:
        channel: to the parent.
    """

    def __init__(self, channel: Channel, rest_seconds: float, log: structlog.typing.FilteringBoundLogger) -> None:
        self.channel = channel
        self._rest_seconds = rest_seconds
        self._log = log
        self._wanted = trio.Event()
        self._due = trio.current_time() + rest_seconds

    def is_wanted(self) -> None:
        """The memory of a crowd stays with us."""
        self._wanted.set()

    async def ask(self, server: Server) -> None:
        """Ask as long as it is so, until cancelled."""
        await self._wanted.wait()
        if not server.is_stopping:
            self._log.info("worker wants to be relieved")
        while True:
            await trio.sleep_until(self._due)
            if server.memory_stays and not server.is_stopping:
                self.channel.post(AskRelief())
            self._due = trio.current_time() + self._rest_seconds


@final
class _Orders:
    """What the parent says.

    Attributes:
        begun: set when there is to be an end of waiting for it: to accept, or to go.
    """

    def __init__(
        self,
        channel: Channel,
        server: Server,
        ledger: SharedLedger,
        budget: SharedBudget,
        share: int,
        file: LogFiles,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.begun = trio.Event()
        self._channel = channel
        self._server = server
        self._ledger = ledger
        self._budget = budget
        self._share = share
        self._file = file
        self._log = log

    async def obey(self) -> None:
        """Do what it says, to its end, which is ours."""
        while (message := await self._channel.receive(_DECODER)) is not None:
            self._obey(message)
        self._log.error("the parent is gone; stopping")
        self._ledger.forsake()
        self._budget.forsake(self._share)
        self._server.stop()
        self.begun.set()

    def _obey(self, message: ToChild) -> None:
        match message:
            case Begin():
                self.begun.set()
            case Retire(seconds=seconds):
                self._server.retire(seconds)
                self.begun.set()
            case Stop():
                self._server.stop()
                self.begun.set()
            case Cut():
                self._server.cut()
                self.begun.set()
            case Verdict():
                self._ledger.hear(message)
            case LeaseGranted(upstream=upstream, use=use):
                self._budget.granted(upstream, use)
            case LeasesScarce(upstream=upstream, is_scarce=is_scarce):
                self._budget.scarcity(upstream, is_scarce)
            case Ping():
                self._channel.post(Pong())
            case Reopen():
                try:
                    self._file.reopen()
                except OSError as exc:
                    self._log.error("cannot reopen the log file", problem=str(exc))
            case Start():
                raise AssertionError("a child is started once")
            case _:
                assert_never(message)


async def _stop_at_term(server: Server, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            server.stop()


if __name__ == "__main__":
    main()
