"""What a process counts, and under which names it is shown (docs/operating.md, "Metrics").

Counting is on the way of every mail, so it is additions to plain numbers and dictionaries: no locks, no labels, no
clock. Names and labels come in when somebody looks, once a second (:func:`samples`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, assert_never, final

from trio_fcgimail import smtp
from trio_fcgimail.mail import Meaning, Stage
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.pool import Kind, PoolSnapshot, Trip, UpstreamSnapshot

#: Upper bounds of the histograms, in seconds; the last bucket has none. Ours: a save takes a millisecond or ten of
#: them, and nobody waits longer than save_seconds.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metric(Enum):
    """Everything that is shown."""

    CONNECTIONS = "connections"
    OPEN_CONNECTIONS = "open_connections"
    COMMANDS = "commands"
    REPLIES = "replies"
    MAILS = "mails"
    MAIL_OCTETS = "mail_octets"
    MAIL_SECONDS = "mail_seconds"
    RECEIVED_OCTETS = "received_octets"
    SENT_OCTETS = "sent_octets"
    SCRIPT_SECONDS = "script_seconds"
    UPSTREAM_REQUESTS = "upstream_requests"
    UPSTREAM_CONNECTS = "upstream_connects"
    UPSTREAM_FAILURES = "upstream_failures"
    UPSTREAM_CONNECTIONS = "upstream_connections"
    UPSTREAM_CONNECTION_LIMIT = "upstream_connection_limit"
    UPSTREAM_EJECTED = "upstream_ejected"
    WAITING_REQUESTS = "waiting_requests"
    LIMITS_HIT = "limits_hit"
    RELOADS = "reloads"
    WORKERS = "workers"
    WORKER_DEATHS = "worker_deaths"


class Shape(Enum):
    """What becomes of the numbers of several processes."""

    COUNTER = "added up, those of processes that are gone included; never less"
    HISTOGRAM = "likewise: the count of each bucket, and the sum of seconds"
    GAUGE = "added up"
    LEAST = "the least of them"


@final
@dataclass(frozen=True, slots=True)
class Spec:
    """What one metric is.

    Args:
        about: for whoever reads it, one sentence.
        labels: their names, in order.
    """

    shape: Shape
    about: str
    labels: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers a sample has."""
        return len(BUCKETS) + 2 if self.shape is Shape.HISTOGRAM else 1


SPECS: Final[Mapping[Metric, Spec]] = MappingProxyType(
    {
        Metric.CONNECTIONS: Spec(Shape.COUNTER, "Connections that were accepted from the kernel."),
        Metric.OPEN_CONNECTIONS: Spec(Shape.GAUGE, "Connections that are open."),
        Metric.COMMANDS: Spec(Shape.COUNTER, "Commands of clients.", ("command",)),
        Metric.REPLIES: Spec(Shape.COUNTER, "Replies to clients, by their code.", ("code",)),
        Metric.MAILS: Spec(
            Shape.COUNTER, "Mails that came to the end of their data, by what became of them.", ("outcome",)
        ),
        Metric.MAIL_OCTETS: Spec(Shape.COUNTER, "Octets of the content of mails that came to the end of their data."),
        Metric.MAIL_SECONDS: Spec(Shape.HISTOGRAM, "Seconds from the end of the data of a mail to its verdict."),
        Metric.RECEIVED_OCTETS: Spec(Shape.COUNTER, "Octets received from clients, within TLS."),
        Metric.SENT_OCTETS: Spec(Shape.COUNTER, "Octets sent to clients, within TLS."),
        Metric.SCRIPT_SECONDS: Spec(
            Shape.HISTOGRAM,
            "Seconds that scripts took, from the first octet sent to the answer or the failure; the latest try.",
            ("stage", "upstream"),
        ),
        Metric.UPSTREAM_REQUESTS: Spec(Shape.COUNTER, "Requests sent to FastCGI servers, each try.", ("upstream",)),
        Metric.UPSTREAM_CONNECTS: Spec(Shape.COUNTER, "Connections to FastCGI servers that came about.", ("upstream",)),
        Metric.UPSTREAM_FAILURES: Spec(Shape.COUNTER, "Tries that failed, by how.", ("upstream", "failure")),
        Metric.UPSTREAM_CONNECTIONS: Spec(
            Shape.GAUGE, "Connections to FastCGI servers, by state.", ("upstream", "state")
        ),
        Metric.UPSTREAM_CONNECTION_LIMIT: Spec(
            Shape.LEAST,
            "Connections that a FastCGI server is believed to take, at most max_connections.",
            ("upstream",),
        ),
        Metric.UPSTREAM_EJECTED: Spec(Shape.GAUGE, "Processes that leave a FastCGI server alone.", ("upstream",)),
        Metric.WAITING_REQUESTS: Spec(Shape.GAUGE, "Requests that wait for a connection.", ("kind",)),
        Metric.LIMITS_HIT: Spec(Shape.COUNTER, "Times that somebody was over a limit.", ("limit",)),
        Metric.RELOADS: Spec(Shape.COUNTER, "Reloads, by whether they were carried out.", ("outcome",)),
        Metric.WORKERS: Spec(Shape.GAUGE, "Processes that serve, those that are about to end included."),
        Metric.WORKER_DEATHS: Spec(Shape.COUNTER, "Processes that ended before their time."),
    }
)


@final
@dataclass(frozen=True, slots=True)
class Series:
    """One metric with its labels' values."""

    metric: Metric
    labels: tuple[str, ...] = ()


Values = tuple[float, ...]
Sample = tuple[Series, Values]


@final
class Histogram:
    """How often something took how long.

    Attributes:
        counts: of each bucket by itself, the one without a bound last.
        total: seconds.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """It took so long."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def values(self) -> Values:
        """As a sample has them."""
        return (*self.counts, self.total)


_PLAIN_COMMANDS: Final[Mapping[type[smtp.Event], str]] = {
    smtp.Hello: "EHLO",
    smtp.MailFrom: "MAIL",
    smtp.RcptTo: "RCPT",
    smtp.StartTls: "STARTTLS",
    smtp.Authenticate: "AUTH",
    smtp.Xclient: "XCLIENT",
    smtp.TransactionReset: "RSET",
}
_COMMANDS: Final[Mapping[smtp.Verb, str]] = {
    smtp.Verb.GREET: "EHLO",
    smtp.Verb.MAIL: "MAIL",
    smtp.Verb.RCPT: "RCPT",
    smtp.Verb.DATA: "DATA",
    smtp.Verb.BDAT: "BDAT",
    smtp.Verb.BDAT_LAST: "BDAT",
    smtp.Verb.RSET: "RSET",
    smtp.Verb.NOOP: "NOOP",
    smtp.Verb.HELP: "HELP",
    smtp.Verb.VRFY: "VRFY",
    smtp.Verb.EXPN: "EXPN",
    smtp.Verb.QUIT: "QUIT",
    smtp.Verb.STARTTLS: "STARTTLS",
    smtp.Verb.AUTH: "AUTH",
    smtp.Verb.SASL_RESPONSE: "AUTH",
    smtp.Verb.XCLIENT: "XCLIENT",
    smtp.Verb.UNKNOWN: "unknown",
}
_KINDS: Final = {Kind.VALIDATE: "validate", Kind.POLICY: "policy", Kind.SAVE: "save"}


@final
class Counts:
    """What one process has counted since its start.

    Attributes:
        replies: by their first three octets.
        scripts: by stage and address.
    """

    __slots__ = (
        "commands",
        "connections",
        "mail_octets",
        "mail_seconds",
        "mails",
        "open_connections",
        "received_octets",
        "replies",
        "scripts",
        "sent_octets",
    )

    def __init__(self) -> None:
        self.connections = 0
        self.open_connections = 0
        self.received_octets = 0
        self.sent_octets = 0
        self.mail_octets = 0
        self.mails = dict.fromkeys(Meaning, 0)
        self.mail_seconds = Histogram()
        self.commands = dict.fromkeys(_COMMANDS.values(), 0)
        self.replies: dict[bytes, int] = {}
        self.scripts: dict[tuple[Stage, str], Histogram] = {}

    def judged(self, meaning: Meaning, octets: int, seconds: float) -> None:
        """A mail has its verdict."""
        self.mails[meaning] += 1
        self.mail_octets += octets
        self.mail_seconds.add(seconds)

    def said(self, replies: bytes) -> None:
        """One or several replies, as they go out."""
        if replies.count(b"\n") == 1:
            code = replies[:3]
            self.replies[code] = self.replies.get(code, 0) + 1
            return
        for line in replies.splitlines():
            if line[3:4] != b"-":  # all but the last line of a reply have one (RFC 5321 4.2.1)
                self.replies[line[:3]] = self.replies.get(line[:3], 0) + 1

    def asked(self, stage: Stage, trip: Trip) -> None:
        """A script has answered, or failed to."""
        if trip.upstream:
            key = stage, trip.upstream
            histogram = self.scripts.get(key)
            if histogram is None:
                histogram = self.scripts[key] = Histogram()
            histogram.add(trip.seconds)


@final
class CommandEar:
    """Hears the commands of one connection. A whole AUTH exchange is one, and so is each chunk of BDAT."""

    __slots__ = ("_comes_in_chunks", "_commands")

    def __init__(self, counts: Counts) -> None:
        self._commands = counts.commands
        self._comes_in_chunks = False

    def hear(self, event: smtp.Event) -> None:
        """What the core said of it."""
        name = _PLAIN_COMMANDS.get(type(event))
        if name is not None:
            self._commands[name] += 1
            return
        match event:
            case smtp.DataBegun(by=by):
                self._comes_in_chunks = by is smtp.DataCommand.BDAT
                self._commands["DATA"] += not self._comes_in_chunks
            case smtp.MessageEnd() | smtp.MessageRefused():
                self._commands["BDAT"] += self._comes_in_chunks
            case smtp.CommandAnswered(verb=verb) if verb not in (smtp.Verb.AUTH, smtp.Verb.SASL_RESPONSE):
                self._count(verb)
            case smtp.CommandRejected(verb=verb):
                self._count(verb)
            case _:
                pass  # no command, or one that is counted at its end

    def _count(self, verb: smtp.Verb) -> None:
        if verb in _COMMANDS:
            self._commands[_COMMANDS[verb]] += 1


def samples(
    counts: Counts, hits: Mapping[Limit, int], upstreams: Sequence[str], pool: PoolSnapshot
) -> Iterator[Sample]:
    """Everything that one process knows.

    Args:
        upstreams: their addresses, in the order of the snapshot.
    """
    yield _one(Metric.CONNECTIONS, counts.connections)
    yield _one(Metric.OPEN_CONNECTIONS, counts.open_connections)
    yield _one(Metric.RECEIVED_OCTETS, counts.received_octets)
    yield _one(Metric.SENT_OCTETS, counts.sent_octets)
    yield _one(Metric.MAIL_OCTETS, counts.mail_octets)
    yield Series(Metric.MAIL_SECONDS), counts.mail_seconds.values()
    for meaning, mails in counts.mails.items():
        yield _one(Metric.MAILS, mails, meaning.value)
    for command, times in counts.commands.items():
        yield _one(Metric.COMMANDS, times, command)
    for code, replies in counts.replies.items():
        yield _one(Metric.REPLIES, replies, code.decode("ascii", "replace"))
    for (stage, upstream), histogram in counts.scripts.items():
        yield Series(Metric.SCRIPT_SECONDS, (stage.value, upstream)), histogram.values()
    for limit, times in hits.items():
        yield _one(Metric.LIMITS_HIT, times, limit.value)
    for kind, waiting in pool.waiting.items():
        yield _one(Metric.WAITING_REQUESTS, waiting, _KINDS[kind])
    for name, snapshot in zip(upstreams, pool.upstreams, strict=True):
        yield from _upstream(name, snapshot)


def _upstream(name: str, snapshot: UpstreamSnapshot) -> Iterator[Sample]:
    yield _one(Metric.UPSTREAM_REQUESTS, snapshot.requests, name)
    yield _one(Metric.UPSTREAM_CONNECTS, snapshot.connections, name)
    for failure, times in snapshot.failures.items():
        yield _one(Metric.UPSTREAM_FAILURES, times, name, failure.value)
    yield _one(Metric.UPSTREAM_CONNECTIONS, snapshot.opening, name, "opening")
    yield _one(Metric.UPSTREAM_CONNECTIONS, snapshot.busy, name, "busy")
    yield _one(Metric.UPSTREAM_CONNECTIONS, snapshot.idle, name, "idle")
    yield _one(Metric.UPSTREAM_CONNECTIONS, snapshot.closing, name, "closing")
    yield _one(Metric.UPSTREAM_CONNECTION_LIMIT, snapshot.limit, name)
    yield _one(Metric.UPSTREAM_EJECTED, snapshot.is_ejected, name)


def _one(metric: Metric, value: float, *labels: str) -> Sample:
    return Series(metric, labels), (float(value),)


def fold(shape: Shape, several: Sequence[Values]) -> Values:
    """The numbers of several processes as one."""
    match shape:
        case Shape.COUNTER | Shape.HISTOGRAM | Shape.GAUGE:
            return tuple(map(sum, zip(*several, strict=True)))
        case Shape.LEAST:
            return tuple(map(min, zip(*several, strict=True)))
        case _:
            assert_never(shape)
