"""How often somebody may do something: exact, in constant time, and bounded whatever the number of distinct somebodies.

Pure bookkeeping; time is an argument.
"""

from __future__ import annotations

import math
from typing import Final, final

from trio_fcgimail.config import parse_ip

Network = bytes  # whom limits by address count: an IPv4 address (4 octets), or the /64 of an IPv6 address (8 octets)

MAX_NETWORKS: Final = 65_536  # ours: remembered by one meter, some 7 MiB
_WINDOW_SECONDS: Final = 60.0
_SLACK_SECONDS: Final = 0.001  # above any error of rounding
_IPV6_NETWORK_OCTETS: Final = 8  # whoever has one address of a /64 has all of them (RFC 6177 2, RFC 4291 2.5.4)


def network_of(ip: str) -> Network | None:
    """Whom an address counts for; None for nobody, as "" stands for an unknown address.

    Raises:
        ValueError: it is neither an IP address nor empty.
    """
    return parse_ip(ip).packed[:_IPV6_NETWORK_OCTETS] if ip else None


@final
class Meter:
    """A token bucket for each network: it holds the tokens of a minute, and is refilled steadily.

    Whoever stays below the rate in every minute is never refused; over any time of t minutes nobody gets more than
    t + 1 times the rate. A bucket is one number, the moment when it will be full again (the generic cell rate
    algorithm). One that was not used for a minute is full, and need not be remembered. So there are two generations:
    after a minute, or once the younger has grown to its share, the elder is forgotten and the younger takes its place.
    In a crowd those are forgotten, to their good, whom half as many others as are remembered came after.

    Args:
        per_minute: the rate, at least 1.
        max_networks: how many are remembered, at least 2.
    """

    __slots__ = ("_elder", "_interval", "_max_younger", "_most_ahead", "_turn_at", "_younger")

    def __init__(self, per_minute: int, max_networks: int = MAX_NETWORKS) -> None:
        self._interval = _WINDOW_SECONDS / per_minute
        self._most_ahead = _WINDOW_SECONDS - self._interval + min(_SLACK_SECONDS, self._interval / 2)
        self._max_younger = max_networks // 2
        self._turn_at = -math.inf
        self._younger: dict[Network, float] = {}  # when their buckets will be full again
        self._elder: dict[Network, float] = {}

    def __len__(self) -> int:
        """How many networks are remembered."""
        return len(self._younger) + len(self._elder)

    def takes(self, network: Network, now: float) -> bool:
        """Whether there was a token, which is gone now.

        Args:
            now: seconds of a clock that does not go back.
        """
        if now >= self._turn_at or (network not in self._younger and len(self._younger) >= self._max_younger):
            self._turn(now)
        known = self._younger.get(network)
        if known is None:
            known = self._elder.pop(network, now)
        full_at = max(known, now)
        is_taken = full_at - now <= self._most_ahead
        self._younger[network] = full_at + self._interval if is_taken else full_at
        return is_taken

    def _turn(self, now: float) -> None:
        self._elder = {} if now >= self._turn_at + _WINDOW_SECONDS else self._younger
        self._younger = {}
        self._turn_at = now + _WINDOW_SECONDS + _SLACK_SECONDS
