"""The leases of connections that all children share: rows, and a machine of children that come, ask, use and die."""

from collections import Counter, deque
from typing import Final, final

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import MockClock

from trio_fcgimail.server.pool import Kind
from trio_fcgimail.server.workers.budget import SharedBudget
from trio_fcgimail.server.workers.leases import Granted, Holder, LeaseBook, LeaseError, Notice, Scarcity

A: Final = "unix:/a"
B: Final = "unix:/b"


def _book(most: int = 3, reserve: int = 1) -> LeaseBook:
    book = LeaseBook()
    assert book.set_rules([A, B], most, reserve) == []
    return book


def _granted(notices: list[Notice]) -> list[tuple[Holder, Kind]]:
    return [(one.holder, one.use) for one in notices if isinstance(one, Granted)]


def test_the_first_to_ask_is_the_first_to_get() -> None:
    book = _book(1, 0)
    assert book.ask(1, A, Kind.VALIDATE) == [Granted(1, A, Kind.VALIDATE)]
    assert book.ask(2, A, Kind.VALIDATE) == [Scarcity(A, True)]
    assert book.ask(3, A, Kind.VALIDATE) == []
    assert book.ask(3, B, Kind.VALIDATE) == [Granted(3, B, Kind.VALIDATE)]
    assert book.release(1, A, Kind.VALIDATE) == [Granted(2, A, Kind.VALIDATE)]
    assert book.ask(1, A, Kind.VALIDATE) == []
    assert book.release(2, A, Kind.VALIDATE) == [Granted(3, A, Kind.VALIDATE)]
    assert book.release(3, A, Kind.VALIDATE) == [Granted(1, A, Kind.VALIDATE), Scarcity(A, False)]
    assert book.leased(A) == book.leased(B) == 1


def test_saves_leave_the_reserve_alone_whoever_saves() -> None:
    book = _book(3, 1)
    assert _granted(book.ask(1, A, Kind.SAVE) + book.ask(2, A, Kind.SAVE)) == [(1, Kind.SAVE), (2, Kind.SAVE)]
    assert book.ask(3, A, Kind.SAVE) == [Scarcity(A, True)]
    assert book.scarce() == [Scarcity(A, True)]
    assert book.ask(4, A, Kind.VALIDATE) == [Granted(4, A, Kind.VALIDATE)]  # passes by
    assert book.ask(5, A, Kind.VALIDATE) == []
    assert book.lower(1, A) == []  # still open, but no save any more; and there is no other one free
    assert book.release(4, A, Kind.VALIDATE) == [Granted(3, A, Kind.SAVE)]
    assert book.release(1, A, Kind.VALIDATE) == [Granted(5, A, Kind.VALIDATE), Scarcity(A, False)]
    assert book.scarce() == []


@pytest.mark.parametrize("reserve", [0, 1])
def test_of_a_single_connection_none_is_reserved(reserve: int) -> None:
    assert _book(1, reserve).ask(1, A, Kind.SAVE) == [Granted(1, A, Kind.SAVE)]


def test_everything_of_a_dead_child_is_free() -> None:
    book = _book(2, 0)
    for use in (Kind.VALIDATE, Kind.SAVE):
        book.ask(1, A, use)
    book.release(1, A, Kind.SAVE)
    book.ask(1, A, Kind.SAVE)
    book.ask(2, A, Kind.SAVE)
    book.ask(1, A, Kind.VALIDATE)
    book.ask(3, A, Kind.VALIDATE)
    assert _granted(book.forget(1)) == [(2, Kind.SAVE), (3, Kind.VALIDATE)]
    assert book.forget(1) == []
    book.forget(2)
    book.forget(3)
    assert book.leased(A) == 0


def test_new_rules_take_nothing_away_and_give_at_once() -> None:
    book = _book(2, 0)
    for holder in (1, 2, 3):
        book.ask(holder, A, Kind.VALIDATE)
    assert book.set_rules([A], 1, 0) == []
    assert book.release(1, A, Kind.VALIDATE) == []
    assert book.set_rules([A], 2, 0) == [Granted(3, A, Kind.VALIDATE), Scarcity(A, False)]
    assert book.ask(4, B, Kind.VALIDATE) == [Granted(4, B, Kind.VALIDATE)]


def test_who_says_what_it_may_not_is_found_out() -> None:
    book = _book(1, 0)
    book.ask(1, A, Kind.SAVE)
    book.ask(2, A, Kind.SAVE)
    with pytest.raises(LeaseError, match="asked twice"):
        book.ask(2, A, Kind.SAVE)
    for holder, use in ((2, Kind.SAVE), (1, Kind.VALIDATE), (3, Kind.SAVE)):
        with pytest.raises(LeaseError, match="did not have"):
            book.release(holder, A, use)
    with pytest.raises(LeaseError, match="did not have"):
        book.lower(2, A)
    with pytest.raises(LeaseError, match="no upstream"):
        book.ask(1, "unix:/other", Kind.SAVE)
    assert book.leased(A) == 1


@final
class _Child:
    """A child with a pool: connections, requests that wait, and a wire to the parent that takes its time."""

    def __init__(self, holder: Holder, share: int) -> None:
        self.holder = holder
        self.budget = SharedBudget([A, B], self, share)
        self.budget.watch(self.serve)
        self.open: list[tuple[int, Kind]] = []  # each with its use
        self.waiting: list[tuple[int, Kind]] = []
        self.said: deque[tuple[str, str, Kind]] = deque()
        self.heard: deque[Notice] = deque()

    def ask(self, upstream: str, use: Kind) -> None:
        self.said.append(("ask", upstream, use))

    def lower(self, upstream: str) -> None:
        self.said.append(("lower", upstream, Kind.SAVE))

    def release(self, upstream: str, use: Kind) -> None:
        self.said.append(("release", upstream, use))

    def serve(self) -> None:
        for request in tuple(self.waiting):
            if self.budget.lease(*request):
                self.waiting.remove(request)
                self.open.append(request)
        self.budget.settle()


class Machine(RuleBasedStateMachine):
    """Messages take their time, children die and others are born; the book is never overdrawn, and nobody starves."""

    def __init__(self) -> None:
        super().__init__()
        self.book = LeaseBook()
        self.children: dict[Holder, _Child] = {}
        self.born = 0

    @initialize(most=st.integers(1, 4), reserve=st.integers(0, 3), share=st.integers(0, 2))
    def start(self, most: int, reserve: int, share: int) -> None:
        self.most, self.reserve, self.share = most, min(reserve, most - 1), share
        self._tell(self.book.set_rules([A, B], self.most, self.reserve))

    @rule()
    def is_born(self) -> None:
        if len(self.children) < 4:
            self.born += 1
            child = self.children[self.born] = _Child(self.born, self.share)
            child.heard += self.book.scarce()

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        child = self._some(data)
        del self.children[child.holder]
        self._tell(self.book.forget(child.holder))

    @precondition(lambda self: self.children)
    @rule(data=st.data(), upstream=st.integers(0, 1), use=st.sampled_from(Kind))
    def is_wanted(self, data: st.DataObject, upstream: int, use: Kind) -> None:
        child = self._some(data)
        child.waiting.append((upstream, use))
        child.serve()

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def is_given_up(self, data: st.DataObject) -> None:
        child = self._some(data)
        if child.waiting:
            child.waiting.pop()

    @precondition(lambda self: self.children)
    @rule(data=st.data(), new=st.sampled_from(Kind))
    def is_used_again(self, data: st.DataObject, new: Kind) -> None:
        child = self._some(data)
        if child.open:
            upstream, old = child.open.pop(0)
            may = child.budget.change(upstream, old, new)
            assert may or new is Kind.SAVE
            child.open.append((upstream, new if may else old))

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def is_closed(self, data: st.DataObject) -> None:
        child = self._some(data)
        if child.open:
            child.budget.release(*child.open.pop(0))
            child.serve()

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def looks(self, data: st.DataObject) -> None:
        self._some(data).budget.look()

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def is_heard_by_the_parent(self, data: st.DataObject) -> None:
        self._hear(self._some(data))

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def hears_the_parent(self, data: st.DataObject) -> None:
        self._listen(self._some(data))

    @invariant()
    def there_are_never_more_than_may_be(self) -> None:
        for number, upstream in enumerate((A, B)):
            held = Counter(use for child in self.children.values() for one, use in child.open if one == number)
            if self.born:
                assert held.total() <= self.book.leased(upstream) <= self.most
                assert held[Kind.SAVE] <= max(self.most - self.reserve, 1)

    def teardown(self) -> None:
        """When all who use a connection come to an end, all who wait for one have had it, and none is left over."""
        for _ in range(1000):
            for child in self.children.values():
                while child.said:
                    self._hear(child)
                while child.heard:
                    self._listen(child)
                if child.open:
                    child.budget.release(*child.open.pop(0))
                    child.serve()
        assert all(not child.waiting and not child.open for child in self.children.values())
        if self.born:
            assert max(self.book.leased(A), self.book.leased(B)) <= self.share * len(self.children)

    def _some(self, data: st.DataObject) -> _Child:
        return self.children[data.draw(st.sampled_from(sorted(self.children)))]

    def _hear(self, child: _Child) -> None:
        if not child.said:
            return
        what, upstream, use = child.said.popleft()
        match what:
            case "ask":
                self._tell(self.book.ask(child.holder, upstream, use))
            case "lower":
                self._tell(self.book.lower(child.holder, upstream))
            case _:
                self._tell(self.book.release(child.holder, upstream, use))

    def _listen(self, child: _Child) -> None:
        if not child.heard:
            return
        match child.heard.popleft():
            case Granted(upstream=upstream, use=use):
                child.budget.granted(upstream, use)
            case Scarcity(upstream=upstream, is_scarce=is_scarce):
                child.budget.scarcity(upstream, is_scarce)

    def _tell(self, notices: list[Notice]) -> None:
        for notice in notices:
            if isinstance(notice, Scarcity):
                for child in self.children.values():
                    child.heard.append(notice)
            elif notice.holder in self.children:
                self.children[notice.holder].heard.append(notice)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class _Wire:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []

    def ask(self, upstream: str, use: Kind) -> None:
        self.said.append(("ask", upstream, use.value))

    def lower(self, upstream: str) -> None:
        self.said.append(("lower", upstream))

    def release(self, upstream: str, use: Kind) -> None:
        self.said.append(("release", upstream, use.value))


def test_a_kept_connection_is_used_for_save_after_save_without_a_question() -> None:
    wire = _Wire()
    budget = SharedBudget([A], wire)
    assert not budget.lease(0, Kind.SAVE)
    assert not budget.lease(0, Kind.SAVE)  # asked for once
    budget.watch(lambda: None if budget.lease(0, Kind.SAVE) else pytest.fail("it was granted"))
    budget.granted(A, Kind.SAVE)
    for _ in range(3):
        assert budget.change(0, Kind.SAVE, Kind.VALIDATE)
        assert budget.change(0, Kind.VALIDATE, Kind.SAVE)
    assert budget.change(0, Kind.SAVE, Kind.VALIDATE)
    assert wire.said == [("ask", A, "save")]


def test_so_it_is_while_others_wait_who_have_it_when_the_connection_is_closed() -> None:
    wire = _Wire()
    budget = SharedBudget([A], wire, 2)
    budget.watch(lambda: None if budget.lease(0, Kind.SAVE) else pytest.fail("it was granted"))
    assert not budget.lease(0, Kind.SAVE)
    budget.granted(A, Kind.SAVE)
    budget.scarcity(A, True)
    budget.scarcity("unix:/of-other-settings", True)
    for _ in range(3):
        assert budget.change(0, Kind.SAVE, Kind.VALIDATE)
        budget.settle()
        assert budget.change(0, Kind.VALIDATE, Kind.SAVE)
    assert budget.change(0, Kind.SAVE, Kind.VALIDATE)
    assert wire.said == [("ask", A, "save")]
    budget.release(0, Kind.VALIDATE)
    assert wire.said == [("ask", A, "save"), ("release", A, "save")]


@pytest.mark.trio
async def test_a_right_to_a_save_that_nobody_uses_goes_back_while_others_wait(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = _Wire()
    budget = SharedBudget([A, B], wire, 2)
    nursery.start_soon(budget.run)
    budget.watch(lambda: None if budget.lease(0, Kind.SAVE) else pytest.fail("it was granted"))
    for _ in range(2):
        budget.lease(0, Kind.SAVE)
        budget.granted(A, Kind.SAVE)
    budget.change(0, Kind.SAVE, Kind.VALIDATE)  # and so its connection is used for long
    await trio.sleep(10)
    assert wire.said == 2 * [("ask", A, "save")]
    for waits in (True, False, True):
        budget.scarcity(A, waits)
        await trio.sleep(0.01)
        budget.change(0, Kind.VALIDATE, Kind.SAVE)
        budget.change(0, Kind.SAVE, Kind.VALIDATE)
        assert len(wire.said) == 2
    await trio.sleep(0.05)
    assert wire.said[2:] == [("lower", A)]
    assert not budget.change(0, Kind.VALIDATE, Kind.SAVE)
    await trio.sleep(10)
    assert wire.said[2:] == [("lower", A)]  # the other one is in use


def test_a_save_whose_right_is_there_waits_for_a_connection_alone() -> None:
    wire = _Wire()
    budget = SharedBudget([A], wire)
    for _ in range(2):
        budget.lease(0, Kind.SAVE)
        budget.granted(A, Kind.SAVE)
        assert budget.lease(0, Kind.SAVE)
    budget.change(0, Kind.SAVE, Kind.VALIDATE)  # and now its connection is used for long
    budget.scarcity(A, True)
    assert not budget.lease(0, Kind.SAVE)
    assert wire.said == [("ask", A, "save"), ("ask", A, "save"), ("ask", A, "validate")]
    budget.granted(A, Kind.VALIDATE)
    assert budget.lease(0, Kind.SAVE)


def test_a_right_to_a_save_without_a_connection_goes_back_once_others_wait() -> None:
    wire = _Wire()
    budget = SharedBudget([A], wire, 2)
    budget.watch(lambda: None if budget.lease(0, Kind.SAVE) else pytest.fail("it was granted"))
    for _ in range(2):
        assert not budget.lease(0, Kind.SAVE)
        budget.granted(A, Kind.SAVE)
    budget.release(0, Kind.SAVE)
    budget.release(0, Kind.SAVE)
    assert budget.lease(0, Kind.VALIDATE)
    assert wire.said == 2 * [("ask", A, "save")]
    budget.scarcity(A, True)
    assert wire.said[2:] == [("release", A, "save")]
    assert budget.change(0, Kind.VALIDATE, Kind.SAVE)  # the other one


def test_a_grant_that_nobody_wants_any_more_goes_back() -> None:
    wire = _Wire()
    budget = SharedBudget([A], wire)
    budget.lease(0, Kind.SAVE)
    budget.granted(A, Kind.SAVE)
    assert wire.said == [("ask", A, "save")]
    budget.settle()
    budget.settle()
    assert wire.said == [("ask", A, "save"), ("release", A, "save")]
    assert not budget.lease(0, Kind.SAVE)


def test_a_save_that_was_granted_is_not_handed_on_before_it_could_be_taken() -> None:
    wire = _Wire()
    budget = SharedBudget([A], wire)
    budget.lease(0, Kind.SAVE)
    budget.granted(A, Kind.SAVE)
    budget.scarcity(A, True)  # as somebody else waits now
    assert budget.lease(0, Kind.SAVE)
    budget.settle()
    assert wire.said == [("ask", A, "save")]
    budget.release(0, Kind.SAVE)
    budget.lease(0, Kind.SAVE)
    budget.granted(A, Kind.SAVE)
    assert not budget.lease(0, Kind.VALIDATE) or budget.change(0, Kind.VALIDATE, Kind.SAVE)
    budget.settle()
    assert wire.said[-2:] == [("release", A, "save"), ("ask", A, "save")]


def test_what_is_set_aside_is_not_given_back_with_something_else() -> None:
    wire = _Wire()
    budget = SharedBudget([A], wire)
    budget.lease(0, Kind.VALIDATE)
    budget.granted(A, Kind.VALIDATE)
    assert budget.lease(0, Kind.VALIDATE)
    budget.lease(0, Kind.SAVE)
    budget.granted(A, Kind.SAVE)
    budget.release(0, Kind.VALIDATE)
    assert wire.said[2:] == [("release", A, "validate")]
    assert budget.lease(0, Kind.SAVE)


def test_without_a_parent_there_is_a_share() -> None:
    wire = _Wire()
    budget = SharedBudget([A], wire)
    assert not budget.lease(0, Kind.SAVE)
    budget.watch(lambda: None if budget.lease(0, Kind.SAVE) else pytest.fail("there is one"))
    budget.forsake(1)
    assert not budget.lease(0, Kind.VALIDATE)
    budget.release(0, Kind.SAVE)
    budget.settle()
    assert budget.lease(0, Kind.VALIDATE)
    assert budget.change(0, Kind.VALIDATE, Kind.SAVE)
    assert wire.said == [("ask", A, "save")]
