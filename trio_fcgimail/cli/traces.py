"""What a server leaves behind while it runs: its log and its pid file, which a reload may move."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import final

import structlog.typing

from trio_fcgimail.cli.pidfile import pid_file
from trio_fcgimail.cli.problems import Failure
from trio_fcgimail.config import Settings
from trio_fcgimail.server import LogFile, make_changing_log


@final
class Traces:
    """The log of the parent, and the pid file.

    Args:
        file: of the log; not owned.

    Raises:
        Failure: the pid file is another's, or cannot be written.

    Attributes:
        log: writes by the settings in force.
    """

    def __init__(self, settings: Settings, file: LogFile) -> None:
        self._log_settings = settings.log
        self.file = file
        self.log: structlog.typing.FilteringBoundLogger = make_changing_log(lambda: self._log_settings, file)
        self._pid_path: Path | None = None
        self._pid = ExitStack()
        self._move_pid_file(settings.pid_file)

    def follow(self, settings: Settings) -> None:
        """Go where other settings say; what cannot be done is logged, and stays as it was."""
        if settings.log.file != self._log_settings.file:
            try:
                self.file.change_to(settings.log.file)
            except OSError as exc:
                self.log.error("cannot reopen the log file", problem=str(exc))
        self._log_settings = settings.log
        try:
            self._move_pid_file(settings.pid_file)
        except Failure as exc:
            self.log.error("reloaded, but", problem=str(exc))

    def _move_pid_file(self, path: Path | None) -> None:
        if path == self._pid_path:
            return
        with ExitStack() as stack:
            if path is not None:
                stack.enter_context(pid_file(path))
            moved = stack.pop_all()
        self._pid.close()
        self._pid, self._pid_path = moved, path

    def close(self) -> None:
        """Remove the pid file."""
        self._pid.close()
