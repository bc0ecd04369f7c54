"""The parent's own loop, with children that are real processes and waits that are short."""

import os
import pwd
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest
import trio
import trustme

from tests.phpfpm import open_folder
from tests.server.supervising import LISTENER, SECONDS, guest, running, until, workers
from tests.server_process import MEASURING
from tests.support import Journal, settings
from trio_fcgimail.config import ConfigError, ConfigErrors, Settings, TcpAddress
from trio_fcgimail.server import Ending, ListenError, Notifier, Supervisor
from trio_fcgimail.server.pool import Kind
from trio_fcgimail.server.systemd import take_sockets
from trio_fcgimail.server.workers import generation, parent
from trio_fcgimail.server.workers.certificates import Watch
from trio_fcgimail.server.workers.channel import AskLease, Begin, Channel, Ping, Pong, Ready, Stop, ToChild
from trio_fcgimail.server.workers.desk import Desk
from trio_fcgimail.server.workers.generation import Generation, Pauses, Plan
from trio_fcgimail.server.workers.sockets import Sockets

pytestmark = pytest.mark.trio

SHUTTING_DOWN: Final = b"421 4.3.2 Shutting down; try again later\r\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that every user may enter."""
    with open_folder() as path:
        yield path


async def test_a_child_that_does_not_end_is_killed(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "GRACE_SECONDS", 0.1)
    async with running(settings(f"drain_seconds = 0\n{LISTENER}"), journal) as (server, _):
        (pid,) = workers()
        os.kill(pid, signal.SIGSTOP)
        server.stop()
        await until(journal, "worker does not end; killing it")
        await until(journal, "stopped")
    assert [entry["ending"] for entry in journal.entries("stopped")] == [Ending.CUT.value]
    assert workers() == []


async def test_a_child_that_does_not_answer_is_killed_and_replaced(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(parent, "PING_SECONDS", 0.1)
    async with running(settings(LISTENER), journal) as (server, (address,)):
        (pid,) = workers()
        os.kill(pid, signal.SIGSTOP)
        await until(journal, "worker does not answer; killing it")
        await until(journal, "worker died")
        client = await guest(address)
        assert workers() != [pid]
        assert server.lost == 1
        await client.close()


async def test_a_child_that_is_not_ready_in_time(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "START_SECONDS", 0.001)
    with pytest.RaisesGroup(pytest.RaisesExc(ListenError, match="not ready within 0.001 s"), flatten_subgroups=True):
        async with running(settings(LISTENER), journal):
            pass
    assert workers() == []


async def test_a_parent_that_is_cancelled_leaves_nobody_behind_and_lets_them_say_goodbye(journal: Journal) -> None:
    server = Supervisor(settings(LISTENER), log=journal.log, reread=lambda: settings(LISTENER))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.run)
        client = await guest(address)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert await client.rest() == SHUTTING_DOWN
            await client.close()
    assert workers() == []


async def test_counts(journal: Journal) -> None:
    good = settings(LISTENER)
    answers: list[Settings | ConfigErrors] = [good, ConfigErrors((ConfigError("f", "workers", "0", "more"),))]

    def reread() -> Settings:
        answer = answers.pop(0)
        if isinstance(answer, ConfigErrors):
            raise answer
        return answer

    server = Supervisor(good, log=journal.log, reread=reread)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            server.reload()
            await until(journal, "reloaded")
            server.reload()
            (entry,) = await until(journal, "not reloaded")
            server.stop()
    assert entry["problem"] == "f: workers: found 0, expected more"
    assert (server.lost, server.reloads, server.failed_reloads) == (0, 1, 1)


async def test_children_start_while_saves_wait_elsewhere(journal: Journal) -> None:
    config = settings(f"{LISTENER}[fastcgi]\nmax_connections = 1\nreserve_for_validate = 0")
    desk = Desk(config)
    for _ in range(2):
        desk.hear(desk.join(lambda _: None), AskLease(str(config.fastcgi.upstreams[0]), Kind.SAVE))
    sockets = Sockets({})
    await sockets.open(config)
    child = Generation(Plan(config, {}, None), sockets, desk, log=journal.log, died=lambda: None)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(child.run)  # what it is told of them does not come before what it is to serve
            child.end(Stop())
    sockets.close_all()
    assert child.ending is Ending.DRAINED


async def test_pauses_grow_with_each_death_and_shrink_after_a_steady_life() -> None:
    pauses = Pauses()
    assert [pauses.after(1) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [pauses.after(60), pauses.after(59)] == [0.5, 1]


# The channel


def _pair(max_octets: int = 1000) -> tuple[Channel, trio.SocketStream]:
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
    return Channel(ours, max_octets), theirs


async def test_messages_arrive_in_order_however_they_are_cut() -> None:
    channel, wire = _pair()
    other, lines = _pair()
    for message in (Ready(), Pong(), Ready()):
        other.post(message)
    await other.send(Ping())
    decoder = msgspec.msgpack.Decoder(Ready | Pong | Ping)
    data = await lines.receive_some(1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_octet_by_octet, wire, bytes(data))
        assert [await channel.receive(decoder) for _ in range(5)] == [Ready(), Pong(), Ready(), Ping(), None]
    await channel.aclose()
    await other.aclose()
    await lines.aclose()


async def _octet_by_octet(wire: trio.SocketStream, data: bytes) -> None:
    for octet in data:
        await wire.send_all(bytes([octet]))
    await wire.aclose()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\0\0\x03\xe9", id="too-long"),
        pytest.param(b"\0\0\0\x01\xc1", id="no-messagepack"),
        pytest.param(b"\0\0\0\x0d\x81\xa4type\xa6Nobody", id="unknown"),
        pytest.param(b"\0\0\0\x0d" + msgspec.msgpack.encode(Pong()).ljust(13, b"\0"), id="not-for-children"),
    ],
)
async def test_what_is_no_message_is_refused(data: bytes) -> None:
    channel, wire = _pair()
    await wire.send_all(data)
    with pytest.raises(msgspec.DecodeError):
        await channel.receive(msgspec.msgpack.Decoder(ToChild))
    await channel.aclose()
    await wire.aclose()


async def test_who_writes_to_nobody_is_not_told_and_who_reads_is() -> None:
    channel, wire = _pair()
    await wire.aclose()
    await channel.send(Begin())
    assert await channel.receive(msgspec.msgpack.Decoder(ToChild)) is None
    await channel.aclose()


# Certificates


class Pair:
    """A certificate and its key on the disk, readable by their owner only."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.certificate = folder / "mx.pem"
        self.key = folder / "mx.key"

    def write(self) -> bytes:
        """Another pair; returns the certificate in DER."""
        issued = self.ca.issue_cert("mx.example.com")
        for path, data in (
            (self.key, issued.private_key_pem.bytes()),
            (self.certificate, b"".join(blob.bytes() for blob in issued.cert_chain_pems)),
        ):
            new = path.with_suffix(".new")
            new.touch(0o600)
            new.write_bytes(data)
            new.replace(path)
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    def settings(self, top: str = "") -> Settings:
        return settings(
            f'{top}\n{LISTENER}tls = "implicit"\ncertificate = "{self.certificate}"\nprivate_key = "{self.key}"\n'
        )

    async def shown(self, address: TcpAddress) -> bytes:
        """The certificate that a client sees, in DER."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        plain = await trio.open_tcp_stream(address.host, address.port)
        stream = trio.SSLStream(plain, context, server_hostname="mx.example.com", https_compatible=True)
        await stream.do_handshake()
        shown = stream.getpeercert(binary_form=True)
        await trio.aclose_forcefully(stream)
        assert isinstance(shown, bytes)
        return shown


@pytest.fixture
def pair(folder: Path) -> Pair:
    return Pair(folder)


async def test_new_certificates_are_served_once_both_files_are_there(
    pair: Pair, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent, "WATCH_SECONDS", 0.1)
    first = pair.write()
    async with running(pair.settings(), journal) as (server, (address,)):
        assert await pair.shown(address) == first
        second = pair.write()
        await until(journal, "certificates have changed")
        await until(journal, "reloaded")
        assert await pair.shown(address) == second
        assert (server.reloads, server.lost) == (1, 0)


async def test_a_broken_new_pair_keeps_the_old_and_says_so(
    pair: Pair, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parent, "WATCH_SECONDS", 0.1)
    first = pair.write()
    async with running(pair.settings(), journal) as (server, (address,)):
        pair.certificate.write_text("no certificate")
        (entry,) = await until(journal, "not reloaded")
        assert str(pair.certificate) in str(entry["problem"])
        assert await pair.shown(address) == first
        (pid,) = workers()
        os.kill(pid, signal.SIGKILL)  # who takes its place has the old one as well
        await until(journal, "worker died")
        assert await pair.shown(address) == first
        third = pair.write()
        await until(journal, "reloaded")
        assert await pair.shown(address) == third
        assert (server.reloads, server.failed_reloads) == (1, 1)


def _owner(pid: int) -> str:
    return pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_a_key_that_only_root_may_read_is_enough(
    pair: Pair, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in MEASURING:
        monkeypatch.delenv(name, raising=False)
    first = pair.write()
    assert pair.key.stat().st_mode & 0o777 == 0o600
    config = pair.settings('user = "www-data"')
    async with running(config, journal) as (server, (address,)):
        (pid,) = workers()
        assert _owner(pid) == "www-data"
        assert await pair.shown(address) == first
        second = pair.write()
        server.reload()
        await until(journal, "reloaded")
        assert await pair.shown(address) == second


# systemd


class Manager:
    """What systemd hears."""

    def __init__(self, address: str) -> None:
        self._sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._address = address

    async def __aenter__(self) -> "Manager":
        await self._sock.bind(f"\0{self._address[1:]}" if self._address.startswith("@") else self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sock.close()

    async def hears(self) -> dict[str, str]:
        with trio.fail_after(SECONDS):
            text = (await self._sock.recv(4096)).decode()
        return dict(line.split("=", 1) for line in text.split("\n"))

    async def hears_no_more(self) -> None:
        """Silence, after what was under way."""
        with trio.fail_after(SECONDS):
            while True:
                with trio.move_on_after(1) as silence:
                    await self.hears()
                if silence.cancelled_caught:
                    return

    async def hears_nothing_but(self, *expected: str, until: str) -> dict[str, str]:
        """The next message that has ``until``; what comes before has nothing but what is expected."""
        while until not in (message := await self.hears()):
            assert set(message) <= set(expected), message
        return message


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
async def test_systemd_is_told_how_we_are(abstract: bool, journal: Journal, folder: Path) -> None:
    address = f"@fcgimail-{os.getpid()}" if abstract else f"{folder}/notify"
    wrong = ConfigErrors((ConfigError("f", "workers", "0", "more"),))
    outcomes: list[ConfigErrors | None] = [None, wrong]

    def reread() -> Settings:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome
        return settings(LISTENER)

    async with Manager(address) as manager:
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
        server = Supervisor(settings(LISTENER), log=journal.log, reread=reread, notifier=notifier)
        async with trio.open_nursery() as nursery:
            (bound,) = await nursery.start(server.run)
            assert await manager.hears() == {"READY": "1", "STATUS": f"1 serving on {bound}"}
            for more in ("", "; not reloaded: f: workers: found 0, expected more"):
                before = trio.current_time()
                server.reload()
                message = await manager.hears_nothing_but("WATCHDOG", until="RELOADING")
                assert int(message["MONOTONIC_USEC"]) > 0
                assert message["STATUS"] == "reloading"
                message = await manager.hears_nothing_but("WATCHDOG", until="READY")
                assert message["STATUS"] == f"1 serving on {bound}{more}"
                assert trio.current_time() >= before
            server.stop()
            message = await manager.hears_nothing_but("WATCHDOG", until="STOPPING")
            assert message["STATUS"] == "stopping: waiting for mails under way"


async def test_the_watchdog_is_fed_while_the_children_live(journal: Journal, folder: Path) -> None:
    environment = {"NOTIFY_SOCKET": f"{folder}/notify", "WATCHDOG_USEC": "400000", "WATCHDOG_PID": str(os.getpid())}
    async with Manager(f"{folder}/notify") as manager:
        notifier = Notifier.from_environment(environment)
        assert environment == {}
        async with running(settings(LISTENER), journal, notifier=notifier):
            for _ in range(3):
                await manager.hears_nothing_but("READY", "STATUS", until="WATCHDOG")
            (pid,) = workers()
            os.kill(pid, signal.SIGSTOP)
            await manager.hears_no_more()
            os.kill(pid, signal.SIGCONT)
            await manager.hears_nothing_but(until="WATCHDOG")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"WATCHDOG_USEC": "30000000"}, 30.0, id="for-anybody"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, id="for-another"),
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="zero"),
        pytest.param({"WATCHDOG_USEC": "soon"}, None, id="nonsense"),
    ],
)
async def test_watchdog_variables(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier.from_environment(environment).watchdog_seconds == seconds
    assert environment == {}


async def test_systemd_that_does_not_listen_holds_nobody_up(folder: Path) -> None:
    Notifier(f"{folder}/nobody").ready("serving")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(f"{folder}/deaf")
        notifier = Notifier(f"{folder}/deaf")
        for _ in range(2000):
            notifier.alive()


async def test_a_status_is_one_line(folder: Path) -> None:
    async with Manager(f"{folder}/notify") as manager:
        Notifier(f"{folder}/notify").status("a\nREADY=1\r\n" + 1000 * "x")
        message = await manager.hears()
    assert message == {"STATUS": ("a READY=1 " + 1000 * "x")[:500]}


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="none"),
        pytest.param({"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "smtp"}, id="for-another"),
        pytest.param({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}, id="nonsense"),
        pytest.param({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}, id="zero"),
    ],
)
async def test_no_sockets_from_systemd(environment: dict[str, str]) -> None:
    assert take_sockets(environment) == {}
    assert environment == {}


async def test_what_is_no_socket_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        monkeypatch.setattr("trio_fcgimail.server.systemd._FIRST_DESCRIPTOR", sock.detach())
        with pytest.raises(ListenError, match="systemd:smtp is no socket that listens for streams"):
            take_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "smtp"})


async def test_a_change_of_certificates_is_told_once_and_not_by_halves(pair: Pair) -> None:
    pair.write()
    watch = Watch(pair.settings())
    assert watch.files == (pair.certificate, pair.key)
    assert not watch.has_changed()
    pair.key.unlink()
    assert not watch.has_changed()  # it may be under way
    assert [watch.has_changed() for _ in range(3)] == [True, False, False]
    pair.write()
    assert not watch.has_changed()
    pair.write()
    assert not watch.has_changed()
    assert [watch.has_changed() for _ in range(3)] == [True, False, False]
