"""Attackers that take up a place and wait: idle, slow, not reading."""

from __future__ import annotations

from typing import Final

import trio

from tests.trust.hostile.field import Opponent, client_hello

_STALL_SECONDS: Final = 1.0  # in which nothing could be sent


async def idle(opponent: Opponent) -> None:
    """Say EHLO, and no more."""
    await opponent.hello()
    await opponent.stay()


async def silent(opponent: Opponent) -> None:
    """Say nothing at all."""
    await opponent.stay()


async def slow_before_ehlo(opponent: Opponent) -> None:
    """An octet a second of an EHLO."""
    await opponent.reply()
    await opponent.drip(b"EHLO " + b"a" * 1000)


async def slow_command(opponent: Opponent) -> None:
    """Likewise of a command."""
    await opponent.hello()
    await opponent.drip(b"NOOP " + b"x" * 1000)


async def slow_data(opponent: Opponent) -> None:
    """Likewise of a mail."""
    await opponent.hello()
    await opponent.begin()
    await opponent.drip(b"Subject: slow\r\n")


async def slow_bdat(opponent: Opponent) -> None:
    """Likewise of a chunk."""
    await opponent.hello()
    for command in (b"MAIL FROM:<attacker@client.example>", b"RCPT TO:<bob@example.com>"):
        await opponent.ask(command)
    await opponent.say(b"BDAT 1000000 LAST\r\n")
    await opponent.drip(b"Subject: slow\r\n")


async def slow_auth(opponent: Opponent) -> None:
    """Likewise of a user's name, over TLS."""
    await opponent.hello()
    await opponent.start_tls()
    await opponent.ask(b"AUTH LOGIN")
    await opponent.drip(b"YXR0YWNrZXI" * 100)


async def slow_handshake(opponent: Opponent) -> None:
    """Likewise of a handshake."""
    await opponent.hello()
    await opponent.ask(b"STARTTLS")
    await opponent.drip(client_hello())


async def deaf(opponent: Opponent) -> None:
    """Ask and ask, and read nothing, until nothing more can be sent."""
    asking = b"EHLO attacker.example\r\n" * 1000
    opponent.narrow()
    await opponent.reply()
    while True:
        with trio.move_on_after(_STALL_SECONDS) as scope:
            await opponent.say(asking)
        if scope.cancelled_caught:
            break
    opponent.settle()
    await trio.sleep_forever()
