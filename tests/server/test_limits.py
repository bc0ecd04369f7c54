"""What a client over a limit is told, that it is counted, and that nobody beside it notices. Time is Trio's clock."""

from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from tests.support import MAIL, Dialogue, House, Journal, Line, ScriptedResponder, elapsed
from trio_fcgimail.mail import Peer
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.session import Drain
from trio_fcgimail.server.visitor import Visitor

pytestmark = pytest.mark.trio

STORED: Final = b"250 2.0.0 OK: queued as "
SENDER: Final = b"MAIL FROM:<a@client.example>"
RECIPIENT: Final = b"RCPT TO:<b@example.com>"
CLIENT: Final = Visitor(Peer("192.0.2.1", 1))
OTHER: Final = Visitor(Peer("192.0.2.2", 1))
EXEMPT: Final = Visitor(Peer("127.0.0.1", 1))

Misdeed = Callable[[Dialogue], Awaitable[bytes]]


@pytest.fixture
def responder(nursery: trio.Nursery) -> ScriptedResponder:
    return ScriptedResponder(nursery)


async def enter(house: House, visitor: Visitor = CLIENT) -> Dialogue:
    """A guest for whom there is room, as the door would know."""
    place = house.place()
    assert await place.enter() is None
    assert await place.stand_for(visitor.peer.ip) is None
    client, _ = house.visit(visitor, place)
    await client.hello()
    return client


def asking(*commands: bytes) -> Misdeed:
    """Say this; the reply to the last of it is what counts."""

    async def misdeed(client: Dialogue) -> bytes:
        for command in commands[:-1]:
            await client.ask(command)
        return await client.ask(commands[-1])

    return misdeed


async def _oversize(client: Dialogue) -> bytes:
    return await client.mail(b"x" * 998 + b"\r\n")


async def _hops(client: Dialogue) -> bytes:
    return await client.mail(b"Received: x\r\n" * 3 + b"\r\n\r\n")


async def _silence(client: Dialogue) -> bytes:
    return await client.reply()


async def _silence_in_data(client: Dialogue) -> bytes:
    await client.begin()
    return await client.reply()


async def _trickle(client: Dialogue) -> bytes:
    await client.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_drip, client)
        reply = await client.reply()
        nursery.cancel_scope.cancel()
    return reply


async def _drip(client: Dialogue) -> None:
    while True:
        await client.send(b"x")
        await trio.sleep(5)


CASES: Final = [
    pytest.param("messages_per_connection = 1", asking(SENDER, RECIPIENT, b"BDAT 3 LAST\r\nx", SENDER),
        b"421 4.7.0 Too many messages on one connection; closing", id="messages-per-connection"),
    pytest.param("messages_per_minute_per_ip = 1", asking(SENDER, b"RSET", SENDER),
        b"450 4.7.1 Too many messages from you; try again later", id="messages-per-minute"),
    pytest.param("recipients_per_minute_per_ip = 2", asking(SENDER, RECIPIENT, RECIPIENT, RECIPIENT),
        b"450 4.7.1 Too many recipients from you; try again later", id="recipients-per-minute"),
    pytest.param("message_octets = 100", _oversize, b"552 5.3.4 Message too big", id="octets"),
    pytest.param("message_octets = 100", asking(SENDER + b" SIZE=101"), b"552 5.3.4 Message too big",
        id="declared-octets"),
    pytest.param("recipients = 1", asking(SENDER, RECIPIENT, RECIPIENT), b"452 4.5.3 Too many recipients",
        id="recipients"),
    pytest.param("bad_commands = 1", asking(b"XYZZY", b"XYZZY"), b"421 4.7.0 Too many bad commands; closing",
        id="bad-commands"),
    pytest.param("refused_recipients = 1", asking(SENDER, b"RCPT TO:<b@example.org>", RECIPIENT),
        b"421 4.7.0 Too many refused recipients; closing", id="refused-recipients"),
    pytest.param("max_received = 2", _hops, b"554 5.4.6 Too many hops", id="hops"),
    pytest.param("idle_seconds = 9", _silence, b"421 4.4.2 Timed out waiting for you; closing", id="silence"),
    pytest.param("data_seconds = 9", _silence_in_data, b"421 4.4.2 Timed out waiting for you; closing",
        id="silence-in-data"),
    pytest.param("data_seconds = 9\ndata_floor_octets_per_second = 9", _trickle,
        b"421 4.4.2 Data comes too slowly; closing", id="trickle"),
]  # fmt: skip


@pytest.mark.parametrize(("limits", "misdeed", "reply"), CASES)
async def test_over_a_limit(
    limits: str,
    misdeed: Misdeed,
    reply: bytes,
    responder: ScriptedResponder,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    house = House(nursery, journal, f"[limits]\n{limits}", connect=responder.connect)
    client = await enter(house)
    assert await misdeed(client) == reply + b"\r\n"
    if reply.startswith(b"421"):
        assert await client.rest() == b""
    named = [limit for limit in Limit if limit.value == limits.rsplit("\n", maxsplit=1)[-1].partition(" ")[0]]
    assert {limit: count for limit, count in house.gateway.hits.snapshot().items() if count} == dict.fromkeys(named, 1)
    other = await enter(house, OTHER)
    assert (await other.mail(b"x\r\n")).startswith(STORED)


async def test_failed_logins_are_counted(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal, responder: ScriptedResponder
) -> None:
    async def act(line: Line) -> None:
        await line.request()
        await line.answer(b"NO")

    responder.act = act
    toml = '[[listeners]]\naddress = "127.0.0.1:0"\nauth_without_tls = true\n[scripts]\nauth = "/srv/mail/auth.php"\n'
    house = House(nursery, journal, toml, connect=responder.connect)
    client = await enter(house)
    replies = [await client.ask(b"AUTH PLAIN AGEAYg==") for _ in range(3)]
    assert [reply[:3] for reply in replies] == [b"535", b"535", b"421"]
    assert house.gateway.hits.snapshot()[Limit.FAILED_LOGINS] == 1


async def test_well_behaved_beside_an_abuser(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    toml = "[limits]\nmessages_per_minute_per_ip = 6\nrecipients_per_minute_per_ip = 12\nbad_commands = 0"
    house = House(nursery, journal, toml, connect=responder.connect)
    abuser, good = await enter(house), await enter(house, OTHER)
    refused = 0
    async with trio.open_nursery() as inner:

        async def abuse() -> None:
            nonlocal refused
            while True:
                for command in (SENDER, RECIPIENT, b"RSET", b"XYZZY"):
                    refused += (await abuser.ask(command)).startswith(b"450 4.7.1")
                await trio.sleep(1)

        inner.start_soon(abuse)
        for _ in range(12):
            seconds = elapsed()
            await good.begin(b"b@example.com", b"c@example.com")
            assert (await good.ask(MAIL + b".")).startswith(STORED)
            assert seconds() < 1
            await trio.sleep(10)
        inner.cancel_scope.cancel()
    assert refused > 100
    assert len(responder.requests) == 12


async def test_an_exempt_peer_is_not_counted_by_the_minute_or_by_the_connection(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    toml = (
        "[limits]\nmessages_per_connection = 1\nmessages_per_minute_per_ip = 1\nrecipients_per_minute_per_ip = 1\n"
        "recipients = 2"
    )
    house = House(nursery, journal, toml, connect=responder.connect)
    client, other = await enter(house, EXEMPT), await enter(house, OTHER)
    for _ in range(3):
        assert (await client.mail()).startswith(STORED)
    await client.begin(b"b@example.com", b"c@example.com")
    assert (await client.ask(b".")).startswith(STORED)
    await client.ask(SENDER)
    assert [(await client.ask(RECIPIENT))[:3] for _ in range(3)] == [b"250", b"250", b"452"]  # all else holds
    assert (await other.mail()).startswith(STORED)
    assert (await other.ask(SENDER)).startswith(b"421 4.7.0 ")


@pytest.mark.parametrize("exempt", [True, False])
async def test_limits_offered(exempt: bool, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal) -> None:
    house = House(nursery, journal, "[limits]\nmessages_per_connection = 7")
    client, _ = house.visit(EXEMPT if exempt else OTHER)
    await client.reply()
    assert (b"MAILMAX=7" in await client.ask(b"EHLO client.example")) is not exempt


async def test_what_was_refused_may_come_again_later(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, "[limits]\nmessages_per_minute_per_ip = 2", connect=responder.connect)
    client = await enter(house)
    for _ in range(2):
        assert (await client.mail()).startswith(STORED)
    assert (await client.ask(SENDER)).startswith(b"450 4.7.1 ")
    await trio.sleep(30)
    assert (await client.mail()).startswith(STORED)
    entries = journal.entries("over a limit")
    assert [(one["limit"], one["peer"]) for one in entries] == [("messages_per_minute_per_ip", "192.0.2.1")]


# Early talkers

DELAY: Final = "[limits]\nbanner_delay_seconds = 4\nidle_seconds = 10"
EARLY: Final = b"421 4.7.0 You spoke before the banner; closing\r\n"
BANNER: Final = b"220 mx.example.com ESMTP\r\n"


async def test_who_waits_for_the_banner_is_served(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, _ = House(nursery, journal, DELAY, connect=responder.connect).visit()
    seconds = elapsed()
    assert await client.reply() == BANNER
    assert seconds() == pytest.approx(4)
    await client.ask(b"EHLO client.example")
    assert (await client.mail()).startswith(STORED)


@pytest.mark.parametrize("wire", [b"EHLO client.example\r\n", b"\x16\x03\x01", b"\r\n"], ids=["ehlo", "tls", "empty"])
async def test_an_early_talker_is_told_and_left(
    wire: bytes, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, DELAY)
    client, _ = house.visit()
    seconds = elapsed()
    await trio.sleep(3)
    await client.send(wire)
    assert await client.rest() == EARLY
    assert seconds() < 4
    assert house.gateway.hits.snapshot()[Limit.BANNER_DELAY_SECONDS] == 1


async def test_by_default_an_early_talker_is_served(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, _ = House(nursery, journal).visit()
    await client.send(b"EHLO client.example\r\n")
    assert await client.reply() == BANNER
    assert (await client.reply()).startswith(b"250-")


async def test_who_leaves_during_the_pause_is_no_early_talker(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, DELAY)
    client, _ = house.visit()
    await client.stream.send_eof()
    assert await client.rest() == BANNER
    assert sum(house.gateway.hits.snapshot().values()) == 0


@pytest.mark.parametrize("when", [0, 1])
async def test_a_server_that_ends_does_not_wait_for_the_pause(
    when: float, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, session = House(nursery, journal, DELAY).visit()
    seconds = elapsed()
    await trio.sleep(when)
    session.drain(Drain.STOPPING)
    assert await client.rest() == b"421 4.3.2 Shutting down; try again later\r\n"
    assert seconds() < when + 0.1
