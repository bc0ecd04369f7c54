"""What the page is given to show, as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trio_fcgimail.server.metrics import Metric, Series, Values
from trio_fcgimail.server.status.history import Moment
from trio_fcgimail.server.workers.channel import MailSeen


class Upstream(msgspec.Struct, frozen=True):
    """A FastCGI server.

    Args:
        limit: of connections.
        failures: tries that failed, since the start.
        ejected: processes that leave it alone.
    """

    address: str
    busy: float
    idle: float
    opening: float
    limit: float
    requests: float
    failures: float
    ejected: float


class Shown(msgspec.Struct, frozen=True):
    """A mail, with its number."""

    number: int
    mail: MailSeen


class View(msgspec.Struct, frozen=True):
    """Everything.

    Args:
        run: of which process of the page; numbers of another one mean nothing.
        state: in a word: ``serving``, ``stopping``, ``failing``.
        moments: those that were asked for; ``mails`` likewise.
    """

    run: str
    hostname: str
    version: str
    state: str
    workers: float
    deaths: float
    reloads: float
    open: float
    totals: dict[str, float]
    octets: float
    waiting: dict[str, float]
    limits: dict[str, float]
    upstreams: list[Upstream]
    moments: Sequence[Moment]
    mails: Sequence[Shown]


def by_label(samples: dict[Series, Values], metric: Metric) -> dict[str, float]:
    """The numbers of a metric that has one label."""
    return {series.labels[0]: values[0] for series, values in samples.items() if series.metric is metric}


def upstreams(samples: dict[Series, Values], configured: Sequence[str]) -> list[Upstream]:
    """The FastCGI servers of the settings, in their order."""

    def value(metric: Metric, *labels: str) -> float:
        return samples.get(Series(metric, labels), (0.0,))[0]

    def failures(address: str) -> float:
        return sum(
            values[0]
            for series, values in samples.items()
            if series.metric is Metric.UPSTREAM_FAILURES and series.labels[0] == address
        )

    return [
        Upstream(
            address=address,
            busy=value(Metric.UPSTREAM_CONNECTIONS, address, "busy"),
            idle=value(Metric.UPSTREAM_CONNECTIONS, address, "idle"),
            opening=value(Metric.UPSTREAM_CONNECTIONS, address, "opening"),
            limit=value(Metric.UPSTREAM_CONNECTION_LIMIT, address),
            requests=value(Metric.UPSTREAM_REQUESTS, address),
            failures=failures(address),
            ejected=value(Metric.UPSTREAM_EJECTED, address),
        )
        for address in configured
    ]
