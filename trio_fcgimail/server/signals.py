"""What the signals of the system mean to a running server."""

from __future__ import annotations

import signal

import structlog.typing
import trio

from trio_fcgimail.server.app import Server
from trio_fcgimail.server.log import LogFile


async def stop_at_signals(
    server: Server,
    log: structlog.typing.FilteringBoundLogger,
    file: LogFile,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Act on signals until cancelled: INT and TERM drain, once more they cut; USR1 opens the log file anew."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGUSR1:
                try:
                    file.reopen()
                except OSError as exc:
                    log.error("cannot reopen the log file", problem=str(exc))
            elif server.is_stopping:
                log.warning("stopping at once", signal=signal.Signals(number).name)
                server.cut()
            else:
                log.info("stopping", signal=signal.Signals(number).name)
                server.stop()
