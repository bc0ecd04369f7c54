"""A PHP of our own: what ``serve --save save.php`` starts when it is not given a FastCGI server.

A php-fpm, or a php-cgi where only that is installed, runs behind a private unix socket whose folder has mode
0700, so that nobody but us and root can send it requests.

php-cgi is second choice: nothing there stops a script that hangs (``request_terminate_timeout`` is php-fpm's).
"""

import contextlib
import math
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, assert_never

import trio
from structlog.typing import FilteringBoundLogger

from trio_fcgimail.server.phpinstall import (
    PHP_MISSING,
    PhpError,
    PhpKind,
    PhpProgram,
    PhpUser,
    check_readable,
    choose_user,
    default_search,
    find_php,
)
from trio_fcgimail.server.phpprocess import (
    CONFIGURATION_NAME,
    SOCKET_NAME,
    STOP_SECONDS,
    PhpPlan,
    supervise,
)

__all__ = [
    "PHP_MISSING",
    "PhpError",
    "PhpKind",
    "PhpProgram",
    "PhpUser",
    "check_readable",
    "choose_user",
    "default_search",
    "find_php",
    "run_php",
]

#: Least memory of a script (PHP's own default), and what a form of N octets takes of it: 4.6 N was measured, and 8 N
#: of nothing but "%".
MEMORY_FLOOR_OCTETS: Final = 128 << 20
MEMORY_PER_BODY_OCTET: Final = 8
#: Of a unix socket's address (108 octets on Linux, 104 on the BSDs), less the room for our own names.
FOLDER_OCTETS: Final = 64
#: Names in our environment that would make PHP take itself for somebody else's service or child.
_NOT_FOR_PHP: Final = frozenset(
    {"FPM_SOCKETS", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}
)


async def run_php(
    program: PhpProgram,
    *,
    scripts: Sequence[Path],
    children: int,
    user: str | None,
    message_octets: int,
    save_seconds: float,
    log: FilteringBoundLogger,
    task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a PHP behind a private socket until cancelled; start it again whenever it ends.

    Start it with ``path = await nursery.start(partial(run_php, ...))`` in a nursery that is cancelled only after
    the last request was answered: cancelling ends PHP, and a script under way has no more than ``STOP_SECONDS``
    left (half of it in php-fpm). However this function is left, no process and no folder of it remains. It never
    returns otherwise than by an exception.

    The user's ``php.ini`` and extensions hold. What would lose mails or mix messages into answers is set over
    them: errors go to the STDERR of FastCGI and are never displayed, output is buffered, and PHP's own limits on
    the size of a request are off, because the server has limited the mail already.

    Args:
        program: From :func:`find_php`.
        scripts: Paths of all scripts that will be called, at least one; the first decides the user.
        children: Workers, at least 1. No more connections than these may be open.
        user: The login name given with ``--php-user``, or None.
        message_octets: The largest mail; 0 for no limit. PHP's memory limit follows from it.
        save_seconds: php-fpm ends scripts that run this long (rounded up to whole seconds, and up to a third
            late, as its clock is coarse); 0 for never.
        log: Told of PHP's own output, of its ends and of its returns.
        task_status: Told the socket's path once PHP accepts connections there. Restarts keep the path.

    Raises:
        PhpError: The first start failed (the text has PHP's output), or rights forbid it. Failures of later
            starts are logged, and tried again.
    """
    scripts = [script.absolute() for script in scripts]
    account = choose_user(scripts, user)
    await check_readable(scripts, account)
    with _private_folder() as folder:
        values = tuple(_php_values(message_octets))
        match program.kind:
            case PhpKind.FPM:
                text = "\n".join(
                    (
                        *_fpm_global(folder),
                        *_fpm_pool(account, children, save_seconds),
                        _fpm_extensions(scripts),
                        *map(_fpm_value, values),
                        "",
                    )
                )
                plan = _fpm_plan(program.path, folder, text, log)
            case PhpKind.CGI:
                plan = _cgi_plan(program.path, folder, account, children, values, log)
            case _:
                assert_never(program.kind)
        await supervise(plan, task_status)


def _php_values(message_octets: int) -> Iterator[tuple[str, str]]:
    yield "display_errors", "0"
    yield "display_startup_errors", "0"
    yield "html_errors", "0"
    yield "log_errors", "1"
    yield "error_log", ""  # STDERR of FastCGI, whatever php.ini says
    yield "fastcgi.logging", "1"
    yield "output_buffering", "65536"  # a fatal error after "SAVED" must still be able to set status 500
    yield "enable_post_data_reading", "1"
    yield "file_uploads", "1"
    yield "post_max_size", "0"  # no limit
    yield "upload_max_filesize", "0"
    yield "max_input_vars", "2000"  # the server sends 900 at most
    memory = MEMORY_FLOOR_OCTETS + MEMORY_PER_BODY_OCTET * message_octets if message_octets else -1
    yield "memory_limit", str(memory)


def _fpm_plan(program: Path, folder: Path, configuration: str, log: FilteringBoundLogger) -> PhpPlan:
    path = folder / CONFIGURATION_NAME
    path.write_text(configuration)
    argv = (str(program), "--nodaemonize", "--fpm-config", str(path))
    # The master keeps our rights, and gives them up for its workers.
    return PhpPlan(argv, _environment(), folder, signal.SIGQUIT, None, log)


def _fpm_global(folder: Path) -> tuple[str, ...]:
    return (
        "[global]",
        "daemonize = no",
        "error_log = /dev/stderr",
        f"process_control_timeout = {int(STOP_SECONDS / 2)}s",
        "[fcgimail]",
        f"listen = {folder / SOCKET_NAME}",
        "listen.mode = 0600",
    )


def _fpm_pool(user: PhpUser | None, children: int, save_seconds: float) -> tuple[str, ...]:
    return (
        *(() if user is None else (f"user = '{user.name}'", f"group = {user.gid}")),
        "pm = static",
        f"pm.max_children = {children}",
        "pm.max_requests = 0",
        f"request_terminate_timeout = {math.ceil(save_seconds)}s",
        "catch_workers_output = yes",
        "clear_env = no",
    )


def _fpm_extensions(scripts: Sequence[Path]) -> str:
    """The endings that php-fpm runs: those of our scripts. Empty turns the check off, for a script without any."""
    suffixes = {script.suffix for script in scripts}
    return f"security.limit_extensions = {'' if '' in suffixes else ' '.join(sorted(suffixes))}"


def _fpm_value(setting: tuple[str, str]) -> str:
    name, value = setting
    kind = "php_value" if name == "memory_limit" else "php_admin_value"  # more memory is a script's own affair
    return f"{kind}[{name}] = {value}"


def _cgi_plan(
    program: Path,
    folder: Path,
    user: PhpUser | None,
    children: int,
    values: Sequence[tuple[str, str]],
    log: FilteringBoundLogger,
) -> PhpPlan:
    if user is not None:
        os.chown(folder, user.uid, user.gid)  # php-cgi binds its socket after it has become the user
    # Without a limit of requests, no worker ends while the next request is on its way to it.
    environment = _environment() | {"PHP_FCGI_CHILDREN": str(children), "PHP_FCGI_MAX_REQUESTS": "0"}
    settings = (word for name, value in values for word in ("-d", f"{name}={value}"))
    argv = (str(program), "-b", str(folder / SOCKET_NAME), *settings)
    return PhpPlan(argv, environment, folder, signal.SIGTERM, user, log)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_FOR_PHP}


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A new folder of mode 0700, its path short and plain enough for a socket and for php-fpm's configuration."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > FOLDER_OCTETS or re.fullmatch(r"[\w./+-]+", base, re.ASCII) is None:
        base = "/tmp"  # noqa: S108  (mkdtemp makes a folder that is ours alone)
    folder = tempfile.mkdtemp(prefix="fcgimail-", dir=base)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
