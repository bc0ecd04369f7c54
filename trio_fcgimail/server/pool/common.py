"""One budget for several pools of a process: those before a reload and the one behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import final
from weakref import WeakSet

from trio_fcgimail.config import UpstreamAddress
from trio_fcgimail.server.pool.model import Kind


@final
class CommonBudget:
    """What all pools together have leased, by upstream.

    Attributes:
        open: Connections.
        saves: Those of them that save.
    """

    def __init__(self) -> None:
        self.open: Counter[UpstreamAddress] = Counter()
        self.saves: Counter[UpstreamAddress] = Counter()
        self._shares: WeakSet[Share] = WeakSet()

    def share(self, upstreams: Sequence[UpstreamAddress], max_connections: int, reserve: int) -> Share:
        """The budget of one pool, with limits of its own, which hold over all of them.

        Args:
            upstreams: in the order in which the pool counts them.
            max_connections: to each.
            reserve: of those, kept from saves; of a single connection none is.
        """
        share = Share(self, tuple(upstreams), max_connections, max(max_connections - reserve, 1))
        self._shares.add(share)
        return share

    def tell_others(self, giver: Share) -> None:
        """Somebody gave something back."""
        for share in tuple(self._shares):
            if share is not giver:
                share.be_told()


@final
class Share:
    """A :class:`~trio_fcgimail.server.pool.budget.Budget` that others lease from as well."""

    def __init__(
        self, common: CommonBudget, upstreams: tuple[UpstreamAddress, ...], max_connections: int, max_saves: int
    ) -> None:
        self._common = common
        self._upstreams = upstreams
        self._max_connections = max_connections
        self._max_saves = max_saves
        self._told: Callable[[], None] = lambda: None
        self._was_refused = False

    def lease(self, upstream: int, kind: Kind) -> bool:
        """Take the right to one more connection, if there is one."""
        address = self._upstreams[upstream]
        if self._common.open[address] >= self._max_connections or not self._may(address, kind):
            self._was_refused = True
            return False
        self._common.open[address] += 1
        self._common.saves[address] += kind is Kind.SAVE
        return True

    def change(self, upstream: int, old: Kind, new: Kind) -> bool:
        """Use a leased connection for another kind, if that may be."""
        address = self._upstreams[upstream]
        if old is new:
            return True
        if not self._may(address, new):
            self._was_refused = True
            return False
        self._common.saves[address] += (new is Kind.SAVE) - (old is Kind.SAVE)
        if old is Kind.SAVE:
            self._common.tell_others(self)
        return True

    def release(self, upstream: int, kind: Kind) -> None:
        """Give one back."""
        address = self._upstreams[upstream]
        self._common.open[address] -= 1
        self._common.saves[address] -= kind is Kind.SAVE
        self._common.tell_others(self)

    def watch(self, told: Callable[[], None]) -> None:
        """Whom to tell that others gave something back."""
        self._told = told

    def settle(self) -> None:
        """Nothing is ever set aside."""

    def be_told(self) -> None:
        """Others gave something back; of interest to who was refused."""
        if self._was_refused:
            self._was_refused = False
            self._told()

    def _may(self, address: UpstreamAddress, kind: Kind) -> bool:
        return kind is not Kind.SAVE or self._common.saves[address] < self._max_saves
