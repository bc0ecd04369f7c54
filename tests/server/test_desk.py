"""What all children share: the parent's desk, a child's questions to it, and limits that hold over real processes."""

import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.cli.support import answers, configuration, deliver, greeted, write_configuration
from tests.phpfpm import children_of, open_folder
from tests.server.responder_process import Store, storing
from tests.server_process import ServerProcess, eventually
from tests.support import settings
from trio_fcgimail.config import Settings
from trio_fcgimail.server.ledger import Rate
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.pool import Kind
from trio_fcgimail.server.workers.channel import (
    Admit,
    AskLease,
    Count,
    Enter,
    ForDesk,
    FromDesk,
    LeaseGranted,
    LeasesScarce,
    Left,
    LowerLease,
    Released,
    ReleaseLease,
    Verdict,
)
from trio_fcgimail.server.workers.desk import Desk, MisuseError
from trio_fcgimail.server.workers.ledger import ANSWER_SECONDS, SharedLedger

NET: Final = bytes(4)
CROWD: Final = 20_000
OTHER: Final = bytes(8)
PHP: Final = "unix:/run/php/php-fpm.sock"


def _limits(text: str = "", fastcgi: str = "") -> Settings:
    return settings(f"limits = {{ {text} }}\n[fastcgi]\n{fastcgi}")


def _fastest_admission(desk: Desk, holder: int) -> float:
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        desk.hear(holder, Enter(1))
        desk.hear(holder, Admit(2, NET))
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def test_a_client_more_costs_the_same_however_many_addresses_there_are() -> None:
    desk = Desk(_limits("connections = 0, connections_per_ip = 0"))
    holder = desk.join(lambda _: None)
    alone = _fastest_admission(desk, holder)
    for number in range(CROWD):
        desk.hear(holder, Enter(1))
        desk.hear(holder, Admit(2, number.to_bytes(8)))
    assert _fastest_admission(desk, holder) < 20 * alone


class Children:
    """Some that are known to a desk, and what each has heard."""

    def __init__(self, config: Settings, now: Callable[[], float] = lambda: 0.0) -> None:
        self.desk = Desk(config, now)
        self.heard: dict[int, list[FromDesk]] = {}

    def join(self) -> int:
        heard: list[FromDesk] = []
        holder = self.desk.join(heard.append)
        self.heard[holder] = heard
        return holder

    def ask(self, holder: int, message: ForDesk) -> FromDesk:
        """The answer, which comes at once."""
        self.desk.hear(holder, message)
        return self.heard[holder].pop()


def test_places_are_shared_and_those_of_a_dead_child_are_free() -> None:
    children = Children(_limits("connections = 3, connections_per_ip = 2"))
    one, two = children.join(), children.join()
    for holder in (one, one, two):
        assert children.ask(holder, Enter(1)) == Verdict(1)
    assert children.ask(two, Enter(2)) == Verdict(2, Limit.CONNECTIONS)
    assert children.ask(one, Admit(3, NET)) == children.ask(one, Admit(3, NET)) == Verdict(3)
    assert children.ask(two, Admit(4, NET)) == Verdict(4, Limit.CONNECTIONS_PER_IP)
    assert children.ask(two, Admit(5, OTHER)) == Verdict(5)
    children.desk.leave(one)
    assert children.ask(two, Enter(6)) == children.ask(two, Enter(6)) == Verdict(6)
    assert children.ask(two, Admit(7, NET)) == Verdict(7)
    children.desk.hear(two, Released(NET))
    children.desk.hear(two, Left())
    assert children.ask(children.join(), Enter(8)) == Verdict(8)


def _capped(connections: int) -> Settings:
    return settings(f'[[listeners]]\naddress = "unix:/here"\nconnections = {connections}')


def test_room_of_a_listener_is_shared() -> None:
    children = Children(_capped(2))
    one, two = children.join(), children.join()
    here = "unix:/here 0"
    assert children.ask(one, Enter(1, here)) == children.ask(two, Enter(1, here)) == Verdict(1)
    full = Verdict(2, Limit.LISTENER_CONNECTIONS)
    assert children.ask(one, Enter(2, here)) == children.ask(two, Enter(2, here)) == full
    assert children.ask(two, Enter(3)) == Verdict(3)
    children.desk.leave(one)
    assert children.ask(two, Enter(4, here)) == Verdict(4)
    children.desk.change(_capped(1))
    children.desk.hear(two, Left(here))
    assert children.ask(two, Enter(2, here)) == full
    children.desk.hear(two, Left(here))
    assert children.ask(two, Enter(5, here)) == Verdict(5)


def test_rates_are_shared_and_new_limits_hold_for_all() -> None:
    children = Children(_limits("messages_per_minute_per_ip = 2"))
    one, two = children.join(), children.join()
    count = Count(1, Limit.MESSAGES_PER_MINUTE_PER_IP, NET)
    assert children.ask(one, count) == children.ask(two, count) == Verdict(1)
    refused = Verdict(1, Limit.MESSAGES_PER_MINUTE_PER_IP)
    assert children.ask(one, count) == children.ask(two, count) == refused
    children.desk.change(_limits("messages_per_minute_per_ip = 2"))  # nothing is forgotten
    assert children.ask(one, count) == refused
    children.desk.change(_limits("messages_per_minute_per_ip = 0"))
    assert children.ask(one, count) == Verdict(1)


def test_leases_are_shared() -> None:
    children = Children(_limits(fastcgi="max_connections = 2"))
    one, two = children.join(), children.join()
    assert children.ask(one, AskLease(PHP, Kind.SAVE)) == LeaseGranted(PHP, Kind.SAVE)
    assert children.ask(two, AskLease(PHP, Kind.SAVE)) == LeasesScarce(PHP, True)
    assert children.heard[one] == [LeasesScarce(PHP, True)]
    assert children.heard[children.join()] == [LeasesScarce(PHP, True)]
    children.heard[one].clear()
    children.desk.hear(one, LowerLease(PHP))
    assert children.heard[two] == [LeaseGranted(PHP, Kind.SAVE), LeasesScarce(PHP, False)]
    children.desk.hear(one, ReleaseLease(PHP, Kind.VALIDATE))
    assert children.ask(one, AskLease(PHP, Kind.VALIDATE)) == LeaseGranted(PHP, Kind.VALIDATE)
    children.desk.hear(one, AskLease(PHP, Kind.VALIDATE))
    children.desk.leave(two)
    assert children.heard[one][-2:] == [LeaseGranted(PHP, Kind.VALIDATE), LeasesScarce(PHP, False)]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Left(), id="more-left-than-entered"),
        pytest.param(Left("unix:/here 0"), id="left-where-none-entered"),
        pytest.param(Enter(1, "unix:/nowhere 0"), id="no-such-listener"),
        pytest.param(Released(NET), id="released-more-than-admitted"),
        pytest.param(Admit(1, NET), id="admitted-more-than-entered"),
        pytest.param(Admit(1, b"x"), id="no-network"),
        pytest.param(Count(1, Limit.MESSAGES_PER_MINUTE_PER_IP, bytes(5000)), id="no-network-either"),
        pytest.param(Count(1, Limit.IDLE_SECONDS, NET), id="no-rate"),
        pytest.param(ReleaseLease(PHP, Kind.SAVE), id="nothing-leased"),
        pytest.param(LowerLease(PHP), id="no-save-leased"),
        pytest.param(AskLease("unix:/other", Kind.SAVE), id="no-such-upstream"),
    ],
)
def test_a_child_that_says_what_it_may_not_is_found_out(message: ForDesk) -> None:
    children = Children(_limits())
    holder, other = children.join(), children.join()
    children.ask(other, Enter(1))
    children.ask(other, Admit(1, NET))
    with pytest.raises(MisuseError):
        children.desk.hear(holder, message)


# A child's side


class Wire:
    """A child's ledger, and what it has said."""

    def __init__(self) -> None:
        self.said: list[ForDesk] = []
        self.ledger = SharedLedger(self.said.append)


@pytest.mark.trio
async def test_a_question_waits_for_its_own_answer(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    wire = Wire()
    got: dict[str, Limit | None] = {}

    async def ask(name: str, question: Callable[[], Awaitable[Limit | None]]) -> None:
        got[name] = await question()

    nursery.start_soon(ask, "enter", wire.ledger.enter)
    await wait_all_tasks_blocked()
    nursery.start_soon(ask, "admit", lambda: wire.ledger.admit(NET))
    await wait_all_tasks_blocked()
    nursery.start_soon(ask, "count", lambda: wire.ledger.count(Rate.MESSAGES, NET))
    await wait_all_tasks_blocked()
    assert wire.said == [Enter(0), Admit(1, NET), Count(2, Limit.MESSAGES_PER_MINUTE_PER_IP, NET)]
    wire.ledger.hear(Verdict(2, Limit.MESSAGES_PER_MINUTE_PER_IP))
    wire.ledger.hear(Verdict(0))
    wire.ledger.hear(Verdict(1, Limit.CONNECTIONS_PER_IP))
    await wait_all_tasks_blocked()
    assert got == {
        "enter": None,
        "admit": Limit.CONNECTIONS_PER_IP,
        "count": Limit.MESSAGES_PER_MINUTE_PER_IP,
    }
    wire.ledger.leave()
    wire.ledger.release(NET)
    assert wire.said[3:] == [Left(), Released(NET)]


@pytest.mark.trio
@pytest.mark.parametrize("is_late", [False, True], ids=["cancelled-before", "cancelled-as-it-comes"])
async def test_what_is_granted_to_who_has_gone_is_given_back(is_late: bool, autojump_clock: MockClock) -> None:
    wire = Wire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.ledger.enter)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        if is_late:
            wire.ledger.hear(Verdict(0))
    if not is_late:
        wire.ledger.hear(Verdict(0))
    assert wire.said == [Enter(0), Left()]


@pytest.mark.trio
async def test_a_parent_that_does_not_answer_refuses_connections_only(autojump_clock: MockClock) -> None:
    wire = Wire()
    began = trio.current_time()
    assert await wire.ledger.enter() is Limit.CONNECTIONS
    assert await wire.ledger.admit(NET) is Limit.CONNECTIONS_PER_IP
    assert await wire.ledger.count(Rate.RECIPIENTS, NET) is None
    assert trio.current_time() - began == pytest.approx(3 * ANSWER_SECONDS)
    wire.ledger.hear(Verdict(0))
    wire.ledger.hear(Verdict(1, Limit.CONNECTIONS_PER_IP))
    wire.ledger.hear(Verdict(2))
    assert wire.said[3:] == [Left()]


@pytest.mark.trio
async def test_without_a_parent_nobody_is_refused(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    wire = Wire()
    nursery.start_soon(wire.ledger.enter)
    await wait_all_tasks_blocked()
    wire.ledger.forsake()
    assert await wire.ledger.enter() is None
    assert await wire.ledger.admit(NET) is None


# Real processes


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder."""
    with open_folder() as path:
        yield path


def test_a_limit_of_connections_holds_over_all_workers(folder: Path) -> None:
    write_configuration(folder, "workers = 3\n" + configuration(more="[limits]\nconnections = 2"))
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as one, greeted(server.port):
            for _ in range(9):
                assert not answers(server.port)
            one.quit()
            eventually(lambda: answers(server.port), "there is a place again")
        assert server.stop() == 0


@pytest.mark.parametrize("keep_alive", [True, False])
def test_no_more_connections_to_the_scripts_than_may_be_over_all_workers(keep_alive: bool, folder: Path) -> None:
    with storing(folder / "fcgi") as store:
        store.seconds = 0.01
        write_configuration(folder, _three_workers(store, keep_alive))
        with ServerProcess("serve", folder=folder) as server:
            with ThreadPoolExecutor(8) as clients:
                sent = [clients.submit(deliver, server.port, recipient=f"r{n}@example.com") for n in range(120)]
                server.send(signal.SIGHUP)  # for a while there are six of them
                server.wait_for_log("] reloaded ")
                for one in sent:
                    one.result()
            assert server.stop() == 0
        saved = [request.fields["rcpt_to_0"] for request in store.requests if request.is_post]
        assert sorted(saved) == sorted(f"r{n}@example.com" for n in range(120))
        assert store.most_at_once == 2


def _three_workers(store: Store, keep_alive: bool) -> str:
    text = configuration(upstream=store.address, validate="/srv/validate.php")  # max_connections = 2
    text = text.replace("[scripts]", f"keep_alive = {str(keep_alive).lower()}\n[scripts]")
    return "workers = 3\n" + text


def test_leases_of_a_killed_worker_are_free(folder: Path) -> None:
    with storing(folder / "fcgi") as store:
        write_configuration(folder, _three_workers(store, False))
        with ServerProcess("serve", folder=folder) as server:
            pids = children_of(server.pid)
            with store.held() as hold, greeted(server.port) as client:
                client.mail("a@example.net")
                client.putcmd("rcpt", "TO:<b@example.com>")
                hold.wait_for(1)
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
            for _ in range(4):
                eventually(lambda: answers(server.port), "somebody serves again")
                deliver(server.port)
            assert server.stop() == 0


def test_the_places_of_a_killed_worker_are_free(folder: Path) -> None:
    write_configuration(folder, "workers = 2\n" + configuration(more="[limits]\nconnections_per_ip = 1"))
    with ServerProcess("serve", folder=folder) as server:
        pids = children_of(server.pid)
        with greeted(server.port):
            assert not answers(server.port)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: answers(server.port), "there is a place again")
        assert server.stop() == 0
