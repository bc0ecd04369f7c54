"""A server for programs of others: started in a nursery of theirs, reloaded and stopped by calls (docs/api.md).

The tree::

    serve (nursery)
    ├── Server.serve        by the settings of the latest reload
    └── Server.serve ...    by those before, until their sessions are over
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, final

import structlog.typing
import trio

from trio_fcgimail.config import ListenAddress, LogSettings, LogStream, Settings
from trio_fcgimail.server.app import Ending, Server, Way
from trio_fcgimail.server.events import Events, LogsReopened, Reloaded, ReloadFailed, Started, Stopping
from trio_fcgimail.server.listenerlogs import LogFiles, open_logs
from trio_fcgimail.server.listeners import ListenerKey, StartError, bound_address, close_listener, keyed, open_listeners
from trio_fcgimail.server.log import LogObserver, make_log
from trio_fcgimail.server.pool import CommonBudget
from trio_fcgimail.server.processors import ProcessorSource

_Sockets: TypeAlias = dict[ListenerKey, list[trio.SocketListener]]
_LogKey: TypeAlias = tuple[LogSettings, frozenset[Path | LogStream | None]]


class _Logs:
    """Where lines go: a logger of the caller's, or one by the settings and its files."""

    def __init__(self, given: structlog.typing.FilteringBoundLogger | None) -> None:
        self._given = given
        self._loggers: dict[_LogKey, tuple[LogFiles, structlog.typing.FilteringBoundLogger]] = {}

    def open(self, settings: Settings) -> structlog.typing.FilteringBoundLogger:
        """The logger of such settings. Raises StartError."""
        if self._given is not None:
            return self._given
        key = (settings.log, frozenset(listener.log_file for listener in settings.listeners))
        if key not in self._loggers:
            files = open_logs(settings)
            self._loggers[key] = (files, make_log(settings.log, files))
        return self._loggers[key][1]

    def reopen(self) -> None:
        """Open the files anew. Raises OSError."""
        for file, _ in self._loggers.values():
            file.reopen()

    async def close(self) -> None:
        """Write what waits, and close."""
        for file, _ in self._loggers.values():
            await trio.to_thread.run_sync(file.close)


@final
class Service:
    """A server that runs, as :func:`serve` gives it to whoever started it."""

    def __init__(
        self, settings: Settings, processors: Mapping[str, ProcessorSource], events: Events, logs: _Logs
    ) -> None:
        self._settings = settings
        self._processors = processors
        self._events = events
        self._logs = logs
        self._log = logs.open(settings)
        self._sockets: _Sockets = {}
        self._addresses: tuple[ListenAddress, ...] = ()
        self._servers: list[Server] = []
        self._budget = CommonBudget()
        self._reloading = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._is_stopping = False
        self.ending = Ending.DRAINED

    @property
    def settings(self) -> Settings:
        """Those that new clients are served by."""
        return self._settings

    @property
    def addresses(self) -> tuple[ListenAddress, ...]:
        """Where it really listens, in the order of the listeners; port 0 has become a number."""
        return self._addresses

    @property
    def is_stopping(self) -> bool:
        """Whether the end has begun."""
        return self._is_stopping

    def stop(self) -> None:
        """Begin to end: no new connection, 421 between two transactions, ``drain_seconds`` for those under way."""
        if not self._is_stopping:
            self._is_stopping = True
            self._events.publish(Stopping())
        for server in self._servers:
            server.stop()
        self._close_all(self._sockets)

    def cut(self) -> None:
        """End now: transactions under way are answered 421, or 451 when their verdict is still awaited."""
        self.stop()
        for server in self._servers:
            server.cut()

    def reopen_logs(self) -> None:
        """Open the log files anew, after they were moved.

        Raises:
            OSError: one of them cannot be opened; lines go on into the old one.
        """
        self._logs.reopen()
        self._events.publish(LogsReopened())

    async def reload(self, settings: Settings) -> None:
        """Serve new clients by other settings; no connection is refused meanwhile.

        Those who are connected keep the old ones: each has its first mail, behind it 421 at the next command, and
        ``drain_seconds`` in all. The processors are made and set up anew, beside the old ones. A socket whose address
        is named again stays open, with its mode and group.

        Raises:
            StartError: it cannot be done, and all stays as it was.
        """
        async with self._reloading:
            before, olds = self._settings, tuple(self._servers)
            try:
                if self._is_stopping:
                    raise StartError("the server is stopping")
                await self._begin(settings)
            except StartError as exc:
                self._log.error("reload failed", problem=str(exc))
                self._events.publish(ReloadFailed(settings, str(exc)))
                raise
            for server in olds:
                server.retire()
            self._log.info("reloaded")
            self._events.publish(Reloaded(before, settings))

    # For serve

    async def run(self, task_status: trio.TaskStatus[Service]) -> None:
        """Serve to the end."""
        problem: StartError | None = None
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    await self._begin(self._settings)
                except StartError as exc:
                    problem = exc  # by itself, as no group is of any use to the caller
                else:
                    self._events.publish(Started(self.addresses))
                    task_status.started(self)
        finally:
            self._close_all(self._sockets)
        if problem is not None:
            raise problem

    async def _begin(self, settings: Settings) -> None:
        """Start a server, and make its sockets and settings ours. Raises StartError."""
        if settings.status.address is not None:
            raise StartError("status.address: only the command `serve` has a status page; leave it out")
        log = self._logs.open(settings)
        self._events.log_failures_to(log)
        observers = (LogObserver(log), self._events)
        fastcgi = settings.fastcgi
        server = Server(
            settings,
            log=log,
            observers=observers,
            processors=self._processors,
            events=self._events,
            budget=self._budget.share(fastcgi.upstreams, fastcgi.max_connections, fastcgi.reserve_for_validate),
        )
        sockets: _Sockets = {}
        ways: list[Way] = []
        try:
            await self._listen(server, sockets, ways)
            assert self._nursery is not None, "run has opened it"
            await self._nursery.start(self._serve, server, ways)
        except BaseException:
            self._close_all({key: opened for key, opened in sockets.items() if key not in self._sockets})
            for _, copies in ways:
                for copy in copies:
                    copy.socket.close()
            raise
        if self._is_stopping:  # since before the new server could be told
            server.stop()
            self._close_all(sockets)
            raise StartError("the server is stopping")
        self._close_all({key: old for key, old in self._sockets.items() if key not in sockets})
        self._sockets, self._settings, self._log = sockets, settings, log
        self._addresses = tuple(bound_address(one) for opened in sockets.values() for one in opened)
        self._log.info("listening", addresses=", ".join(map(str, self.addresses)))

    async def _listen(self, server: Server, sockets: _Sockets, ways: list[Way]) -> None:
        """Open what is not open yet. Raises StartError, when as much as was done is in the arguments."""
        entrances = server.open_entrances()
        for entrance, (key, _) in zip(entrances, keyed([one.settings for one in entrances]), strict=True):
            sockets[key] = self._sockets.get(key) or await open_listeners(entrance.settings)
            ways.append((entrance, _copies(sockets[key])))

    async def _serve(self, server: Server, ways: list[Way], task_status: trio.TaskStatus[None]) -> None:
        async with server.ready():
            self._servers.append(server)
            try:
                task_status.started()
                ending = await server.serve(ways)
            finally:  # also when the reload was cancelled that has brought it
                self._servers.remove(server)
        if ending is Ending.CUT:  # whatever becomes of the others; who was cut as it only retired does not count
            self.ending = ending
        if not self._servers:
            self._log.info("stopped", ending=self.ending.value)

    @staticmethod
    def _close_all(sockets: _Sockets) -> None:
        for listeners in sockets.values():
            for listener in listeners:
                close_listener(listener)


def _copies(listeners: list[trio.SocketListener]) -> list[trio.SocketListener]:
    """Others for the same sockets. Raises StartError."""
    try:
        return [trio.SocketListener(one.socket.dup()) for one in listeners]
    except OSError as exc:  # no descriptor is left, or a stop has closed them
        raise StartError(f"cannot listen: {exc.strerror}") from exc


async def serve(
    settings: Settings,
    *,
    processors: Mapping[str, ProcessorSource] | None = None,
    events: Events | None = None,
    log: structlog.typing.FilteringBoundLogger | None = None,
    task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED,
) -> Ending:
    """Serve until stopped, in whatever nursery this is started in: ``service = await nursery.start(serve, settings)``.

    Cancelling it cuts all connections.

    Args:
        settings: checked; see ``make_settings`` and ``load_settings``.
        processors: of your own, by the names that ``chain.save`` and ``chain.validate`` have for them, in any case.
        events: whom to tell what happens.
        log: where lines go; None for where the settings say.
        task_status: given the :class:`Service` once it listens.

    Raises:
        StartError: it cannot be started; nothing was served.
    """
    logs = _Logs(log)
    try:
        service = Service(settings, processors or {}, events or Events(), logs)
        await service.run(task_status)
    finally:
        with trio.CancelScope(shield=True):  # a file waits for a second at most
            await logs.close()
    return service.ending
