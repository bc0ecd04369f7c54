"""The log of a server and those of its listeners: whoever serves a client of a listener writes to the listener's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias, final

from trio_fcgimail.config import LogStream, Settings
from trio_fcgimail.server.listeners import StartError
from trio_fcgimail.server.logfile import LogFile

_Target: TypeAlias = Path | LogStream

# Of the connection that this task, or the one that has started it, serves; so a line of a processor, or of what waits
# for a script, finds its way as well.
_TARGET: ContextVar[_Target | None] = ContextVar("log_of_listener", default=None)


@contextmanager
def logging_to(target: _Target | None) -> Iterator[None]:
    """While this lasts, the lines of this task and of those that it starts go to the log of a listener.

    Args:
        target: its ``log_file``; None for the log of the server.
    """
    token = _TARGET.set(target)
    try:
        yield
    finally:
        _TARGET.reset(token)


@final
class LogFiles:
    """The log of a server and those of its listeners, as one: each line finds its own.

    Args:
        main: for all other lines.
        of_listeners: by their targets.
    """

    def __init__(self, main: LogFile, of_listeners: Mapping[_Target, LogFile]) -> None:
        self._main = main
        self._of_listeners = of_listeners

    @property
    def _all(self) -> tuple[LogFile, ...]:
        return (self._main, *self._of_listeners.values())

    def current(self) -> LogFile:
        """Where a line of this task goes."""
        target = _TARGET.get()
        return self._main if target is None else self._of_listeners.get(target, self._main)

    @property
    def has_reader(self) -> bool:
        """Whether a person reads along what this task writes."""
        return self.current().has_reader

    def tell_losses(self, told: Callable[[int], None]) -> None:
        """As of `LogFile`, of each of them."""
        for file in self._all:
            file.tell_losses(told)

    def line(self, text: str) -> None:
        """Have one line written."""
        self.current().line(text)

    debug = info = warning = error = critical = exception = line  # the methods that structlog calls

    def reopen(self) -> None:
        """Open all of them anew. Raises OSError when that fails of one, which stays in use; the others are new."""
        problems: list[OSError] = []
        for file in self._all:
            try:
                file.reopen()
            except OSError as exc:
                problems.append(exc)
        for problem in problems[:1]:
            raise problem

    def close(self) -> None:
        """Write what waits, if that can be done soon, and close them."""
        for file in self._all:
            file.close()


def open_logs(settings: Settings) -> LogFiles:
    """Open the log files of such settings.

    Raises:
        StartError: one cannot be opened; then none is.
    """
    opened: dict[_Target, LogFile] = {}
    main, *others = dict.fromkeys((settings.log.file, *(one.log_file for one in settings.listeners)))
    try:
        for target in (main, *others):
            if target is not None:
                opened[target] = open_log(target)
    except StartError:
        for file in opened.values():
            file.close()
        raise
    first, *_ = opened.values()
    return LogFiles(first, {target: file for target, file in opened.items() if file is not first})


def open_log(target: _Target) -> LogFile:
    """Open one log file. Raises StartError."""
    try:
        return LogFile(target)
    except OSError as exc:
        raise StartError(f"cannot write the log file {target}: {exc.strerror}") from exc
