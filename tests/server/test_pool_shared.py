"""The pools of several children that lease from one desk: none is overdrawn, none waits for ever. Time is faked."""

import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import final

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from tests.support import Line, settings
from trio_fcgimail.config import UnixAddress, UpstreamAddress
from trio_fcgimail.server.pool import Kind, Pool, PoolRules
from trio_fcgimail.server.upstream import UpstreamUnavailable
from trio_fcgimail.server.workers.budget import SharedBudget
from trio_fcgimail.server.workers.channel import (
    AskLease,
    FromDesk,
    LeaseGranted,
    LeasesScarce,
    LowerLease,
    ReleaseLease,
)
from trio_fcgimail.server.workers.desk import Desk

pytestmark = pytest.mark.trio

PHP = UnixAddress("/run/php/php-fpm.sock")


@final
class Child:
    """A pool, its budget, and the way to the desk, which takes its time."""

    def __init__(self, town: "Town", rules: PoolRules) -> None:
        self._town = town
        self._holder = town.desk.join(self._hear)
        self._said: deque[AskLease | LowerLease | ReleaseLease] = deque()
        self._heard: deque[FromDesk] = deque()
        self.budget = SharedBudget([str(PHP)], self, town.share)
        self.asked = self.said = 0  # so many questions, and messages in all
        self.pool = Pool([PHP], rules, connect=town.connect, budget=self.budget)

    def ask(self, upstream: str, use: Kind) -> None:
        self.asked += 1
        self._say(AskLease(upstream, use))

    def lower(self, upstream: str) -> None:
        self._say(LowerLease(upstream))

    def release(self, upstream: str, use: Kind) -> None:
        self._say(ReleaseLease(upstream, use))

    def _say(self, message: AskLease | LowerLease | ReleaseLease) -> None:
        self.said += 1
        self._said.append(message)
        self._town.nursery.start_soon(self._arrive_there)

    async def _arrive_there(self) -> None:
        await self._town.travel()
        self._town.desk.hear(self._holder, self._said.popleft())

    def _hear(self, message: FromDesk) -> None:
        self._heard.append(message)
        self._town.nursery.start_soon(self._arrive_here)

    async def _arrive_here(self) -> None:
        await self._town.travel()
        while self._heard:  # what arrives at once is heard at once, before the pool does anything
            match self._heard.popleft():
                case LeaseGranted(upstream=upstream, use=use):
                    self.budget.granted(upstream, use)
                case LeasesScarce(upstream=upstream, is_scarce=is_scarce):
                    self.budget.scarcity(upstream, is_scarce)


@final
class Town:
    """The desk, and the FastCGI server.

    Attributes:
        may_answer: Unset, scripts run until it is set.
        share: What a child may keep in stock.
    """

    def __init__(self, nursery: trio.Nursery, most: int, reserve: int, chance: random.Random, share: int = 0) -> None:
        fastcgi = f"[fastcgi]\nmax_connections = {most}\nreserve_for_validate = {reserve}"
        self.desk = Desk(settings(fastcgi))
        self.nursery = nursery
        self.share = share
        self.open = self.saves = self.most_open = self.most_saves = 0
        self.may_answer = trio.Event()
        self.may_answer.set()
        self._chance = chance

    async def travel(self) -> None:
        await trio.sleep(self._chance.choice((0, 0.0001, 0.001)))

    async def connect(self, address: UpstreamAddress, *, seconds: float) -> trio.abc.Stream:
        """Stands in for `upstream.connect`."""
        await trio.sleep(0.0001)
        ours, theirs = lockstep_stream_pair()
        self.nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        try:
            line = Line(stream)
            while True:
                request = await line.request()
                self.open += 1
                self.saves += request.is_post
                self.most_open = max(self.most_open, self.open)
                self.most_saves = max(self.most_saves, self.saves)
                await trio.sleep(self._chance.choice((0, 0.001, 0.01)))
                await self.may_answer.wait()
                self.open -= 1
                self.saves -= request.is_post
                await line.answer(b"SAVED")
        except (EOFError, trio.BrokenResourceError):
            await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept", "closed"])
@pytest.mark.parametrize(("most", "reserve"), [(1, 0), (2, 0), (2, 1), (5, 1)])
@pytest.mark.parametrize("share", [0, 1, 5], ids=["no-stock", "some-in-stock", "all-in-stock"])
@pytest.mark.parametrize("seed", range(3))
async def test_nobody_waits_for_ever_and_nothing_is_overdrawn(
    seed: int, share: int, most: int, reserve: int, keep_alive: bool, autojump_clock: MockClock
) -> None:
    chance = random.Random(seed)
    rules = PoolRules(max_connections=most, reserve=reserve, keep_alive=keep_alive, wait_seconds=20, connect_seconds=1)
    async with trio.open_nursery() as nursery:
        town = Town(nursery, most, reserve, chance, share)
        children = [Child(town, rules) for _ in range(3)]
        for child in children:
            nursery.start_soon(child.pool.run)
            nursery.start_soon(child.budget.run)

        async def client(child: Child) -> None:
            for _ in range(15):
                await trio.sleep(chance.choice((0, 0.001, 0.03)))
                kind = chance.choice(tuple(Kind))
                method = b"POST" if kind is Kind.SAVE else b"GET"
                await child.pool.request(kind, [(b"REQUEST_METHOD", method)], None, seconds=5)

        began = trio.current_time()
        async with trio.open_nursery() as clients:
            for number in range(12):
                clients.start_soon(client, children[number % 3])
        assert trio.current_time() - began < 10
        assert town.most_open <= most
        assert town.most_saves <= max(most - reserve, 1)
        await trio.sleep(1)
        assert [child.pool.snapshot().upstreams[0].open for child in children] == [0, 0, 0]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _two_children(
    most: int, reserve: int, *, wait_seconds: float = 20
) -> AsyncIterator[tuple[Town, Child, Child]]:
    """Their pools run; at the end, with nothing under way, nothing is leased."""
    rules = PoolRules(max_connections=most, reserve=reserve, wait_seconds=wait_seconds, is_known_to_keep=True)
    async with trio.open_nursery() as nursery:
        town = Town(nursery, most, reserve, random.Random(1))
        children = Child(town, rules), Child(town, rules)
        for child in children:
            nursery.start_soon(child.pool.run)
            nursery.start_soon(child.budget.run)
        yield town, *children
        town.may_answer.set()
        await trio.sleep(1)
        for child in children:
            shown = child.pool.snapshot()
            assert (shown.upstreams[0].open, any(shown.waiting.values())) == (0, False)
        assert _free(town.desk) == most
        nursery.cancel_scope.cancel()


def _free(desk: Desk) -> int:
    """What a child that is new could have at once."""
    granted: list[FromDesk] = []

    def hear(message: FromDesk) -> None:
        if isinstance(message, LeaseGranted):
            granted.append(message)

    holder = desk.join(hear)
    before = -1
    while before < len(granted):
        before = len(granted)
        desk.hear(holder, AskLease(str(PHP), Kind.VALIDATE))
    return len(granted)


async def _ask(child: Child, kind: Kind, times: int = 1) -> float:
    """Requests one after the other; the longest of them, in seconds."""
    method = b"POST" if kind is Kind.SAVE else b"GET"
    longest = 0.0
    for _ in range(times):
        began = trio.current_time()
        await child.pool.request(kind, [(b"REQUEST_METHOD", method)], None, seconds=60)
        longest = max(longest, trio.current_time() - began)
    return longest


async def test_who_comes_to_a_quiet_child_waits_no_longer_than_those_of_a_busy_one(autojump_clock: MockClock) -> None:
    waits: dict[str, list[float]] = {"busy": [], "quiet": []}

    async def client(child: Child, name: str) -> None:
        waits[name].append(await _ask(child, Kind.SAVE, 40))

    async with _two_children(2, 0) as (_, busy, quiet), trio.open_nursery() as clients:
        for _ in range(20):
            clients.start_soon(client, busy, "busy")
        clients.start_soon(client, quiet, "quiet")
    assert max(waits["quiet"]) <= max(waits["busy"]) < 1


async def test_wait_seconds_hold_where_another_child_has_everything(autojump_clock: MockClock) -> None:
    async with _two_children(2, 0, wait_seconds=3) as (town, one, other), trio.open_nursery() as nursery:
        town.may_answer = trio.Event()
        for _ in range(2):
            nursery.start_soon(_ask, one, Kind.SAVE)
        await trio.sleep(1)
        began = trio.current_time()
        with pytest.raises(UpstreamUnavailable, match="no free connection within 3 s"):
            await _ask(other, Kind.SAVE)
        assert trio.current_time() - began == pytest.approx(3)
        town.may_answer.set()
        await trio.sleep(0.1)
        assert await _ask(other, Kind.SAVE) < 0.1


async def test_validations_of_a_child_have_the_reserve_whoever_saves(autojump_clock: MockClock) -> None:
    async with _two_children(3, 1) as (town, one, other), trio.open_nursery() as nursery:
        town.may_answer = trio.Event()
        for child in (one, other):
            for _ in range(5):
                nursery.start_soon(_ask, child, Kind.SAVE)
        await trio.sleep(1)
        assert (town.open, town.saves) == (2, 2)
        nursery.start_soon(_ask, other, Kind.VALIDATE)
        await trio.sleep(0.1)
        assert (town.open, town.saves) == (3, 2)
        town.may_answer.set()


@pytest.mark.parametrize("kind", Kind, ids=attrgetter("name"))
@pytest.mark.parametrize("seconds", [0, 0.00005, 0.0005, 0.5])
async def test_who_leaves_while_the_desk_is_asked_leaves_no_trace(
    seconds: float, kind: Kind, autojump_clock: MockClock
) -> None:
    """Before the question arrives, while it waits in line, and while the answer is on its way."""
    async with _two_children(1, 0) as (town, one, other), trio.open_nursery() as nursery:
        town.may_answer = trio.Event()
        nursery.start_soon(_ask, one, Kind.SAVE)
        await trio.sleep(1)
        with trio.move_on_after(seconds) as scope:
            await _ask(other, kind)
        assert scope.cancelled_caught
        assert not any(other.pool.snapshot().waiting.values())
        town.may_answer.set()
        await trio.sleep(1)
        assert await _ask(one, Kind.SAVE) < 0.1
        assert await _ask(other, Kind.SAVE) < 0.1


async def test_what_is_in_stock_costs_no_question_until_somebody_waits(autojump_clock: MockClock) -> None:
    rules = PoolRules(max_connections=2, reserve=0, keep_alive=False)
    async with trio.open_nursery() as nursery:
        town = Town(nursery, 2, 0, random.Random(1), share=2)
        one, two = Child(town, rules), Child(town, rules)
        for child in (one, two):
            nursery.start_soon(child.pool.run)
            nursery.start_soon(child.budget.run)
        await _ask(one, Kind.SAVE, 20)
        asked, said = one.asked, one.said
        assert (asked, said) == (1, 1)
        await _ask(two, Kind.SAVE, 20)
        assert two.asked == 1
        async with trio.open_nursery() as clients:
            for child in (one, two):
                for _ in range(4):
                    clients.start_soon(_ask, child, Kind.SAVE, 5)
        assert town.most_open == 2
        nursery.cancel_scope.cancel()
