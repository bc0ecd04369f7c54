"""The server within a program of others: started, reloaded, told of, stopped; on real sockets."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support import MAIL, Dialogue, Journal, Line, ScriptedResponder, settings
from trio_fcgimail.config import Settings, TcpAddress, UnixAddress
from trio_fcgimail.server import (
    ConnectionClosed,
    ConnectionOpened,
    Ending,
    Event,
    Events,
    ListenError,
    LogsReopened,
    MailJudged,
    Reloaded,
    ReloadFailed,
    Service,
    Started,
    StartError,
    Stopping,
    serve,
)
from trio_fcgimail.server.processors import ChainError, Mail, Processor, ProcessorSource, Stored

pytestmark = pytest.mark.trio

QUEUED = b"250 2.0.0 OK: queued as "
SHUTTING_DOWN = b"421 4.3.2 Shutting down; try again later\r\n"


def config(more: str = "") -> Settings:
    return settings(f'[chain]\nsave = ["store"]\nvalidate = []\n[[listeners]]\naddress = "127.0.0.1:0"\n{more}')


async def store(mail: Mail) -> Stored:
    return Stored(note=str(mail.size))


STORE: Mapping[str, ProcessorSource] = {"store": store}


@asynccontextmanager
async def running(
    journal: Journal, config: Settings, events: Events | None = None, processors: Mapping[str, ProcessorSource] = STORE
) -> AsyncIterator[Service]:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            service: Service = await nursery.start(
                partial(serve, config, processors=processors, events=events, log=journal.log)
            )
            yield service
            service.cut()


async def guest(service: Service, number: int = 0) -> Dialogue:
    address = service.addresses[number]
    match address:
        case TcpAddress():
            client = Dialogue(await trio.open_tcp_stream(address.host, address.port))
        case UnixAddress(path=path):
            client = Dialogue(await trio.open_unix_socket(path))
    await client.hello()
    return client


async def test_serves_in_the_callers_nursery_until_stopped(journal: Journal) -> None:
    endings: list[Ending] = []

    async def run(task_status: trio.TaskStatus[Service]) -> None:
        endings.append(await serve(config(), processors=STORE, log=journal.log, task_status=task_status))

    async with trio.open_nursery() as nursery:
        service = await nursery.start(run)
        client = await guest(service)
        assert (await client.mail()).startswith(QUEUED)
        await client.begin()
        service.stop()
        service.stop()
        assert service.is_stopping
        assert (await client.ask(MAIL + b".")).startswith(QUEUED)  # what was begun is ended
        assert await client.ask(b"NOOP") == SHUTTING_DOWN
        with pytest.raises(OSError, match="all attempts to connect"):
            await guest(service)
        await client.close()
    assert endings == [Ending.DRAINED]


async def test_start_that_fails_is_one_plain_error(journal: Journal) -> None:
    async with running(journal, config()) as service:
        (taken,) = service.addresses
        other = settings(f'[chain]\nsave = ["store"]\n[[listeners]]\naddress = "{taken}"')
        with pytest.raises(ListenError, match="in use"):
            await serve(other, processors=STORE, log=journal.log)
        with pytest.raises(ChainError, match="store"):
            await serve(config(), log=journal.log)
        with pytest.raises(StartError, match="cannot write the log file"):
            await serve(replace(config(), log=replace(config().log, file=Path("/nowhere/log"))), processors=STORE)


async def test_reload_is_for_new_clients_and_old_ones_have_their_first_mail(journal: Journal) -> None:
    async with running(journal, config()) as service:
        before = service.addresses
        fresh, served = await guest(service), await guest(service)
        assert (await served.mail()).startswith(QUEUED)
        await service.reload(config("[limits]\nmessage_octets = 1000"))
        assert service.addresses == before
        assert service.settings.limits.message_octets == 1000
        assert await served.ask(b"NOOP") == SHUTTING_DOWN
        assert (await fresh.mail(MAIL + b"x" * 2000 + b"\r\n")).startswith(QUEUED)  # by the old settings
        assert await fresh.ask(b"NOOP") == SHUTTING_DOWN
        new = await guest(service)
        assert (await new.ask(b"MAIL FROM:<> SIZE=2000")).startswith(b"552 ")
        for client in (fresh, served, new):
            await client.close()


async def test_no_connection_is_refused_while_reloading(journal: Journal) -> None:
    """Clients come all the time, each with one mail; none is told anything but 250."""
    async with running(journal, config()) as service:
        replies: list[bytes] = []
        done = trio.Event()

        async def come_and_go() -> None:
            while not done.is_set():
                client = await guest(service)
                replies.append((await client.mail())[: len(QUEUED)])
                await client.close()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(come_and_go)
            for number in range(10):
                await service.reload(config(f"[limits]\nmessage_octets = {1000 + number}"))
                seen = len(replies)
                while len(replies) < seen + 4:
                    await trio.lowlevel.checkpoint()
            done.set()
    assert set(replies) == {QUEUED}


async def test_reload_opens_and_closes_listeners(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "s"
    both = config(f'[[listeners]]\naddress = "unix:{path}"\n')
    async with running(journal, config()) as service:
        (first,) = service.addresses
        await service.reload(both)
        assert list(service.addresses) == [first, UnixAddress(str(path))]
        for number in (0, 1):
            client = await guest(service, number)
            assert (await client.mail()).startswith(QUEUED)
            await client.close()
        await service.reload(both)
        client = await guest(service, 1)
        await service.reload(config())
        assert list(service.addresses) == [first]
        assert not await trio.Path(path).exists()
        assert (await client.mail()).startswith(QUEUED)
        await client.close()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param('[[listeners]]\naddress = "192.0.2.1:0"', id="no-such-address"),
        pytest.param('tls = "implicit"\ncertificate = "/nowhere"', id="no-certificate"),
        pytest.param('[header]\n[[listeners]]\naddress = "unix:/nowhere/s"', id="no-folder"),
    ],
)
async def test_reload_that_fails_changes_nothing(bad: str, journal: Journal) -> None:
    events = Events()
    told: list[Event] = []
    events.subscribe(Event, told.append)
    async with running(journal, config(), events) as service:
        before, descriptors = service.addresses, _descriptors()
        client = await guest(service)
        with pytest.raises(StartError):
            await service.reload(config(bad))
        assert service.addresses == before
        assert service.settings == config()
        assert (await client.mail()).startswith(QUEUED)
        assert (await client.mail()).startswith(QUEUED)
        await client.close()
        other = await guest(service)
        assert (await other.mail()).startswith(QUEUED)
        await other.close()
        await trio.testing.wait_all_tasks_blocked()
        assert _descriptors() <= descriptors
    assert [type(event) for event in told if isinstance(event, ReloadFailed | Reloaded)] == [ReloadFailed]
    assert len(journal.entries("reload failed")) == 1


async def test_processors_are_made_anew_for_each_reload(journal: Journal) -> None:
    steps: list[str] = []

    class Counting(Processor):
        async def set_up(self, context: object) -> None:
            steps.append("up")
            if len(steps) == 2:
                raise ConnectionError("no database")

        async def tear_down(self) -> None:
            steps.append("down")

        async def save(self, mail: Mail) -> Stored:
            return Stored()

    async with running(journal, config(), processors={"store": Counting}) as service:
        with pytest.raises(ChainError, match="no database"):
            await service.reload(config())
        await service.reload(config())
        await trio.testing.wait_all_tasks_blocked()
        assert steps == ["up", "up", "up", "down"]
    assert steps == ["up", "up", "up", "down", "down"]


async def test_connections_to_the_scripts_are_counted_over_a_reload(
    journal: Journal, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """While an old save is under way on the only connection, that of a new client waits."""
    asked, going_on = trio.Event(), trio.Event()

    async def hang(line: Line) -> None:
        await line.request()
        asked.set()
        await going_on.wait()
        await line.answer(b"SAVED")

    responder = ScriptedResponder(nursery, hang)
    await responder.listen(tmp_path / "fcgi")
    one = settings(
        f'[fastcgi]\nupstreams = ["unix:{tmp_path}/fcgi"]\nmax_connections = 1\n[[listeners]]\naddress = "127.0.0.1:0"'
    )
    replies: list[bytes] = []

    async def send(client: Dialogue) -> None:
        replies.append(await client.mail())
        await client.close()

    async with running(journal, one) as service:
        async with trio.open_nursery() as senders:
            senders.start_soon(send, await guest(service))
            await asked.wait()
            responder.act = None
            await service.reload(one)
            senders.start_soon(send, await guest(service))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert replies == []
            going_on.set()
        assert [reply[: len(QUEUED)] for reply in replies] == [QUEUED] * 2
    assert responder.most_at_once == 1


async def test_stop_while_a_reload_is_under_way_ends_all(journal: Journal) -> None:
    class Slow(Processor):
        async def set_up(self, context: object) -> None:
            self.waits = started.is_set()
            started.set()
            if self.waits:
                await going_on.wait()

        async def save(self, mail: Mail) -> Stored:
            return Stored()

    started, going_on = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        service = await nursery.start(partial(serve, config(), processors={"store": Slow}, log=journal.log))

        async def reload() -> None:
            with pytest.raises(StartError, match="stopping"):
                await service.reload(config())

        nursery.start_soon(reload)
        await trio.testing.wait_all_tasks_blocked()
        service.stop()
        going_on.set()
    with pytest.raises(StartError, match="stopping"):
        await service.reload(config())


async def test_a_reload_that_is_cancelled_leaves_no_server_behind(journal: Journal) -> None:
    scope = trio.CancelScope()

    class Impatient(Processor):
        async def set_up(self, context: object) -> None:
            if began:
                scope.cancel()

        async def save(self, mail: Mail) -> Stored:
            return Stored()

    began = False
    async with running(journal, config(), processors={"store": Impatient}) as service:
        began = True
        with scope:
            await service.reload(config())
        assert scope.cancelled_caught
        client = await guest(service)
        assert (await client.mail()).startswith(QUEUED)
        service.cut()
    await client.close()
    assert service.ending is Ending.CUT
    assert len(journal.entries("stopped")) == 1


async def test_subscribers_are_told_in_order(journal: Journal) -> None:
    events = Events()
    told: list[Event] = []
    mails: list[MailJudged] = []

    def fail(_event: Event) -> None:
        raise RuntimeError("a bug")

    events.subscribe(Event, fail)
    events.subscribe(Event, told.append)
    unsubscribe = events.subscribe(MailJudged, mails.append)
    async with running(journal, config(), events) as service:
        client = await guest(service)
        await client.mail()
        unsubscribe()
        unsubscribe()
        await client.mail()
        await client.ask(b"QUIT")
        await client.rest()
        await client.close()
        await trio.testing.wait_all_tasks_blocked()
        await service.reload(service.settings)
        service.reopen_logs()
    kinds = [Started, ConnectionOpened, MailJudged, MailJudged, ConnectionClosed, Reloaded, LogsReopened, Stopping]
    assert [type(event) for event in told] == kinds
    assert [(one.report.subject, one.report.verdict.reply.code) for one in mails] == [("hello", 250)]
    assert len(journal.entries("subscriber failed")) == len(kinds)


async def test_logs_go_where_the_settings_say_and_can_be_moved(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"

    def logging_to(path: Path) -> Settings:
        return replace(config(), log=replace(config().log, file=path))

    async with trio.open_nursery() as nursery:
        service = await nursery.start(partial(serve, logging_to(first), processors=STORE))
        await trio.to_thread.run_sync(first.rename, tmp_path / "a.1")
        service.reopen_logs()
        client = await guest(service)
        await client.mail()
        await client.close()
        await service.reload(logging_to(second))
        client = await guest(service)
        await client.mail()
        await client.close()
        service.stop()
    texts = {path.name: path.read_text() for path in (first, second, tmp_path / "a.1")}
    assert "listening" in texts["a.1"]
    assert [texts[name].count("queued as") for name in ("a.1", "a", "b")] == [0, 1, 1]


async def test_listener_has_a_log_of_its_own(tmp_path: Path) -> None:
    main, own, moved = tmp_path / "main", tmp_path / "own", tmp_path / "own.1"
    second = f'[[listeners]]\naddress = "127.0.0.1:0"\nlog_file = "{own}"'
    settings = config(f'{second}\n[log]\nfile = "{main}"')
    async with trio.open_nursery() as nursery:
        service: Service = await nursery.start(partial(serve, settings, processors=STORE))
        for number in (0, 1):
            client = await guest(service, number)
            assert (await client.mail()).startswith(QUEUED)
            await client.close()
        own.rename(moved)
        service.reopen_logs()
        client = await guest(service, 1)
        assert (await client.mail()).startswith(QUEUED)
        await client.close()
        service.cut()
    counts = [path.read_text().count("] mail ") for path in (main, moved, own)]
    assert counts == [1, 1, 1]
    with pytest.raises(StartError, match="cannot write the log file /nonexistent/own"):
        await serve(config(second.replace(str(own), "/nonexistent/own")), processors=STORE)


async def test_cancelling_cuts_and_lets_go_of_everything(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "s"
    unix = settings(f'[chain]\nsave = ["store"]\n[[listeners]]\naddress = "unix:{path}"')
    async with trio.open_nursery() as nursery:
        service = await nursery.start(partial(serve, unix, processors=STORE, log=journal.log))
        client = await guest(service)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 20):
            assert await client.rest() == SHUTTING_DOWN
            await client.close()
    assert not path.exists()
