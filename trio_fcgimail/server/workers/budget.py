"""A child's side of the leases: answers at once from what it holds, and asks the parent for more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NoReturn, Protocol, final

import trio

from trio_fcgimail.server.pool import Kind

_LOOK_SECONDS: Final = 0.02  # ours: between two looks; as long as a connection is kept


class Asking(Protocol):
    """What goes to the parent; nothing of it waits."""

    def ask(self, upstream: str, use: Kind) -> None:
        """For one connection; one answer comes, when there is one."""

    def lower(self, upstream: str) -> None:
        """One connection is for no save any more."""

    def release(self, upstream: str, use: Kind) -> None:
        """One connection fewer."""


@final
class SharedBudget:
    """The budget of one child, as its pool sees it.

    The right to a save outlives the save by as long as its connection: a connection that is kept and used for the next
    save costs no question. That holds while others wait, too, who have it when the connection is closed, or was used
    for no save for a while: handed over after each save it would cost both sides more than the save. So does a lease
    outlive its connection, as long as this child holds no more than its share, or each connection would cost three
    messages. While others wait (``scarcity``), a lease without a connection is given back.

    Run ``run``, or those who wait for a save may wait for as long as a connection is used for something else.

    Args:
        upstreams: their addresses, in the order of the settings.
        parent: whom to ask.
        share: leases of each upstream that may be kept in stock.
    """

    def __init__(self, upstreams: Sequence[str], parent: Asking, share: int = 0) -> None:
        self._share = share
        self._stocks = [_Stock(upstream) for upstream in upstreams]
        self._by_name = {stock.upstream: stock for stock in self._stocks}
        self._parent = parent
        self._told: Callable[[], None] = lambda: None
        self._is_forsaken = False
        self._others_wait = trio.Event()

    async def run(self) -> NoReturn:
        """Look after what is held while others wait, until cancelled."""
        while True:
            await self._others_wait.wait()
            await trio.sleep(_LOOK_SECONDS)
            if not self.look():
                self._others_wait = trio.Event()

    def look(self) -> bool:
        """Give back the rights to a save that nobody has used since the last look; whether to look again."""
        if self._is_forsaken:
            return False
        scarce = [stock for stock in self._stocks if stock.is_scarce]
        for stock in scarce:
            while stock.saves_held - stock.fresh_saves > stock.most_saves:
                stock.saves_held -= 1
                self._parent.lower(stock.upstream)
            stock.most_saves = stock.saves_used
        return bool(scarce)

    # From the pool

    def lease(self, upstream: int, use: Kind) -> bool:
        """Take the right to one more connection, if there is one; else it is asked for, and ``watch`` tells."""
        stock = self._stocks[upstream]
        is_save = use is Kind.SAVE
        has_right = not is_save or stock.has_save
        if stock.held > stock.used and has_right:
            stock.used += 1
            stock.use_saves(is_save)
            stock.fresh = max(stock.fresh - 1, 0)
            stock.fresh_saves = min(max(stock.fresh_saves - is_save, 0), stock.fresh)
            return True
        # All others are validations to the parent, and so is a save whose right is here, but for the connection.
        asked = Kind.VALIDATE if has_right else Kind.SAVE
        if asked not in stock.asked and not self._is_forsaken:
            stock.asked.add(asked)
            self._parent.ask(stock.upstream, asked)
        return False

    def change(self, upstream: int, old: Kind, new: Kind) -> bool:
        """Use a leased connection for something else, if that may be; always when it is no save."""
        stock = self._stocks[upstream]
        if old is new:
            return True
        if new is Kind.SAVE:
            if not stock.has_save:
                return False
            stock.use_saves(1)
            return True
        if old is Kind.SAVE:
            stock.saves_used -= 1
        return True

    def release(self, upstream: int, use: Kind) -> None:
        """Give one back: the connection is closed."""
        stock = self._stocks[upstream]
        stock.used -= 1
        stock.saves_used -= use is Kind.SAVE
        self._give_back(stock)

    def watch(self, told: Callable[[], None]) -> None:
        """Have ``told`` called whenever there is something to lease that was refused before."""
        self._told = told

    def settle(self) -> None:
        """Whoever waits has leased; what was granted to somebody who has given up meanwhile goes back."""
        for stock in self._stocks:
            stock.fresh = stock.fresh_saves = 0
            self._give_back(stock)

    # From the parent

    def granted(self, upstream: str, use: Kind) -> None:
        """What was asked for is there, until ``settle``."""
        stock = self._by_name[upstream]
        stock.asked.discard(use)
        stock.held += 1
        stock.fresh += 1
        if use is Kind.SAVE:
            stock.saves_held += 1
            stock.fresh_saves += 1
        self._told()

    def scarcity(self, upstream: str, is_scarce: bool) -> None:
        """Whether somebody waits for a lease. Upstreams of other settings are none of ours."""
        stock = self._by_name.get(upstream)
        if stock is not None:
            stock.is_scarce = is_scarce
            if is_scarce:
                self._others_wait.set()
                self._give_back(stock)

    def forsake(self, share: int) -> None:
        """The parent is gone: mails under way have these connections to each upstream, and what is held already.

        Args:
            share: at least 1, so that they come to their end; a parent that is new knows nothing of them.
        """
        self._is_forsaken = True
        for stock in self._stocks:
            stock.held = max(stock.held, share)
            stock.saves_held = max(stock.saves_held, share)
        self._told()

    def _give_back(self, stock: _Stock) -> None:
        if self._is_forsaken:
            return
        kept = 0 if stock.is_scarce else self._share
        while stock.held - stock.fresh > max(stock.used, kept):
            is_save = stock.saves_held - stock.fresh_saves > stock.saves_used
            use = Kind.SAVE if is_save else Kind.VALIDATE
            stock.held -= 1
            stock.saves_held -= use is Kind.SAVE
            self._parent.release(stock.upstream, use)


@final
class _Stock:
    """What is held of one upstream, by the parent's book, and what is in use of that.

    What is fresh was granted, and set aside for whoever waits: it is neither lowered nor given back before ``settle``,
    or two children who wait for the last save would hand it to and fro.
    """

    __slots__ = (
        "asked",
        "fresh",
        "fresh_saves",
        "held",
        "is_scarce",
        "most_saves",
        "saves_held",
        "saves_used",
        "upstream",
        "used",
    )

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.held = self.saves_held = 0
        self.used = self.saves_used = 0
        self.most_saves = 0  # used at once since the last look
        self.fresh = self.fresh_saves = 0
        self.asked: set[Kind] = set()
        self.is_scarce = False

    @property
    def has_save(self) -> bool:
        """Whether there is a right to one more save."""
        return self.saves_held > self.saves_used

    def use_saves(self, more: int) -> None:
        """Use so many more rights."""
        self.saves_used += more
        self.most_saves = max(self.most_saves, self.saves_used)
