"""Who gets which connection, what to open, to keep and to close: decided here, done elsewhere.

The planner does nothing itself and knows no clock: each call tells it what happened and when, and gives what is to be
done now, in that order. ``next_deadline`` says when to call ``tick`` at the latest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, assert_never, final

from trio_fcgimail.server.pool.budget import Budget
from trio_fcgimail.server.pool.keeping import TRIAL_SECONDS
from trio_fcgimail.server.pool.model import (
    NEVER,
    Abandon,
    Action,
    Close,
    Event,
    Fail,
    Failure,
    Hand,
    Kind,
    Link,
    Look,
    Open,
    Outcome,
    PoolRules,
    PoolSnapshot,
    Probe,
    Refusal,
    Tell,
    Ticket,
)
from trio_fcgimail.server.pool.queue import Line, Phase, Request
from trio_fcgimail.server.pool.timers import Timer, Timers
from trio_fcgimail.server.pool.upstreams import Connection, Health, LinkState, Upstream

_GAP_WEIGHT: Final = 1 / 4  # ours: of the latest gap between two requests in their average
_LONGEST_GAP_SECONDS: Final = 1.0  # ours: a longer one says no more
_IDLE_SHARE: Final = 4  # ours: of so many connections, one may be idle (and one in any case)

_SAVE: Final = Kind.SAVE
_VALIDATE: Final = Kind.VALIDATE
_IS_FULL: Final = attrgetter("is_full")

_FAILURES: Final = {
    Outcome.UNEXECUTED: Failure.UNEXECUTED,
    Outcome.BROKEN: Failure.BROKEN,
    Outcome.TIMEOUT: Failure.TIMEOUT,
}


@final
class Planner:
    """The rules of the pool.

    Args:
        upstreams: how many there are, at least one; they are known by their numbers from 0.
        budget: what connections are leased from.
    """

    def __init__(self, upstreams: int, rules: PoolRules, budget: Budget) -> None:
        self._rules = rules
        self._budget = budget
        self._upstreams = tuple(Upstream(index, rules) for index in range(upstreams))
        self._line = Line()
        self._requests: dict[Ticket, Request] = {}
        self._connections: dict[Link, Connection] = {}
        self._links = itertools.count(1)
        self._timers = Timers()
        self._probing: set[int] = set()
        self._turn = 0
        self._last_want = 0.0
        self._gap = _LONGEST_GAP_SECONDS
        self._is_over = False  # and nobody will tick
        self.deadline_hint = NEVER  # not after next_deadline(), and cheap to look at
        self._refusing_since: float | None = None  # when the last upstream began to refuse as well

    # What happened

    def want(self, now: float, ticket: Ticket, kind: Kind) -> list[Action]:
        """A request needs a connection. The ticket is new."""
        self._gap += _GAP_WEIGHT * (min(now - self._last_want, _LONGEST_GAP_SECONDS) - self._gap)
        self._last_want = now
        if len(self._line) >= self._rules.max_waiting:
            return [Fail(ticket, Refusal.QUEUE_FULL)]
        request = Request(
            ticket=ticket,
            kind=kind,
            began=now,
            deadline=now + self._rules.wait_seconds,
            pause=self._rules.first_pause_seconds,
        )
        self._requests[ticket] = request
        actions: list[Action] = []
        if self._line:
            self._stand_in_line(request)
            self._assign(now, actions)
        elif not self._place(now, request, actions):
            self._stand_in_line(request)
        request.ordered = None  # whatever was ordered, was at once
        return actions

    def cancel(self, now: float, ticket: Ticket) -> list[Action]:
        """A request that was not sent is not wanted any more; a connection under way for it was given up."""
        request = self._requests.pop(ticket, None)
        if request is None:
            return []
        actions: list[Action] = []
        match request.phase:
            case Phase.WAITING:
                self._line.remove(request)
            case Phase.PAUSED:
                pass
            case Phase.OPENING:
                self._drop(self._connection_of(request))
            case Phase.BUSY:
                connection = self._connection_of(request)
                self._upstreams[connection.upstream].hear(connection)
                self._close(connection, actions)
            case _:
                assert_never(request.phase)
        return self._assigned(now, actions)

    def opened(self, now: float, link: Link) -> list[Action]:
        """A connection came about."""
        connection = self._connections[link]
        upstream = self._upstreams[connection.upstream]
        upstream.succeed()
        upstream.opening -= 1
        self._refusing_since = None
        connection.since = now
        request = self._requests[connection.ticket]
        actions: list[Action] = [self._hand(now, connection, request)]
        return self._assigned(now, actions)  # others may have waited for that upstream

    def failed_to_open(self, now: float, link: Link) -> list[Action]:
        """A connection did not come about."""
        connection = self._connections[link]
        request = self._requests[connection.ticket]
        actions: list[Action] = []
        self._fail_to_connect(now, connection, actions)
        if now >= self._give_up_at(request):
            self._refuse(request, Refusal.REFUSED, actions)
        else:
            self._put_in_front(request)
            self._end_waits(now, actions)
        return self._assigned(now, actions)

    def unusable(self, now: float, link: Link) -> list[Action]:
        """A used connection was found closed before anything was sent on it."""
        connection = self._connections[link]
        actions: list[Action] = []
        self._upstreams[connection.upstream].hear(connection)
        self._count_use(now, connection, actions, was_closed=True)
        self._close(connection, actions)
        self._put_in_front(self._requests[connection.ticket])
        return self._assigned(now, actions)

    def sent(self, now: float, link: Link) -> int:
        """A request is being sent. Returns to which upstream."""
        connection = self._connections[link]
        request = self._requests[connection.ticket]
        self._upstreams[connection.upstream].send(connection, now, request.ordered)
        request.ordered = None
        return connection.upstream

    def heard(self, now: float, link: Link) -> None:
        """The first octets of a response are here. Not to be told of one that came whole: ``finished`` says it."""
        connection = self._connections[link]
        self._upstreams[connection.upstream].answer_begins(connection, now)

    def finished(self, now: float, link: Link, outcome: Outcome, *, again: bool = False) -> list[Action]:
        """A request was sent, and is over.

        Args:
            again: another try is wanted. Only for failures.
        """
        connection = self._connections[link]
        upstream = self._upstreams[connection.upstream]
        request = self._requests[connection.ticket]
        actions: list[Action] = []
        self._learn(now, connection, outcome, actions)
        is_kept = outcome is Outcome.REUSABLE and self._may_stay(now, connection, upstream)
        if is_kept:
            self._rest(now, connection, upstream)
        else:
            self._close(connection, actions)
        if again:
            self._put_back(now, request, upstream, actions)
        else:
            del self._requests[request.ticket]
        self._assign(now, actions)
        if connection.state is LinkState.IDLE and connection.idle_since == now:
            self._linger(now, connection, upstream, actions)
        return actions

    def closed(self, now: float, link: Link) -> list[Action]:
        """A connection is closed."""
        connection = self._connections[link]
        self._upstreams[connection.upstream].closing -= 1
        self._drop(connection)
        return self._assigned(now, [])

    def looked(self, now: float, link: Link, *, is_open: bool) -> list[Action]:
        """A connection was looked at."""
        connection = self._connections.get(link)
        if connection is None or connection.state is not LinkState.ON_TRIAL:
            return []
        actions: list[Action] = []
        upstream = self._upstreams[connection.upstream]
        if upstream.keeping.judge(now, is_open=is_open):
            actions.append(Tell(Event.NOT_KEPT, upstream.index, upstream.limit))
        self._close(connection, actions)
        return self._assigned(now, actions)

    def probed(self, now: float, upstream: int, *, is_good: bool) -> list[Action]:
        """An ejected upstream could be connected, or not."""
        self._probing.discard(upstream)
        one = self._upstreams[upstream]
        if one.health is not Health.EJECTED:
            return []
        if not is_good:
            self._probe_later(now, one)
            return []
        one.restore()
        self._refusing_since = None
        return self._assigned(now, [Tell(Event.RESTORED, upstream, one.limit)])

    def tick(self, now: float) -> list[Action]:
        """Time has passed, or the budget has something to lease again."""
        actions: list[Action] = []
        for when, timer, number in self._timers.due(now):
            self._ring(when, now, timer, number, actions)
        self._end_waits(now, actions)
        return self._assigned(now, actions)

    def close_idle(self) -> list[Action]:
        """The end has come: keep nothing, also of what is still busy."""
        self._is_over = True
        actions: list[Action] = []
        for connection in self._connections.values():
            if connection.state in (LinkState.IDLE, LinkState.ON_TRIAL):
                self._close(connection, actions)
        return actions

    def next_deadline(self) -> float:
        """When ``tick`` must be called at the latest."""
        soonest = self._timers.soonest
        for request in self._line.heads():
            soonest = min(soonest, request.deadline, self._give_up_at(request))
        self.deadline_hint = soonest
        return soonest

    def snapshot(self) -> PoolSnapshot:
        """What can be seen from outside."""
        return PoolSnapshot(
            waiting={kind: self._line.length_of(kind) for kind in Kind},
            upstreams=tuple(upstream.snapshot() for upstream in self._upstreams),
        )

    # Who gets what

    def _stand_in_line(self, request: Request) -> None:
        self._line.append(request)
        self._hint_at(request)

    def _assigned(self, now: float, actions: list[Action]) -> list[Action]:
        self._assign(now, actions)
        return actions

    def _assign(self, now: float, actions: list[Action]) -> None:
        """Serve the line as far as there are connections. A save that must leave the reserve alone is passed by."""
        while not all(map(_IS_FULL, self._upstreams)):
            for request in self._line.heads():
                if self._place(now, request, actions):
                    break
            else:
                return

    def _place(self, now: float, request: Request, actions: list[Action]) -> bool:
        """Give a request a connection, or let one be opened for it; if it stands in the line, it leaves that."""
        for upstream in self._choice(request):
            if upstream.idle and not request.needs_fresh and upstream.health is Health.GOOD:
                connection = upstream.idle[-1]
                if not self._use_for(request.kind, connection, upstream):
                    continue
                upstream.idle.pop()
                upstream.busy += 1
                self._line.discard(request)
                actions.append(self._hand(now, connection, request))
                return True
            if not (upstream.is_available(now) or (request.is_last_try and upstream.health is Health.GOOD)):
                continue
            if upstream.has_room(request.kind) and self._budget.lease(upstream.index, request.kind):
                self._line.discard(request)
                actions.append(self._open(now, upstream, request))
                return True
            if upstream.idle and not upstream.closing and upstream.has_room_for(request.kind):
                self._close(upstream.idle[0], actions)  # makes room for a fresh one
        return False

    def _choice(self, request: Request) -> Sequence[Upstream]:
        """The upstreams, the best one first: least loaded, then in turns."""
        if len(self._upstreams) == 1:
            return self._upstreams
        self._turn += 1
        return sorted(
            self._upstreams,
            key=lambda one: (
                one.index in request.refused_by,
                one.load,
                not one.idle,
                (one.index + self._turn) % len(self._upstreams),
            ),
        )

    def _use_for(self, kind: Kind, connection: Connection, upstream: Upstream) -> bool:
        """Use an idle connection for a kind, if the reserve permits it."""
        if connection.kind is kind:
            return upstream.has_room_for(kind)
        if not upstream.has_room_for(kind) or not self._budget.change(upstream.index, connection.kind, kind):
            return False
        upstream.saves += (kind is _SAVE) - (connection.kind is _SAVE)
        connection.kind = kind
        return True

    def _open(self, now: float, upstream: Upstream, request: Request) -> Open:
        link = Link(next(self._links))
        self._connections[link] = Connection(
            link=link, upstream=upstream.index, kind=request.kind, ticket=request.ticket, since=now
        )
        upstream.open += 1
        upstream.busy += 1
        upstream.opening += 1
        upstream.saves += request.kind is Kind.SAVE
        request.phase = Phase.OPENING
        request.link = link
        request.ordered = now
        if len(self._upstreams) > 1:
            self._set_timer(now + self._rules.slow_connect_seconds, Timer.SLOW, link)
        seconds = min(self._rules.connect_seconds, max(request.deadline - now, 0.0))
        return Open(link, upstream.index, request.ticket, seconds)

    def _hand(self, now: float, connection: Connection, request: Request) -> Hand:
        is_used = connection.requests > 0
        connection.state = LinkState.BUSY
        connection.ticket = request.ticket
        upstream = self._upstreams[connection.upstream]
        upstream.begin(connection)
        connection.keeps = upstream.may_keep(connection, now) and (len(self._line) > 0 or self._expects_more())
        if connection.keeps:
            upstream.keeping.ask(connection.link)
        request.phase = Phase.BUSY
        request.link = connection.link
        if request.ordered is None:
            request.ordered = now
        return Hand(connection.link, request.ticket, is_used, connection.keeps)

    # What becomes of a connection

    def _may_stay(self, now: float, connection: Connection, upstream: Upstream) -> bool:
        return (
            connection.keeps
            and not self._is_over
            and now - connection.since < self._rules.max_kept_seconds
            and upstream.open <= upstream.wanted
            and not upstream.must_yield(connection)
        )

    def _rest(self, now: float, connection: Connection, upstream: Upstream) -> None:
        if connection.kind is not _VALIDATE:
            self._budget.change(upstream.index, connection.kind, _VALIDATE)
            upstream.saves -= connection.kind is _SAVE
            connection.kind = _VALIDATE
        if upstream.keeping.is_on_trial(connection.link):
            connection.state = LinkState.ON_TRIAL
            self._set_timer(now + TRIAL_SECONDS, Timer.TRIAL, connection.link)
            return
        connection.state = LinkState.IDLE
        connection.idle_since = now
        upstream.busy -= 1
        upstream.idle.append(connection)

    def _linger(self, now: float, connection: Connection, upstream: Upstream, actions: list[Action]) -> None:
        """Nobody waits for it: keep it for a moment only where somebody is likely to come within that."""
        if self._expects_more() and len(upstream.idle) <= max(1, upstream.limit // _IDLE_SHARE):
            if upstream.linger_at == NEVER:
                self._linger_until(now + self._rules.linger_seconds, upstream)
        else:
            self._close(connection, actions)

    def _expects_more(self) -> bool:
        return self._gap < self._rules.linger_seconds / 2

    def _close(self, connection: Connection, actions: list[Action]) -> None:
        upstream = self._upstreams[connection.upstream]
        if connection.state is LinkState.IDLE:
            upstream.idle.remove(connection)
        else:
            upstream.busy -= 1
        connection.state = LinkState.CLOSING
        upstream.closing += 1
        actions.append(Close(connection.link))

    def _drop(self, connection: Connection) -> None:
        """A connection is no more: its place is free."""
        upstream = self._upstreams[connection.upstream]
        if connection.state is LinkState.OPENING:
            upstream.busy -= 1
            upstream.opening -= 1
        upstream.open -= 1
        upstream.saves -= connection.kind is Kind.SAVE
        upstream.keeping.forget(connection.link)
        self._budget.release(upstream.index, connection.kind)
        del self._connections[connection.link]

    def _connection_of(self, request: Request) -> Connection:
        assert request.link is not None, "the phase says that there is one"
        return self._connections[request.link]

    # Failures

    def _learn(self, now: float, connection: Connection, outcome: Outcome, actions: list[Action]) -> None:
        """What an outcome says of the upstream."""
        upstream = self._upstreams[connection.upstream]
        upstream.end(connection)
        match outcome:
            case Outcome.REUSABLE | Outcome.ANSWERED:
                if upstream.answer(connection, now):
                    actions.append(Tell(Event.RESTORED, upstream.index, upstream.limit))
            case Outcome.UNEXECUTED | Outcome.BROKEN | Outcome.TIMEOUT:
                if upstream.fail(_FAILURES[outcome]):
                    self._eject(now, upstream, actions)
            case Outcome.ABANDONED:
                pass
            case _:
                assert_never(outcome)
        if connection.requests > 1:
            was_closed = outcome in (Outcome.UNEXECUTED, Outcome.BROKEN)
            self._count_use(now, connection, actions, was_closed=was_closed)
        if upstream.lower_limit():
            actions.append(Tell(Event.LIMIT_LOWERED, upstream.index, upstream.limit))
            self._raise_later(now, upstream)

    def _count_use(self, now: float, connection: Connection, actions: list[Action], *, was_closed: bool) -> None:
        """A used connection was found closed, or not."""
        upstream = self._upstreams[connection.upstream]
        if upstream.keeping.add(now, was_closed=was_closed):
            actions.append(Tell(Event.NOT_KEPT, upstream.index, upstream.limit))

    def _fail_to_connect(self, now: float, connection: Connection, actions: list[Action]) -> None:
        upstream = self._upstreams[connection.upstream]
        self._drop(connection)
        upstream.refuse(now)
        if upstream.fail(Failure.NOT_CONNECTED):
            self._eject(now, upstream, actions)
        self._set_timer(upstream.retry_at, Timer.RETRY, upstream.index)
        if self._refusing_since is None and all(one.connect_failures for one in self._upstreams):
            self._refusing_since = connection.since
            self.deadline_hint = now

    def _eject(self, now: float, upstream: Upstream, actions: list[Action]) -> None:
        """Never the last one."""
        if all(one.health is Health.EJECTED for one in self._upstreams if one is not upstream):
            return
        upstream.health = Health.EJECTED
        actions.append(Tell(Event.EJECTED, upstream.index, upstream.limit))
        self._probe_later(now, upstream)

    def _put_back(self, now: float, request: Request, upstream: Upstream, actions: list[Action]) -> None:
        """Another try: at once the first time, then after pauses that grow; not for ever where everybody refuses."""
        is_first = not request.refused_by
        request.needs_fresh = True
        request.refused_by.add(upstream.index)
        if all(one.connect_failures or one.index in request.refused_by for one in self._upstreams):
            request.refused_since = now if request.refused_since is None else request.refused_since
        if now >= request.deadline:
            self._refuse(request, Refusal.WAITED, actions)
        elif request.refused_since is not None and now >= request.refused_since + self._rules.give_up_seconds:
            self._refuse(request, Refusal.REFUSED, actions)
        elif is_first:
            self._put_in_front(request)
        else:
            request.phase = Phase.PAUSED
            last = NEVER if request.refused_since is None else request.refused_since + self._rules.give_up_seconds
            self._set_timer(min(now + request.pause, last), Timer.PAUSE, request.ticket)
            request.pause = min(2 * request.pause, self._rules.longest_pause_seconds)

    def _put_in_front(self, request: Request) -> None:
        self._line.put_back(request)
        self._hint_at(request)

    def _hint_at(self, request: Request) -> None:
        self.deadline_hint = min(self.deadline_hint, request.deadline, self._give_up_at(request))

    def _refuse(self, request: Request, refusal: Refusal, actions: list[Action]) -> None:
        del self._requests[request.ticket]
        actions.append(Fail(request.ticket, refusal))

    # Time

    def _set_timer(self, when: float, timer: Timer, number: int) -> None:
        self._timers.add(when, timer, number)
        self.deadline_hint = min(self.deadline_hint, when)

    def _ring(self, when: float, now: float, timer: Timer, number: int, actions: list[Action]) -> None:
        match timer:
            case Timer.LINGER:
                self._end_lingers(now, self._upstreams[number], actions)
            case Timer.TRIAL:
                connection = self._connections.get(Link(number))
                if connection is not None and connection.state is LinkState.ON_TRIAL:
                    actions.append(Look(connection.link))
            case Timer.SLOW:
                self._end_slow_opening(now, self._connections.get(Link(number)), actions)
            case Timer.PAUSE:
                request = self._requests.get(Ticket(number))
                if request is not None and request.phase is Phase.PAUSED:
                    self._put_in_front(request)
            case Timer.RETRY:
                pass  # the line is looked at in any case
            case Timer.PROBE:
                upstream = self._upstreams[number]
                if upstream.health is Health.EJECTED and when == upstream.probe_at:
                    self._probe(now, upstream, actions)
            case Timer.RAISE:
                upstream = self._upstreams[number]
                if when == upstream.raise_at:
                    self._raise_limit(now, upstream, actions)
            case _:
                assert_never(timer)

    def _linger_until(self, when: float, upstream: Upstream) -> None:
        upstream.linger_at = when
        self._set_timer(when, Timer.LINGER, upstream.index)

    def _end_lingers(self, now: float, upstream: Upstream, actions: list[Action]) -> None:
        """End those that were idle long enough; the others are looked at when the first of them will have been.

        So there is one timer for an upstream, and not one for each request, most of which would find nothing to do.
        """
        upstream.linger_at = NEVER
        idle, seconds = upstream.idle, self._rules.linger_seconds
        while idle and now >= idle[0].idle_since + seconds:  # the last is used first, so these stand in order
            self._close(idle[0], actions)
        if idle:
            self._linger_until(idle[0].idle_since + seconds, upstream)

    def _end_slow_opening(self, now: float, connection: Connection | None, actions: list[Action]) -> None:
        """Let a request that waits for a slow connection go elsewhere, if there is somebody who answers."""
        if connection is None or connection.state is not LinkState.OPENING:
            return
        others = (one for one in self._upstreams if one.index != connection.upstream)
        if not any(one.health is Health.GOOD and not one.connect_failures for one in others):
            return
        request = self._requests[connection.ticket]
        actions.append(Abandon(connection.link, request.ticket))
        self._fail_to_connect(now, connection, actions)
        request.refused_by.add(connection.upstream)
        self._put_in_front(request)

    def _raise_limit(self, now: float, upstream: Upstream, actions: list[Action]) -> None:
        upstream.raise_limit()
        actions.append(Tell(Event.LIMIT_RAISED, upstream.index, upstream.limit))
        if upstream.limit < self._rules.max_connections:
            self._raise_later(now, upstream)

    def _raise_later(self, now: float, upstream: Upstream) -> None:
        upstream.raise_at = now + upstream.raise_pause
        self._set_timer(upstream.raise_at, Timer.RAISE, upstream.index)

    def _probe(self, now: float, upstream: Upstream, actions: list[Action]) -> None:
        if upstream.index in self._probing:  # an earlier one is late
            self._probe_later(now, upstream)
        else:
            self._probing.add(upstream.index)
            actions.append(Probe(upstream.index))

    def _probe_later(self, now: float, upstream: Upstream) -> None:
        upstream.probe_at = now + self._rules.probe_seconds
        self._set_timer(upstream.probe_at, Timer.PROBE, upstream.index)

    def _end_waits(self, now: float, actions: list[Action]) -> None:
        """Let those go whose time is over."""
        for kind in Kind:
            while (request := self._line.first_of(kind)) is not None:
                if now >= request.deadline:
                    self._line.remove(request)
                    self._refuse(request, Refusal.WAITED, actions)
                elif now < self._give_up_at(request):
                    break
                elif request.is_last_try or not self._try_last(now, request, actions):
                    self._line.remove(request)
                    self._refuse(request, Refusal.REFUSED, actions)

    def _try_last(self, now: float, request: Request, actions: list[Action]) -> bool:
        request.is_last_try = True
        return self._place(now, request, actions)

    def _give_up_at(self, request: Request) -> float:
        """When a request that waits gives up because every upstream refuses."""
        if self._refusing_since is None:
            return NEVER
        return max(request.began, self._refusing_since) + self._rules.give_up_seconds
