"""What runs when nothing is configured: the server, the embedded responder, and mail shown as it comes.

The tree::

    run_demo (nursery)
    ├── stop_at_signals
    ├── Responder.run          outlives the server, whose last mails it stores
    └── showing (nursery)
        ├── Display.run        outlives the server, whose last mails it shows
        └── _serve (nursery)
            └── Server.run
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import trio
from rich.console import Console

from trio_fcgimail.config import BoundAddress, LogLevel, LogSettings, LogStream, Settings, UnixAddress, serve_settings
from trio_fcgimail.demo.display import LAST_SECONDS, Display
from trio_fcgimail.demo.responder import Responder, ResponderLimits
from trio_fcgimail.demo.script import SAVE_SCRIPT, VALIDATE_SCRIPT
from trio_fcgimail.demo.welcome import goodbye, welcome
from trio_fcgimail.server import ListenError, LogFile, Server, make_log, stop_at_signals
from trio_fcgimail.server.maildir import Maildir

DRAIN_SECONDS: Final = 5.0  # who tries things out does not wait for half a minute
_SOCKET_NAME: Final = "fcgi.sock"
_MAX_BASE_OCTETS: Final = 70  # leaves room for our folder and the socket within the 107 of unix(7)


async def run_demo(
    *,
    listen: BoundAddress,
    folder: Path,
    console: Console,
    hostname: str,
    task_status: trio.TaskStatus[tuple[BoundAddress, ...]] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP. Runs in the main thread, where signals arrive.

    Args:
        listen: a loopback address or a unix socket.
        folder: the Maildir; made when it is missing.
        console: where mails are shown. Log lines, warnings and worse, go to standard error.
        hostname: for the banner and the trace header.
        task_status: told where the server listens once it does.

    Returns:
        The exit code: 0 when ended by a signal; 1 when it cannot listen or cannot make the Maildir, which one line on
        standard error explains.

    Raises:
        ConfigErrors: the hostname or the address is refused.
    """
    folder = Path(await trio.Path(folder).absolute())
    with _private_folder() as private, contextlib.closing(LogFile(LogStream.STDERR)) as file:
        path = private / _SOCKET_NAME
        settings = _settings(listen, hostname, path)
        log = make_log(settings.log, file)
        maildir = Maildir(folder, host=hostname)
        display = Display(console)
        server = Server(settings, log=log, observers=(display,))
        limits = ResponderLimits(connections=settings.fastcgi.max_connections)
        async with trio.open_nursery() as nursery:
            await nursery.start(stop_at_signals, server, log, file)
            await nursery.start(Responder(maildir, log=log, limits=limits).run, path)
            async with trio.open_nursery() as showing:
                showing.start_soon(display.run)
                problem = await _serve(server, maildir, partial(welcome, console, folder), task_status)
                display.close()
                showing.cancel_scope.deadline = trio.current_time() + LAST_SECONDS
            nursery.cancel_scope.cancel()
    if problem is not None:
        print(f"trio_fcgimail: {problem}", file=sys.stderr)
        return 1
    if not showing.cancel_scope.cancelled_caught:  # else the terminal is stopped, and would stop us, too
        goodbye(console)
    return 0


async def _serve(
    server: Server,
    maildir: Maildir,
    greet: Callable[[Sequence[BoundAddress]], None],
    task_status: trio.TaskStatus[tuple[BoundAddress, ...]],
) -> str | None:
    """Serve to the end. Returns why that cannot be done, if it cannot, as one line."""
    async with trio.open_nursery() as nursery:
        try:
            addresses: tuple[BoundAddress, ...] = await nursery.start(server.run)
        except ListenError as exc:
            return str(exc)
        try:
            await maildir.prepare()
        except OSError as exc:
            server.cut()
            return f"cannot store mail in {exc.filename}: {exc.strerror}"
        greet(addresses)
        task_status.started(addresses)
    return None


def _settings(listen: BoundAddress, hostname: str, path: Path) -> Settings:
    settings = serve_settings(
        save=SAVE_SCRIPT,
        validate=VALIDATE_SCRIPT,
        upstream=UnixAddress(str(path)),
        listen=listen,
        hostname=hostname,
        log=LogSettings(level=LogLevel.WARNING),  # below that, the display says it all
    )
    return replace(settings, drain_seconds=DRAIN_SECONDS)


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A new folder of mode 0700, with a path that is short enough for a socket; removed at the end."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > _MAX_BASE_OCTETS:
        base = "/tmp"  # noqa: S108 - mkdtemp makes a folder that is ours alone
    folder = tempfile.mkdtemp(prefix="fcgimail-", dir=base)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
