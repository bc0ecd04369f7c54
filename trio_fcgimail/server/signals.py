"""What the signals of the system mean to a running server."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Protocol

import structlog.typing
import trio

from trio_fcgimail.server.logfile import LogFile


class Stoppable(Protocol):
    """What signals end: a server, or what is to become one."""

    @property
    def is_stopping(self) -> bool:
        """Whether the end has begun."""
        ...

    def stop(self) -> None:
        """Begin to end."""
        ...

    def cut(self) -> None:
        """End now."""
        ...


async def stop_at_signals(
    server: Stoppable,
    log: structlog.typing.FilteringBoundLogger,
    file: LogFile,
    *,
    hangup: Callable[[], None] | None = None,
    reopened: Callable[[], None] = lambda: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Act on signals until cancelled: INT, TERM, QUIT and HUP drain, once more they cut; USR1 opens the log file anew.

    HUP, where it is no more than a closed terminal, is left alone when it was ignored before, as under nohup.

    Args:
        hangup: what HUP does, if it is not to drain.
        reopened: called when the log file was opened anew.
    """
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1]
    if hangup is not None or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGUSR1:
                try:
                    file.reopen()
                except OSError as exc:
                    log.error("cannot reopen the log file", problem=str(exc))
                reopened()
            elif number == signal.SIGHUP and hangup is not None:
                hangup()
            elif server.is_stopping:
                log.warning("stopping at once", signal=signal.Signals(number).name)
                server.cut()
            else:
                log.info("stopping", signal=signal.Signals(number).name)
                server.stop()
