"""A whole server with TLS on real sockets: who is turned away, how it ends, large mails. Time is real."""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.certificates import Authority
from tests.clients import require
from tests.server.encrypted import READY, dialogue_over, is_tls, tls_listener
from tests.support import Dialogue, Journal, Line, ScriptedResponder, elapsed, serving, settings
from trio_fcgimail.config import Settings, TcpAddress, TlsMode
from trio_fcgimail.server import Ending, Server
from trio_fcgimail.server.doorman import MAX_POLITE_REFUSALS

pytestmark = pytest.mark.trio

STORED: Final = b"250 2.0.0 OK: queued as "
TOO_MANY: Final = b"421 4.7.0 Too many connections; try again later\r\n"
SHUTTING_DOWN: Final = b"421 4.3.2 Shutting down; try again later\r\n"
SECONDS: Final = 10.0
MODES: Final = [pytest.param(TlsMode.STARTTLS, id="starttls"), pytest.param(TlsMode.IMPLICIT, id="implicit")]


@pytest.fixture
async def responder(nursery: trio.Nursery, tmp_path: Path) -> ScriptedResponder:
    responder = ScriptedResponder(nursery)
    await responder.listen(tmp_path / "fcgi")
    return responder


def _settings(folder: Path, authority: Authority, tls: TlsMode, extra: str = "") -> Settings:
    upstream = f'[fastcgi]\nupstreams = ["unix:{folder}/fcgi"]\n'
    return settings(f"{extra}\n{tls_listener(authority, tls)}\n{upstream}")


async def _dial(address: object) -> trio.SocketStream:
    assert isinstance(address, TcpAddress)
    return await trio.open_tcp_stream(address.host, address.port)


async def _encrypted(address: object, authority: Authority, tls: TlsMode) -> Dialogue:
    """A client that has said EHLO over TLS; its end of file is an error unless TLS says it."""
    stream = await _dial(address)
    if tls is TlsMode.STARTTLS:
        client = Dialogue(stream)
        await client.hello()
        assert await client.ask(b"STARTTLS") == READY
    client = dialogue_over(authority.client(stream))
    if tls is TlsMode.IMPLICIT:
        await client.hello()
    else:
        assert (await client.ask(b"EHLO client.example")).startswith(b"250-")
    return client


# Who is turned away


async def test_one_too_many_is_told_over_tls(
    responder: ScriptedResponder, journal: Journal, authority: Authority, tmp_path: Path
) -> None:
    config = _settings(tmp_path, authority, TlsMode.IMPLICIT, "limits = { connections = 1 }")
    async with serving(config, journal) as house:
        first = await _encrypted(house.addresses[0], authority, TlsMode.IMPLICIT)
        second = dialogue_over(authority.client(await _dial(house.addresses[0])))
        await second.send(b"EHLO early.example\r\n")  # which destroys no reply
        assert await second.rest() == TOO_MANY
        assert (await first.mail()).startswith(STORED)
        await first.close()
        await second.close()


async def test_a_crowd_is_turned_away_without_a_handshake(
    responder: ScriptedResponder, journal: Journal, authority: Authority, tmp_path: Path
) -> None:
    config = _settings(tmp_path, authority, TlsMode.IMPLICIT, "limits = { connections = 1 }")
    async with serving(config, journal) as house:
        first = await _encrypted(house.addresses[0], authority, TlsMode.IMPLICIT)
        stalled = [await _dial(house.addresses[0]) for _ in range(MAX_POLITE_REFUSALS)]
        one_more = await _dial(house.addresses[0])
        with trio.fail_after(SECONDS):
            assert await Dialogue(one_more).rest() == b""
        assert (await first.mail()).startswith(STORED)
        for stream in (*stalled, one_more):
            await stream.aclose()
        await first.close()


# How it ends


class Run:
    """A server, and its end.

    Attributes:
        ending: None as long as it runs.
    """

    def __init__(self, config: Settings, journal: Journal) -> None:
        self.server = Server(config, log=journal.log)
        self.ending: Ending | None = None
        self.ended = trio.Event()

    async def __call__(self, *, task_status: trio.TaskStatus[object]) -> None:
        """Run it to its end."""
        self.ending = await self.server.run(task_status=task_status)
        self.ended.set()


async def test_who_stalls_in_the_handshake_does_not_hold_up_the_end(
    responder: ScriptedResponder, journal: Journal, authority: Authority, tmp_path: Path
) -> None:
    extra = "drain_seconds = 0.1\nlimits = { connections = 1 }"
    config = _settings(tmp_path, authority, TlsMode.IMPLICIT, extra)
    seconds = elapsed()
    run = Run(config, journal)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(run)
        served, turned_away = await _dial(address), await _dial(address)
        await wait_all_tasks_blocked(0.05)  # until both are in the handshake
        run.server.stop()
        assert await Dialogue(served).rest() == b""
        assert await Dialogue(turned_away).rest() == b""
        await run.ended.wait()
        await served.aclose()
        await turned_away.aclose()
    assert run.ending is Ending.CUT
    assert seconds() < SECONDS


@pytest.mark.parametrize("tls", MODES)
async def test_a_mail_under_way_has_its_verdict_over_tls(
    nursery: trio.Nursery, journal: Journal, authority: Authority, tmp_path: Path, tls: TlsMode
) -> None:
    asked, go_on = trio.Event(), trio.Event()

    async def act(line: Line) -> None:
        await line.request()
        asked.set()
        await go_on.wait()
        await line.answer(b"SAVED")

    await ScriptedResponder(nursery, act).listen(tmp_path / "fcgi")
    run = Run(_settings(tmp_path, authority, tls), journal)
    async with trio.open_nursery() as running:
        (address,) = await running.start(run)
        client = await _encrypted(address, authority, tls)
        await client.begin()
        await client.send(b"Well?\r\n.\r\n")
        await asked.wait()
        run.server.stop()
        go_on.set()
        assert (await client.reply()).startswith(STORED)
        assert await client.rest() == SHUTTING_DOWN
        await client.close()
    assert run.ending is Ending.DRAINED


@pytest.mark.parametrize("tls", MODES)
async def test_cut_while_the_end_is_waited_for(
    responder: ScriptedResponder, journal: Journal, authority: Authority, tmp_path: Path, tls: TlsMode
) -> None:
    """What was said over TLS is not said again, and takes nobody else with it."""
    run = Run(_settings(tmp_path, authority, tls, "drain_seconds = 0"), journal)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(run)
        stream = await _dial(address)
        if tls is TlsMode.STARTTLS:
            client = Dialogue(stream)
            await client.hello()
            assert await client.ask(b"STARTTLS") == READY
        encrypted = authority.client(stream)
        client = dialogue_over(encrypted)
        if tls is TlsMode.IMPLICIT:
            assert (await client.reply()).startswith(b"220 ")
        assert await client.ask(b"QUIT") == b"221 2.0.0 Bye\r\n"
        await encrypted.unwrap()
        assert await stream.receive_some() == b""  # and now our own end is waited for
        run.server.stop()
        await run.ended.wait()
        await stream.aclose()
    assert run.ending is Ending.DRAINED
    assert journal.entries("session failed") == []


# What goes through


@pytest.mark.parametrize("tls", MODES)
async def test_a_large_mail_arrives_byte_for_byte(
    responder: ScriptedResponder, journal: Journal, authority: Authority, tmp_path: Path, tls: TlsMode
) -> None:
    line = bytes(octet for octet in range(256) if octet not in b"\r\n.") + b"\r\n"
    content = b"Subject: large\r\n\r\n" + 20_000 * line
    assert len(content) > 5_000_000
    config = _settings(tmp_path, authority, tls, 'scripts.line_ends = "crlf"')
    async with serving(config, journal) as house:
        client = await _encrypted(house.addresses[0], authority, tls)
        assert (await client.mail(content)).startswith(STORED)
        await client.close()
    (request,) = responder.requests
    assert request.fields["body"].encode("latin-1").endswith(b"\r\n" + content)
    assert int(request.fields["size"]) == len(request.fields["body"])


async def test_octets_in_the_packet_of_starttls_close(
    responder: ScriptedResponder, journal: Journal, authority: Authority, tmp_path: Path
) -> None:
    async with serving(_settings(tmp_path, authority, TlsMode.STARTTLS), journal) as house:
        client = await house.guest()
        await client.send(b"STARTTLS\r\nMAIL FROM:<mallory@example.net>\r\n")
        assert await client.rest() == b"554 5.5.1 Nothing may follow STARTTLS; closing\r\n"


@pytest.mark.parametrize("tls", MODES)
async def test_a_handshake_that_fails_leaves_no_word_in_the_clear(
    responder: ScriptedResponder, journal: Journal, authority: Authority, tmp_path: Path, tls: TlsMode
) -> None:
    async with serving(_settings(tmp_path, authority, tls), journal) as house:
        client = await house.dial()
        if tls is TlsMode.STARTTLS:
            await client.hello()
            assert await client.ask(b"STARTTLS") == READY
        await client.send(b"MAIL FROM:<mallory@example.net>\r\nRCPT TO:<b@example.com>\r\n")
        assert is_tls(await client.rest())


async def test_a_client_cannot_renegotiate(
    responder: ScriptedResponder, journal: Journal, authority: Authority, tmp_path: Path
) -> None:
    """TLS 1.2 lets a client ask for a handshake whenever it likes; each would cost us far more than it."""
    program = require("openssl", "openssl")
    async with serving(_settings(tmp_path, authority, TlsMode.IMPLICIT), journal) as house:
        address = house.addresses[0]
        where = ["-connect", str(address), "-tls1_2", "-CAfile", str(authority.ca_file)]
        client = await trio.lowlevel.open_process(
            [program, "s_client", *where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            with trio.fail_after(SECONDS):
                said = await _until(client, rb"220 mx\.example\.com ESMTP\r\n")
                assert b"Verify return code: 0 (ok)" in said
                assert client.stdin is not None
                await client.stdin.send_all(b"R\n")  # its command for that
                said = await _until(client, rb"no renegotiation")
                await client.wait()
        finally:
            client.kill()
    assert journal.entries("session failed") == []


async def _until(client: trio.Process, pattern: bytes) -> bytes:
    assert client.stdout is not None
    said = b""
    while not re.search(pattern, said):
        data = await client.stdout.receive_some()
        assert data, said
        said += data
    return said
