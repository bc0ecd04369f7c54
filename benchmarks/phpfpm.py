"""The php-fpm that all peers share: four workers, and the scripts of this folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from benchmarks.outcome import BenchmarkError
from benchmarks.processes import START_SECONDS, started
from benchmarks.scenarios import SaveScript
from trio_fcgimail.server.php import PHP_MISSING, PhpKind, find_php

CHILDREN: Final = 4
_SCRIPTS: Final = Path(__file__).parent / "php"
_SETTINGS: Final = {
    "display_errors": "0",
    "log_errors": "1",
    "error_log": "",
    "output_buffering": "65536",
    "post_max_size": "0",
    "memory_limit": "512M",
    "opcache.enable": "1",
}


@final
@dataclass(frozen=True, slots=True)
class Php:
    """A running php-fpm.

    Args:
        pid: of its master.
        folder: of the scripts, which they may also write to.
    """

    pid: int
    socket: Path
    folder: Path

    @property
    def validate(self) -> str:
        """The path of the validate script."""
        return str(self.folder / "validate.php")

    @property
    def pipe(self) -> str:
        """The path of the script for pipe(8)."""
        return str(self.folder / "pipe.php")

    def save(self, script: SaveScript) -> str:
        """The path of a save script."""
        return str(self.folder / script.value)


@contextlib.contextmanager
def php_fpm(folder: Path) -> Iterator[Php]:
    """Run it in a folder that everybody may write to.

    Raises:
        BenchmarkError: it is not installed, or does not start.
    """
    program = find_php()
    if program is None or program.kind is not PhpKind.FPM:
        raise BenchmarkError(f"php-fpm is needed. {PHP_MISSING}")
    for script in _SCRIPTS.glob("*.php"):
        shutil.copyfile(script, folder / script.name)
    php_socket, log = folder / "php.sock", folder / "php.log"
    configuration = folder / "php-fpm.conf"
    configuration.write_text(_configuration(folder, php_socket, log))
    command = [str(program.path), "--nodaemonize", "--fpm-config", str(configuration)]
    with started(command, log=log, env={"BENCHMARK_FOLDER": str(folder)}) as pid:
        _wait(php_socket, log)
        yield Php(pid, php_socket, folder)


def _configuration(folder: Path, php_socket: Path, log: Path) -> str:
    account = pwd.getpwuid(os.geteuid())
    if account.pw_uid == 0:  # as whom scripts must not run
        account = pwd.getpwnam("www-data" if any(entry.pw_name == "www-data" for entry in pwd.getpwall()) else "nobody")
        shutil.chown(folder, account.pw_name)
    lines = [
        "[global]",
        "daemonize = no",
        f"error_log = {log}",
        "[benchmarks]",
        f"listen = {php_socket}",
        "listen.mode = 0666",
        *([f"user = {account.pw_name}", f"group = {account.pw_gid}"] if os.geteuid() == 0 else []),
        "pm = static",
        f"pm.max_children = {CHILDREN}",
        "clear_env = no",
        *(f"php_admin_value[{name}] = {value}" for name, value in _SETTINGS.items()),
        "",
    ]
    return "\n".join(lines)


def _wait(php_socket: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(php_socket))
            return
        time.sleep(0.02)
    raise BenchmarkError(f"php-fpm does not start: {log.read_text(errors='replace')[-300:]}")
