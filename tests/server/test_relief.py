"""A worker that wants to be relieved, and another in its place: real processes."""

import os
import random
import signal
from collections.abc import Iterator

import pytest
import trio

from tests.phpfpm import open_folder
from tests.reload_load import Ledger, Load
from tests.reload_load import Store as LoadStore
from tests.server.responder_process import Store, storing
from tests.server.supervising import LISTENER, guest, running, until, until_workers_are, workers
from tests.support import Dialogue, Journal, settings
from trio_fcgimail.config import Settings, TcpAddress
from trio_fcgimail.server import Ending
from trio_fcgimail.server.crowd import CROWD
from trio_fcgimail.server.workers import generation
from trio_fcgimail.server.workers.generation import Rests

pytestmark = pytest.mark.trio

RELIEVED = "worker relieved"
REST_SECONDS = 1.5
SLACK = 10  # of a crowd: some of it may still come to one that is about to leave
CLIENTS = 10  # of the load; fewer than stay when a crowd has left


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A save script that keeps what it gets."""
    with open_folder() as path, storing(path / "fcgi") as store:
        yield store


@pytest.fixture(autouse=True)
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every crowd makes a worker tired, and it hardly has to wait for its relief."""
    monkeypatch.setattr(generation, "_PROGRAM", "tests.server.tired_child")
    monkeypatch.setattr(generation, "FIRST_REST_SECONDS", 0.1)


def _config(upstream: str, drain_seconds: int = 20, more: str = "") -> Settings:
    return settings(
        f"""drain_seconds = {drain_seconds}
{LISTENER}[limits]
connections_per_ip = 0
connections_per_minute_per_ip = 0
[fastcgi]
upstreams = ["{upstream}"]
{more}
[scripts]
save = "/save.php"
"""
    )


async def _crowd(address: TcpAddress) -> None:
    """As many clients as are a crowd come, and vanish."""
    clients = [await guest(address) for _ in range(CROWD + SLACK)]
    for client in clients:
        await client.close()


async def _sender_whose_worker_leaves(address: TcpAddress, journal: Journal) -> Dialogue:
    """A client in the midst of a mail, in the place of whose worker another serves by now."""
    sender = await guest(address)
    await sender.begin()
    await _crowd(address)
    await until(journal, RELIEVED)
    return sender


async def _is_served(address: TcpAddress) -> bool:
    client = await guest(address)
    reply = await client.mail()
    await client.close()
    return reply.startswith(b"250 ")


async def _is_let_go(client: Dialogue) -> bool:
    reply = await client.ask(b"NOOP")
    await client.close()
    return reply.startswith(b"421 4.3.2 ")


async def test_another_serves_and_mails_under_way_come_to_their_end(store: Store, journal: Journal) -> None:
    async with running(_config(store.address, drain_seconds=0), journal) as (server, (address,)):
        (old,) = workers()
        busy, between_mails = await guest(address), await guest(address)
        await busy.begin()
        assert (await between_mails.mail()).startswith(b"250 ")
        await _crowd(address)
        await until(journal, RELIEVED)
        (new,) = set(workers()) - {old}
        assert (await busy.ask(b"Subject: hello\r\n\r\nworld\r\n.")).startswith(b"250 ")
        assert await _is_let_go(busy)
        assert await _is_let_go(between_mails)
        assert await until_workers_are(1) == [new]
        assert await _is_served(address)
        server.stop()
        (entry,) = await until(journal, "stopped")
    assert entry["ending"] == Ending.DRAINED.value
    assert server.lost == 0


async def test_the_one_in_its_place_may_be_relieved_as_well(store: Store, journal: Journal) -> None:
    async with running(_config(store.address), journal) as (_, (address,)):
        for count in (1, 2):
            await _crowd(address)
            await until(journal, RELIEVED, count)
            await until_workers_are(1)
        assert await _is_served(address)


@pytest.mark.parametrize("program", ["tests.server.tired_child", "tests.server.eager_child"])
async def test_nobody_is_relieved_before_its_time(
    program: str, store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_PROGRAM", program)
    monkeypatch.setattr(generation, "FIRST_REST_SECONDS", REST_SECONDS)
    began = trio.current_time()
    async with running(_config(store.address), journal) as (_, (address,)):
        await _crowd(address)
        await until(journal, RELIEVED)
        assert trio.current_time() - began >= REST_SECONDS
        await _crowd(address)
        await until(journal, RELIEVED, 2)
        assert trio.current_time() - began >= 3 * REST_SECONDS  # who tires so soon has to wait twice as long


async def test_one_that_fails_while_it_serves_is_replaced(
    store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_PROGRAM", "tests.server.failing_child")
    async with running(_config(store.address), journal) as (server, (address,)):
        await _crowd(address)
        (entry,) = await until(journal, "worker failed")
        await until(journal, "worker died")
        assert await _is_served(address)
    assert server.lost == 1
    assert entry["problem"] == "the disk is full"


@pytest.mark.parametrize(
    ("lives", "rests"),
    [
        ([60, 120, 240, 480, 960, 1920], [120, 240, 480, 960, 1920, 3840]),
        ([3599, 3600], [120, 60]),
        ([61] * 12, [*(60 * 2**more for more in range(1, 11)), 86_400, 86_400]),
        ([*[61] * 6, 7679, 15_361], [*(60 * 2**more for more in range(1, 7)), 7680, 60]),
        ([*[61] * 12, 2 * 86_400], [*(60 * 2**more for more in range(1, 11)), 86_400, 86_400, 60]),
    ],
    ids=["in-vain", "after-an-hour", "a-day-at-most", "after-twice-its-rest", "after-two-days"],
)
async def test_rests(lives: list[float], rests: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rest = Rests()
    assert rest.seconds == 60
    found = []
    for lived in lives:
        rest.relieved_after(lived)
        found.append(rest.seconds)
    assert found == rests


async def test_a_tired_one_that_dies_is_replaced(
    store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "FIRST_REST_SECONDS", 1000.0)
    async with running(_config(store.address), journal) as (server, (address,)):
        (old,) = workers()
        await _crowd(address)
        os.kill(old, signal.SIGKILL)
        await until(journal, "worker died")
        assert await _is_served(address)
        assert old not in await until_workers_are(1)
    assert journal.entries(RELIEVED) == []
    assert server.lost == 1


async def test_it_serves_on_when_no_other_starts(
    store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(_config(store.address), journal) as (server, (address,)):
        pids = workers()
        with monkeypatch.context() as context:
            context.setattr(generation, "START_SECONDS", 0.001)
            await _crowd(address)
            await until(journal, "worker does not start", 2)  # it is tried again
            assert await _is_served(address)
            assert set(pids) <= set(workers())
        await until(journal, RELIEVED)
        assert set(await until_workers_are(1)).isdisjoint(pids)
    assert server.lost == 0


async def test_two_of_the_same_place_do_not_leave_at_once(
    store: Store, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "FAREWELL_SECONDS", 2.5)
    async with running(_config(store.address), journal) as (_, (address,)):
        (first,) = workers()
        busy = await _sender_whose_worker_leaves(address, journal)  # who sends no more, and is cut in the end
        await _crowd(address)
        await until(journal, RELIEVED, 2)
        assert first not in workers()
        await busy.close()


async def test_one_that_leaves_and_is_killed_is_not_replaced(store: Store, journal: Journal) -> None:
    async with running(_config(store.address), journal) as (server, (address,)):
        (old,) = workers()
        busy = await _sender_whose_worker_leaves(address, journal)
        others = set(workers()) - {old}
        os.kill(old, signal.SIGKILL)
        await until(journal, "worker failed at its end")
        assert set(await until_workers_are(1)) == others
        assert await _is_served(address)
        await busy.close()
        server.stop()
        (entry,) = await until(journal, "stopped")
    assert entry["ending"] == Ending.DRAINED.value
    assert server.lost == 0


async def test_a_stop_waits_for_one_that_leaves(store: Store, journal: Journal) -> None:
    async with running(_config(store.address), journal) as (server, (address,)):
        busy = await _sender_whose_worker_leaves(address, journal)
        server.stop()
        assert (await busy.ask(b"Subject: hello\r\n\r\nworld\r\n.")).startswith(b"250 ")
        assert await _is_let_go(busy)
        (entry,) = await until(journal, "stopped")
    assert entry["ending"] == Ending.DRAINED.value
    assert workers() == []


@pytest.mark.parametrize("drain_seconds", [1, 1000])
async def test_whom_it_serves_too_long_after_a_stop_is_cut(drain_seconds: int, store: Store, journal: Journal) -> None:
    async with running(_config(store.address, drain_seconds), journal) as (server, (address,)):
        busy = await _sender_whose_worker_leaves(address, journal)
        server.stop()
        if drain_seconds > 1:
            server.cut()
        assert (await busy.rest()).startswith(b"421 4.3.2 ")
        (entry,) = await until(journal, "stopped")
        await busy.close()
    assert entry["ending"] == Ending.CUT.value


async def test_a_load_runs_through_reliefs(journal: Journal) -> None:
    chance, ledger = random.Random(8), Ledger()
    with open_folder() as folder:
        async with trio.open_nursery() as nursery:
            await LoadStore(nursery, ledger, chance).listen(folder / "fcgi")
            config = _config(f"unix:{folder}/fcgi", more="max_connections = 6\nreserve_for_validate = 0")
            async with running(config, journal) as (_, (address,)):
                load = Load(address.port, ledger, chance)
                async with trio.open_nursery() as clients:
                    for _ in range(CLIENTS):
                        clients.start_soon(load.client)
                    for count in range(1, 4):
                        await _crowd(address)
                        await until(journal, RELIEVED, count)
                    load.end()
            nursery.cancel_scope.cancel()
    assert ledger.faults() == []
    assert len(ledger.sent) > CLIENTS
    assert ledger.told_to_go > 0
    assert journal.entries("worker died") == []
