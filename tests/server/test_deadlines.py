"""Every wait has a deadline, and nobody's wait is another's. Time is Trio's test clock."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from tests.support import (
    MAIL,
    TEMPFAIL,
    Dialogue,
    House,
    Journal,
    Line,
    ScriptedResponder,
    elapsed,
)
from trio_fcgimail.server.session import Drain
from trio_fcgimail.server.upstream import connect

pytestmark = pytest.mark.trio

TIMED_OUT = b"421 4.4.2 Timed out waiting for you; closing\r\n"
TOO_SLOW = b"421 4.4.2 Data comes too slowly; closing\r\n"
SHUTTING_DOWN = b"421 4.3.2 Shutting down; try again later\r\n"
STORED = b"250 2.0.0 OK: queued as "
HOUR = 3600.0

LIMITS = """
[limits]
idle_seconds = 17
data_seconds = 23
data_floor_octets_per_second = 100
[scripts]
validate = "/srv/mail/validate.php"
validate_seconds = 3
save_seconds = 7
[fastcgi]
max_connections = 3
reserve_for_validate = 1
wait_seconds = 11
"""


async def hang(line: Line) -> None:
    await line.request()
    await trio.sleep_forever()


class Gate:
    """An act that answers properly, once it is let."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.open = trio.Event()
        self.fields: dict[str, str] = {}

    async def act(self, line: Line) -> None:
        request = await line.request()
        self.fields = request.fields
        self.asked.set()
        await self.open.wait()
        await line.answer(b"SAVED" if request.is_post else b"PASSED")


async def test_silence_before_a_command_ends_after_idle_seconds(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, LIMITS).guest()
    seconds = elapsed()
    assert await client.rest() == TIMED_OUT
    assert seconds() == pytest.approx(17)


async def test_each_command_has_idle_seconds_of_its_own(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, LIMITS).guest()
    for _ in range(10):
        await trio.sleep(16)
        assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"", id="short-line"),
        pytest.param(5000 * b"x", id="over-long-line"),
        pytest.param(b"MAIL FROM:<>\r\n", id="in-a-transaction"),
    ],
)
async def test_a_command_has_idle_seconds_however_it_trickles_in(
    beginning: bytes, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, LIMITS).guest()
    await client.send(beginning)
    await trio.testing.wait_all_tasks_blocked()
    seconds = elapsed()
    nursery.start_soon(_trickle, client)
    with trio.move_on_after(100):
        assert (await client.rest()).endswith(TIMED_OUT)
    assert seconds() == pytest.approx(17)


async def test_a_beginning_that_comes_when_the_time_is_over_prolongs_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    theirs, ours = memory_stream_pair()
    nursery.start_soon(House(nursery, journal, LIMITS).session(ours).run)
    client = Dialogue(theirs)
    await client.hello()
    await client.send(b"NO")
    await trio.testing.wait_all_tasks_blocked()
    await client.send(b"O")
    autojump_clock.jump(100)
    assert await client.rest() == TIMED_OUT
    assert journal.entries("session failed") == []


async def _trickle(client: Dialogue) -> None:
    with suppress(trio.BrokenResourceError):
        while True:
            await client.send(b"x")
            await trio.sleep(1)


async def test_silence_within_the_data_ends_after_data_seconds(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, LIMITS, connect=ScriptedResponder(nursery).connect)
    client = await house.guest()
    await client.begin()
    await client.send(b"Subject: h")
    seconds = elapsed()
    assert await client.rest() == TIMED_OUT
    assert seconds() == pytest.approx(23)


async def test_a_trickling_sender_is_cut(nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal) -> None:
    house = House(nursery, journal, LIMITS, connect=ScriptedResponder(nursery).connect)
    client = await house.guest()
    await client.begin()
    seconds = elapsed()

    async def trickle() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            while True:
                await client.send(b"x\r\n")
                await trio.sleep(1)

    scopes: list[trio.CancelScope] = []
    nursery.start_soon(trickle)
    assert await client.reply() == TOO_SLOW
    scopes[0].cancel()
    assert 23 <= seconds() <= 2 * 23


async def test_a_slow_but_honest_sender_takes_hours(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(
        nursery, journal, LIMITS + "\n[spool]\nmemory_octets = 10_000_000", connect=ScriptedResponder(nursery).connect
    )
    client = await house.guest()
    await client.begin()
    seconds = elapsed()
    while seconds() < 3 * HOUR:
        await client.send(10 * (108 * b"x" + b"\r\n"))
        await trio.sleep(10)
    assert (await client.ask(b".")).startswith(STORED)


async def test_without_a_floor_only_silence_counts(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    toml = LIMITS.replace("per_second = 100", "per_second = 0")
    house = House(nursery, journal, toml, connect=ScriptedResponder(nursery).connect)
    client = await house.guest()
    await client.begin()
    seconds = elapsed()
    while seconds() < HOUR:
        await client.send(b"x\r\n")
        await trio.sleep(22)
    assert (await client.ask(b".")).startswith(STORED)


async def test_time_that_we_took_ourselves_is_not_the_senders(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    gate = Gate()
    house = House(
        nursery,
        journal,
        LIMITS.replace("save_seconds = 7", "save_seconds = 7000"),
        connect=ScriptedResponder(nursery, gate.act).connect,
    )
    gate.open.set()
    client = await house.guest()
    await client.begin()
    gate.open = trio.Event()
    await client.send(MAIL + b".\r\n")
    await trio.sleep(HOUR)
    gate.open.set()
    assert (await client.reply()).startswith(STORED)
    assert (await client.mail()).startswith(STORED)


async def test_a_client_that_does_not_read_is_left_after_idle_seconds(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, LIMITS)
    theirs, ours = lockstep_stream_pair()
    seconds = elapsed()
    await house.session(ours).run()
    assert seconds() == pytest.approx(17)
    assert [entry["state"] for entry in journal.entries("client gone")] == ["START"]
    await theirs.aclose()


async def test_a_client_that_does_not_close_is_left_soon(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, LIMITS)
    theirs, ours = memory_stream_pair()
    client = Dialogue(theirs)
    await client.send(b"QUIT\r\n")
    seconds = elapsed()
    await house.session(ours).run()
    assert seconds() == pytest.approx(2)


async def test_validate_seconds_of_each_of_two_tries(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, LIMITS, connect=ScriptedResponder(nursery, hang).connect).guest()
    await client.ask(b"MAIL FROM:<>")
    seconds = elapsed()
    assert await client.ask(b"RCPT TO:<b@example.com>") == TEMPFAIL
    assert seconds() == pytest.approx(2 * 3)


async def test_a_pipelining_client_has_each_reply_on_time(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, LIMITS, connect=ScriptedResponder(nursery, hang).connect).guest()
    seconds = elapsed()
    await client.send(b"MAIL FROM:<>\r\n" + 4 * b"RCPT TO:<b@example.com>\r\n" + b"DATA\r\n")
    assert (await client.reply()).startswith(b"250 2.1.0 ")
    for number in range(1, 5):
        assert await client.reply() == TEMPFAIL
        assert seconds() == pytest.approx(2 * 3 * number)
    assert (await client.reply()).startswith(b"503 ")


async def test_save_seconds(nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal) -> None:
    responder = ScriptedResponder(nursery)
    client = await House(nursery, journal, LIMITS, connect=responder.connect).guest()
    await client.begin()
    responder.act = hang
    seconds = elapsed()
    assert await client.ask(MAIL + b".") == TEMPFAIL
    assert seconds() == pytest.approx(7)


@pytest.fixture
def full_port() -> Iterator[int]:
    """A TCP port whose listen queue is full: whoever connects hears nothing."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_connect_seconds(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal, full_port: int
) -> None:
    toml = LIMITS.replace(
        "wait_seconds", f'upstreams = ["tcp:127.0.0.1:{full_port}"]\nconnect_seconds = 4\nwait_seconds'
    )
    client = await House(nursery, journal, toml, connect=connect).guest()
    await client.ask(b"MAIL FROM:<>")
    seconds = elapsed()
    assert await client.ask(b"RCPT TO:<b@example.com>") == TEMPFAIL
    assert seconds() == pytest.approx(4)
    assert "no connection within 4 s" in str(journal.entries("recipient")[0]["reason"])


async def test_wait_seconds_bound_the_wait_for_a_free_connection(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder = ScriptedResponder(nursery)
    toml = LIMITS.replace("save_seconds = 7", "save_seconds = 100")
    house = House(nursery, journal, toml, connect=responder.connect)
    clients = [await house.guest() for _ in range(3)]
    for client in clients:
        await client.begin()
    responder.act = hang
    for client in clients[:2]:
        await client.send(MAIL + b".\r\n")
    await trio.testing.wait_all_tasks_blocked()
    seconds = elapsed()
    assert await clients[2].ask(MAIL + b".") == TEMPFAIL
    assert seconds() == pytest.approx(11)
    assert "no free connection within 11 s" in str(journal.entries("mail")[0]["reason"])
    for client in clients[:2]:
        assert await client.reply() == TEMPFAIL
    assert seconds() == pytest.approx(100)


@pytest.mark.parametrize(
    ("connections", "reserve", "saves"),
    [
        pytest.param(5, 1, 4, id="one-in-reserve"),
        pytest.param(4, 2, 2, id="two-in-reserve"),
        pytest.param(3, 0, 3, id="no-reserve"),
        pytest.param(1, 0, 1, id="a-single-connection-has-no-reserve"),
    ],
)
async def test_saves_leave_the_reserve_to_validate(
    connections: int, reserve: int, saves: int, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    gate, responder = Gate(), ScriptedResponder(nursery)
    toml = LIMITS.replace("max_connections = 3", f"max_connections = {connections}")
    house = House(nursery, journal, toml.replace("validate = 1", f"validate = {reserve}"), connect=responder.connect)
    clients = [await house.guest() for _ in range(8)]
    for client in clients:
        await client.begin()
    assert responder.most_at_once == 1
    responder.act = gate.act
    for client in clients:
        await client.send(MAIL + b".\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert responder.most_at_once == saves
    responder.act = None
    if saves < connections:
        other = await house.guest()
        seconds = elapsed()
        await other.begin()
        assert seconds() == pytest.approx(0)
    gate.open.set()
    for client in clients:
        assert (await client.reply()).startswith(STORED)
    assert responder.most_at_once <= connections


async def test_validates_use_all_connections_and_not_more(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    gate = Gate()
    responder = ScriptedResponder(nursery, gate.act)
    house = House(nursery, journal, LIMITS, connect=responder.connect)
    clients = [await house.guest() for _ in range(8)]
    for client in clients:
        await client.send(b"MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert responder.most_at_once == 3
    gate.open.set()
    for client in clients:
        assert (await client.reply()).startswith(b"250 ")
        assert (await client.reply()).startswith(b"250 ")
    assert responder.most_at_once == 3


async def test_a_hung_script_delays_nobody_else(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder = ScriptedResponder(nursery)
    house = House(nursery, journal, LIMITS, connect=responder.connect)
    hung, other = await house.guest(), await house.guest()
    await hung.begin()
    responder.act = hang
    await hung.send(MAIL + b".\r\n")
    await trio.testing.wait_all_tasks_blocked()
    responder.act = None
    seconds = elapsed()
    for _ in range(10):
        assert (await other.mail()).startswith(STORED)
    assert seconds() == pytest.approx(0)
    assert await hung.reply() == TEMPFAIL


async def test_a_client_that_vanishes_after_its_dot_does_not_cancel_the_save(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    gate, responder = Gate(), ScriptedResponder(nursery)
    house = House(nursery, journal, LIMITS, connect=responder.connect)
    client = await house.guest()
    await client.begin()
    responder.act = gate.act
    await client.send(MAIL + b".\r\n")
    await gate.asked.wait()
    await client.close()
    await trio.sleep(5)
    gate.open.set()
    await trio.testing.wait_all_tasks_blocked()
    assert gate.fields["body"].endswith(MAIL.decode().replace("\r\n", "\n"))
    assert [entry["verdict"] for entry in journal.entries("mail")] == ["accepted"]
    assert len(journal.entries("client gone")) == 1
    assert house.room.used_octets == 0


async def test_a_cut_session_that_waits_for_a_verdict_says_451_first(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder = ScriptedResponder(nursery)
    house = House(nursery, journal, LIMITS, connect=responder.connect)
    client, session = house.visit()
    await client.hello()
    await client.begin()
    responder.act = hang
    await client.send(MAIL + b".\r\n")
    await trio.testing.wait_all_tasks_blocked()
    session.cut()
    assert await client.rest() == TEMPFAIL + SHUTTING_DOWN
    assert [entry["reason"] for entry in journal.entries("mail")] == ["the wait for the verdict was cut"]
    assert house.room.used_octets == 0


async def test_a_verdict_that_came_is_told_even_to_who_is_cut(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    gate, responder = Gate(), ScriptedResponder(nursery)

    class CutsAtOnce:
        def mail(self, report: object) -> None:
            session.cut()

    house = House(nursery, journal, LIMITS, connect=responder.connect, observers=(CutsAtOnce(),))
    client, session = house.visit()
    await client.hello()
    assert (await client.mail()).startswith(STORED)
    assert await client.rest() == SHUTTING_DOWN
    assert gate.fields == {}


@pytest.mark.parametrize(
    ("said", "owed"),
    [
        pytest.param(b"", b"", id="idle"),
        pytest.param(b"MAIL FROM:<>\r\n", b"250 2.1.0 Sender OK\r\n", id="in-a-transaction"),
        pytest.param(b"MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\n", b"250 2.1.0 Sender OK\r\n", id="in-validate"),
    ],
)
async def test_a_cut_session_says_421(
    said: bytes, owed: bytes, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, LIMITS, connect=ScriptedResponder(nursery, hang).connect)
    client, session = house.visit()
    await client.hello()
    await client.send(said)
    await trio.testing.wait_all_tasks_blocked()
    session.cut()
    assert await client.rest() == owed + SHUTTING_DOWN


async def test_a_cut_session_does_not_wait_for_a_client_that_does_not_read(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    theirs, ours = lockstep_stream_pair()
    session = House(nursery, journal, LIMITS).session(ours)
    seconds = elapsed()
    async with trio.open_nursery() as inner:
        inner.start_soon(session.run)
        await trio.testing.wait_all_tasks_blocked()
        session.cut()
    assert seconds() <= 2
    await theirs.aclose()


@pytest.mark.parametrize("command", [b"NOOP", b"MAIL FROM:<>", b"EHLO again.example", b"VRFY x"])
async def test_a_session_of_a_stopping_server_ends_at_the_next_command(
    command: bytes, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, session = House(nursery, journal, LIMITS).visit()
    await client.hello()
    session.drain(Drain.STOPPING)
    await trio.sleep(4)
    seconds = elapsed()
    await client.send(command + b"\r\n")
    assert await client.rest() == SHUTTING_DOWN
    assert seconds() == pytest.approx(0)


async def test_quit_to_a_stopping_server_is_still_221(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, session = House(nursery, journal, LIMITS).visit()
    await client.hello()
    session.drain(Drain.STOPPING)
    await client.send(b"QUIT\r\n")
    assert await client.rest() == b"221 2.0.0 Bye\r\n"


async def test_a_session_of_a_stopping_server_ends_after_5_seconds_of_idleness(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, session = House(nursery, journal, LIMITS).visit()
    await client.hello()
    await trio.sleep(1)
    seconds = elapsed()
    session.drain(Drain.STOPPING)
    assert await client.rest() == SHUTTING_DOWN
    assert seconds() == pytest.approx(5)


async def test_a_client_that_was_idle_for_long_has_no_more_time_than_before(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, session = House(nursery, journal, LIMITS).visit()
    await client.hello()
    await trio.sleep(15)
    seconds = elapsed()
    session.drain(Drain.STOPPING)
    assert await client.rest() == SHUTTING_DOWN
    assert seconds() == pytest.approx(2)


async def test_a_session_that_begins_while_the_server_stops_is_not_greeted(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    theirs, ours = memory_stream_pair()
    session = House(nursery, journal, LIMITS).session(ours)
    session.drain(Drain.STOPPING)
    nursery.start_soon(session.run)
    assert await Dialogue(theirs).rest() == SHUTTING_DOWN


@pytest.mark.parametrize("drain", [Drain.STOPPING, Drain.RETIRING])
async def test_a_drained_session_finishes_its_mail_and_begins_no_other(
    drain: Drain, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, LIMITS, connect=ScriptedResponder(nursery).connect)
    client, session = house.visit()
    await client.hello()
    await client.begin()
    session.drain(drain)
    await trio.sleep(6)
    await client.send(MAIL + b".\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\n")
    assert await client.rest() == b"250 2.0.0 OK: queued as q1\r\n" + SHUTTING_DOWN


async def test_a_session_that_retires_serves_its_first_mail_as_before(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, LIMITS, connect=ScriptedResponder(nursery).connect)
    client, session = house.visit()
    session.drain(Drain.RETIRING)
    await client.hello()
    await trio.sleep(16)
    assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
    await trio.sleep(16)
    assert await client.mail() == b"250 2.0.0 OK: queued as q1\r\n"
    seconds = elapsed()
    assert await client.rest() == SHUTTING_DOWN
    assert seconds() == pytest.approx(5)


async def test_a_session_that_retires_before_its_first_mail_has_its_usual_deadline(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, session = House(nursery, journal, LIMITS).visit()
    await client.hello()
    session.drain(Drain.RETIRING)
    seconds = elapsed()
    assert await client.rest() == TIMED_OUT
    assert seconds() == pytest.approx(17)


@pytest.mark.parametrize("end", [b"RSET", b"EHLO again.example"])
async def test_a_transaction_that_was_given_up_is_one_as_well(
    end: bytes, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, LIMITS, connect=ScriptedResponder(nursery).connect)
    client, session = house.visit()
    await client.hello()
    session.drain(Drain.RETIRING)
    await client.ask(b"MAIL FROM:<>")
    await client.ask(end)
    await client.send(b"MAIL FROM:<>\r\n")
    assert await client.rest() == SHUTTING_DOWN


async def test_a_session_that_has_had_its_mail_retires_at_its_next_command(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, LIMITS, connect=ScriptedResponder(nursery).connect)
    client, session = house.visit()
    await client.hello()
    assert (await client.mail()).startswith(STORED)
    session.drain(Drain.RETIRING)
    await client.send(b"MAIL FROM:<>\r\n")
    assert await client.rest() == SHUTTING_DOWN


async def test_a_cut_session_whose_client_is_gone_ends_in_silence(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder = ScriptedResponder(nursery)
    house = House(nursery, journal, LIMITS, connect=responder.connect)
    client, session = house.visit()
    await client.hello()
    await client.begin()
    responder.act = hang
    await client.send(MAIL + b".\r\n")
    await trio.testing.wait_all_tasks_blocked()
    await client.close()
    session.cut()
    await trio.testing.wait_all_tasks_blocked()
    assert [entry["verdict"] for entry in journal.entries("mail")] == ["failed"]
    assert journal.entries("session failed") == []
    assert house.room.used_octets == 0
