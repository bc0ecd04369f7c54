"""A child's side of the leases: answers at once from what it holds, and asks the parent for more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, final

from trio_fcgimail.server.workers.leases import Use


class Asking(Protocol):
    """What goes to the parent; nothing of it waits."""

    def ask(self, upstream: str, use: Use) -> None:
        """For one connection; one answer comes, when there is one."""

    def lower(self, upstream: str) -> None:
        """One connection is for no save any more."""

    def release(self, upstream: str, use: Use) -> None:
        """One connection fewer."""


@final
class SharedBudget:
    """The budget of one child, as its pool sees it.

    The right to a save outlives the save by as long as its connection: a connection that is kept and used for the next
    save costs no question. While saves of others wait for such a right (``scarcity``), it is given back at once.

    Args:
        upstreams: their addresses, in the order of the settings.
        parent: whom to ask.
    """

    def __init__(self, upstreams: Sequence[str], parent: Asking) -> None:
        self._stocks = [_Stock(upstream) for upstream in upstreams]
        self._by_name = {stock.upstream: stock for stock in self._stocks}
        self._parent = parent
        self._told: Callable[[], None] = lambda: None

    # From the pool

    def lease(self, upstream: int, use: Use) -> bool:
        """Take the right to one more connection, if there is one; else it is asked for, and ``watch`` tells."""
        stock = self._stocks[upstream]
        is_save = use is Use.SAVE
        if stock.held > stock.used and (not is_save or stock.saves_held > stock.saves_used):
            stock.used += 1
            stock.saves_used += is_save
            return True
        if use not in stock.asked:
            stock.asked.add(use)
            self._parent.ask(stock.upstream, use)
        return False

    def change(self, upstream: int, old: Use, new: Use) -> bool:
        """Use a leased connection for something else, if that may be; always when it is no save."""
        stock = self._stocks[upstream]
        if old is new:
            return True
        if new is Use.SAVE:
            if stock.saves_held <= stock.saves_used:
                return False
            stock.saves_used += 1
            return True
        stock.saves_used -= 1
        if stock.is_scarce:
            self._lower(stock)
        return True

    def release(self, upstream: int, use: Use) -> None:
        """Give one back: the connection is closed."""
        stock = self._stocks[upstream]
        stock.used -= 1
        stock.saves_used -= use is Use.SAVE
        self._give_back(stock)

    def watch(self, told: Callable[[], None]) -> None:
        """Have ``told`` called whenever there is something to lease that was refused before."""
        self._told = told

    # From the parent

    def granted(self, upstream: str, use: Use) -> None:
        """What was asked for is there; when nobody wants it any more, it goes back."""
        stock = self._by_name[upstream]
        stock.asked.discard(use)
        stock.held += 1
        stock.saves_held += use is Use.SAVE
        self._told()
        self._give_back(stock)

    def scarcity(self, upstream: str, is_scarce: bool) -> None:
        """Whether the right to a save is wanted elsewhere. Upstreams of other settings are none of ours."""
        stock = self._by_name.get(upstream)
        if stock is not None:
            stock.is_scarce = is_scarce
            if is_scarce:
                self._lower(stock)

    def _lower(self, stock: _Stock) -> None:
        while stock.saves_held > stock.saves_used:
            stock.saves_held -= 1
            self._parent.lower(stock.upstream)

    def _give_back(self, stock: _Stock) -> None:
        while stock.held > stock.used:
            use = Use.SAVE if stock.saves_held > stock.saves_used else Use.VALIDATE
            stock.held -= 1
            stock.saves_held -= use is Use.SAVE
            self._parent.release(stock.upstream, use)


@final
class _Stock:
    """What is held of one upstream, by the parent's book, and what is in use of that."""

    __slots__ = ("asked", "held", "is_scarce", "saves_held", "saves_used", "upstream", "used")

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.held = self.saves_held = 0
        self.used = self.saves_used = 0
        self.asked: set[Use] = set()
        self.is_scarce = False
