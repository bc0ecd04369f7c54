"""Who takes up how much of the limits that hold over all connections, and the place that one connection has there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Protocol, final

import trio

from trio_fcgimail.config import LimitSettings
from trio_fcgimail.server.limits import REPLIES, Limit
from trio_fcgimail.server.rates import Meter, Network, network_of
from trio_fcgimail.smtp import Reply


class Rate(Enum):
    """What is counted by the minute."""

    CONNECTIONS = Limit.CONNECTIONS_PER_MINUTE_PER_IP
    MESSAGES = Limit.MESSAGES_PER_MINUTE_PER_IP
    RECIPIENTS = Limit.RECIPIENTS_PER_MINUTE_PER_IP


class Ledger(Protocol):
    """The accounts, wherever they are kept. What may be refused is awaited; what is given back never waits."""

    async def enter(self, listener: str = "") -> Limit | None:
        """One more connection in all; the limit that is in its way, else it is to ``leave``.

        Args:
            listener: that it came by (`listener_names`), when that has a limit of its own; else "".
        """

    def leave(self, listener: str = "") -> None:
        """One connection fewer in all, and of the listener that it came by."""

    async def admit(self, network: Network) -> Limit | None:
        """One more connection of a network; the limit that is in its way, else it is to ``release``."""

    def release(self, network: Network) -> None:
        """One connection of a network fewer."""

    async def count(self, rate: Rate, network: Network) -> Limit | None:
        """A network did something that is counted by the minute; the limit that it is over, and then it may not."""


@final
class Accounts:
    """Who takes up how much, of whatever limits.

    Args:
        clock: seconds; must not go back.
        caps: how many connections each listener may have that has a limit of its own.
    """

    def __init__(
        self,
        limits: LimitSettings,
        clock: Callable[[], float] = trio.current_time,
        caps: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._clock = clock
        self._connections = 0
        self._connections_by: Counter[str] = Counter()
        self._connections_of: Counter[Network] = Counter()
        self._meters: dict[Rate, tuple[int, Meter]] = {}  # each with its rate
        self.change(limits, caps)

    def change(self, limits: LimitSettings, caps: Mapping[str, int]) -> None:
        """Have other limits from here on. What is over them stays; a rate that has not changed forgets nothing."""
        self._limits = limits
        self._caps = caps
        before = self._meters
        self._meters = {}
        per_minute: Mapping[Rate, int | None] = {
            Rate.CONNECTIONS: limits.connections_per_minute_per_ip,
            Rate.MESSAGES: limits.messages_per_minute_per_ip,
            Rate.RECIPIENTS: limits.recipients_per_minute_per_ip,
        }
        for rate, most in per_minute.items():
            if most is not None:
                known = before.get(rate)
                self._meters[rate] = known if known is not None and known[0] == most else (most, Meter(most))

    def enter(self, listener: str = "") -> Limit | None:
        """As in `Ledger`."""
        if self._limits.connections is not None and self._connections >= self._limits.connections:
            return Limit.CONNECTIONS
        cap = self._caps.get(listener)
        if cap is not None and self._connections_by[listener] >= cap:
            return Limit.LISTENER_CONNECTIONS
        self._connections += 1
        self._connections_by[listener] += 1
        return None

    def leave(self, listener: str = "") -> None:
        """As in `Ledger`."""
        self._connections -= 1
        self._connections_by[listener] -= 1
        if not self._connections_by[listener]:
            del self._connections_by[listener]

    def admit(self, network: Network) -> Limit | None:
        """As in `Ledger`."""
        most = self._limits.connections_per_ip
        if most is not None and self._connections_of[network] >= most:
            return Limit.CONNECTIONS_PER_IP
        self._connections_of[network] += 1
        return None

    def release(self, network: Network) -> None:
        """As in `Ledger`."""
        self._connections_of[network] -= 1
        if not self._connections_of[network]:
            del self._connections_of[network]

    def count(self, rate: Rate, network: Network) -> Limit | None:
        """As in `Ledger`."""
        metered = self._meters.get(rate)
        return None if metered is None or metered[1].takes(network, self._clock()) else rate.value

    def remembered(self) -> int:
        """How many networks there are accounts of; it has a bound, however many there are in the world."""
        return len(self._connections_of) + sum(len(meter) for _, meter in self._meters.values())


@final
class LocalLedger:
    """The accounts of one process; its arguments are those of `Accounts`."""

    def __init__(
        self,
        limits: LimitSettings,
        clock: Callable[[], float] = trio.current_time,
        caps: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._accounts = Accounts(limits, clock, caps)

    async def enter(self, listener: str = "") -> Limit | None:
        """As in `Ledger`."""
        return self._accounts.enter(listener)

    def leave(self, listener: str = "") -> None:
        """As in `Ledger`."""
        self._accounts.leave(listener)

    async def admit(self, network: Network) -> Limit | None:
        """As in `Ledger`."""
        return self._accounts.admit(network)

    def release(self, network: Network) -> None:
        """As in `Ledger`."""
        self._accounts.release(network)

    async def count(self, rate: Rate, network: Network) -> Limit | None:
        """As in `Ledger`."""
        return self._accounts.count(rate, network)


@final
class Place:
    """What one connection takes up. Leaving gives all of it back, however far it came; to leave twice does nothing.

    What may be refused returns the reply that says so, or None.

    Args:
        limits: whom the limits per minute leave alone.
    """

    def __init__(self, ledger: Ledger, limits: LimitSettings) -> None:
        self._ledger = ledger
        self._exempt_from = limits.exempt_from
        self._entered: list[str] = []  # by which listeners
        self._network: Network | None = None  # for which it was admitted
        self._metered: Network | None = None  # likewise, unless it is exempt

    @property
    def metered(self) -> Network | None:
        """For whom it is counted what it does; None for nobody, or for one who is exempt."""
        return self._metered

    def metered_as(self, ip: str) -> Network | None:
        """For whom that would be, if it stood for this address."""
        return None if self._exempt_from.holds(ip) else network_of(ip)

    async def enter(self, listener: str = "") -> Reply | None:
        """Be one connection more.

        Args:
            listener: by which, when that has a limit of its own.
        """
        limit = await self._ledger.enter(listener)
        if limit is not None:
            return REPLIES[limit]
        self._entered.append(listener)
        return None

    async def stand_for(self, ip: str) -> Reply | None:
        """Be a connection of this address from now on, and of no other.

        Args:
            ip: "" for none, which no limit by address applies to.
        """
        self._release()
        network = network_of(ip)
        if network is None:
            return None
        limit = await self._ledger.admit(network)
        if limit is not None:
            return REPLIES[limit]
        self._network = network
        self._metered = self.metered_as(ip)
        return await self.count(Rate.CONNECTIONS)

    async def count(self, rate: Rate) -> Reply | None:
        """Do something that is counted by the minute."""
        limit = None if self._metered is None else await self._ledger.count(rate, self._metered)
        return None if limit is None else REPLIES[limit]

    def leave(self) -> None:
        """Give everything back."""
        self._release()
        while self._entered:
            self._ledger.leave(self._entered.pop())

    def _release(self) -> None:
        if self._network is not None:
            self._ledger.release(self._network)
        self._network = self._metered = None
