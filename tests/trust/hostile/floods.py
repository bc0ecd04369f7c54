"""Attackers that do as much as they can."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Final

import trio

from tests.trust.hostile.field import Opponent, client_hello

_CHUNK_OCTETS: Final = 262_144
_RECIPIENTS: Final = 10_000
_MAIL: Final = b"Subject: an attack\r\n\r\nWell?\r\n"
_EVIL: Final = b"MAIL FROM:<evil@client.example>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nevil\r\n.\r\n"
_STALL_SECONDS: Final = 0.2  # in which nothing could be sent
TOO_MANY: Final = "452 4.5.3"
#: Stands for a reply, where there is none: the server has done its part of a handshake.
ABANDONED: Final = "abandoned"


async def banner(opponent: Opponent) -> None:
    """Take the banner, and go."""
    await opponent.reply()


async def endless_line(opponent: Opponent) -> None:
    """One command line that has no end."""
    await opponent.hello()
    await opponent.pump(itertools.repeat(b"x" * _CHUNK_OCTETS))


async def endless_lines(opponent: Opponent) -> None:
    """Commands that are all too long."""
    await opponent.hello()
    await opponent.pump(itertools.repeat((b"NOOP " + b"x" * 4000 + b"\r\n") * 64))


async def endless_header(opponent: Opponent) -> None:
    """A header of fields without end."""
    await opponent.hello()
    await opponent.begin()
    await opponent.pump(itertools.repeat(b"X-Attack: again and again and again\r\n" * 7000))


async def endless_field(opponent: Opponent) -> None:
    """A header field that has no end."""
    await opponent.hello()
    await opponent.begin()
    await opponent.pump(itertools.chain([b"Subject: x\r\n"], itertools.repeat(b"\tand so on, and so on\r\n" * 11_000)))


async def endless_body(opponent: Opponent) -> None:
    """A mail that has no end."""
    await opponent.hello()
    await opponent.begin()
    await opponent.pump(itertools.chain([_MAIL], itertools.repeat(b"The quick brown fox jumps over.\r\n" * 8000)))


async def endless_body_line(opponent: Opponent) -> None:
    """One line of a mail, which has no end."""
    await opponent.hello()
    await opponent.begin()
    await opponent.pump(itertools.chain([_MAIL], itertools.repeat(b"x" * _CHUNK_OCTETS)))


async def many_recipients(opponent: Opponent) -> None:
    """10,000 in one mail."""
    await opponent.hello()
    await opponent.ask(b"MAIL FROM:<attacker@client.example>")
    every = b"".join(b"RCPT TO:<u%d@example.com>\r\n" % number for number in range(_RECIPIENTS))
    await opponent.exchange(every, _RECIPIENTS, settled_by=TOO_MANY)


async def pipelining(opponent: Opponent) -> None:
    """As many commands as there is room for, and the replies are never read; then anew."""
    await opponent.hello()
    opponent.settle()
    group = b"MAIL FROM:<attacker@client.example>\r\nRSET\r\nNOOP\r\nVRFY bob\r\n" * 1000
    while True:
        with trio.move_on_after(_STALL_SECONDS) as scope:
            await opponent.say(group)
        if scope.cancelled_caught:
            return


async def abandoned_handshake(opponent: Opponent) -> None:
    """Have the server do its part of the work, and go."""
    await opponent.hello()
    await opponent.ask(b"STARTTLS")
    await opponent.say(client_hello())
    await opponent.stream.receive_some(1)
    opponent.tally.replies[ABANDONED] += 1


async def huge_chunk(opponent: Opponent) -> None:
    """A chunk of 2^63 octets."""
    await opponent.hello()
    for command in (b"MAIL FROM:<attacker@client.example>", b"RCPT TO:<bob@example.com>"):
        await opponent.ask(command)
    await opponent.say(b"BDAT %d LAST\r\n" % 2**63 + b"x" * 1000)
    await opponent.rest()


async def injection(opponent: Opponent) -> None:
    """What a man in the middle puts behind STARTTLS (CVE-2011-0411)."""
    await opponent.hello()
    await opponent.say(b"STARTTLS\r\n" + _EVIL)
    await opponent.rest()


async def stripping(opponent: Opponent) -> None:
    """A client whose STARTTLS somebody has taken out of the reply to EHLO: its password is not wanted in the clear."""
    await opponent.hello()
    await opponent.ask(b"AUTH PLAIN AGF0dGFja2VyAHNlY3JldA==")
    await opponent.ask(b"QUIT")


async def smuggling(opponent: Opponent) -> None:
    """One mail for each octets that look like the end of data, with a mail behind that nobody has sent."""
    await opponent.hello()
    for marker in _markers():
        await opponent.begin()
        await opponent.ask(_MAIL + b"text" + marker + _EVIL.removesuffix(b".\r\n") + b"\r\n.")
    await opponent.ask(b"QUIT")


def _markers() -> list[bytes]:
    from tests.smtp.test_smuggling import MARKERS  # what else that needs is heavy, and for this attack only

    return [marker.octets for marker in MARKERS]


async def http(opponent: Opponent) -> None:
    """What a browser can be made to send (a cross-protocol attack)."""
    await opponent.say(b"POST / HTTP/1.1\r\nHost: mx.example.com\r\nContent-Length: 99\r\n\r\n" + _EVIL)
    await opponent.rest()


async def tls_hello(opponent: Opponent) -> None:
    """A handshake where nobody wants one."""
    await opponent.say(client_hello())
    await opponent.rest()


async def noise(opponent: Opponent) -> None:
    """Octets of all kinds."""
    await opponent.reply()
    await opponent.pump(_random_parts())


def _random_parts() -> Iterator[bytes]:
    """Octets of all kinds, in lines of all lengths, the same ones in each run."""
    dice = random.Random(8)
    lines = [dice.randbytes(dice.choice((1, 20, 200, 2000))) + b"\r\n" for _ in range(200)]
    return itertools.cycle(lines)
