"""Log lines: one for each event, of a fixed vocabulary, with nothing in them that could start another line."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO, assert_never, final

import structlog
import structlog.typing

from trio_fcgimail.config import LogFormat, LogLevel, LogSettings
from trio_fcgimail.mail import Meaning, clean
from trio_fcgimail.server.gateway import MailReport

MAX_VALUE_CHARACTERS: Final = 2000
_LEVELS: Final = {LogLevel.DEBUG: 10, LogLevel.INFO: 20, LogLevel.WARNING: 30, LogLevel.ERROR: 40}

EventDict = MutableMapping[str, object]


@final
class LogFile:
    """Where lines go: a file that can be opened anew after logrotate has moved it, or standard error."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stream: TextIO = self._open()

    def _open(self) -> TextIO:
        return sys.stderr if self._path is None else self._path.open("a", encoding="utf-8")

    @property
    def has_reader(self) -> bool:
        """Whether a person reads along, so that colours help."""
        return self._path is None and self._stream.isatty()

    def line(self, text: str) -> None:
        """Write one line; a full disk or a reader that is gone loses the line, never the mail it tells of."""
        with suppress(OSError):
            self._stream.write(text + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = exception = line  # the methods that structlog calls

    def close(self) -> None:
        """Close the file; standard error stays open."""
        if self._path is not None:
            with suppress(OSError):
                self._stream.close()

    def reopen(self) -> None:
        """Open the file anew. Raises OSError when that fails; then the old one stays in use."""
        if self._path is not None:
            old, self._stream = self._stream, self._open()
            old.close()


def make_log(settings: LogSettings, file: LogFile) -> structlog.typing.FilteringBoundLogger:
    """A logger that writes to ``file`` as the settings say. Nothing global is touched."""
    match settings.format:
        case LogFormat.JSON:
            renderer: structlog.typing.Processor = structlog.processors.JSONRenderer(ensure_ascii=False)
        case LogFormat.CONSOLE:
            renderer = structlog.dev.ConsoleRenderer(colors=file.has_reader, pad_event_to=24, sort_keys=False)
        case _:
            assert_never(settings.format)
    log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        file,
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _clean_values,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
    )
    return log


def _clean_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Make every text one bounded line: much of it comes from outside."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = clean(value, MAX_VALUE_CHARACTERS)
    return event


@final
class LogObserver:
    """Writes one line for each mail."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log

    def mail(self, report: MailReport) -> None:
        """Log a mail with its verdict: what failed is a warning, as somebody should look at it."""
        envelope, verdict = report.envelope, report.verdict
        write = self._log.warning if verdict.meaning is Meaning.FAILED else self._log.info
        write(
            "mail",
            queue_id=envelope.queue_id,
            peer=envelope.session.peer.ip or "unix",
            helo=envelope.session.helo,
            mail_from=envelope.sender,
            rcpts=", ".join(map(str, envelope.recipients)),
            subject=report.subject,
            octets=report.octets,
            digest=report.digest,
            verdict=verdict.meaning.value,
            reply=verdict.reply.text,
            reason=verdict.reason,
            milliseconds=round(1000 * report.seconds),
        )
