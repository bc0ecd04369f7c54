"""Who has us work for nothing waits, so that the others need not; who sends mails never does."""

import itertools
import math
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support import MAIL, Dialogue, House, Journal, ScriptedResponder, elapsed
from trio_fcgimail.server.effort import (
    CONNECTION_SECONDS,
    CREDIT_SECONDS,
    EVENT_SECONDS,
    MOST_WAIT_SECONDS,
    SHARE,
    Effort,
    Efforts,
)
from trio_fcgimail.server.outlet import FAREWELL_OCTETS
from trio_fcgimail.server.session import _EVENTS_IN_TURN

pytestmark = pytest.mark.trio

A: Final = b"\xc0\0\2\1"
B: Final = b"\xc0\0\2\2"
DAY: Final = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = DAY

    def __call__(self) -> float:
        return self.now


async def test_what_is_owed_is_paid_at_the_share_of_a_core() -> None:
    clock = Clock()
    efforts = Efforts(clock)
    assert efforts.spend(A, CREDIT_SECONDS) == 0
    assert efforts.spend(A, 0.1) == pytest.approx(0.1 / SHARE)
    clock.now += 0.1 / SHARE
    assert efforts.spend(A, 0.01) == pytest.approx(0.01 / SHARE)
    assert efforts.spend(B, CREDIT_SECONDS) == 0  # nobody pays for somebody else
    clock.now += CREDIT_SECONDS / SHARE + 1
    assert efforts.spend(A, CREDIT_SECONDS) == 0  # and all is forgotten


async def test_in_the_long_run_a_waster_has_its_share_and_no_more() -> None:
    clock = Clock()
    efforts = Efforts(clock)
    used = 0.0
    while clock.now < DAY + 600:
        used += 0.01
        clock.now += efforts.spend(A, 0.01)
    assert used == pytest.approx(600 * SHARE + CREDIT_SECONDS, rel=0.01)


async def test_nobody_waits_or_owes_without_end() -> None:
    clock = Clock()
    efforts = Efforts(clock)
    assert efforts.spend(A, 1e6) == pytest.approx(MOST_WAIT_SECONDS)
    clock.now += MOST_WAIT_SECONDS + CREDIT_SECONDS / SHARE
    assert efforts.spend(A, 0.0) == 0


async def test_who_sends_mails_never_waits() -> None:
    efforts = Efforts(Clock())
    effort = Effort(efforts, A)
    for _ in range(100_000):
        assert effort.spend(CONNECTION_SECONDS) == 0
        effort.redeem()


async def test_what_has_led_to_a_mail_pays_for_that_connection_only() -> None:
    efforts = Efforts(Clock())
    waster, sender = Effort(efforts, A), Effort(efforts, A)
    waster.spend(CREDIT_SECONDS)
    sender.spend(0.1)
    sender.redeem()
    sender.redeem()  # there is nothing more
    assert efforts.spend(A, 0.1) == pytest.approx(0.1 / SHARE)


async def test_a_connection_that_has_led_to_a_mail_is_paid_with_it(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    """Who comes with a connection for each mail, as fast as can be, is no waster."""
    house = House(nursery, journal, "limits = { exempt_from = [] }", connect=ScriptedResponder(nursery).connect)
    efforts = house.gateway.efforts
    place = house.place()
    assert await place.stand_for("192.0.2.1") is None
    assert place.metered is not None
    assert efforts.spend(place.metered, CONNECTION_SECONDS) == 0  # as the doorman does
    client, _ = house.visit(place=place)
    await client.hello()
    await client.mail()
    await client.ask(b"QUIT")
    nothing = pytest.approx(0.0, abs=0.1 * CONNECTION_SECONDS / SHARE)
    assert efforts.spend(place.metered, CREDIT_SECONDS) == nothing


async def test_nobody_of_no_address_waits() -> None:
    assert Effort(Efforts(Clock()), None).spend(math.inf) == 0


async def test_addresses_without_end_are_not_remembered_without_end() -> None:
    efforts = Efforts(Clock(), max_networks=100)
    for number in range(1000):
        efforts.spend(number.to_bytes(4), 1.0)
        assert len(efforts) <= 100


# In a session

WASTED: Final = 20_000
GROUP: Final = b"NOOP\r\n" * 500


async def _waste(client: Dialogue) -> None:
    for _ in range(WASTED // 500):
        await client.send(GROUP)
        for _ in range(500):
            await client.reply()


async def test_commands_without_a_mail_are_slowed_down(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, "limits = { exempt_from = [] }")
    place = house.place()
    assert await place.stand_for("192.0.2.1") is None
    client, _ = house.visit(place=place)
    await client.hello()
    seconds = elapsed()
    await _waste(client)
    owed = WASTED * EVENT_SECONDS - CREDIT_SECONDS
    assert owed / SHARE * 0.9 < seconds() < owed / SHARE * 1.5


async def test_commands_of_one_who_sends_mails_or_is_exempt_are_not(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, connect=ScriptedResponder(nursery).connect)
    place = house.place()
    assert await place.stand_for("127.0.0.1") is None
    client, _ = house.visit(place=place)
    await client.hello()
    seconds = elapsed()
    await _waste(client)
    other = house.place()
    assert await other.stand_for("192.0.2.1") is None
    sender, _ = house.visit(place=other)
    await sender.hello()
    for _ in range(WASTED // 5_000):
        await sender.send(b"NOOP\r\n" * 5_000)
        for _ in range(5_000):
            await sender.reply()
        assert (await sender.mail()).startswith(b"250 ")
    assert seconds() == 0


async def _pour(client: Dialogue) -> int:
    """How many mebibytes are taken."""
    for mebibytes in itertools.count():
        try:
            await client.send(bytes(1 << 20))
        except trio.BrokenResourceError:
            return mebibytes
        await wait_all_tasks_blocked()
    raise AssertionError("it has no end")


async def test_a_client_that_goes_on_after_our_last_reply_is_left(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, _ = House(nursery, journal).visit()
    await client.hello()
    assert (await client.ask(b"QUIT")).startswith(b"221 ")
    seconds = elapsed()
    assert FAREWELL_OCTETS >> 20 <= await _pour(client) <= (FAREWELL_OCTETS >> 20) + 1
    assert seconds() == 0


async def test_a_pipelining_client_lets_others_have_their_turns(nursery: trio.Nursery, journal: Journal) -> None:
    """However much it has sent at once."""
    house = House(nursery, journal, connect=ScriptedResponder(nursery).connect)
    client, _ = house.visit()
    await client.hello()
    turns = 0
    is_over = False

    async def count() -> None:
        nonlocal turns
        while not is_over:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as others:
        others.start_soon(count)
        await client.send(b"NOOP\r\n" * 10_000)
        for _ in range(10_000):
            await client.reply()
        is_over = True
    assert turns >= 10_000 // (2 * _EVENTS_IN_TURN)
    assert (await client.mail(MAIL)).startswith(b"250 ")
