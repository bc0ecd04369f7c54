"""Where we listen and where the FastCGI responder listens, as typed values."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TypeAlias, final

from trio_fcgimail.config.errors import shown

__all__ = [
    "ListenAddress",
    "TcpAddress",
    "UnixAddress",
    "UpstreamAddress",
    "parse_listen_address",
    "parse_upstream_address",
]

_ANY_ADDRESS = "*"
_UNIX = "unix:"
_TCP = "tcp:"
_MAX_SOCKET_PATH_OCTETS = 107  # unix(7) of Linux: sun_path has 108, the closing NUL included
_MAX_NAME_CHARS = 253  # RFC 1035 2.3.4: 255 on the wire
# A label as resolvers take it: "_" occurs in container names; at most 63 characters (RFC 1035 2.3.4).
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,32}")  # RFC 4007 11.2: the name or number of an interface
_NUMBER = re.compile(r"[0-9]{1,5}")


@final
@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port; `str()` is "HOST:PORT", or "[IPV6]:PORT".

    Args:
        host: an IP address without brackets, normalised, or a name for the resolver, in lower case; "*", when
            listening, is every address of this machine, by IPv4 and IPv6.
        port: 0 to 65535; 0, when listening, leaves the choice to the system.
    """

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it: 127.0.0.0/8, ::1, or the name localhost (RFC 6761 6.3)."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        """Give the text that `parse_listen_address` and `parse_upstream_address` read back."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@final
@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket; `str()` is "unix:/PATH".

    Args:
        path: absolute, at most 107 octets.
    """

    path: str

    @property
    def is_loopback(self) -> bool:
        """Always true: no other machine can reach it."""
        return True

    def __str__(self) -> str:
        """Give the text that `parse_listen_address` and `parse_upstream_address` read back."""
        return f"{_UNIX}{self.path}"


ListenAddress: TypeAlias = TcpAddress | UnixAddress
UpstreamAddress: TypeAlias = UnixAddress | TcpAddress


def parse_listen_address(text: str) -> ListenAddress:
    """Read "127.0.0.1:2525", "[::]:25", "*:25", "localhost:2525" or "unix:/run/fcgimail.sock".

    "*" is every address of this machine. "tcp:" may stand before a host, as it does for an upstream.

    Raises:
        ValueError: it is none of these; the text says why.
    """
    host, _, port = text.removeprefix(_TCP).rpartition(":")
    if host == _ANY_ADDRESS:
        return TcpAddress(_ANY_ADDRESS, _port(text, port, lowest=0))
    return _parse(text, lowest_port=0)


def parse_upstream_address(text: str) -> UpstreamAddress:
    """Read "unix:/run/php/php-fpm.sock", "tcp:10.0.0.2:9000" or "tcp:[::1]:9000".

    "tcp:" may be left out, as in the `listen` setting of a php-fpm pool.

    Raises:
        ValueError: it is none of these; the text says why.
    """
    return _parse(text, lowest_port=1)


def _parse(text: str, *, lowest_port: int) -> TcpAddress | UnixAddress:
    if text.startswith(_UNIX):
        return UnixAddress(_socket_path(text.removeprefix(_UNIX)))
    host, colon, port = text.removeprefix(_TCP).rpartition(":")
    if not colon:
        raise ValueError(f"{shown(text)} is neither HOST:PORT nor unix:/PATH")
    return TcpAddress(_host(host), _port(text, port, lowest=lowest_port))


def _port(text: str, port: str, *, lowest: int) -> int:
    if _NUMBER.fullmatch(port) is None or not lowest <= int(port) <= 65535:
        raise ValueError(f"{shown(text)} needs a port from {lowest} to 65535 behind its last colon")
    return int(port)


def _socket_path(path: str) -> str:
    octets = len(path.encode("utf-8", "surrogateescape"))
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"{shown(path)} is not an absolute path of a socket")
    if octets > _MAX_SOCKET_PATH_OCTETS:
        raise ValueError(f"a socket's path has at most {_MAX_SOCKET_PATH_OCTETS} octets, this one {octets}")
    return path


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    if ":" in text:
        raise ValueError(f"{shown(text)}: an IPv6 address stands in brackets, as in [::1]:25")
    try:
        return str(ip_address(text))
    except ValueError:
        return _name(text)


def _ipv6(text: str) -> str:
    _, percent, zone = text.partition("%")
    try:
        if percent and _ZONE.fullmatch(zone) is None:
            raise ValueError("not a zone")
        return str(IPv6Address(text))
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IPv6 address") from None


def _name(text: str) -> str:
    labels = text.split(".")
    if len(text) > _MAX_NAME_CHARS or labels[-1].isdigit() or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"{shown(text)} is neither an IP address nor the name of a host")
    return text.lower()
