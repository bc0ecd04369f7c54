"""What the planner knows of one upstream: its connections, its health, and how many connections it can take."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Final, final

from trio_fcgimail.server.pool.keeping import Keeping
from trio_fcgimail.server.pool.model import NEVER, Failure, Kind, Link, PoolRules, Ticket, UpstreamSnapshot

_SAMPLES: Final = 32  # ours: first requests of new connections, and as many on used ones, that are compared
_PACE_WEIGHT: Final = 1 / 16  # ours: of the latest request in the averages
_PACE_SAMPLES: Final = 16  # ours: requests of which the quickest tells how long a script takes
_SLOW_SECONDS: Final = 0.002  # beyond, kept connections gain nothing: at 5 ms 1.0 times the requests were measured
_OUR_SHARE: Final = 1 / 4  # ours: of the time to an answer
_ROUNDS: Final = 2  # ours: requests of a connection for each one of all; mails/s of 1.18 times those without, not 1.14
_SPARED_SHARE: Final = 4  # ours: of so many connections, one is spared (and one in any case)
_LOWEST_LIMIT: Final = 2  # ours: a single connection is never kept, and one slow script would stop everything
_OVERTAKEN_MORE: Final = 0.3  # ours: such a share more of them were overtaken than of those on used connections


@final
class LinkState(Enum):
    """The life of a connection."""

    OPENING = "opening"
    BUSY = "busy"
    IDLE = "idle"
    ON_TRIAL = "to be looked at, and used no more"
    CLOSING = "closing"


@final
@dataclass(slots=True, kw_only=True)
class Connection:
    """One connection.

    Args:
        kind: of its lease.
        ticket: whose request it serves, in OPENING and BUSY.
        since: when it began to open; once open, when that was.
        idle_since: the start of the present rest.
        sent: when the present request was, as long as there is nothing of its response.
        requests: handed to it.
        keeps: whether the present request was sent with KEEP_CONN.
        serial: of the present request, in the order of all of the upstream.
        yield_mark: requests with a later serial that end first overtook this one.
        yields: used connections that were closed for its sake.
    """

    link: Link
    upstream: int
    kind: Kind
    ticket: Ticket
    since: float
    state: LinkState = LinkState.OPENING
    idle_since: float = 0.0
    sent: float | None = None
    requests: int = 0
    keeps: bool = False
    serial: int = 0
    yield_mark: int = 0
    yields: int = 0


@final
class Health(Enum):
    """What may be asked of an upstream."""

    GOOD = "requests"
    EJECTED = "nothing but probes"
    ON_TRIAL = "one request at a time"  # connecting was never the problem


@final
class _Overtaken:
    """How many requests were overtaken by later ones on used connections: of the first ones of connections, and of
    those behind them.

    While the connections are no more than the workers, a request is served at once wherever it is sent, and both
    shares are alike, however long scripts take. Above, a new connection waits until a worker is free, and
    meanwhile requests on used connections, whose workers are never free, pass it by.
    """

    __slots__ = ("_first", "_first_samples", "_later", "_later_samples")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._first = self._first_samples = self._later = self._later_samples = 0

    def add(self, *, is_overtaken: bool, is_first: bool) -> None:
        if is_first:
            self._first += is_overtaken
            self._first_samples += 1
        else:
            self._later += is_overtaken
            self._later_samples += 1

    def says_too_many(self) -> bool:
        """Judge, once there are samples enough; each is judged once."""
        if self._first_samples < _SAMPLES or self._later_samples < _SAMPLES:
            return False
        first, later = self._first / self._first_samples, self._later / self._later_samples
        self.forget()
        return first - later >= _OVERTAKEN_MORE


@final
class _Quickest:
    """The least of the latest samples.

    Attributes:
        seconds: 0 as long as there are too few.
    """

    __slots__ = ("_before", "_least", "_samples", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._before = 0.0
        self._least = NEVER
        self._samples = 0

    def add(self, seconds: float) -> None:
        if seconds < self._least:
            self._least = seconds
            if seconds < self._before:
                self.seconds = seconds
        self._samples += 1
        if self._samples == _PACE_SAMPLES:
            self._before, self._least, self._samples = self._least, NEVER, 0
            self.seconds = self._before


@final
class _Pace:
    """How long scripts take, and how much of that is our own event loop's delay.

    Between the order to send a request and its sending lies one round of the loop, and another between its answer and
    our reading it.
    """

    __slots__ = ("_delay", "_quickest_save", "_quickest_validation", "_took")

    def __init__(self) -> None:
        self._took = 0.0
        self._delay = 0.0
        self._quickest_save = _Quickest()
        self._quickest_validation = _Quickest()

    def add_delay(self, seconds: float) -> None:
        self._delay += _PACE_WEIGHT * (seconds - self._delay)

    def add_answer(self, kind: Kind, seconds: float) -> None:
        self._took += _PACE_WEIGHT * (seconds - self._took)
        (self._quickest_save if kind is Kind.SAVE else self._quickest_validation).add(seconds)

    def is_slow(self, kind: Kind) -> bool:
        """Whether the script takes so long that a connection for each request costs next to nothing.

        The least of some samples tells, as our own delay may be in all the others.
        """
        quickest = self._quickest_save if kind is Kind.SAVE else self._quickest_validation
        return quickest.seconds >= _SLOW_SECONDS

    @property
    def is_ours(self) -> bool:
        """Whether requests wait for us rather than for scripts: more connections would not make them faster."""
        return self._delay >= _OUR_SHARE * self._took > 0


@final
class Upstream:
    """One upstream.

    Attributes:
        limit: connections that it can take, as far as we know.
        wanted: how many of them do any good. Where we are what takes the time, one fewer is as fast, and leaves a
            worker to whoever shares the upstream: connections that are handed on at once leave it none.
    """

    def __init__(self, index: int, rules: PoolRules) -> None:
        self.index = index
        self._rules = rules
        self.open = 0  # of any state
        self.busy = 0  # or opening, or on trial
        self.saves = 0
        self.closing = 0
        self.opening = 0
        self.idle: list[Connection] = []  # the latest last
        self.keeping = Keeping(is_certain=rules.is_known_to_keep)
        self.health = Health.GOOD
        self.failures = 0  # in a row
        self.connect_failures = 0  # in a row
        self.pause = rules.first_pause_seconds
        self.retry_at = 0.0
        self.probe_at = NEVER
        self.linger_at = NEVER  # when its idle connections are looked at
        self.raise_at = NEVER
        self.raise_pause = rules.raise_seconds
        self._is_on_probation = False  # the limit was raised, and not lowered since
        self._unheard: OrderedDict[Link, Connection] = OrderedDict()  # new connections, no octet of response yet
        self._overtaken = _Overtaken()
        self._pace = _Pace()
        self._serial = 0
        self._latest_used = 0  # serial of a request on a used connection that has ended
        self._requests = 0
        self._connections = 0
        self._failed: Counter[Failure] = Counter()
        self._set_limit(rules.max_connections)

    def _set_limit(self, limit: int) -> None:
        self.limit = limit
        spared = max(limit // _SPARED_SHARE, 1) if self._rules.keep_alive else 0
        self._wanted_of_us = max(limit - spared, 1)
        self._weigh()

    # Room and load

    @property
    def load(self) -> float:
        """Which share of it is in use."""
        return self.busy / self.limit

    def is_available(self, now: float) -> bool:
        """Whether a connection to it may be opened now, as far as its health goes."""
        match self.health:
            case Health.GOOD:
                return now >= self.retry_at
            case Health.ON_TRIAL:
                return not self.open and now >= self.retry_at
            case Health.EJECTED:
                return False

    def has_room(self, kind: Kind) -> bool:
        """Whether our own limit leaves room for one more connection."""
        if not self.has_room_for(kind):
            return False
        if kind is not Kind.SAVE and self.open - self.saves < self._rules.reserve:
            return self.open < self.limit
        return self.open < self.wanted

    @property
    def is_full(self) -> bool:
        """Whether it is certain at a glance that nobody can have a connection, idle or new."""
        return (
            not self.idle
            and self.open >= self.wanted
            and (self.open >= self.limit or self.open - self.saves >= self._rules.reserve)
        )

    def _weigh(self) -> None:
        """Decide how many connections are wanted, after what that hangs on has changed."""
        self.wanted = self._wanted_of_us if self._pace.is_ours else self.limit

    def may_keep(self, connection: Connection, now: float) -> bool:
        """Whether a connection may be used once more after its present request.

        With all workers in use, about one connection is closed in the time that two scripts take, one after the other,
        so that somebody else's request waits no longer than for that; where a worker is spared, not even so long.
        """
        rules = self._rules
        if self.limit == 1:
            return False
        most = rules.max_requests if self._pace.is_ours else min(_ROUNDS * self.limit, rules.max_requests)
        return (
            rules.keep_alive
            and self.keeping.permits(now)
            and connection.requests < most
            and now - connection.since < rules.max_kept_seconds
            and not self._pace.is_slow(connection.kind)
        )

    def has_room_for(self, kind: Kind) -> bool:
        """Whether our own limit lets one more connection be used for that."""
        return kind is not Kind.SAVE or self.saves < max(self.limit - self._rules.reserve, 1)

    # The life of a request

    def begin(self, connection: Connection) -> None:
        """A request is handed to a connection."""
        self._serial += 1
        self._requests += 1
        connection.requests += 1
        connection.serial = connection.yield_mark = self._serial
        connection.yields = 0
        if connection.requests == 1:
            self._unheard[connection.link] = connection

    def send(self, connection: Connection, now: float, ordered: float | None) -> None:
        """A request is sent, that had waited for the order to."""
        connection.sent = now
        if ordered is not None:
            self._pace.add_delay(now - ordered)
            self._weigh()

    def answer_begins(self, connection: Connection, now: float) -> None:
        """The first octets of a response."""
        if connection.sent is not None:
            self._pace.add_answer(connection.kind, now - connection.sent)
            self._weigh()
            connection.sent = None
        self.hear(connection)

    def hear(self, connection: Connection) -> None:
        """Its worker is at work: it has answered, or will never."""
        self._unheard.pop(connection.link, None)

    def end(self, connection: Connection) -> None:
        """A request is over."""
        is_first = connection.requests == 1
        self._overtaken.add(is_overtaken=connection.serial < self._latest_used, is_first=is_first)
        if not is_first and connection.serial > self._latest_used:
            self._latest_used = connection.serial
        self.hear(connection)

    def must_yield(self, connection: Connection) -> bool:
        """Whether a used connection should be closed because a new one, sent earlier, still waits for a worker.

        A slow script looks alike, so nobody is yielded to for ever.
        """
        if connection.requests < 2 or not self._unheard:
            return False
        waiting = next(iter(self._unheard.values()))
        if connection.serial <= waiting.yield_mark:
            return False
        waiting.yield_mark = self._serial
        waiting.yields += 1
        if waiting.yields >= self._rules.max_connections:
            self.hear(waiting)
        return True

    # Health

    def succeed(self) -> None:
        """A connection came about."""
        self._connections += 1
        self.connect_failures = 0
        self.pause = self._rules.first_pause_seconds
        self.retry_at = 0.0

    def answer(self, connection: Connection, now: float) -> bool:
        """A request was answered; whether that restores it."""
        self.answer_begins(connection, now)
        self.failures = 0
        if self.health is Health.GOOD:
            return False
        self.health = Health.GOOD
        return True

    def fail(self, failure: Failure) -> bool:
        """Something failed; whether it should be ejected, if there are others."""
        self._failed[failure] += 1
        self.failures += 1
        return self.health is not Health.EJECTED and (
            self.failures >= self._rules.failures_to_eject or self.health is Health.ON_TRIAL
        )

    def refuse(self, now: float) -> None:
        """It could not be connected: leave it alone for a while."""
        self.connect_failures += 1
        self.retry_at = now + self.pause
        self.pause = min(2 * self.pause, self._rules.longest_pause_seconds)

    def restore(self) -> None:
        """It could be connected again."""
        self.health = Health.GOOD if self.connect_failures else Health.ON_TRIAL
        self.failures = 0
        self.succeed()

    # The limit

    def lower_limit(self) -> bool:
        """Lower it, if requests say that there are more connections than workers; whether it was."""
        if not self._overtaken.says_too_many() or self.limit <= max(_LOWEST_LIMIT, self._rules.reserve + 1):
            return False
        self._set_limit(self.limit - 1)
        if self._is_on_probation:
            self.raise_pause = min(2 * self.raise_pause, self._rules.longest_raise_seconds)
        self._is_on_probation = False
        return True

    def raise_limit(self) -> None:
        """Try one more."""
        self._set_limit(self.limit + 1)
        self._overtaken.forget()
        if self._is_on_probation:  # the last one did no harm
            self.raise_pause = self._rules.raise_seconds
        self._is_on_probation = True

    def snapshot(self) -> UpstreamSnapshot:
        """What can be seen from outside."""
        return UpstreamSnapshot(
            open=self.open,
            opening=self.opening,
            busy=self.busy - self.opening,
            idle=len(self.idle),
            closing=self.closing,
            limit=self.limit,
            is_ejected=self.health is Health.EJECTED,
            requests=self._requests,
            connections=self._connections,
            failures={failure: self._failed[failure] for failure in Failure},
        )
