"""What clients cost us that come to nothing: who has us work for no mail at all waits, so that the others need not.

Every connection, command and octet is put to the account of the address it comes from, and taken off again when it has
led to a mail that got its verdict. Nobody who sends mails ever owes anything worth mentioning. An account is one
number, the moment when all is paid (the generic cell rate algorithm, as in `trio_fcgimail.server.rates`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, final

import trio

from trio_fcgimail.server.rates import Network

# Ours, measured on one core of 2.4 GHz with Python 3.11, rounded: what each costs a process that serves.
CONNECTION_SECONDS: Final = 1e-3  # the work of the parent among it
HANDSHAKE_SECONDS: Final = 1e-3
EVENT_SECONDS: Final = 20e-6
QUESTION_SECONDS: Final = 500e-6  # to ask a script about a recipient; the script has work of its own
OCTET_SECONDS: Final = 10e-9
TURN_OCTETS: Final = 3_000  # what it costs to wait for octets and to receive them, as octets

#: Of a core, for all that one address has each of our processes do in vain: 100 connections, 5,000 commands or 10 MB a
#: second, more than any honest client asks for.
SHARE: Final = 0.1
#: What may be owed without any wait: as much as the largest mail costs by default (26,214,400 octets).
CREDIT_SECONDS: Final = 0.25
#: Nobody waits longer at a time, nor owes more than that.
MOST_WAIT_SECONDS: Final = 5.0
MAX_NETWORKS: Final = 16_384  # remembered

_AHEAD_SECONDS: Final = CREDIT_SECONDS / SHARE


@final
class Efforts:
    """The accounts of all addresses, in one process.

    Args:
        clock: seconds; must not go back.
    """

    def __init__(self, clock: Callable[[], float] = trio.current_time, max_networks: int = MAX_NETWORKS) -> None:
        self._clock = clock
        self._max_younger = max_networks // 2
        self._younger: dict[Network, float] = {}  # when all will be paid
        self._elder: dict[Network, float] = {}

    def __len__(self) -> int:
        """How many networks are remembered."""
        return len(self._younger) + len(self._elder)

    def spend(self, network: Network, seconds: float) -> float:
        """Work was done for a network; how long it has to wait before there is more."""
        now = self._clock()
        paid_at = max(self._take(network), now) + seconds / SHARE
        self._younger[network] = paid_at = min(paid_at, now + _AHEAD_SECONDS + MOST_WAIT_SECONDS)
        return max(0.0, paid_at - now - _AHEAD_SECONDS)

    def redeem(self, network: Network, seconds: float) -> None:
        """So much of it was not in vain."""
        self._younger[network] = self._take(network) - seconds / SHARE

    def _take(self, network: Network) -> float:
        """Of a network that is about to be put among the younger."""
        known = self._younger.get(network)
        if known is not None:
            return known
        if len(self._younger) >= self._max_younger:  # whom so many others came after is forgotten, to its good
            self._elder, self._younger = self._younger, {}
        return self._elder.pop(network, -math.inf)


@final
class Effort:
    """What one connection costs.

    Args:
        network: whose it is; None for nobody's, who never waits.
        spent: what was put to the account of the network for it already, in seconds.
    """

    __slots__ = ("_efforts", "_network", "_spent")

    def __init__(self, efforts: Efforts, network: Network | None, spent: float = 0.0) -> None:
        self._efforts = efforts
        self._network = network
        self._spent = spent  # since the last verdict

    def spend(self, seconds: float) -> float:
        """As in `Efforts`."""
        if self._network is None:
            return 0.0
        self._spent += seconds
        return self._efforts.spend(self._network, seconds)

    def redeem(self) -> None:
        """A mail got its verdict: nothing was in vain."""
        if self._network is not None and self._spent:
            self._efforts.redeem(self._network, self._spent)
            self._spent = 0.0
