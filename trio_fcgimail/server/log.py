"""Log lines: one for each event, of a fixed vocabulary, with nothing in them that could start another line."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Protocol, assert_never, final

import structlog
import structlog.typing

from trio_fcgimail.config import LogFormat, LogLevel, LogSettings, LogStream
from trio_fcgimail.mail import MAX_STDERR_OCTETS, Meaning, clean, clean_ends
from trio_fcgimail.server.gateway import MailReport

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
        self._has_reader = self._stream.isatty()  # kept, as the thread may close the stream at any time
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
        return self._has_reader

    def tell_losses(self, told: Callable[[int], None]) -> None:
        """Set ``on_loss``."""
        self.on_loss = told

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

    def change_to(self, target: Path | LogStream) -> None:
        """Write elsewhere from here on. Raises OSError when that cannot be opened; then nothing changes."""
        before, self._target = self._target, target
        try:
            stream = self._open()
        except OSError:
            self._target = before
            raise
        self._order(partial(self._change_to, stream))

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
        self._has_reader = stream.isatty()
        with suppress(OSError):
            old.close()


class LogTarget(Protocol):
    """Where the lines of a logger go: one file, or several that each have their own."""

    @property
    def has_reader(self) -> bool:
        """Whether a person reads along, so that colours help."""
        ...

    def tell_losses(self, told: Callable[[int], None]) -> None:
        """Have somebody told how many lines were lost."""


def make_log(settings: LogSettings, file: LogTarget) -> structlog.typing.FilteringBoundLogger:
    """A logger that writes to ``file`` as the settings say. Nothing global is touched."""
    return _make_log(lambda: settings, settings.level, file)


def make_changing_log(current: Callable[[], LogSettings], file: LogTarget) -> structlog.typing.FilteringBoundLogger:
    """The same for settings that may change: they are asked for at each line."""
    return _make_log(current, LogLevel.DEBUG, file)


def _make_log(
    current: Callable[[], LogSettings], least: LogLevel, file: LogTarget
) -> structlog.typing.FilteringBoundLogger:
    def drop_what_is_not_wanted(_logger: object, _method: str, event: EventDict) -> EventDict:
        if _LEVELS[LogLevel(event["level"])] < _LEVELS[current().level]:
            raise structlog.DropEvent
        return event

    json, console = structlog.processors.JSONRenderer(ensure_ascii=False), _console(file)

    def render(logger: object, method: str, event: EventDict) -> str | bytes:
        match current().format:
            case LogFormat.JSON:
                return json(logger, method, event)
            case LogFormat.CONSOLE:
                return console(logger, method, event)
            case log_format:
                assert_never(log_format)

    log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        file,
        processors=[
            structlog.processors.add_log_level,
            drop_what_is_not_wanted,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _explain_exception,
            _clean_values,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[least]),
    )
    file.tell_losses(lambda lines: log.warning("log lines lost", lines=lines))
    return log


def _console(file: LogTarget) -> Callable[[object, str, EventDict], str]:
    """Lines for a terminal, or for a file that one may be a listener's and the other not."""
    plain, coloured = (
        structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=24, sort_keys=False) for colours in (False, True)
    )

    def render(logger: object, name: str, event: EventDict) -> str:
        return (coloured if file.has_reader else plain)(logger, name, event)

    return render


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
