"""Lists of peers by their address: those whose word is believed, and those whom a limit leaves alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self, final

__all__ = ["PeerList", "parse_ip", "unmapped"]

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
        if not self.networks:
            return False
        address = parse_ip(ip)
        return any(address in network for network in self.networks)


@lru_cache(maxsize=1024)
def parse_ip(ip: str) -> IPv4Address | IPv6Address:
    """As `ip_address`, which takes as long as a command: each connection asks several times for the same.

    Raises:
        ValueError: it is no IP address.
    """
    return ip_address(ip)


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An IPv4 address mapped into IPv6 as the IPv4 address that it is (RFC 4291 2.5.5.2); any other as it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
