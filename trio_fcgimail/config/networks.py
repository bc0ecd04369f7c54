"""Lists of peers by their address: those whose word is believed, and those whom a limit leaves alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, Self, final

__all__ = ["PeerList"]

_UNIX: Final = "unix"


@final
@dataclass(frozen=True, slots=True)
class PeerList:
    """Peers; make one with `parse`.

    Args:
        networks: IPv4 and IPv6.
        holds_unix: whether whoever comes over a unix socket is meant.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    holds_unix: bool = False

    @classmethod
    def parse(cls, entries: Sequence[str]) -> Self:
        """Read the entries of `proxy_protocol_from`, `xclient_from` or `exempt_from`.

        Args:
            entries: "10.0.0.0/8", "2001:db8::/32", single addresses, and "unix".

        Raises:
            ValueError: an entry is none of these, or a network has bits set behind its prefix.
        """
        networks = tuple(ip_network(entry) for entry in entries if entry != _UNIX)
        return cls(networks, _UNIX in entries)

    def __bool__(self) -> bool:
        """Whether anybody is on the list."""
        return self.holds_unix or bool(self.networks)

    def holds(self, ip: str) -> bool:
        """Say whether a peer is on the list.

        Args:
            ip: its address; "" for one that came over a unix socket.
        """
        if not ip:
            return self.holds_unix
        address = ip_address(ip)
        return any(address in network for network in self.networks)
