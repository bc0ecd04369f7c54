"""Running a server in the foreground: its log, its signals, a PHP of its own when it needs one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import structlog.typing
import trio

from trio_fcgimail.cli.problems import RAN_AND_FAILED, Failure
from trio_fcgimail.config import Settings, UnixAddress
from trio_fcgimail.server import Ending, ListenError, LogFile, LogObserver, Server, make_log, stop_at_signals
from trio_fcgimail.server.php import PhpError, PhpProgram, run_php


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


def run_server(settings: Settings, php: OwnPhp | None = None) -> int:
    """Serve until a signal says stop; returns the exit code.

    Raises:
        Failure: it could not be started, or PHP could not.
    """
    try:
        file = LogFile(settings.log.file)
    except OSError as exc:
        raise Failure(f"cannot write the log file {settings.log.file}: {exc.strerror}") from exc
    problems: list[str] = []
    ending = Ending.CUT
    try:
        ending = trio.run(_serve, settings, file, php)
    except* (ListenError, PhpError) as group:
        problems = [str(exc) for exc in _leaves(group)]
    finally:
        file.close()
    if problems:
        raise Failure("; ".join(problems))
    return RAN_AND_FAILED if ending is Ending.CUT else 0


async def _serve(settings: Settings, file: LogFile, php: OwnPhp | None) -> Ending:
    """The root of the nursery tree: signals around PHP around the server, each outliving what is within."""
    log = make_log(settings.log, file)
    if os.geteuid() == 0:
        log.warning("serving as root; run it as a user of its own")
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as inner:
            if php is not None:
                settings = _with_upstream(settings, await inner.start(_run_php, php, settings, log))
            server = Server(settings, log=log, observers=[LogObserver(log)])
            await outer.start(stop_at_signals, server, log, file)
            ending = await server.run()
            inner.cancel_scope.cancel()
        outer.cancel_scope.cancel()
    return ending


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


def _with_upstream(settings: Settings, path: Path) -> Settings:
    return replace(settings, fastcgi=replace(settings.fastcgi, upstreams=(UnixAddress(str(path)),)))


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
