"""Beside an abuser, on real sockets: whatever it does with its connections, who behaves well notices nothing.

Also what abusers in great numbers cost: nothing that grows with their number.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.certificates import Authority
from tests.server.encrypted import READY, dialogue_over, tls_listener
from tests.support import Journal, ScriptedResponder, Served, elapsed, serving, settings
from trio_fcgimail.config import Settings, TlsMode
from trio_fcgimail.server import Limit
from trio_fcgimail.server.ledger import Accounts, Rate
from trio_fcgimail.server.limits import REPLIES
from trio_fcgimail.server.rates import MAX_NETWORKS, network_of

pytestmark = pytest.mark.trio

STORED: Final = b"250 2.0.0 OK: queued as "
ABUSER: Final = "127.0.0.2"
GOOD: Final = "127.0.0.3"
MAILS: Final = 8
SECONDS: Final = 2.0  # that a mail may take; each takes some milliseconds


@pytest.fixture
async def responder(nursery: trio.Nursery, tmp_path: Path) -> ScriptedResponder:
    responder = ScriptedResponder(nursery)
    await responder.listen(tmp_path / "fcgi")
    return responder


def _settings(folder: Path, limits: str, listener: str = '[[listeners]]\naddress = "127.0.0.1:0"\n') -> Settings:
    return settings(f'[limits]\nexempt_from = []\n{limits}\n{listener}[fastcgi]\nupstreams = ["unix:{folder}/fcgi"]\n')


Misdeed = Callable[[Served], Awaitable[bytes]]


async def _stay(house: Served) -> bytes:
    """Connect, and say nothing."""
    client = await house.dial(ABUSER)
    return await client.reply()


async def _come_and_go(house: Served) -> bytes:
    client = await house.dial(ABUSER)
    reply = await client.reply()
    await client.close()
    return reply


async def _send(house: Served) -> bytes:
    """Begin a mail after the other."""
    client = await house.dial(ABUSER)
    reply = await client.reply()
    if reply.startswith(b"220"):
        await client.ask(b"EHLO abuser.example")
        reply = await client.ask(b"MAIL FROM:<>")
    await client.close()
    return reply


ABUSES: Final = [
    pytest.param("connections_per_ip = 5", _stay, Limit.CONNECTIONS_PER_IP, 5, id="connections"),
    pytest.param("connections = 8\nconnections_per_ip = 5", _stay, Limit.CONNECTIONS_PER_IP, 5, id="of-few-in-all"),
    pytest.param(
        "connections_per_minute_per_ip = 9", _come_and_go, Limit.CONNECTIONS_PER_MINUTE_PER_IP, 9, id="new-connections"
    ),
    pytest.param("messages_per_minute_per_ip = 9", _send, Limit.MESSAGES_PER_MINUTE_PER_IP, 9, id="messages"),
]


@pytest.mark.parametrize(("limits", "misdeed", "limit", "allowed"), ABUSES)
async def test_well_behaved_beside_an_abuser(
    limits: str,
    misdeed: Misdeed,
    limit: Limit,
    allowed: int,
    responder: ScriptedResponder,
    journal: Journal,
    tmp_path: Path,
) -> None:
    replies: list[bytes] = []
    is_over = trio.Event()
    async with serving(_settings(tmp_path, limits), journal) as house:
        async with trio.open_nursery() as nursery:

            async def abuse() -> None:
                while True:
                    replies.append(await misdeed(house))
                    if len(replies) == 3 * allowed:
                        is_over.set()

            nursery.start_soon(abuse)
            await is_over.wait()
            for _ in range(MAILS):
                seconds = elapsed()
                client = await house.dial(GOOD)
                await client.hello()
                assert (await client.mail()).startswith(STORED)
                await client.ask(b"QUIT")
                await client.close()
                assert seconds() < SECONDS
            nursery.cancel_scope.cancel()
        hits = house.server.limits_hit
    told = [reply for reply in replies if reply.startswith((b"421", b"450"))]
    assert set(told) == {REPLIES[limit].render()}
    assert len(replies) - len(told) <= allowed + 1  # one more where a minute's share comes back meanwhile
    assert hits[limit] >= len(told)
    assert {one for one, count in hits.items() if count} == {limit}
    assert len(responder.requests) == MAILS


async def test_a_crowd_from_everywhere_is_told_and_those_within_go_on(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    """When all is full, those who are in are served, and each of the others is told to come later."""
    async with serving(_settings(tmp_path, "connections = 4"), journal) as house:
        inside = await house.dial(GOOD)
        await inside.hello()
        crowd = [await house.dial(f"127.0.1.{number}") for number in range(1, 51)]
        replies = [await client.reply() for client in crowd]
        assert replies.count(b"220 mx.example.com ESMTP\r\n") == 3
        assert replies.count(REPLIES[Limit.CONNECTIONS].render()) == 47
        assert (await inside.mail()).startswith(STORED)
        assert house.server.limits_hit[Limit.CONNECTIONS] == 47


async def test_who_stalls_in_a_handshake_keeps_nobody_out(
    responder: ScriptedResponder, journal: Journal, authority: Authority, tmp_path: Path
) -> None:
    listener = tls_listener(authority, TlsMode.STARTTLS)
    async with serving(_settings(tmp_path, "connections = 40\nconnections_per_ip = 10", listener), journal) as house:
        for _ in range(10):
            client = await house.dial(ABUSER)
            await client.hello()
            assert await client.ask(b"STARTTLS") == READY
        for _ in range(MAILS):
            seconds = elapsed()
            good = await house.dial(GOOD)
            await good.hello()
            assert await good.ask(b"STARTTLS") == READY
            encrypted = dialogue_over(authority.client(good.stream))
            assert (await encrypted.ask(b"EHLO client.example")).startswith(b"250-")
            assert (await encrypted.mail()).startswith(STORED)
            await encrypted.close()
            assert seconds() < SECONDS


async def test_a_mail_that_trickles_holds_no_connection_to_a_script(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with serving(_settings(tmp_path, "connections_per_ip = 30"), journal) as house:
        for _ in range(30):
            client = await house.dial(ABUSER)
            await client.hello()
            await client.begin()
            await client.send(b"Subject: slow")
        good = await house.dial(GOOD)
        await good.hello()
        for _ in range(MAILS):
            seconds = elapsed()
            assert (await good.mail()).startswith(STORED)
            assert seconds() < SECONDS


# Great numbers


async def test_addresses_without_end_do_not_grow_the_accounts() -> None:
    """Each comes once, does all that is counted, and goes; what is remembered of them has a bound."""
    accounts = Accounts(settings("").limits, clock=lambda: 0.0)
    for number in range(2 * MAX_NETWORKS):
        network = number.to_bytes(8)
        assert accounts.enter() is None
        assert accounts.admit(network) is None
        for rate in Rate:
            assert accounts.count(rate, network) is None
        accounts.release(network)
        accounts.leave()
    assert accounts.remembered() <= len(Rate) * MAX_NETWORKS


async def test_all_addresses_of_a_64_are_one() -> None:
    accounts = Accounts(settings("limits = { connections_per_ip = 2 }").limits)
    networks = [network_of(f"2001:db8:0:1:{end}") for end in (":1", ":ffff", "ffff:ffff:ffff:ffff")]
    assert len(set(networks)) == 1
    limits = [accounts.admit(network) for network in networks if network is not None]
    assert limits == [None, None, Limit.CONNECTIONS_PER_IP]
