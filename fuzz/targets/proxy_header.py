"""The header of the PROXY protocol under whatever stands at the beginning of a connection.

Input: four octets of cut sizes, then the octets of the connection.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from itertools import cycle
from typing import Final

from trio_fcgimail.server.prelude import (
    MAX_BINARY_OCTETS,
    MAX_TEXT_OCTETS,
    Endpoint,
    Header,
    Origin,
    PreludeError,
    octets_missing,
    parse_header,
)

Outcome = tuple[Header | None, int]  # None: refused, and the octets read until then do not matter

_REFUSED: Final[Outcome] = (None, -1)
_CUT: Final[Outcome] = (None, -2)


def read(wire: bytes, sizes: Sequence[int]) -> Outcome:
    """What a server makes of a connection whose octets come in pieces of these sizes; 0 counts as 256."""
    at = 0
    try:
        for size in cycle(sizes):
            missing = octets_missing(wire[:at])
            assert missing >= 0
            if not missing:
                return parse_header(wire[:at]), at
            if at == len(wire):
                return _CUT
            at = min(at + min(missing, size or 256), len(wire))
            assert at <= (MAX_TEXT_OCTETS if wire.startswith(b"PROXY ") else MAX_BINARY_OCTETS), "no bound"
    except PreludeError:
        return _REFUSED
    raise AssertionError("no sizes")


def _assert_sound(header: Header) -> None:
    ends = (header.source, header.destination)
    assert (header.origin is Origin.CLIENT) == all(isinstance(end, Endpoint) for end in ends)
    for end in ends:
        assert end is None or (str(ipaddress.ip_address(end.ip)) == end.ip and 0 <= end.port <= 65_535)
        assert end is None or getattr(ipaddress.ip_address(end.ip), "ipv4_mapped", None) is None


def _written(header: Header) -> bytes:
    """The addresses as a line of version 1."""
    source, destination = header.source, header.destination
    assert source is not None
    assert destination is not None
    ips = [source.ip, destination.ip]
    if all(":" not in ip for ip in ips):
        protocol = "TCP4"
    else:
        protocol, ips = "TCP6", [ip if ":" in ip else f"::ffff:{ip}" for ip in ips]
    return f"PROXY {protocol} {ips[0]} {ips[1]} {source.port} {destination.port}\r\n".encode()


def check(data: bytes) -> None:
    """One input; raises on a breach.

    Invariants:
        - Nothing but PreludeError is raised, and no more octets are read than the bounds allow.
        - The outcome does not depend on how the octets were cut, nor on what follows the header.
        - Addresses are canonical, and survive being written as version 1 and read again.
    """
    sizes, wire = data[:4] or b"\1", data[4:]
    whole = read(wire, [MAX_BINARY_OCTETS])
    for some in (sizes, b"\1"):
        assert read(wire, some) == whole, "the way of cutting shows"
    header, octets = whole
    if header is None:
        return
    assert read(wire[:octets], sizes) == read(wire[:octets] + b"EHLO x\r\n", sizes) == whole, "read behind the header"
    _assert_sound(header)
    if header.origin is Origin.CLIENT:
        again, _ = read(_written(header), sizes)
        assert again == Header(Origin.CLIENT, header.source, header.destination)
