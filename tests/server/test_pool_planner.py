"""Single rules of the planner, told step by step."""

from typing import Final

from tests.server.test_pool_model import PoolMachine
from trio_fcgimail.server.pool import Kind, LocalBudget, Planner, PoolRules
from trio_fcgimail.server.pool.model import (
    Action,
    Close,
    Event,
    Fail,
    Hand,
    Link,
    Open,
    Outcome,
    Refusal,
    Ticket,
)

RULES: Final = PoolRules(max_connections=4)


def planner(rules: PoolRules = RULES) -> Planner:
    return Planner(1, rules, LocalBudget(1, rules.max_connections, rules.reserve))


def opened(pool: Planner, now: float, ticket: int) -> tuple[Link, Hand]:
    """Let a request have a connection of its own."""
    (order,) = pool.want(now, Ticket(ticket), Kind.SAVE)
    assert isinstance(order, Open)
    (hand,) = pool.opened(now, order.link)
    assert isinstance(hand, Hand)
    pool.sent(now, order.link)
    return order.link, hand


def served(pool: Planner, now: float, link: Link) -> list[Action]:
    pool.heard(now, link)
    return pool.finished(now, link, Outcome.REUSABLE)


def test_who_waits_gets_the_connection_that_comes_free() -> None:
    pool = planner()
    links = [opened(pool, 0, number)[0] for number in range(4)]
    assert pool.want(0, Ticket(10), Kind.SAVE) == []
    assert pool.want(0, Ticket(11), Kind.VALIDATE) == []
    assert served(pool, 0.001, links[2]) == [Close(links[2])]  # nobody waited when it was sent
    (order,) = pool.closed(0.001, links[2])
    assert isinstance(order, Open)
    assert order.ticket == 10
    (hand,) = pool.opened(0.001, order.link)
    assert hand == Hand(order.link, Ticket(10), is_used=False, keep_connection=True)
    pool.sent(0.001, order.link)
    assert served(pool, 0.002, order.link) == [Hand(order.link, Ticket(11), is_used=True, keep_connection=False)]


def test_a_connection_found_closed_goes_and_the_request_stays_first() -> None:
    pool = planner(PoolRules(max_connections=2))
    links = [opened(pool, 0, number)[0] for number in range(2)]
    for number in range(10, 13):
        assert pool.want(0, Ticket(number), Kind.SAVE) == []
    pool.finished(0.001, links[0], Outcome.ANSWERED)
    (order,) = pool.closed(0.001, links[0])
    assert isinstance(order, Open)
    pool.opened(0.001, order.link)
    pool.sent(0.001, order.link)
    assert served(pool, 0.002, order.link) == [Hand(order.link, Ticket(11), is_used=True, keep_connection=False)]
    assert pool.unusable(0.002, order.link) == [Close(order.link)]
    (again,) = pool.closed(0.002, order.link)
    assert isinstance(again, Open)
    assert again.ticket == 11


def test_nobody_waits_when_requests_come_seldom() -> None:
    pool = planner()
    for second in range(1, 20):
        link, hand = opened(pool, second, second)
        assert not hand.keep_connection
        assert served(pool, second + 0.001, link) == [Close(link)]
        assert pool.closed(second + 0.001, link) == []


def test_the_limit_of_the_line() -> None:
    pool = planner(PoolRules(max_connections=1, max_waiting=1))
    opened(pool, 0, 1)
    assert pool.want(0, Ticket(2), Kind.SAVE) == []
    assert pool.want(0, Ticket(3), Kind.VALIDATE) == [Fail(Ticket(3), Refusal.QUEUE_FULL)]
    assert pool.cancel(0, Ticket(2)) == []
    assert pool.want(0, Ticket(4), Kind.SAVE) == []


class Busy(PoolMachine):
    """A model of php-fpm under a load that never ends; what the planner tells is kept."""

    def __init__(self, *, connections: int, children: int) -> None:
        super().__init__()
        self.begin(
            upstreams=1,
            max_connections=connections,
            reserve=0,
            children=children,
            max_requests=1_000_000,
            keep_alive=True,
            most=100,
        )

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            while len(self.mails) < 20:
                self.want(kind=Kind.SAVE, count=1)
            self.step()
            self.connections_are_within_the_limits()

    @property
    def limit(self) -> int:
        return self.planner.snapshot().upstreams[0].limit


def test_more_connections_than_children_are_noticed_and_tried_again_later() -> None:
    busy = Busy(connections=8, children=2)
    busy.run(2000)
    lowered = [tell for tell in busy.news if tell.event is Event.LIMIT_LOWERED]
    assert [tell.limit for tell in lowered[:2]] == [7, 6]
    lowest = busy.limit
    assert lowest < 8
    while busy.mails:
        busy.step()
    busy.wait(1000)
    assert busy.limit == 8
    assert busy.news[-1].event is Event.LIMIT_RAISED


def test_as_many_connections_as_children_are_left_alone() -> None:
    busy = Busy(connections=4, children=4)
    busy.run(2000)
    assert busy.limit == 4
    assert busy.news == []
