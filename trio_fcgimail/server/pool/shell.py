"""Carries out on Trio what the planner decides.

Whoever makes a request connects for it, sends it and closes after it, in its own task: a request costs no task but
those of the exchange. ``Pool.run`` has what is nobody's: it ends idle connections, rings the timers and probes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Final, assert_never, final

import structlog.typing
import trio

from trio_fcgimail.config import UpstreamAddress
from trio_fcgimail.fastcgi import ConstantParams
from trio_fcgimail.mail import Answer, Parameter
from trio_fcgimail.server.alarms import Alarms
from trio_fcgimail.server.pool.budget import Budget, LocalBudget
from trio_fcgimail.server.pool.model import (
    NEVER,
    Abandon,
    Action,
    Close,
    Event,
    Fail,
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
    Trip,
)
from trio_fcgimail.server.pool.planner import Planner
from trio_fcgimail.server.upstream import (
    Body,
    CleanEnd,
    Connect,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnexecuted,
    connect,
    exchange,
    has_input,
)
from trio_fcgimail.server.wire import SocketWire, close

_NO_PARAMS: Final = ConstantParams()
_UNKNOWN_TRIES: Final = {Kind.VALIDATE: 2, Kind.POLICY: 1, Kind.SAVE: 1}  # tries of which the script may have run

_OUTCOMES: Final[dict[type[UpstreamError], Outcome]] = {
    UpstreamUnexecuted: Outcome.UNEXECUTED,
    UpstreamBroken: Outcome.BROKEN,
    UpstreamTimeout: Outcome.TIMEOUT,
}


@final
class _Waiter:
    """A request on its way to a connection: what the planner has for it."""

    __slots__ = ("connecting", "order", "told")

    def __init__(self) -> None:
        self.order: Open | Hand | Fail | None = None
        self.told: trio.Event | None = None  # only while it waits
        self.connecting: trio.CancelScope | None = None

    def tell(self, order: Open | Hand | Fail) -> None:
        self.order = order
        if self.told is not None:
            self.told.set()

    async def next_order(self) -> Open | Hand | Fail:
        while self.order is None:
            self.told = trio.Event()
            await self.told.wait()
            self.told = None
        order, self.order = self.order, None
        return order


@final
class Pool:
    """The connections to the upstreams of one configuration.

    Requests may be made at once; ``run`` must be running, or nothing is ended in time.

    Args:
        addresses: of the upstreams, at least one.
        clean_end: what a clean end without a response means, at all of them.
        log: told of ejections, of limits, and of requests that are tried again; None for nobody.
        connect: how connections come about.
        budget: what they are leased from; None for one of our own.
    """

    def __init__(
        self,
        addresses: Sequence[UpstreamAddress],
        rules: PoolRules,
        *,
        clean_end: CleanEnd = CleanEnd.UNKNOWN,
        log: structlog.typing.FilteringBoundLogger | None = None,
        connect: Connect = connect,
        budget: Budget | None = None,
    ) -> None:
        self._addresses = tuple(addresses)
        self._names = tuple(map(str, self._addresses))
        self._rules = rules
        self._clean_end = clean_end
        self._log = log
        self._connect = connect
        self._budget = budget or LocalBudget(len(self._addresses), rules.max_connections, rules.reserve)
        self._budget.watch(self._be_told_of_room)
        self._planner = Planner(len(self._addresses), rules, self._budget)
        self._tickets = itertools.count(1)
        self._waiters: dict[Ticket, _Waiter] = {}
        self._streams: dict[Link, trio.abc.Stream] = {}
        self._wires: dict[Link, SocketWire] = {}  # of those that are sockets
        self._alarms = Alarms()
        self._problems: dict[int, UpstreamUnavailable] = {}  # the latest of each upstream that cannot be connected
        self._actions: deque[Action] = deque()
        self._probes: list[int] = []
        self._sleeps_until = -NEVER  # run() is awake, or does not run
        self._awake = trio.Event()

    def snapshot(self) -> PoolSnapshot:
        """The state of the pool, for whoever wants to see it."""
        return self._planner.snapshot()

    async def run(self) -> None:
        """Do what is due, until cancelled; then nothing is kept any more."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._alarms.run)
                while True:
                    for upstream in self._probes:
                        nursery.start_soon(self._probe, upstream)
                    self._probes.clear()
                    self._sleeps_until = self._planner.next_deadline()
                    with trio.move_on_at(self._sleeps_until):
                        await self._awake.wait()
                    self._awake = trio.Event()  # who sets it from here on is heard in the next round
                    self._sleeps_until = -NEVER
                    actions = self._planner.tick(trio.current_time())
                    self._budget.settle()
                    await self._carry_out(actions)
        finally:
            with trio.CancelScope(shield=True):
                await self._carry_out(self._planner.close_idle())

    async def request(
        self,
        kind: Kind,
        parameters: Sequence[Parameter],
        body: Body | None,
        *,
        seconds: float,
        constant: ConstantParams = _NO_PARAMS,
        trip: Trip | None = None,
    ) -> Answer:
        """Make a request, and make it again as far as that can double nothing (docs/design.md, "Upstream").

        All tries begin within ``wait_seconds``.

        Args:
            seconds: for each try, from the first octet sent.
            constant: more parameters, which go before the others.
            trip: told where it went.

        Raises:
            UpstreamError: the last try's; UpstreamUnavailable when none got as far as a connection.
        """
        ticket = Ticket(next(self._tickets))
        trip = Trip() if trip is None else trip
        problem: UpstreamError | None = None
        now = trio.current_time()
        actions = self._planner.want(now, ticket, kind)
        hand = self._at_once(actions, ticket)
        if hand is not None:
            try:
                return await self._try(now, hand, parameters, constant, body, seconds, trip)
            except UpstreamError as exc:
                problem = exc
        waiter = self._waiters[ticket] = _Waiter()
        unknown_tries = _UNKNOWN_TRIES[kind]
        try:
            if actions and hand is None:
                await self._carry_out(actions)
            elif hand is None:
                self._wake_in_time()
            while True:
                if hand is not None and problem is not None:
                    unknown_tries -= not isinstance(problem, UpstreamUnexecuted)
                    await self._finish(hand.link, _OUTCOMES[type(problem)], again=unknown_tries > 0)
                    if not unknown_tries:
                        raise problem
                hand = await self._obtain(ticket, waiter, problem)
                if problem is not None:
                    self._tell_retry(kind, problem)
                try:
                    return await self._try(trio.current_time(), hand, parameters, constant, body, seconds, trip)
                except UpstreamError as exc:
                    problem = exc
        finally:
            del self._waiters[ticket]

    def _at_once(self, actions: Sequence[Action], ticket: Ticket) -> Hand | None:
        """The connection that a new request has got without waiting, if it is good: most often all is as simple."""
        if len(actions) != 1:
            return None
        action = actions[0]
        return action if isinstance(action, Hand) and action.ticket == ticket and not self._is_stale(action) else None

    def _is_stale(self, hand: Hand) -> bool:
        """Whether a connection was closed while it was idle."""
        return hand.is_used and has_input(self._streams[hand.link])

    async def _obtain(self, ticket: Ticket, waiter: _Waiter, problem: UpstreamError | None) -> Hand:
        """Wait for a connection.

        Raises:
            UpstreamError: there will be none.
        """
        try:
            while True:
                match await waiter.next_order():
                    case Open() as order:
                        await self._open(order, waiter)
                    case Hand() as hand:
                        if not self._is_stale(hand):
                            return hand
                        await self._carry_out(self._planner.unusable(trio.current_time(), hand.link))
                    case Fail(refusal=refusal):
                        raise self._explain(refusal, problem)
                    case order:
                        assert_never(order)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._carry_out(self._planner.cancel(trio.current_time(), ticket))
            raise

    async def _open(self, order: Open, waiter: _Waiter) -> None:
        """Connect, unless the planner thinks better of it meanwhile."""
        stream: trio.abc.Stream | None = None
        problem: UpstreamUnavailable | None = None
        with trio.CancelScope() as scope:
            waiter.connecting = scope
            try:
                stream = await self._connect(self._addresses[order.upstream], seconds=order.seconds)
            except UpstreamUnavailable as exc:
                problem = exc
        waiter.connecting = None
        if problem is not None:
            self._problems[order.upstream] = problem
        if scope.cancel_called:  # the link is gone
            if stream is not None:
                await close(stream)
        elif stream is None:
            await self._carry_out(self._planner.failed_to_open(trio.current_time(), order.link))
        else:
            self._streams[order.link] = stream
            if isinstance(stream, trio.SocketStream):
                self._wires[order.link] = SocketWire(stream, self._alarms)
            self._problems.pop(order.upstream, None)
            await self._carry_out(self._planner.opened(trio.current_time(), order.link))

    async def _try(
        self,
        now: float,
        hand: Hand,
        parameters: Sequence[Parameter],
        constant: ConstantParams,
        body: Body | None,
        seconds: float,
        trip: Trip,
    ) -> Answer:
        """One exchange. A failure that may be tried again is left to the caller to tell."""
        link = hand.link
        trip.upstream = self._names[self._planner.sent(now, link)]
        try:
            reply = await exchange(
                self._streams[link],
                parameters,
                body,
                seconds=seconds,
                keep_connection=hand.keep_connection,
                clean_end=self._clean_end,
                heard=lambda at: self._planner.heard(at, link),
                constant=constant,
                wire=self._wires.get(link),
                began=now,
            )
        except UpstreamError:
            trip.seconds = trio.current_time() - now
            raise
        except BaseException:
            trip.seconds = trio.current_time() - now
            with trio.CancelScope(shield=True):
                await self._finish(link, Outcome.ABANDONED)
            raise
        ended = reply.received_at
        trip.seconds = ended - now
        outcome = Outcome.REUSABLE if reply.is_reusable else Outcome.ANSWERED
        if actions := self._planner.finished(ended, link, outcome):
            await self._carry_out(actions)
        else:
            self._wake_in_time()
        return reply.answer

    async def _finish(self, link: Link, outcome: Outcome, *, again: bool = False) -> None:
        await self._carry_out(self._planner.finished(trio.current_time(), link, outcome, again=again))

    def _explain(self, refusal: Refusal, problem: UpstreamError | None) -> UpstreamError:
        """Why there is no connection: what went wrong last, if anything did."""
        if problem is not None:
            return problem
        if refusal is Refusal.REFUSED:
            problems = "; ".join(str(self._problems[one]) for one in sorted(self._problems))
            return UpstreamUnavailable(problems or refusal.value)
        if refusal is Refusal.WAITED:
            return UpstreamUnavailable(f"{refusal.value} within {self._rules.wait_seconds:g} s")
        return UpstreamUnavailable(refusal.value)

    # Carrying out

    async def _carry_out(self, actions: Sequence[Action]) -> None:
        """Do it, and what comes of it. Nothing here waits, save for streams that are no sockets to be closed."""
        todo = deque(actions)
        while todo:
            match todo.popleft():
                case Open(ticket=ticket) | Hand(ticket=ticket) | Fail(ticket=ticket) as order:
                    self._waiters[ticket].tell(order)
                case Abandon(ticket=ticket):
                    scope = self._waiters[ticket].connecting
                    assert scope is not None, "the planner abandons only what is opening"
                    scope.cancel()
                case Close(link=link):
                    wire = self._wires.pop(link, None)
                    if wire is not None:
                        wire.release()
                    await close(self._streams.pop(link))
                    todo.extend(self._planner.closed(trio.current_time(), link))
                case Probe(upstream=upstream):
                    self._probes.append(upstream)
                case Look(link=link):
                    is_open = not has_input(self._streams[link])
                    todo.extend(self._planner.looked(trio.current_time(), link, is_open=is_open))
                case Tell() as news:
                    self._tell(news)
                case action:
                    assert_never(action)
        self._wake_in_time()

    def _wake_in_time(self) -> None:
        """Have ``run`` know of what is due sooner than it thinks."""
        if self._planner.deadline_hint < self._sleeps_until:
            self._awake.set()

    def _be_told_of_room(self) -> None:
        self._awake.set()

    async def _probe(self, upstream: int) -> None:
        """See whether an ejected upstream can be connected."""
        seconds = min(self._rules.probe_seconds, self._rules.connect_seconds)
        try:
            stream = await self._connect(self._addresses[upstream], seconds=seconds)
        except UpstreamUnavailable as exc:
            self._problems[upstream] = exc
            is_good = False
        else:
            await close(stream)
            self._problems.pop(upstream, None)
            is_good = True
        await self._carry_out(self._planner.probed(trio.current_time(), upstream, is_good=is_good))
        self._awake.set()

    # The log

    def _tell(self, news: Tell) -> None:
        if self._log is None:
            return
        address = str(self._addresses[news.upstream])
        match news.event:
            case Event.EJECTED:
                problem = str(self._problems.get(news.upstream, "its requests fail"))
                self._log.warning("upstream ejected", upstream=address, problem=problem)
            case Event.RESTORED:
                self._log.info("upstream is back", upstream=address)
            case Event.LIMIT_LOWERED:
                self._log.warning("connection limit lowered", upstream=address, limit=news.limit)
            case Event.LIMIT_RAISED:
                self._log.info("connection limit raised", upstream=address, limit=news.limit)
            case Event.NOT_KEPT:
                self._log.info("upstream keeps no connections", upstream=address)
            case event:
                assert_never(event)

    def _tell_retry(self, kind: Kind, problem: UpstreamError) -> None:
        if self._log is not None:
            self._log.info("asking again", stage=kind.value, problem=f"{type(problem).__name__}: {problem}")
