"""The pid file: whose lock says that we run, and which is gone when we are."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from trio_fcgimail.cli.problems import Failure

_MODE: Final = 0o644
_MAX_OCTETS: Final = 32  # of a number and a line end


@contextmanager
def pid_file(path: Path) -> Iterator[None]:
    """While this lasts, the file holds our process id and a lock; then it is removed.

    A file that a dead server has left behind is taken over.

    Raises:
        Failure: another server holds the lock, or the file cannot be written.
    """
    try:
        descriptor = _lock(path)
    except BlockingIOError as exc:
        raise Failure(f"{path} is that of another server that runs, process {_owner(path)}") from exc
    except OSError as exc:
        raise Failure(f"cannot write the pid file {path}: {exc.strerror}") from exc
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Open, lock and write. Whoever held the lock before may have removed the file in between: then once more."""
    while True:
        # Never by a link: whoever may write to that folder could have us, as root, write to any file.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, b"%d\n" % os.getpid())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_OCTETS).strip()
    except OSError:
        return "unknown"
    return text.decode() if text.isdigit() else "unknown"
