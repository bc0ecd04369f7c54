"""What happens in a server, for those who want to be told (docs/api.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, final

import structlog.typing

from trio_fcgimail.config import ListenAddress, Settings
from trio_fcgimail.mail import Peer
from trio_fcgimail.server.gateway import MailReport


@dataclass(frozen=True, slots=True)
class Event:
    """Any of these; subscribe to it to be told of all."""


@final
@dataclass(frozen=True, slots=True)
class Started(Event):
    """The server listens, and its processors are set up."""

    addresses: tuple[ListenAddress, ...]


@final
@dataclass(frozen=True, slots=True)
class ConnectionOpened(Event):
    """A client is served. One that is turned away for a limit is not told of.

    Args:
        listener: the address as the settings have it.
    """

    peer: Peer
    listener: ListenAddress


@final
@dataclass(frozen=True, slots=True)
class ConnectionClosed(Event):
    """The same client is gone."""

    peer: Peer
    listener: ListenAddress


@final
@dataclass(frozen=True, slots=True)
class MailJudged(Event):
    """A mail got its verdict; in LMTP once for each recipient where they fared differently."""

    report: MailReport


@final
@dataclass(frozen=True, slots=True)
class Reloaded(Event):
    """New clients are served by other settings; compare both to see what is new."""

    before: Settings
    after: Settings


@final
@dataclass(frozen=True, slots=True)
class ReloadFailed(Event):
    """The old settings stay."""

    settings: Settings
    problem: str


@final
@dataclass(frozen=True, slots=True)
class LogsReopened(Event):
    """The log files were opened anew."""


@final
@dataclass(frozen=True, slots=True)
class Stopping(Event):
    """The end has begun."""


E = TypeVar("E", bound=Event)
Unsubscribe = Callable[[], None]


@final
class Events:
    """Tells subscribers what happens. Make one, subscribe, and give it to ``serve``."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Event], None]] = []
        self._log: structlog.typing.FilteringBoundLogger | None = None

    def log_failures_to(self, log: structlog.typing.FilteringBoundLogger) -> None:
        """Where the exceptions of subscribers go. For the server."""
        self._log = log

    def subscribe(self, kind: type[E], tell: Callable[[E], None]) -> Unsubscribe:
        """Have a function called for each event of a kind, in the order of the calls.

        It is called within the server's task, so it must not block; an exception is logged and goes no further. To wait
        for something, send the event into a memory channel by ``send_nowait``.

        Returns:
            What ends it; calling it twice does nothing.
        """

        def tell_of_kind(event: Event) -> None:
            if isinstance(event, kind):
                tell(event)

        self._subscribers.append(tell_of_kind)

        def unsubscribe() -> None:
            if tell_of_kind in self._subscribers:
                self._subscribers.remove(tell_of_kind)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Tell all who subscribed."""
        for tell in tuple(self._subscribers):
            try:
                tell(event)
            except Exception:  # noqa: BLE001 - it is the code of others, and no mail depends on it
                if self._log is not None:
                    self._log.exception("subscriber failed", occasion=type(event).__name__)

    def mail(self, report: MailReport) -> None:
        """What observers of a server are told."""
        self.publish(MailJudged(report))
