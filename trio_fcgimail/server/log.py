"""Log lines: one for each event, of a fixed vocabulary, with nothing in them that could start another line."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import Final, assert_never, final

import structlog
import structlog.typing

from trio_fcgimail.config import ListenAddress, LogFormat, LogLevel, LogSettings, LogStream
from trio_fcgimail.mail import MAX_STDERR_OCTETS, Meaning, Session, clean, clean_ends
from trio_fcgimail.server.gateway import MailReport
from trio_fcgimail.server.pool import Trip

MAX_VALUE_CHARACTERS: Final = 2000
MAX_TRACEBACK_CHARACTERS: Final = 8192
MAX_WAITING_LINES: Final = 2048  # ours: seconds of a busy server, and never more than some 50 MB
LAST_SECONDS: Final = 1.0  # for what still waits when we end
_DESCRIPTORS: Final = {LogStream.STDERR: 2, LogStream.STDOUT: 1}  # POSIX, <unistd.h>
_LONG_VALUES: Final = {"stderr": MAX_STDERR_OCTETS, "traceback": MAX_TRACEBACK_CHARACTERS}
_LEVELS: Final = {LogLevel.DEBUG: 10, LogLevel.INFO: 20, LogLevel.WARNING: 30, LogLevel.ERROR: 40}

EventDict = MutableMapping[str, object]


@final
class LogFile:
    """Where lines go: a file that can be opened anew after logrotate has moved it, a stream that is open, or nowhere.

    A thread of its own writes, in the order of the calls: whoever logs never waits for a disk, nor for the reader of a
    pipe. A line that finds no room, or cannot be written, is lost, never the mail that it tells of.

    Attributes:
        on_loss: Called by that thread when lines were lost and there is room again, with their number.
    """

    def __init__(self, target: Path | LogStream) -> None:
        self.on_loss: Callable[[int], None] = lambda _lines: None
        self._target = target
        self._stream = self._open()
        self._owed = b""  # the end of a line of which only a part could be written
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._lost = 0
        self._writer: threading.Thread | None = None

    def _open(self) -> FileIO:
        # Neither has a buffer: Python would wait for its lock at exit, though the thread may hold it for ever.
        match self._target:
            case Path() as path:
                return FileIO(path, "a")
            case LogStream.OFF:
                return FileIO(os.devnull, "w")
            case LogStream.STDERR | LogStream.STDOUT as stream:
                return FileIO(_DESCRIPTORS[stream], "w", closefd=False)

    @property
    def has_reader(self) -> bool:
        """Whether a person reads along, so that colours help."""
        return self._stream.isatty()

    def line(self, text: str) -> None:
        """Have one line written."""
        with self._lock:
            if self._waiting >= MAX_WAITING_LINES:
                self._lost += 1
                return
            self._waiting += 1
        self._order(partial(self._write, text.encode("utf-8", "replace") + b"\n"))

    debug = info = warning = error = critical = exception = line  # the methods that structlog calls

    def flush(self) -> bool:
        """Wait until all is written, but not for long; whether it was."""
        written = threading.Event()
        self._order(written.set)
        return written.wait(LAST_SECONDS)

    def reopen(self) -> None:
        """Open the file anew, for all lines from here on. Raises OSError when that fails; the old one stays in use."""
        if isinstance(self._target, Path):
            self._order(partial(self._change_to, self._open()))

    def close(self) -> None:
        """Write what waits, if that can be done soon, and close the file; standard error and output stay open."""
        atexit.unregister(self.close)
        written = self.flush()
        writer = self._order(None)
        if written:
            writer.join(LAST_SECONDS)

    def _order(self, job: Callable[[], None] | None) -> threading.Thread:
        """Give the thread something to do, None to end; it begins with the first job."""
        self._jobs.put(job)
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(target=self._work, name="log", daemon=True)
                self._writer.start()
                atexit.register(self.close)
            return self._writer

    # In the thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
        with suppress(OSError):
            self._stream.close()

    def _write(self, line: bytes) -> None:
        whole = rest = self._owed + line
        with suppress(OSError):  # a full disk, or a reader that is gone
            while rest:
                rest = rest[os.write(self._stream.fileno(), rest) :]
        if len(rest) < len(whole):
            self._owed = b"\n" if rest else b""
        with self._lock:
            self._waiting -= 1
            self._lost += bool(rest)
            told = 0 if rest or self._waiting > MAX_WAITING_LINES // 2 else self._lost
            self._lost -= told
        if told:
            self.on_loss(told)

    def _change_to(self, stream: FileIO) -> None:
        old, self._stream, self._owed = self._stream, stream, b""
        with suppress(OSError):
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
            _explain_exception,
            _clean_values,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
    )
    file.on_loss = lambda lines: log.warning("log lines lost", lines=lines)
    return log


def _explain_exception(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Say what an exception was and where, as values: renderers would start lines of their own."""
    given = event.pop("exc_info", None)
    exc = given if isinstance(given, BaseException) else sys.exc_info()[1]
    if given and exc is not None:
        problems = dict.fromkeys(f"{type(leaf).__name__}: {leaf}" for leaf in _leaves(exc))
        event["problem"] = "; ".join(problems)
        event["traceback"] = "".join(traceback.format_exception(exc))
    return event


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for one in exc.exceptions:
            yield from _leaves(one)
    else:
        yield exc


def _clean_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Make every text one bounded line: much of it comes from outside."""
    for name, value in event.items():
        if isinstance(value, str):
            limit = _LONG_VALUES.get(name)
            event[name] = clean(value, MAX_VALUE_CHARACTERS) if limit is None else clean_ends(value, limit)
    return event


@final
class LogObserver:
    """Writes one line for each mail."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log

    def mail(self, report: MailReport) -> None:
        """Log a mail with its verdict: what failed is a warning, as somebody should look at it."""
        envelope, verdict, trip = report.envelope, report.verdict, report.trip or Trip()
        session = envelope.session
        write = self._log.warning if verdict.meaning is Meaning.FAILED else self._log.info
        write(
            "mail",
            queue_id=envelope.queue_id,
            peer=report.client or session.peer.ip or "unix",
            **({"via": report.via} if report.via else {}),
            helo=session.helo,
            user=session.auth_user or "",
            tls=_tls(session),
            mail_from=envelope.sender,
            rcpts=", ".join(map(str, envelope.recipients)),
            subject=report.subject,
            octets=report.octets,
            digest=report.digest,
            verdict=verdict.meaning.value,
            reply=verdict.reply.text,
            reason=verdict.reason,
            milliseconds=round(1000 * report.seconds),
            script_milliseconds=round(1000 * trip.seconds),
            upstream=trip.upstream,
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionEnd:
    """A connection, at its end.

    Args:
        listener: as the settings have it.
        mails: that got a verdict.
        octets: received, of TLS those within.
        seconds: that it lasted.
        reason: why it is over.
    """

    facts: Session
    listener: ListenAddress
    mails: int
    octets: int
    seconds: float
    reason: str


def log_connection(log: structlog.typing.FilteringBoundLogger, end: ConnectionEnd) -> None:
    """Write the one line of a connection.

    Args:
        log: which knows the peer.
    """
    log.info(
        "connection closed",
        listener=str(end.listener),
        helo=end.facts.helo,
        user=end.facts.auth_user or "",
        tls=_tls(end.facts),
        mails=end.mails,
        octets=end.octets,
        milliseconds=round(1000 * end.seconds),
        reason=end.reason,
    )


def _tls(session: Session) -> str:
    return "" if session.tls is None else f"{session.tls.protocol} {session.tls.cipher}"
