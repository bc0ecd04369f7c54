"""The words of the pool: who asks, what is to be done, how a request went, and the rules in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NewType, TypeAlias, final

Ticket = NewType("Ticket", int)
"""One request, from its first wait to its answer, all tries included."""

Link = NewType("Link", int)
"""One connection, from the decision to open it until it is closed. Numbers are never used twice."""

NEVER: Final = float("inf")


@final
class Kind(Enum):
    """What a request is for: saves leave the reserve to the others, and are never made twice if they may have run."""

    VALIDATE = "validate"
    POLICY = "another stage before save"  # not asked twice when it may have run: it may count what it is asked
    SAVE = "save"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRules:
    """The numbers of docs/design.md, "The connection pool".

    Args:
        max_connections: to each upstream, over all holders of the budget; opened, opening, idle or closing.
        reserve: of those, kept from saves; of a single connection none is.
        keep_alive: whether connections are used again.
        is_known_to_keep: the upstreams are known to keep connections, as php-fpm does; others have to show it first.
        wait_seconds: for a connection, all tries together.
        connect_seconds: for one connection to come about.
        linger_seconds: that a connection may be idle; at most 0.02.
        max_requests: on one connection; the last is sent without KEEP_CONN.
        max_kept_seconds: the age at which a connection gets no further request.
        max_waiting: requests; one more is refused.
        give_up_seconds: after which a request fails when every upstream refuses at once.
        first_pause_seconds: before an upstream that refused is tried again; doubled each time
        longest_pause_seconds: up to this.
        failures_to_eject: in a row.
        probe_seconds: between two tries of an ejected upstream.
        slow_connect_seconds: after which a request that another upstream could take no longer waits for a connection.
        raise_seconds: after which a lowered limit is tried one higher; doubled, up to
        longest_raise_seconds: this, each time it has to be lowered again.
    """

    max_connections: int
    reserve: int = 0
    keep_alive: bool = True
    is_known_to_keep: bool = False
    wait_seconds: float = 20.0
    connect_seconds: float = 5.0
    linger_seconds: float = 0.005
    max_requests: int = 100
    max_kept_seconds: float = 0.02
    max_waiting: int = 10_000
    give_up_seconds: float = 2.0
    first_pause_seconds: float = 0.005
    longest_pause_seconds: float = 0.25
    failures_to_eject: int = 5
    probe_seconds: float = 1.0
    slow_connect_seconds: float = 0.25
    raise_seconds: float = 5.0
    longest_raise_seconds: float = 300.0


@final
class Outcome(Enum):
    """How a request on a connection went."""

    REUSABLE = "answered, and the connection is good for another"
    ANSWERED = "answered"
    UNEXECUTED = "the script has not run"
    BROKEN = "the script may have run"
    TIMEOUT = "no answer in time; the script may have run"
    ABANDONED = "we gave it up"


@final
class Failure(Enum):
    """Classes of failures, for the counters."""

    NOT_CONNECTED = "not_connected"
    UNEXECUTED = "unexecuted"
    BROKEN = "broken"
    TIMEOUT = "timeout"


@final
class Refusal(Enum):
    """Why a request gets no connection, or no further one."""

    QUEUE_FULL = "too many requests wait already"
    WAITED = "no free connection"
    REFUSED = "every upstream refuses"


# What the planner wants done


@final
@dataclass(slots=True)
class Trip:
    """Where the latest try of a request went; filled while it is under way.

    Attributes:
        upstream: its address; empty as long as nothing was sent.
        seconds: from the first octet sent to the answer, or to what was there instead.
        stderr: what the script wrote to STDERR, decoded; whoever asked fills it in.
    """

    upstream: str = ""
    seconds: float = 0.0
    stderr: str = ""


@final
@dataclass(frozen=True, slots=True)
class Open:
    """Connect to an upstream for a ticket. Then tell ``opened`` or ``failed_to_open``.

    Args:
        seconds: for that.
    """

    link: Link
    upstream: int
    ticket: Ticket
    seconds: float


@final
@dataclass(frozen=True, slots=True)
class Hand:
    """Send the ticket's request on this connection. Then tell ``finished``.

    Args:
        is_used: an idle connection may have been closed meanwhile: look, and tell ``unusable`` if so.
        keep_connection: whether KEEP_CONN is set.
    """

    link: Link
    ticket: Ticket
    is_used: bool
    keep_connection: bool


@final
@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop connecting, and go on waiting: the ticket gets something else. The link is gone, nothing is to be told."""

    link: Link
    ticket: Ticket


@final
@dataclass(frozen=True, slots=True)
class Close:
    """Close a connection. Then tell ``closed``."""

    link: Link


@final
@dataclass(frozen=True, slots=True)
class Fail:
    """The ticket gets no connection any more; it is forgotten."""

    ticket: Ticket
    refusal: Refusal


@final
@dataclass(frozen=True, slots=True)
class Probe:
    """Connect to an ejected upstream and close again. Then tell ``probed``."""

    upstream: int


@final
@dataclass(frozen=True, slots=True)
class Look:
    """See whether a connection, on which nothing is awaited, is still open. Then tell ``looked``."""

    link: Link


@final
class Event(Enum):
    """What an operator should hear of."""

    EJECTED = "upstream ejected"
    RESTORED = "upstream is back"
    LIMIT_LOWERED = "connection limit lowered"
    LIMIT_RAISED = "connection limit raised"
    NOT_KEPT = "upstream keeps no connections"


@final
@dataclass(frozen=True, slots=True)
class Tell:
    """Write it to the log.

    Args:
        limit: in force from now on.
    """

    event: Event
    upstream: int
    limit: int


Action: TypeAlias = Open | Hand | Abandon | Close | Fail | Probe | Look | Tell


# What can be seen from outside


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSnapshot:
    """The state of one upstream, and what it did since the start.

    Args:
        open: connections of any state; the sum of the four below.
        limit: of connections, in force.
        requests: that were handed a connection, each try counted.
        connections: that came about.
        failures: by class.
    """

    open: int
    opening: int
    busy: int
    idle: int
    closing: int
    limit: int
    is_ejected: bool
    requests: int
    connections: int
    failures: Mapping[Failure, int] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """The state of the pool.

    Args:
        waiting: requests without a connection, by kind.
        upstreams: in the order of the settings.
    """

    waiting: Mapping[Kind, int]
    upstreams: tuple[UpstreamSnapshot, ...]
