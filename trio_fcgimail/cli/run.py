"""Running a server in the foreground: its log, its signals, a PHP of its own when it needs one."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

import structlog.typing
import trio

from trio_fcgimail.cli.descriptors import find_shortage, raise_limit
from trio_fcgimail.cli.problems import RAN_AND_FAILED, Failure
from trio_fcgimail.cli.traces import Traces
from trio_fcgimail.config import Configuration, ConfigWarning, LogLevel, Settings, UnixAddress
from trio_fcgimail.server import (
    Ending,
    LogFile,
    Notifier,
    RightsError,
    StartError,
    Supervisor,
    stop_at_signals,
    take_sockets,
)
from trio_fcgimail.server.groups import leaves
from trio_fcgimail.server.php import PhpError, PhpKind, PhpProgram, run_php


@final
@dataclass(frozen=True, slots=True)
class OwnPhp:
    """A PHP to start and supervise.

    Args:
        scripts: absolute paths, the save script first.
        user: as whom scripts run when we are root; None for the script's owner.
    """

    program: PhpProgram
    scripts: Sequence[Path]
    user: str | None


@final
class _Running:
    """What signals end: the start, and from then on the server.

    Args:
        start: cancelled to end the start.
    """

    def __init__(self, start: trio.CancelScope) -> None:
        self._start = start
        self._server: Supervisor | None = None

    def begin(self, server: Supervisor) -> None:
        """The start is over."""
        self._server = server

    @property
    def is_stopping(self) -> bool:
        return self._start.cancel_called if self._server is None else self._server.is_stopping

    def stop(self) -> None:
        if self._server is None:
            self._start.cancel()
        else:
            self._server.stop()

    def cut(self) -> None:
        if self._server is not None:  # a start that is stopped is as good as cut
            self._server.cut()

    def reload(self) -> None:
        if self._server is not None:  # a start has read the settings just now
            self._server.reload()

    def reopen_logs(self) -> None:
        if self._server is not None:
            self._server.reopen_logs()


def run_server(read: Callable[[], Configuration], php: OwnPhp | None = None) -> int:
    """Serve until a signal says stop; returns the exit code.

    Args:
        read: gives the settings, and gives them anew for a reload. Raises ConfigErrors, which come out of the first
            call. With a PHP of our own they name no upstream: its socket becomes the one.
        php: to be started before.

    Raises:
        Failure: it could not be started, or PHP could not, or a signal came before it was.
    """
    configuration = read()
    settings = configuration.settings
    try:
        file = LogFile(settings.log.file)
    except OSError as exc:
        raise Failure(f"cannot write the log file {settings.log.file}: {exc.strerror}") from exc
    with closing(file), closing(Traces(settings, file)) as traces:
        return _run(configuration, read, traces, php)


def _run(configuration: Configuration, read: Callable[[], Configuration], traces: Traces, php: OwnPhp | None) -> int:
    problems: list[str] = []
    ending: Ending | None = None
    gc.freeze()  # what was imported stays: looking for garbage in it would take 40 ms each time
    try:
        ending = trio.run(_serve, configuration, read, traces, php)
    except* (StartError, RightsError, PhpError) as group:
        problems = [str(exc) for exc in leaves(group)]
    if problems:
        raise Failure("; ".join(problems))
    if ending is None:
        raise Failure("stopped before it was ready")
    return RAN_AND_FAILED if ending is Ending.CUT else 0


async def _serve(
    configuration: Configuration, read: Callable[[], Configuration], traces: Traces, php: OwnPhp | None
) -> Ending | None:
    """The root of the nursery tree: signals around PHP around the server, each outliving what is within.

    Returns:
        None when a signal ended the start.
    """
    settings = configuration.settings
    handed = take_sockets(os.environ)  # before anything is started that would inherit them
    notifier = Notifier.from_environment(os.environ)
    log = traces.log
    for warning in configuration.warnings:
        _tell(log, warning)
    if os.geteuid() == 0 and settings.user is None:
        log.warning("serving as root; set user, or start it as a user of its own")
    if (shortage := find_shortage(settings, raise_limit())) is not None:
        log.warning("too few file descriptors", problem=shortage)
    ending: Ending | None = None
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as inner:
            run = _Running(inner.cancel_scope)
            await outer.start(
                partial(stop_at_signals, run, log, traces.file, hangup=run.reload, reopened=run.reopen_logs)
            )
            path = None if php is None else await inner.start(_run_php, php, settings, log)
            complete = partial(_with_own_php, php, path)

            def reread() -> Settings:
                again = read()
                for warning in again.warnings:
                    _tell(log, warning)
                return complete(again.settings)

            server = Supervisor(
                complete(settings), log=log, reread=reread, handed=handed, notifier=notifier, adopted=traces.follow
            )
            run.begin(server)
            ending = await server.run()
            inner.cancel_scope.cancel()
        outer.cancel_scope.cancel()
    return ending


def _tell(log: structlog.typing.FilteringBoundLogger, warning: ConfigWarning) -> None:
    match warning.concern.level:
        case LogLevel.DEBUG:
            write = log.debug
        case LogLevel.INFO:
            write = log.info
        case _:
            write = log.warning
    write("configuration", file=warning.file, key=warning.key, found=warning.found, done=warning.done)


async def _run_php(
    php: OwnPhp,
    settings: Settings,
    log: structlog.typing.FilteringBoundLogger,
    *,
    task_status: trio.TaskStatus[Path],
) -> None:
    await run_php(
        php.program,
        scripts=php.scripts,
        children=settings.fastcgi.max_connections,
        user=php.user,
        message_octets=settings.limits.message_octets or 0,
        save_seconds=settings.scripts.save_seconds,
        log=log,
        task_status=task_status,
    )


def _with_own_php(php: OwnPhp | None, path: Path | None, settings: Settings) -> Settings:
    return settings if php is None or path is None else with_own_php(settings, path, php.program.kind)


def with_own_php(settings: Settings, path: Path, kind: PhpKind) -> Settings:
    """Put in the socket of our own PHP, and what is known of that: php-cgi was not measured."""
    fastcgi = replace(
        settings.fastcgi,
        upstreams=(UnixAddress(str(path)),),
        clean_eof_means_unexecuted=kind is PhpKind.FPM,
    )
    return replace(settings, fastcgi=fastcgi)
