"""The server: its nursery tree, its connections, and how it ends.

The tree::

    Server.run
    └── ending (nursery)                 left when the last session is over
        ├── Pool.run                     ends idle FastCGI connections; a task for each probe of an ejected upstream
        ├── Alarms.run                   rings when a client has taken too long
        ├── _cut_in_time                 once stopped: ends what is left after drain_seconds, or at cut()
        └── connections (nursery)        one task for each session
            ├── accepting (nursery)      accept_on for each socket; cancelled by stop()
            └── Session.run ...          each in a cancel scope of its own, with the deadlines of the settings within
                └── upstream.exchange    a nursery of two tasks, writer and reader, for each FastCGI request

A session's exception ends in Session.run, so nothing but a fault of this module can cancel the connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from functools import partial
from typing import Final, final

import structlog.typing
import trio

from trio_fcgimail.config import BoundAddress, Settings
from trio_fcgimail.server.chance import QueueIds
from trio_fcgimail.server.crowd import Crowd
from trio_fcgimail.server.doorman import Doorman
from trio_fcgimail.server.entrance import Entrance, open_entrances
from trio_fcgimail.server.events import ConnectionClosed, ConnectionOpened, Events
from trio_fcgimail.server.gateway import Gateway, Observer
from trio_fcgimail.server.handshakes import Handshakes, most_handshakes
from trio_fcgimail.server.ledger import Ledger, LocalLedger, Place
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.listenerlogs import logging_to
from trio_fcgimail.server.listeners import (
    accept_on,
    accept_problems_to,
    bound_address,
    close_listener,
    connection_caps,
    open_listeners,
    remove_socket_file,
)
from trio_fcgimail.server.metrics import Counts, Sample, samples
from trio_fcgimail.server.pool import Budget
from trio_fcgimail.server.processors import Chain, ProcessorSource
from trio_fcgimail.server.scripts import Scripts
from trio_fcgimail.server.session import Drain, Session
from trio_fcgimail.server.spool import SpoolRoom
from trio_fcgimail.server.wallclock import WholeSeconds, local_now
from trio_fcgimail.smtp import Reply, catalogue

Way = tuple[Entrance, Sequence[trio.SocketListener]]

_PATIENCE_SECONDS: Final = 0.001  # ours: what the clock of a scheduler tells apart
_MOST_PATIENCE: Final = 5  # times that: with 16 clients or more, whom chance spreads


class Ending(Enum):
    """How the server came to its end."""

    DRAINED = "every session was over in time"
    CUT = "sessions were cut"
    RETIRED = "sessions were cut, for others to serve alone"


def _remove_files(sockets: Sequence[trio.SocketListener]) -> None:
    for socket in sockets:
        remove_socket_file(socket)  # accept_on closes sockets, but leaves their files


def _own_ledger(settings: Settings) -> LocalLedger:
    return LocalLedger(settings.limits, caps=connection_caps(settings.listeners))


@final
class Server:
    """Serves the listeners of one configuration.

    Args:
        settings: checked.
        log: where lines go.
        observers: told of every mail at its end.
        processors: of the user's own, by the names that the chains have for them.
        events: told of every connection.
        ledger: the accounts behind the limits that hold over all connections; None for our own.
        budget: what FastCGI connections are leased from; likewise.
        tired: called when most of a crowd of clients have left and their memory stays with this process, so that
            another could serve with less of it, and again when more does; must neither block nor raise.
        has_siblings: other processes accept on the same sockets.

    Raises:
        ChainError: a processor is not to be had.

    Run it in a nursery; whatever the scripts need (a PHP of our own) must outlive ``run``.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        log: structlog.typing.FilteringBoundLogger,
        observers: Sequence[Observer] = (),
        processors: Mapping[str, ProcessorSource] | None = None,
        events: Events | None = None,
        ledger: Ledger | None = None,
        budget: Budget | None = None,
        tired: Callable[[], None] = lambda: None,
        has_siblings: bool = False,
    ) -> None:
        self._settings = settings
        self._has_siblings = has_siblings
        self._events = events or Events()
        self._log = log
        counts = Counts()
        scripts = Scripts(settings, log, budget=budget, counts=counts)
        self._gateway = Gateway(
            settings=settings,
            scripts=scripts,
            chain=Chain(settings, scripts, log=log, now=local_now, registered=processors),
            room=SpoolRoom(
                directory=settings.spool.directory,
                memory_octets=settings.spool.memory_octets,
                total_octets=settings.spool.total_octets,
            ),
            ledger=_own_ledger(settings) if ledger is None else ledger,
            log=log,
            now=WholeSeconds(),
            queue_id=QueueIds(),
            observers=tuple(observers),
            counts=counts,
            handshakes=Handshakes(most_handshakes(settings)),
        )
        self._sessions: set[Session] = set()
        self._doorman = Doorman(self._gateway, self._why_closed)
        self._crowd = Crowd(tired)
        self._drain = Drain.NO
        self._patience = trio.CancelScope()  # with sessions that go on, once the end has begun
        self._stopping = trio.Event()
        self._cutting = trio.Event()
        self._ending = Ending.DRAINED

    @property
    def is_stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stopping.is_set()

    @property
    def limits_hit(self) -> Mapping[Limit, int]:
        """How often each limit was hit so far."""
        return self._gateway.hits.snapshot()

    @property
    def memory_stays(self) -> bool:
        """Whether the memory of a crowd that has left is with this process still."""
        return self._crowd.memory_stays

    def samples(self) -> Iterator[Sample]:
        """Everything that was counted so far, and the state of things."""
        gateway = self._gateway
        return samples(gateway.counts, gateway.hits.snapshot(), gateway.scripts.upstreams, gateway.scripts.pool())

    def stop(self) -> None:
        """Begin to end: no new connection, 421 between two transactions, ``drain_seconds`` for those under way."""
        self._begin_to_end(Drain.STOPPING, self._settings.drain_seconds)

    def retire(self, seconds: float | None = None) -> None:
        """Begin to end, as others serve from now on: like ``stop``, but each client has its first transaction.

        Args:
            seconds: for those under way, in the place of ``drain_seconds``.
        """
        self._begin_to_end(Drain.RETIRING, self._settings.drain_seconds if seconds is None else seconds)

    def _begin_to_end(self, drain: Drain, seconds: float) -> None:
        if self._drain is not Drain.STOPPING:  # who stops does not come to retire
            self._drain = drain
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + seconds)
        self._stopping.set()
        self._doorman.stop_waiting()
        for session in self._sessions:
            session.drain(self._drain)

    def cut(self) -> None:
        """End now: transactions under way are answered 421, or 451 when their verdict is still awaited."""
        self.stop()
        self._cutting.set()

    async def run(self, *, task_status: trio.TaskStatus[tuple[BoundAddress, ...]] = trio.TASK_STATUS_IGNORED) -> Ending:
        """Listen and serve until stopped.

        Args:
            task_status: told the addresses once all of them are listened on.

        Raises:
            ListenError: an address cannot be listened on, or a certificate not used; nothing was served.
            ChainError: a processor cannot be set up; likewise.
        """
        opened: list[trio.SocketListener] = []
        try:
            ways: list[Way] = []
            for entrance in self.open_entrances():
                sockets = await open_listeners(entrance.settings)
                opened += sockets
                ways.append((entrance, sockets))
            async with self.ready():
                addresses = tuple(map(bound_address, opened))
                self._log.info("listening", addresses=", ".join(map(str, addresses)))
                task_status.started(addresses)
                await self.serve(ways, at_stop=lambda: _remove_files(opened))
        finally:
            for socket in opened:
                close_listener(socket)
        self._log.info("stopped", ending=self._ending.value)
        return self._ending

    def open_entrances(self) -> list[Entrance]:
        """What the listeners need from the disk, in their order. Raises ListenError."""
        return open_entrances(self._settings)

    def ready(self) -> AbstractAsyncContextManager[None]:
        """Set the processors up, and tear them down behind it; :meth:`serve` within. Raises ChainError."""
        return self._gateway.chain.ready()

    async def serve(self, ways: Sequence[Way], at_stop: Callable[[], None] = lambda: None) -> Ending:
        """Serve on sockets that are listened on already, until stopped; they are closed then.

        Args:
            at_stop: called when no more is to be accepted, before the sockets are closed.
        """
        with accept_problems_to(self._log):
            async with trio.open_nursery() as ending:
                ending.start_soon(self._gateway.scripts.run)
                ending.start_soon(self._gateway.alarms.run)
                async with trio.open_nursery() as connections:
                    await self._accept(ways, connections, at_stop)
                    ending.start_soon(self._cut_in_time)
                ending.cancel_scope.cancel()
        return self._ending

    async def _accept(self, ways: Sequence[Way], connections: trio.Nursery, at_stop: Callable[[], None]) -> None:
        """Accept on all listeners until stopped. Trio outlives a lack of file descriptors."""
        async with trio.open_nursery() as accepting:
            for entrance, sockets in ways:
                handler = partial(self._serve_connection, entrance)
                for socket in sockets:
                    accepting.start_soon(accept_on, socket, handler, connections, self._patience_with_others)
            await self._stopping.wait()
            at_stop()
            accepting.cancel_scope.cancel()

    def _patience_with_others(self) -> float:
        """How long others may be quicker to accept, in seconds: who has half as many clients is, up to 16 of them.

        All who listen are woken by a client, and mostly the same one is the quickest, so that clients who stay would
        all be with that one.
        """
        if not self._has_siblings:
            return 0
        return min(self._gateway.counts.open_connections.bit_length(), _MOST_PATIENCE) * _PATIENCE_SECONDS

    async def _cut_in_time(self) -> None:
        """Wait for the sessions that are left, but not for ever."""
        with self._patience:
            await self._cutting.wait()
        if any(not session.is_over for session in self._sessions):
            self._ending = Ending.RETIRED if self._drain is Drain.RETIRING else Ending.CUT
        for session in (*self._sessions, *self._doorman.turned_away):
            session.cut()

    async def _serve_connection(self, entrance: Entrance, stream: trio.SocketStream) -> None:
        """One connection, from the accept to the close."""
        try:
            with logging_to(entrance.settings.log_file):
                await self._let_in_and_serve(entrance, stream)
        finally:
            stream.socket.close()  # as it is already, but for a fault of ours

    async def _let_in_and_serve(self, entrance: Entrance, stream: trio.SocketStream) -> None:
        counts = self._gateway.counts
        counts.connections += 1
        counts.open_connections += 1
        self._crowd.is_now(counts.open_connections)
        place = Place(self._gateway.ledger, self._settings.limits)
        try:
            session = await self._doorman.let_in(stream, entrance, place)
            if session is None:
                return
            session.drain(self._drain)
            self._sessions.add(session)
            self._events.publish(ConnectionOpened(session.peer, entrance.settings.address))
            try:
                await session.run()
            finally:
                self._events.publish(ConnectionClosed(session.peer, entrance.settings.address))
                self._sessions.discard(session)
        finally:
            counts.open_connections -= 1
            place.leave()
            self._crowd.is_now(counts.open_connections)

    def _why_closed(self) -> Reply | None:
        """Some were accepted before the end began, and are looked at after the others were told."""
        return catalogue.SHUTTING_DOWN if self._drain is Drain.STOPPING else None
