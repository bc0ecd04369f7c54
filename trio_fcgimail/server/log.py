"""Log lines: one for each event, of a fixed vocabulary, with nothing in them that could start another line."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, assert_never, final

import structlog
import structlog.typing

from trio_fcgimail.config import ListenAddress, LogFormat, LogLevel, LogSettings
from trio_fcgimail.mail import MAX_STDERR_OCTETS, Meaning, Session, clean, clean_ends, is_clean
from trio_fcgimail.server.gateway import MailReport
from trio_fcgimail.server.logline import EVENT_COLUMNS, EventDict, Stamp, plain_line
from trio_fcgimail.server.pool import Trip

MAX_VALUE_CHARACTERS: Final = 2000
MAX_TRACEBACK_CHARACTERS: Final = 8192
MAX_RECIPIENTS_CHARACTERS: Final = 8192  # ours: a hundred of them, who pass, mostly stand in no other line
_LONG_VALUES: Final = {
    "stderr": MAX_STDERR_OCTETS,
    "traceback": MAX_TRACEBACK_CHARACTERS,
    "rcpts": MAX_RECIPIENTS_CHARACTERS,
}
_LEVELS: Final = {LogLevel.DEBUG: 10, LogLevel.INFO: 20, LogLevel.WARNING: 30, LogLevel.ERROR: 40}
_METHODS: Final = {level.value: number for level, number in _LEVELS.items()}  # structlog has more: all of them errors


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

    def drop_what_is_not_wanted(_logger: object, method: str, event: EventDict) -> EventDict:
        if _METHODS.get(method, _LEVELS[LogLevel.ERROR]) < _LEVELS[current().level]:
            raise structlog.DropEvent
        return event

    return _make_log(current, LogLevel.DEBUG, file, [drop_what_is_not_wanted])


def _make_log(
    current: Callable[[], LogSettings],
    least: LogLevel,
    file: LogTarget,
    first: Sequence[structlog.typing.Processor] = (),
) -> structlog.typing.FilteringBoundLogger:
    json = structlog.processors.JSONRenderer(ensure_ascii=False)
    coloured = structlog.dev.ConsoleRenderer(colors=True, pad_event_to=EVENT_COLUMNS, sort_keys=False)

    def render(logger: object, method: str, event: EventDict) -> str | bytes:
        match current().format:
            case LogFormat.JSON:
                return json(logger, method, event)
            case LogFormat.CONSOLE if file.has_reader:
                return coloured(logger, method, event)
            case LogFormat.CONSOLE:
                return plain_line(logger, method, event)
            case log_format:
                assert_never(log_format)

    lazy: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        file,
        processors=[*first, Stamp(), _explain_exception, _clean_values, render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[least]),
    )
    log = lazy.bind()  # once and for all: the lazy one would make itself anew for each line
    file.tell_losses(lambda lines: log.warning("log lines lost", lines=lines))
    return log


def _explain_exception(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Say what an exception was and where, as values: renderers would start lines of their own."""
    given = event.pop("exc_info", None)
    if not given:
        return event
    exc = given if isinstance(given, BaseException) else sys.exc_info()[1]
    if exc is not None:
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
    if _are_clean("|".join([value for value in event.values() if isinstance(value, str)])):
        return event
    for name, value in event.items():
        if isinstance(value, str) and not is_clean(value, MAX_VALUE_CHARACTERS):
            limit = _LONG_VALUES.get(name)
            event[name] = clean(value, MAX_VALUE_CHARACTERS) if limit is None else clean_ends(value, limit)
    return event


def _are_clean(values: str) -> bool:
    """Whether all of several values are clean, at one glance for all of them, which most lines stand.

    Args:
        values: with a bar between them.
    """
    return is_clean(values, MAX_VALUE_CHARACTERS) and "| " not in values and " |" not in values


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
