"""Running a server in the foreground: its log, its signals, a PHP of its own when it needs one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import structlog.typing
import trio

from trio_fcgimail.cli.descriptors import find_shortage, raise_limit
from trio_fcgimail.cli.pidfile import pid_file
from trio_fcgimail.cli.problems import RAN_AND_FAILED, Failure
from trio_fcgimail.config import ConfigWarning, LogLevel, Settings, UnixAddress
from trio_fcgimail.server import Ending, LogFile, LogObserver, Server, StartError, make_log, stop_at_signals
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
        self._server: Server | None = None

    def begin(self, server: Server) -> None:
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


def run_server(settings: Settings, php: OwnPhp | None = None, *, warnings: Sequence[ConfigWarning] = ()) -> int:
    """Serve until a signal says stop; returns the exit code.

    Args:
        settings: with a PHP of our own they name no upstream: its socket becomes the one.
        php: to be started before.
        warnings: about the file that the settings come from, for the log.

    Raises:
        Failure: it could not be started, or PHP could not, or a signal came before it was.
    """
    try:
        file = LogFile(settings.log.file)
    except OSError as exc:
        raise Failure(f"cannot write the log file {settings.log.file}: {exc.strerror}") from exc
    with closing(file), nullcontext() if settings.pid_file is None else pid_file(settings.pid_file):
        return _run(settings, file, php, warnings)


def _run(settings: Settings, file: LogFile, php: OwnPhp | None, warnings: Sequence[ConfigWarning]) -> int:
    problems: list[str] = []
    ending: Ending | None = None
    try:
        ending = trio.run(_serve, settings, file, php, warnings)
    except* (StartError, PhpError) as group:
        problems = [str(exc) for exc in _leaves(group)]
    if problems:
        raise Failure("; ".join(problems))
    if ending is None:
        raise Failure("stopped before it was ready")
    return RAN_AND_FAILED if ending is Ending.CUT else 0


async def _serve(
    settings: Settings, file: LogFile, php: OwnPhp | None, warnings: Sequence[ConfigWarning]
) -> Ending | None:
    """The root of the nursery tree: signals around PHP around the server, each outliving what is within.

    Returns:
        None when a signal ended the start.
    """
    log = make_log(settings.log, file)
    for warning in warnings:
        _tell(log, warning)
    if os.geteuid() == 0:
        log.warning("serving as root; run it as a user of its own")
    if (shortage := find_shortage(settings, raise_limit())) is not None:
        log.warning("too few file descriptors", problem=shortage)
    ending: Ending | None = None
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as inner:
            run = _Running(inner.cancel_scope)
            await outer.start(stop_at_signals, run, log, file)
            if php is not None:
                path = await inner.start(_run_php, php, settings, log)
                settings = with_own_php(settings, path, php.program.kind)
            server = Server(settings, log=log, observers=[LogObserver(log)])
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


def with_own_php(settings: Settings, path: Path, kind: PhpKind) -> Settings:
    """Put in the socket of our own PHP, and what is known of that: php-cgi was not measured."""
    fastcgi = replace(
        settings.fastcgi,
        upstreams=(UnixAddress(str(path)),),
        clean_eof_means_unexecuted=kind is PhpKind.FPM,
    )
    return replace(settings, fastcgi=fastcgi)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
