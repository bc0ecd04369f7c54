"""What all sessions of a server share, put together once and handed to each: no globals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, final

import structlog.typing

from trio_fcgimail.config import Settings
from trio_fcgimail.mail import Envelope, Verdict
from trio_fcgimail.server.alarms import Alarms
from trio_fcgimail.server.effort import Efforts
from trio_fcgimail.server.handshakes import Handshakes
from trio_fcgimail.server.ledger import Ledger
from trio_fcgimail.server.limits import LimitHits
from trio_fcgimail.server.metrics import Counts
from trio_fcgimail.server.pool import Trip
from trio_fcgimail.server.processors import Chain
from trio_fcgimail.server.scripts import Scripts
from trio_fcgimail.server.spool import SpoolRoom


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MailReport:
    """One mail, at its end.

    Args:
        octets: of the content as received.
        digest: empty when the content was not looked at, as the protocol refused it.
        seconds: from the end of the data to the verdict.
        client: its address as the log has it: ``unix`` over a unix socket, ``unknown`` to the proxy that speaks for it.
        via: the address of that proxy, likewise; empty without one.
        trip: where its save request went; None when there was none.
    """

    envelope: Envelope
    subject: str
    octets: int
    digest: str
    verdict: Verdict
    seconds: float
    client: str = ""
    via: str = ""
    trip: Trip | None = None


class Observer(Protocol):
    """Whoever wants to see the mails go by. Must not block and must not raise."""

    def mail(self, report: MailReport) -> None:
        """A mail got its verdict."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Everything a session needs.

    Args:
        ledger: the accounts behind the limits that hold over all connections.
        hits: how often any limit was hit.
        counts: what else is counted.
        alarms: the deadlines of the sessions; to be run as long as any session is.
        now: the wall clock, with a time zone; whole seconds will do.
        queue_id: makes a new identifier.
        handshakes: those of TLS that are under way; of clients that are turned away there are few enough.
        efforts: what each address costs us.
    """

    settings: Settings
    scripts: Scripts
    chain: Chain
    room: SpoolRoom
    ledger: Ledger
    log: structlog.typing.FilteringBoundLogger
    now: Callable[[], datetime]
    queue_id: Callable[[], str]
    observers: tuple[Observer, ...] = field(default=())
    hits: LimitHits = field(default_factory=LimitHits)
    counts: Counts = field(default_factory=Counts)
    alarms: Alarms = field(default_factory=Alarms)
    handshakes: Handshakes = field(default_factory=lambda: Handshakes(None))
    efforts: Efforts = field(default_factory=Efforts)
