"""A whole server on real sockets: who is let in, and how it ends. Time is real, and nothing here waits for long."""

import gc
import logging
import math
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.support import MAIL, TEMPFAIL, Dialogue, Journal, Line, ScriptedResponder, elapsed, serving, settings
from trio_fcgimail.config import ListenerSettings, Settings, TcpAddress, UnixAddress
from trio_fcgimail.server import Ending, ListenError, Server, session, stop_at_signals
from trio_fcgimail.server.doorman import MAX_POLITE_REFUSALS
from trio_fcgimail.server.listeners import accept_problems_to, open_listeners

pytestmark = pytest.mark.trio

TOO_MANY: Final = b"421 4.7.0 Too many connections; try again later\r\n"
TOO_MANY_FROM_YOU: Final = b"421 4.7.0 Too many connections from you; try again later\r\n"
NO_MAIL: Final = b"521 5.3.2 This host takes no mail\r\n"
SHUTTING_DOWN: Final = b"421 4.3.2 Shutting down; try again later\r\n"
STORED: Final = b"250 2.0.0 OK: queued as "


def _settings(folder: Path, extra: str = "", listeners: str = '[[listeners]]\naddress = "127.0.0.1:0"') -> Settings:
    return settings(f'{extra}\n{listeners}\n[fastcgi]\nupstreams = ["unix:{folder}/fcgi"]\n')


class Hung:
    """An act that never answers, and says when it was asked."""

    def __init__(self) -> None:
        self.asked = trio.Event()

    async def act(self, line: Line) -> None:
        await line.request()
        self.asked.set()
        await trio.sleep_forever()


@pytest.fixture
async def responder(nursery: trio.Nursery, tmp_path: Path) -> ScriptedResponder:
    responder = ScriptedResponder(nursery)
    await responder.listen(tmp_path / "fcgi")
    return responder


# Who is let in


async def test_one_more_connection_than_allowed(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    config = _settings(tmp_path, "limits = { connections = 2 }")
    async with serving(config, journal) as house:
        first, second = await house.guest(), await house.guest()
        third = await house.dial()
        assert await third.rest() == TOO_MANY
        await third.close()
        assert (await first.mail()).startswith(STORED)
        assert await second.ask(b"QUIT") == b"221 2.0.0 Bye\r\n"
        assert await second.rest() == b""
        await second.close()
        await _let_in(house.dial)


async def _let_in(dial: object) -> None:
    """Try until somebody's end was noticed."""
    assert callable(dial)
    with trio.fail_after(10):
        while (await (client := await dial()).reply()) in (TOO_MANY, TOO_MANY_FROM_YOU):
            await client.close()


async def test_one_more_connection_than_an_address_may_have(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    config = _settings(tmp_path, "limits = { connections_per_ip = 1 }")
    async with serving(config, journal) as house:
        first = await house.guest()
        refused = await house.dial()
        assert await refused.rest() == TOO_MANY_FROM_YOU
        other = await house.dial("127.0.0.2")
        await other.hello()
        assert await first.ask(b"QUIT") == b"221 2.0.0 Bye\r\n"
        await first.close()
        await _let_in(house.dial)


async def test_a_listener_that_takes_no_mail_says_so_to_everybody(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    listeners = (
        f'[[listeners]]\naddress = "127.0.0.1:0"\naccepts_mail = false\n[[listeners]]\naddress = "unix:{tmp_path}/smtp"'
    )
    config = _settings(tmp_path, "limits = { connections = 1 }", listeners)
    async with serving(config, journal) as house:
        other = Dialogue(await trio.open_unix_socket(f"{tmp_path}/smtp"))
        await other.hello()  # the one connection that is allowed
        for _ in range(3):
            client = await house.dial()
            await client.send(b"EHLO client.example\r\n")
            assert await client.rest() == NO_MAIL
            await client.close()
        assert (await other.mail()).startswith(STORED)
        await other.close()
    assert [entry["reply"] for entry in journal.entries("connection refused")] == [NO_MAIL.decode().strip()] * 3


async def test_who_was_turned_away_takes_no_place(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    config = _settings(tmp_path, "limits = { connections = 2, connections_per_ip = 1 }")
    async with serving(config, journal) as house:
        await house.guest()
        for _ in range(5):
            assert await (await house.dial()).reply() == TOO_MANY_FROM_YOU  # and does not close
        await (await house.dial("127.0.0.2")).hello()


async def test_a_crowd_that_is_turned_away_does_not_keep_sockets(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "GOODBYE_SECONDS", math.inf)  # else the polite ones are over soon as well
    async with serving(_settings(tmp_path, "limits = { connections = 1 }"), journal) as house:
        await house.guest()
        clients = [await house.dial() for _ in range(MAX_POLITE_REFUSALS)]
        for client in clients:
            assert await client.reply() == TOO_MANY
        last = await house.dial()
        assert await last.reply() == TOO_MANY
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):  # closed: the others are half-closed
            await _talk_on(last)
        assert len(journal.entries("connection refused")) == MAX_POLITE_REFUSALS + 1


async def _talk_on(client: Dialogue) -> None:
    while True:
        await client.send(b"EHLO client.example\r\n")


@contextmanager
def _no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class _Complaints(logging.Handler):
    """Waits until Trio has complained three times."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 3
        self.enough = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self._left -= 1
        if self._left == 0:
            self.enough.set()


async def test_without_descriptors_it_waits_and_says_so_in_few_short_lines(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()  # else garbage of earlier tests may give back a descriptor, or the logger as it was, meanwhile
    complaints = _Complaints()
    logger = logging.getLogger("trio.serve_listeners")
    logger.addHandler(complaints)
    try:
        async with serving(_settings(tmp_path), journal) as house:
            address = house.addresses[0]
            assert isinstance(address, TcpAddress)
            with socket.socket() as client:
                with _no_more_descriptors(), trio.fail_after(10):
                    client.connect((address.host, address.port))
                    await complaints.enough.wait()
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
                assert (await stream.receive_some(4)) == b"220 "
    finally:
        logger.removeHandler(complaints)
    (entry,) = journal.entries("cannot accept")
    assert entry["problem"] == "accept returned EMFILE (Too many open files); retrying in 0.1 seconds"
    assert "exception" not in entry
    assert caplog.records == []
    assert (logger.propagate, logger.handlers) == (True, [])


async def test_problems_at_accept_stay_ours_until_the_last_server_has_ended(journal: Journal) -> None:
    logger = logging.getLogger("trio.serve_listeners")
    old, new = accept_problems_to(journal.log), accept_problems_to(journal.log)
    old.__enter__()
    new.__enter__()
    old.__exit__(None, None, None)
    assert not logger.propagate
    new.__exit__(None, None, None)
    assert (logger.propagate, logger.handlers) == (True, [])


async def test_a_unix_socket_has_no_address_to_count(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    listener = f'[[listeners]]\naddress = "unix:{tmp_path}/smtp"'
    config = _settings(tmp_path, "limits = { connections_per_ip = 1 }", listener)
    async with serving(config, journal) as house:
        assert house.addresses == (UnixAddress(f"{tmp_path}/smtp"),)
        for _ in range(3):
            stream = await trio.open_unix_socket(f"{tmp_path}/smtp")
            client = Dialogue(stream)
            await client.hello()
            assert (await client.mail()).startswith(STORED)
            await client.close()
    assert responder.requests[0].fields["remote_ip"] == ""
    assert not (tmp_path / "smtp").exists()


async def test_all_listeners_serve(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    listeners = "".join(f'[[listeners]]\naddress = "{one}"\n' for one in ("127.0.0.1:0", "[::1]:0", "127.0.0.2:0"))
    async with serving(_settings(tmp_path, listeners=listeners), journal) as house:
        for address in house.addresses:
            assert isinstance(address, TcpAddress)
            client = Dialogue(await trio.open_tcp_stream(address.host, address.port))
            await client.hello()
            assert (await client.mail()).startswith(STORED)
            await client.close()
    assert [one.fields["remote_ip"] for one in responder.requests] == ["127.0.0.1", "::1", "127.0.0.1"]


async def test_an_address_that_is_taken(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    async with serving(_settings(tmp_path), journal) as house:
        listeners = f'[[listeners]]\naddress = "127.0.0.1:0"\n[[listeners]]\naddress = "{house.addresses[0]}"'
        server = Server(_settings(tmp_path, listeners=listeners), log=journal.log)
        with pytest.raises(ListenError, match=rf"cannot listen on {house.addresses[0]}: the address is in use"):
            await server.run()


async def test_an_address_that_the_resolver_cannot_even_ask_for() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on x{64}:25: not the name of a host"):
        await open_listeners(ListenerSettings(address=TcpAddress("x" * 64, 25)))


@pytest.mark.parametrize(
    "last", [pytest.param(b"Subject: hal", id="within-a-mail"), pytest.param(b".\r\nQUIT\r\n", id="after-QUIT")]
)
async def test_a_client_that_resets_its_connection(
    last: bytes, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with serving(_settings(tmp_path), journal) as house:
        client, other = await house.guest(), await house.guest()
        await client.begin()
        await client.send(last)
        if last.endswith(b"QUIT\r\n"):
            assert (await client.reply()).startswith(STORED)
            assert await client.reply() == b"221 2.0.0 Bye\r\n"
        assert isinstance(client.stream, trio.SocketStream)
        client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.close()
        assert (await other.mail()).startswith(STORED)
    assert journal.entries("session failed") == []


# How it ends


async def test_stop_ends_idle_sessions_and_lets_a_mail_finish(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with serving(_settings(tmp_path), journal) as house:
        idle, busy = await house.guest(), await house.guest()
        await busy.begin()
        house.server.stop()
        assert await idle.ask(b"NOOP") == SHUTTING_DOWN
        with pytest.raises(OSError, match="all attempts to connect"):
            await house.dial()
        await busy.send(MAIL + b".\r\nMAIL FROM:<>\r\n")
        replies = await busy.rest()
        assert replies.startswith(STORED)
        assert replies.endswith(SHUTTING_DOWN)
        assert len(responder.requests) == 1
        await house.close_clients()
    assert [entry["ending"] for entry in journal.entries("stopped")] == [Ending.DRAINED.value]


async def test_cut_tells_451_to_who_waits_and_421_to_the_others(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    hung = Hung()
    async with serving(_settings(tmp_path), journal) as house:
        waiting, writing, idle = await house.guest(), await house.guest(), await house.guest()
        await waiting.begin()
        await writing.begin()
        await writing.send(b"Subject: hal")
        responder.act = hung.act
        await waiting.send(MAIL + b".\r\n")
        await hung.asked.wait()
        house.server.cut()
        assert await waiting.rest() == TEMPFAIL + SHUTTING_DOWN
        assert await writing.rest() == SHUTTING_DOWN
        assert await idle.rest() == SHUTTING_DOWN
        await house.close_clients()
    assert [entry["ending"] for entry in journal.entries("stopped")] == [Ending.CUT.value]


@pytest.mark.parametrize(
    ("end", "ending"),
    [
        pytest.param(Server.stop, Ending.CUT, id="stopped"),
        pytest.param(Server.retire, Ending.RETIRED, id="retired"),
    ],
)
async def test_what_is_not_over_after_drain_seconds_is_cut(
    end: Callable[[Server], None], ending: Ending, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    hung = Hung()
    async with serving(_settings(tmp_path, "drain_seconds = 0.2"), journal) as house:
        waiting = await house.guest()
        await waiting.begin()
        responder.act = hung.act
        await waiting.send(MAIL + b".\r\n")
        await hung.asked.wait()
        end(house.server)
        seconds = elapsed()
        assert await waiting.rest() == TEMPFAIL + SHUTTING_DOWN
        assert 0.1 < seconds() < 5
        await house.close_clients()
    assert [entry["ending"] for entry in journal.entries("stopped")] == [ending.value]


async def test_a_cancelled_server_says_goodbye(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    server = Server(_settings(tmp_path), log=journal.log)
    async with trio.open_nursery() as inner:
        (address,) = await inner.start(server.run)
        assert isinstance(address, TcpAddress)
        client = Dialogue(await trio.open_tcp_stream(address.host, address.port))
        await client.hello()
        inner.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert await client.rest() == SHUTTING_DOWN
            await client.close()


async def test_an_idle_server_stops_at_once(journal: Journal, tmp_path: Path) -> None:
    server = Server(_settings(tmp_path), log=journal.log)
    async with trio.open_nursery() as inner:
        await inner.start(server.run)
        server.stop()
        assert server.is_stopping
    assert [entry["ending"] for entry in journal.entries("stopped")] == [Ending.DRAINED.value]


@pytest.mark.parametrize("has_siblings", [False, True], ids=["alone", "one-of-several"])
async def test_who_accepts_alone_is_not_patient_with_others(
    has_siblings: bool,
    responder: ScriptedResponder,
    journal: Journal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    sleep = trio.sleep

    async def tell(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(trio, "sleep", tell)
    server = Server(_settings(tmp_path, "workers = 4"), log=journal.log, has_siblings=has_siblings)
    async with trio.open_nursery() as inner:
        (address,) = await inner.start(server.run)
        assert isinstance(address, TcpAddress)
        clients = [Dialogue(await trio.open_tcp_stream(address.host, address.port)) for _ in range(3)]
        for client in clients:
            await client.hello()
            await client.close()
        server.stop()
    assert bool(slept) is has_siblings


async def _until_stopping(server: Server) -> None:
    with trio.fail_after(10):
        while not server.is_stopping:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP], ids=lambda number: number.name
)
async def test_a_signal_drains(
    number: signal.Signals, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with serving(_settings(tmp_path), journal) as house, trio.open_nursery() as inner:
        await inner.start(stop_at_signals, house.server, journal.log, journal.file)
        client = await house.guest()
        signal.raise_signal(number)
        await _until_stopping(house.server)
        assert await client.ask(b"NOOP") == SHUTTING_DOWN
        inner.cancel_scope.cancel()
    assert [entry["signal"] for entry in journal.entries("stopping")] == [number.name]


async def test_a_hangup_may_mean_something_else(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    async with serving(_settings(tmp_path), journal) as house, trio.open_nursery() as inner:
        hung_up = trio.Event()
        await inner.start(partial(stop_at_signals, house.server, journal.log, journal.file, hangup=hung_up.set))
        signal.raise_signal(signal.SIGHUP)
        with trio.fail_after(10):
            await hung_up.wait()
        assert not house.server.is_stopping
        inner.cancel_scope.cancel()


async def test_a_server_that_retires_lets_a_client_have_its_first_mail(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with serving(_settings(tmp_path), journal) as house:
        fresh, served = await house.guest(), await house.guest()
        assert (await served.mail()).startswith(STORED)
        house.server.retire()
        assert await served.ask(b"NOOP") == SHUTTING_DOWN
        assert (await fresh.mail()).startswith(STORED)
        assert await fresh.ask(b"NOOP") == SHUTTING_DOWN
        await house.close_clients()
    assert [entry["ending"] for entry in journal.entries("stopped")] == [Ending.DRAINED.value]


async def test_a_server_that_retires_can_still_be_stopped(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with serving(_settings(tmp_path), journal) as house:
        client = await house.guest()
        house.server.retire()
        assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
        house.server.stop()
        house.server.retire()  # which is not to undo it
        assert await client.ask(b"NOOP") == SHUTTING_DOWN
        await house.close_clients()


async def test_a_hangup_that_was_ignored_stays_so(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        async with serving(_settings(tmp_path), journal) as house, trio.open_nursery() as inner:
            await inner.start(stop_at_signals, house.server, journal.log, journal.file)
            client = await house.guest()
            signal.raise_signal(signal.SIGHUP)
            assert (await client.mail()).startswith(STORED)
            inner.cancel_scope.cancel()
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_signals(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    hung = Hung()
    async with serving(_settings(tmp_path), journal) as house, trio.open_nursery() as inner:
        await inner.start(stop_at_signals, house.server, journal.log, journal.file)
        client = await house.guest()
        (tmp_path / "log").rename(tmp_path / "log.1")
        signal.raise_signal(signal.SIGUSR1)
        await client.begin()
        responder.act = hung.act
        await client.send(MAIL + b".\r\n")
        await hung.asked.wait()
        signal.raise_signal(signal.SIGTERM)
        await _until_stopping(house.server)
        signal.raise_signal(signal.SIGINT)
        assert await client.rest() == TEMPFAIL + SHUTTING_DOWN
        inner.cancel_scope.cancel()
    assert [entry["event"] for entry in journal.entries("stopping") + journal.entries("stopping at once")] == [
        "stopping",
        "stopping at once",
    ]
    assert "listening" in (tmp_path / "log.1").read_text()


async def test_a_log_file_that_cannot_be_opened_anew_stays_in_use(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with serving(_settings(tmp_path), journal) as house, trio.open_nursery() as inner:
        await inner.start(stop_at_signals, house.server, journal.log, journal.file)
        (tmp_path / "log").rename(tmp_path / "old")
        (tmp_path / "log").mkdir()
        signal.raise_signal(signal.SIGUSR1)
        client = await house.guest()
        await client.ask(b"NOOP")
        with trio.fail_after(10):
            while "cannot reopen the log file" not in (tmp_path / "old").read_text():
                await trio.lowlevel.checkpoint()
        inner.cancel_scope.cancel()
