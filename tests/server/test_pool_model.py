"""The planner against a model of php-fpm, step by step in any order that hypothesis finds.

The model has children that a connection pins from its acceptance to its close, a listen queue, workers that retire
(answer, half-close, and discard what comes until we close), kills, reloads, and an upstream that refuses.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_fcgimail.server.pool import Kind, LocalBudget, Planner, PoolRules
from trio_fcgimail.server.pool.keeping import TRIAL_SECONDS
from trio_fcgimail.server.pool.model import (
    Abandon,
    Action,
    Close,
    Fail,
    Hand,
    Link,
    Look,
    Open,
    Outcome,
    Probe,
    Refusal,
    Tell,
    Ticket,
)


class Manners(Enum):
    """What becomes of connections that should stay."""

    CERTAIN = auto()
    """They do, and the planner is told so."""
    KEPT = auto()
    CLOSED = auto()
    """The server closes them behind each answer all the same, as node-fastcgi does."""


WAIT_SECONDS: Final = 20.0
LINGER_SECONDS: Final = 0.005
SERVICE_SECONDS: Final = 0.001


class CountingBudget:
    """A budget that can say how much of it is leased."""

    def __init__(self, upstreams: int, rules: PoolRules) -> None:
        self._budget = LocalBudget(upstreams, rules.max_connections, rules.reserve)
        self.leased: Counter[int] = Counter()
        self.saves: Counter[int] = Counter()

    def lease(self, upstream: int, kind: Kind) -> bool:
        if not self._budget.lease(upstream, kind):
            return False
        self.leased[upstream] += 1
        self.saves[upstream] += kind is Kind.SAVE
        return True

    def change(self, upstream: int, old: Kind, new: Kind) -> bool:
        if not self._budget.change(upstream, old, new):
            return False
        self.saves[upstream] += (new is Kind.SAVE) - (old is Kind.SAVE)
        return True

    def release(self, upstream: int, kind: Kind) -> None:
        self._budget.release(upstream, kind)
        self.leased[upstream] -= 1
        self.saves[upstream] -= kind is Kind.SAVE

    def watch(self, told: Callable[[], None]) -> None:
        self._budget.watch(told)

    def settle(self) -> None:
        self._budget.settle()


@dataclass
class Wire:
    """A connection, as the world has it.

    Attributes:
        opened: When; None as long as it is opening.
        ticket: Whose request is on it.
        is_ended: The worker has half-closed it, or is dead.
        idle_since: Since when there is no request on it.
    """

    link: Link
    upstream: int
    opened: float | None = None
    ticket: Ticket | None = None
    keeps: bool = False
    requests: int = 0
    is_accepted: bool = False
    is_ended: bool = False
    idle_since: float | None = None
    is_closing: bool = False


@dataclass
class Mail:
    """A request, as its owner has it."""

    ticket: Ticket
    kind: Kind
    began: float
    executions: int = 0
    was_put_back: bool = False
    link: Link | None = None
    refusal: Refusal | None = None
    needs_fresh: bool = False


@dataclass
class Fpm:
    """A php-fpm: its free children, who waits in its listen queue, and how much each worker has left."""

    children: int
    max_requests: int
    is_up: bool = True
    queue: list[Link] = field(default_factory=list)
    workers: dict[Link, int] = field(default_factory=dict)  # requests left, by the connection that pins it


class PoolMachine(RuleBasedStateMachine):
    """The world around a planner."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.wires: dict[Link, Wire] = {}
        self.mails: dict[Ticket, Mail] = {}  # those under way
        self.gone: set[Ticket] = set()  # answered, failed, cancelled
        self.probes: list[int] = []
        self.tickets = 0
        self.news: list[Tell] = []

    @initialize(
        upstreams=st.integers(1, 3),
        max_connections=st.integers(1, 6),
        reserve=st.integers(0, 2),
        children=st.integers(1, 4),
        max_requests=st.integers(1, 5),
        keep_alive=st.booleans(),
        most=st.integers(1, 6),
        manners=st.sampled_from(Manners),
    )
    def begin(
        self,
        upstreams: int,
        max_connections: int,
        reserve: int,
        children: int,
        max_requests: int,
        keep_alive: bool,
        most: int,
        manners: Manners,
    ) -> None:
        self.manners = manners
        self.pool_rules = PoolRules(
            max_connections=max_connections,
            reserve=min(reserve, max_connections - 1),
            keep_alive=keep_alive,
            is_known_to_keep=manners is Manners.CERTAIN,
            wait_seconds=WAIT_SECONDS,
            linger_seconds=LINGER_SECONDS,
            max_requests=most,
        )
        self.budget = CountingBudget(upstreams, self.pool_rules)
        self.planner = Planner(upstreams, self.pool_rules, self.budget)
        self.fpms = [Fpm(children, max_requests) for _ in range(upstreams)]

    # What the planner wants

    def carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Open(link=link, upstream=upstream, ticket=ticket, seconds=seconds):
                    mail = self.waiting(ticket)
                    assert 0 <= seconds <= self.pool_rules.connect_seconds
                    assert link not in self.wires
                    assert self.is_first(mail)
                    mail.link = link
                    self.wires[link] = Wire(link, upstream, ticket=ticket)
                case Hand():
                    self.hand(action)
                case Abandon(link=link, ticket=ticket):
                    assert self.mails[ticket].link == link
                    assert self.wires.pop(link).opened is None
                    self.mails[ticket].link = None
                    self.mails[ticket].was_put_back = True
                case Close(link=link):
                    wire = self.wires[link]
                    assert wire.opened is not None
                    assert wire.ticket is None
                    assert not wire.is_closing
                    wire.is_closing = True
                case Fail(ticket=ticket, refusal=refusal):
                    self.waiting(ticket).refusal = refusal
                    self.end(ticket)
                case Probe(upstream=upstream):
                    assert upstream not in self.probes
                    self.probes.append(upstream)
                case Look(link=link):
                    wire = self.wires[link]
                    assert wire.ticket is None
                    assert not wire.is_closing
                    assert self.manners is not Manners.CERTAIN
                    self.carry_out(self.planner.looked(self.now, link, is_open=not wire.is_ended))
                case Tell(limit=limit) as news:
                    assert 1 <= limit <= self.pool_rules.max_connections
                    self.news.append(news)

    def waiting(self, ticket: Ticket) -> Mail:
        """A mail that waits: nobody else is given anything, least of all who left."""
        mail = self.mails[ticket]
        assert mail.link is None
        return mail

    def hand(self, order: Hand) -> None:
        wire, mail = self.wires[order.link], self.mails[order.ticket]
        if wire.ticket is None:  # idle
            assert self.waiting(order.ticket) is mail
            assert self.is_first(mail)
            assert wire.idle_since is not None
        else:
            assert (wire.ticket, wire.requests) == (order.ticket, 0)
        assert order.is_used == (wire.requests > 0)
        assert not (order.is_used and self.manners is Manners.CLOSED)
        assert not (order.is_used and mail.needs_fresh)
        assert not wire.is_closing
        assert wire.opened is not None
        wire.requests += 1
        assert wire.requests == 1 or (self.pool_rules.keep_alive and wire.requests <= self.pool_rules.max_requests)
        assert not (order.keep_connection and wire.requests == self.pool_rules.max_requests)
        wire.ticket, wire.keeps, wire.idle_since = order.ticket, order.keep_connection, None
        mail.link = order.link

    def is_first(self, mail: Mail) -> bool:
        """Nobody of the same kind who came earlier still stands in the line; who was put back is out of order."""
        return mail.was_put_back or not any(
            other.kind is mail.kind and other.link is None and other.began < mail.began and not other.was_put_back
            for other in self.mails.values()
        )

    def end(self, ticket: Ticket) -> None:
        del self.mails[ticket]
        self.gone.add(ticket)

    # What clients do

    @rule(kind=st.sampled_from(Kind), count=st.sampled_from([1, 2, 4, 30]))
    def want(self, kind: Kind, count: int) -> None:
        for _ in range(count):
            self.tickets += 1
            self.now += 1e-6
            ticket = Ticket(self.tickets)
            self.mails[ticket] = Mail(ticket, kind, self.now)
            self.carry_out(self.planner.want(self.now, ticket, kind))

    @precondition(lambda self: self.mails)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        mail = self.mails[data.draw(st.sampled_from(sorted(self.mails)))]
        wire = self.wires.get(mail.link) if mail.link is not None else None
        self.end(mail.ticket)
        if wire is None or wire.opened is None:
            if wire is not None:
                del self.wires[wire.link]
            self.carry_out(self.planner.cancel(self.now, mail.ticket))
        else:
            wire.ticket = None
            self.carry_out(self.planner.finished(self.now, wire.link, Outcome.ABANDONED))

    # What the network does

    def of(self, condition: Callable[[Wire], bool]) -> list[Link]:
        return sorted(link for link, wire in self.wires.items() if condition(wire))

    @precondition(lambda self: self.of(lambda wire: wire.opened is None))
    @rule(data=st.data())
    def connect(self, data: st.DataObject) -> None:
        self.settle(data.draw(st.sampled_from(self.of(lambda wire: wire.opened is None))))

    def settle(self, link: Link) -> None:
        """Let a connection come about, or not."""
        wire = self.wires[link]
        fpm = self.fpms[wire.upstream]
        if not fpm.is_up:
            assert wire.ticket is not None
            del self.wires[link]
            self.mails[wire.ticket].link = None
            self.mails[wire.ticket].was_put_back = True
            self.carry_out(self.planner.failed_to_open(self.now, link))
            return
        wire.opened = self.now
        fpm.queue.append(link)
        self.accept(fpm)
        self.carry_out(self.planner.opened(self.now, link))

    def accept(self, fpm: Fpm) -> None:
        while fpm.queue and len(fpm.workers) < fpm.children:
            link = fpm.queue.pop(0)
            fpm.workers[link] = fpm.max_requests
            self.wires[link].is_accepted = True

    @precondition(lambda self: self.of(lambda wire: wire.is_closing))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.close_one(data.draw(st.sampled_from(self.of(lambda wire: wire.is_closing))))

    def close_one(self, link: Link) -> None:
        wire = self.wires.pop(link)
        fpm = self.fpms[wire.upstream]
        fpm.workers.pop(link, None)
        if link in fpm.queue:
            fpm.queue.remove(link)
        self.accept(fpm)
        self.carry_out(self.planner.closed(self.now, link))

    @precondition(lambda self: self.probes)
    @rule()
    def probe(self) -> None:
        upstream = self.probes.pop(0)
        self.carry_out(self.planner.probed(self.now, upstream, is_good=self.fpms[upstream].is_up))

    # What php-fpm does

    def is_served(self, wire: Wire) -> bool:
        return wire.ticket is not None and wire.requests > 0 and (wire.is_accepted or wire.is_ended)

    @precondition(lambda self: self.of(self.is_served))
    @rule(data=st.data(), is_seen=st.booleans())
    def serve(self, data: st.DataObject, is_seen: bool) -> None:
        self.serve_one(data.draw(st.sampled_from(self.of(self.is_served))), is_seen=is_seen)

    def serve_one(self, link: Link, *, is_seen: bool = True) -> None:
        """Run the script of a connection, or discard its request where the worker has retired.

        Args:
            is_seen: whether an end that came before the request is noticed before it is sent.
        """
        wire = self.wires[link]
        assert wire.ticket is not None
        mail = self.mails[wire.ticket]
        if wire.is_ended:
            wire.ticket = mail.link = None
            mail.was_put_back = True
            if is_seen and wire.requests > 1:
                self.carry_out(self.planner.unusable(self.now, link))
            else:
                self.fail(mail, wire, Outcome.UNEXECUTED)
            return
        fpm = self.fpms[wire.upstream]
        mail.executions += 1
        assert mail.executions == 1
        self.planner.sent(self.now, link)
        self.now += SERVICE_SECONDS
        self.planner.heard(self.now, link)
        fpm.workers[link] -= 1
        wire.is_ended = not fpm.workers[link] or self.manners is Manners.CLOSED
        wire.ticket, wire.idle_since = None, self.now
        self.end(mail.ticket)
        outcome = Outcome.REUSABLE if wire.keeps else Outcome.ANSWERED
        self.carry_out(self.planner.finished(self.now, link, outcome))

    def fail(self, mail: Mail, wire: Wire, outcome: Outcome) -> None:
        mail.needs_fresh = mail.was_put_back = True
        self.carry_out(self.planner.finished(self.now, wire.link, outcome, again=True))

    @precondition(lambda self: self.of(lambda wire: wire.is_accepted and not wire.is_ended))
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        """A worker dies; php-fpm has another at once."""
        wire = self.wires[data.draw(st.sampled_from(self.of(lambda wire: wire.is_accepted and not wire.is_ended)))]
        self.end_worker(wire)

    def end_worker(self, wire: Wire) -> None:
        fpm = self.fpms[wire.upstream]
        del fpm.workers[wire.link]
        wire.is_ended, wire.is_accepted = True, False
        self.accept(fpm)
        if wire.ticket is not None:
            mail = self.mails[wire.ticket]
            wire.ticket = mail.link = None
            self.fail(mail, wire, Outcome.BROKEN)

    @rule(upstream=st.integers(0, 2))
    def reload(self, upstream: int) -> None:
        """All workers die at once; the listen queue survives."""
        for link in list(self.fpms[upstream % len(self.fpms)].workers):
            wire = self.wires[link]
            if wire.is_accepted and not wire.is_ended:
                self.end_worker(wire)

    @rule(upstream=st.integers(0, 2), is_up=st.booleans())
    def switch(self, upstream: int, is_up: bool) -> None:
        """Whether new connections are taken."""
        self.fpms[upstream % len(self.fpms)].is_up = is_up

    # Time

    @rule(seconds=st.sampled_from([0.001, 0.004, 0.02, 0.3, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.planner.next_deadline()) <= until:
            self.now = max(self.now, due)
            self.carry_out(self.planner.tick(self.now))
        self.now = until

    # What must always be so

    @invariant()
    def connections_are_within_the_limits(self) -> None:
        if not hasattr(self, "planner"):
            return
        for upstream, shown in enumerate(self.planner.snapshot().upstreams):
            wires = [wire for wire in self.wires.values() if wire.upstream == upstream]
            assert shown.open == len(wires) == self.budget.leased[upstream] <= self.pool_rules.max_connections
            assert shown.open == shown.opening + shown.busy + shown.idle + shown.closing
            busy = [wire for wire in wires if wire.ticket is not None]
            saves = sum(self.mails[wire.ticket].kind is Kind.SAVE for wire in busy if wire.ticket is not None)
            assert saves <= self.budget.saves[upstream]
            assert self.budget.saves[upstream] <= max(self.pool_rules.max_connections - self.pool_rules.reserve, 1)

    @invariant()
    def nothing_is_idle_for_long(self) -> None:
        for wire in self.wires.values():
            if wire.opened is not None and wire.ticket is None and not wire.is_closing:
                assert self.pool_rules.keep_alive
                assert wire.idle_since is not None
                longest = LINGER_SECONDS if self.manners is Manners.CERTAIN else TRIAL_SECONDS
                assert self.now < wire.idle_since + longest + 1e-9 or self.planner.next_deadline() <= self.now

    @invariant()
    def somebody_is_served_if_somebody_waits(self) -> None:
        """Nobody waits in the line of a healthy pool while there is nothing that will serve it."""
        if not hasattr(self, "planner") or not all(fpm.is_up for fpm in self.fpms):
            return
        if any(mail.link is None for mail in self.mails.values()):
            assert self.wires or self.probes or self.planner.next_deadline() < self.now + WAIT_SECONDS

    def step(self) -> None:
        """Let everything happen that can."""
        for link in self.of(lambda wire: wire.opened is None):
            self.settle(link)
        for link in self.of(self.is_served):
            self.serve_one(link)
        for link in self.of(lambda wire: wire.is_closing):
            self.close_one(link)
        while self.probes:
            self.probe()

    def teardown(self) -> None:
        """Once all is well again, everybody is served or has given up in time, and nothing is left of anybody."""
        if not hasattr(self, "planner"):
            return
        for fpm in self.fpms:
            fpm.is_up = True
        for _ in range(10_000):
            self.step()
            if not self.mails:
                break
            self.wait(0.001)
            self.connections_are_within_the_limits()
        assert not self.mails
        self.wait(LINGER_SECONDS + TRIAL_SECONDS)
        for link in self.of(lambda wire: wire.is_closing):
            self.close_one(link)
        shown = self.planner.snapshot()
        assert not self.wires
        assert not any(shown.waiting.values())
        assert all(upstream.open == 0 for upstream in shown.upstreams)
        assert not any(self.budget.leased.values())
        assert not any(self.budget.saves.values())


TestPool = pytest.mark.filterwarnings("error")(PoolMachine.TestCase)
TestPool.settings = settings(
    max_examples=int(os.environ.get("FCGIMAIL_POOL_EXAMPLES", "150")),
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
