"""The attacks by name: what each connection does, how many there are, and what they may be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from tests.trust.hostile import floods, passive
from tests.trust.hostile.field import Act, Kind
from tests.trust.hostile.renegotiation import REFUSED, renegotiate
from tests.trust.hostile.sockets import connect_and_reset


@final
@dataclass(frozen=True, slots=True)
class Attack:
    """A small program.

    Args:
        how: in a few words.
        act: what one connection does, over and over.
        connections: at a time.
        told: the replies that it gets beyond those of a good session, at least once each; no others.
    """

    name: str
    how: str
    kind: Kind
    act: Act
    connections: int
    told: frozenset[str] = frozenset()


#: What everybody may be told.
GOOD: Final = frozenset(
    "220|250|220 2.0.0|250 2.0.0|250 2.1.0|250 2.1.5|252 2.1.5|354|221 2.0.0|334".split("|")  # noqa: SIM905
)
#: And who is over one of the limits.
LIMITED: Final = frozenset(("421 4.7.0", "450 4.7.1"))
_NOT_SMTP: Final = frozenset(["421 4.7.0"])
_TOO_MANY: Final = frozenset([floods.TOO_MANY])
_TOO_BIG: Final = frozenset(["552 5.3.4"])

_ALL: Final = (
    Attack("idle", "5,000 connections that said EHLO", Kind.PASSIVE, passive.idle, 5_000),
    Attack("silent", "500 that say nothing at all", Kind.PASSIVE, passive.silent, 500),
    Attack("slow-before-ehlo", "an octet a second of an EHLO, 200 times", Kind.PASSIVE, passive.slow_before_ehlo, 200),
    Attack("slow-command", "of a command", Kind.PASSIVE, passive.slow_command, 200),
    Attack("slow-data", "of a mail, by DATA", Kind.PASSIVE, passive.slow_data, 200),
    Attack("slow-bdat", "of a chunk, by BDAT", Kind.PASSIVE, passive.slow_bdat, 200),
    Attack("slow-auth", "of a user's name, by AUTH over TLS", Kind.PASSIVE, passive.slow_auth, 200),
    Attack("slow-handshake", "of a ClientHello", Kind.PASSIVE, passive.slow_handshake, 200),
    Attack("deaf", "commands without end, whose replies are not read", Kind.PASSIVE, passive.deaf, 50),
    Attack("connections", "each is reset as soon as it stands", Kind.FLOOD, connect_and_reset, 1),
    Attack("banners", "each takes the banner and goes", Kind.FLOOD, floods.banner, 50),
    Attack("endless-line", "a command line without end", Kind.FLOOD, floods.endless_line, 10),
    Attack(
        "endless-lines",
        "commands that are too long",
        Kind.FLOOD,
        floods.endless_lines,
        10,
        frozenset(["500 5.5.2", "421 4.7.0"]),
    ),
    Attack("endless-header", "header fields without end", Kind.FLOOD, floods.endless_header, 10, _TOO_BIG),
    Attack("endless-field", "one header field without end", Kind.FLOOD, floods.endless_field, 10, _TOO_BIG),
    Attack("endless-body", "a mail without end", Kind.FLOOD, floods.endless_body, 10, _TOO_BIG),
    Attack("endless-body-line", "one line of a mail without end", Kind.FLOOD, floods.endless_body_line, 10, _TOO_BIG),
    Attack(
        "recipients", "10,000 RCPTs in one mail", Kind.FLOOD, floods.many_recipients, 4, frozenset([floods.TOO_MANY])
    ),
    Attack("pipelining", "commands, until no more can be sent; then anew", Kind.FLOOD, floods.pipelining, 10),
    Attack(
        "handshakes",
        "of TLS, abandoned once the server has done its part",
        Kind.FLOOD,
        floods.abandoned_handshake,
        10,
        frozenset([floods.ABANDONED]),
    ),
    Attack("renegotiation", "of TLS 1.2", Kind.FLOOD, renegotiate, 1, frozenset([REFUSED])),
    Attack("huge-chunk", "BDAT of 2^63 octets", Kind.FLOOD, floods.huge_chunk, 10, _TOO_BIG),
    Attack("injection", "a mail behind STARTTLS", Kind.FLOOD, floods.injection, 10, frozenset(["554 5.5.1"])),
    Attack("stripping", "AUTH in the clear", Kind.FLOOD, floods.stripping, 10, frozenset(["538 5.7.11"])),
    Attack(
        "smuggling", "every marker that is no end of data", Kind.FLOOD, floods.smuggling, 2, frozenset(["550 5.5.2"])
    ),
    Attack("http", "a POST with a mail in it", Kind.FLOOD, floods.http, 10, _NOT_SMTP),
    Attack("tls-hello", "a ClientHello without STARTTLS", Kind.FLOOD, floods.tls_hello, 10, _NOT_SMTP),
    Attack("noise", "random octets", Kind.FLOOD, floods.noise, 10, frozenset(["500 5.5.2", "421 4.7.0"])),
)
ATTACKS: Final[Mapping[str, Attack]] = {attack.name: attack for attack in _ALL}
