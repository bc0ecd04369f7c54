"""Single rules of the planner, told step by step."""

from typing import Final

import pytest

from tests.server.test_pool_model import Manners, PoolMachine
from trio_fcgimail.server.pool import Kind, LocalBudget, Planner, PoolRules
from trio_fcgimail.server.pool.keeping import TRIAL_SECONDS, Keeping
from trio_fcgimail.server.pool.model import (
    Action,
    Close,
    Event,
    Fail,
    Hand,
    Link,
    Look,
    Open,
    Outcome,
    Refusal,
    Tell,
    Ticket,
)

RULES: Final = PoolRules(max_connections=4, is_known_to_keep=True)


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
    pool = planner(PoolRules(max_connections=2, is_known_to_keep=True))
    links = [opened(pool, 0, number)[0] for number in range(2)]
    for number in range(10, 13):
        assert pool.want(0, Ticket(number), Kind.SAVE) == []
    pool.finished(0.001, links[0], Outcome.ANSWERED)
    (order,) = pool.closed(0.001, links[0])
    assert isinstance(order, Open)
    pool.opened(0.001, order.link)
    pool.sent(0.001, order.link)
    assert served(pool, 0.002, order.link) == [Hand(order.link, Ticket(11), is_used=True, keep_connection=True)]
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


def put_on_trial(pool: Planner, now: float) -> tuple[Link, list[Action]]:
    """Four connections, then somebody who waits: the next connection is asked to stay. What comes of its answer."""
    links = [opened(pool, now, 100 + number)[0] for number in range(4)]
    for number in range(10, 13):
        assert pool.want(now, Ticket(number), Kind.SAVE) == []
    pool.finished(now, links[0], Outcome.ANSWERED)
    (order,) = pool.closed(now, links[0])
    assert isinstance(order, Open)
    (hand,) = pool.opened(now, order.link)
    assert hand == Hand(order.link, Ticket(10), is_used=False, keep_connection=True)
    pool.sent(now, order.link)
    return order.link, served(pool, now, order.link)


def test_the_first_connection_that_stays_is_looked_at_before_any_is_used_again() -> None:
    pool = planner(PoolRules(max_connections=4))
    link, actions = put_on_trial(pool, 1)
    assert actions == []  # though two wait
    assert pool.next_deadline() == 1 + TRIAL_SECONDS
    assert pool.tick(1 + TRIAL_SECONDS) == [Look(link)]
    assert pool.looked(1.02, link, is_open=True) == [Close(link)]
    (order,) = pool.closed(1.02, link)
    assert isinstance(order, Open)
    (hand,) = pool.opened(1.02, order.link)
    assert hand == Hand(order.link, Ticket(11), is_used=False, keep_connection=True)
    pool.sent(1.02, order.link)
    assert served(pool, 1.021, order.link) == [Hand(order.link, Ticket(12), is_used=True, keep_connection=False)]


def test_where_connections_do_not_stay_none_is_asked_to_until_another_trial() -> None:
    pool = planner(PoolRules(max_connections=4))
    link, _ = put_on_trial(pool, 1)
    assert pool.tick(1 + TRIAL_SECONDS) == [Look(link)]
    assert pool.looked(1.02, link, is_open=False) == [Tell(Event.NOT_KEPT, 0, 4), Close(link)]
    (order,) = pool.closed(1.02, link)
    assert isinstance(order, Open)
    (hand,) = pool.opened(1.02, order.link)
    assert hand == Hand(order.link, Ticket(11), is_used=False, keep_connection=False)
    (told,) = [one for one in served(pool, 11.03, order.link) if isinstance(one, Close)]
    (order,) = pool.closed(11.03, told.link)
    assert isinstance(order, Open)
    pool.want(11.03, Ticket(14), Kind.SAVE)
    (hand,) = pool.opened(11.03, order.link)
    assert hand == Hand(order.link, Ticket(12), is_used=False, keep_connection=True)


def test_a_pool_that_ends_keeps_no_connection_on_trial() -> None:
    pool = planner(PoolRules(max_connections=4))
    link, _ = put_on_trial(pool, 1)
    assert pool.close_idle() == [Close(link)]


def test_who_is_found_closing_again_and_again_keeps_no_more() -> None:
    keeping = Keeping(is_certain=False)
    assert not keeping.judge(0, is_open=True)
    assert keeping.permits(0)
    told = [keeping.add(5, was_closed=bool(number % 3)) for number in range(20)]  # two of three
    assert told.count(True) == 1
    assert not keeping.permits(5)
    assert keeping.permits(16)


@pytest.mark.parametrize("certain", [True, False], ids=["certain", "proven"])
def test_workers_that_retire_now_and_then_change_nothing(certain: bool) -> None:
    keeping = Keeping(is_certain=certain)
    keeping.judge(0, is_open=True)
    assert not any(keeping.add(5, was_closed=not number % 5) for number in range(1000))
    assert keeping.permits(5)


def test_trials_become_rarer_and_are_told_of_once() -> None:
    keeping = Keeping(is_certain=False)
    now, pauses, told = 0.0, [], []
    for _ in range(7):
        told.append(keeping.judge(now, is_open=False))
        before = now
        while not keeping.permits(now):
            now += 1
        pauses.append(now - before)
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    assert told == [True, False, False, False, False, False, False]


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
            manners=Manners.CERTAIN,
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


def test_a_connection_that_was_for_another_stage_was_no_save() -> None:
    budget = LocalBudget(1, 3, 1)
    assert budget.lease(0, Kind.POLICY)
    assert budget.change(0, Kind.POLICY, Kind.VALIDATE)
    assert budget.lease(0, Kind.SAVE)
    assert budget.lease(0, Kind.SAVE)
    assert not budget.change(0, Kind.VALIDATE, Kind.SAVE)
