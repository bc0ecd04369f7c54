"""Bugs 14 to 23 of go-guerrilla: what let a client in, or brought the server down.

Each test has the number that docs/migrating.md has for the bug.
"""

import logging
import os
import resource
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.certificates import Authority
from tests.guerrilla.support import QUEUED, Moved, guerrilla_file, load, moved, only_at
from tests.server.encrypted import dialogue_over
from tests.server.test_memory import Sink
from tests.support import (
    MAIL,
    TEMPFAIL,
    Dialogue,
    House,
    Journal,
    Line,
    ScriptedResponder,
    end,
    serving,
    stderr,
    stdout,
)
from trio_fcgimail.config import ClientCertificates, ConfigErrors, LimitSettings, TcpAddress, TlsVersion
from trio_fcgimail.mail import Peer
from trio_fcgimail.server.visitor import Visitor

pytestmark = pytest.mark.trio

BARE: Final = b"550 5.5.2 Message holds a bare CR or LF\r\n"
SMUGGLED: Final = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nforged\r\n"
SECRET: Final = b"Warning: mysqli::connect(10.1.2.3:3306) in /srv/secret.php on line 7"


@pytest.mark.parametrize("marker", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\n.\r"])
async def test_bug_14_nothing_but_crlf_dot_crlf_ends_a_mail(marker: bytes, journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        client = await house.guest()
        await client.begin()
        await client.send(MAIL.rstrip() + marker + SMUGGLED + b".\r\nNOOP\r\n")
        assert await client.reply() == BARE
        assert await client.reply() == b"250 2.0.0 OK\r\n"  # to NOOP: nothing of it was a command
        assert house.mails == []


async def test_bug_14_bare_line_feed_ends_no_command(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        client = await house.guest()
        assert await client.ask(b"NOOP\nNOOP") == b"500 5.5.2 Only CR LF ends a command\r\n"
        assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"


async def test_bug_15_bare_xclient_is_an_error_of_the_client(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal, server={"xclient_on": True}) as house:
        client = await house.guest()
        assert (await client.ask(b"XCLIENT")).startswith(b"501 ")
        assert (await client.ask(b"XCLIENT ")).startswith(b"501 ")
        assert (await client.mail()).startswith(QUEUED)


async def test_bug_16_nothing_of_a_client_is_left_for_another(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        first = await house.guest()
        await first.ask(b"MAIL FROM:<a@client.example>")
        await first.ask(b"RCPT TO:<b@example.com>")
        await first.close()
        for _ in range(3):
            assert await house.told(b"DATA") == [b"503 5.5.1 Say hello first"]
        assert house.mails == []


def _smtps(authority: Authority, **tls: object) -> dict[str, object]:
    # Their file has the key in a file of its own; a PEM file with both does as well.
    pem = str(authority.certificate)
    return {"tls": {"tls_always_on": True, "public_key_file": pem, "private_key_file": pem, **tls}}


@asynccontextmanager
async def _hasty(folder: Path, journal: Journal, authority: Authority) -> AsyncIterator[Moved]:
    """One client at a time, with little time for its handshake."""
    server = {**_smtps(authority), "listen_interface": "127.0.0.1:0", "max_clients": 1}
    settings = load(folder, guerrilla_file(str(folder / "fcgi"), server=server)).settings
    limits = replace(settings.limits, tls_handshake_seconds=0.5)
    async with trio.open_nursery() as nursery, serving(replace(settings, limits=limits), journal) as served:
        yield Moved(load(folder, guerrilla_file("/x")), served, ScriptedResponder(nursery))


async def test_bug_17_silent_clients_do_not_block_smtps(journal: Journal, tmp_path: Path, authority: Authority) -> None:
    async with _hasty(tmp_path, journal, authority) as house:
        silent = await house.served.dial()
        full = dialogue_over(authority.client((await house.served.dial()).stream))
        assert (await full.reply()).startswith(b"421 4.7.0 Too many connections")  # at once, not in the backlog
        assert await silent.rest() == b""  # closed, in time
        client = dialogue_over(authority.client((await house.served.dial()).stream))
        await client.hello()


async def test_bug_18_xclient_is_not_for_everybody(nursery: trio.Nursery, journal: Journal, tmp_path: Path) -> None:
    settings = load(tmp_path, guerrilla_file("/x", server={"xclient_on": True})).settings
    networks = settings.listeners[0].xclient_from
    assert [networks.holds(ip) for ip in ("127.0.0.1", "::1", "10.0.0.1", "192.0.2.1", "")] == [True, True] + [
        False
    ] * 3
    house = House(nursery, journal, 'listeners = [{ address = "127.0.0.1:0", xclient_from = ["127.0.0.0/8"] }]')
    client, _ = house.visit(Visitor(Peer("192.0.2.1", 1)))
    await client.reply()
    assert b"XCLIENT" not in await client.ask(b"EHLO client.example")
    assert (await client.ask(b"XCLIENT ADDR=127.0.0.1")).startswith(b"502 ")
    await client.close()


async def test_bug_18_proxy_header_counts_once_and_first(journal: Journal, tmp_path: Path) -> None:
    header = b"PROXY TCP4 192.0.2.%d 127.0.0.1 1234 25\r\n"
    async with moved(tmp_path, journal, server={"proxyon": True}) as house:
        client = await house.served.dial()
        await client.send(header % 1)
        await client.hello()
        assert await client.ask(header.rstrip() % 2) == b"421 4.7.0 This is not SMTP; closing\r\n"
        assert await client.rest() == b""
        told = [warning for warning in house.configuration.warnings if warning.key == "servers[0].proxyon"]
        assert "name the proxy in proxy_protocol_from" in told[0].done
    async with moved(tmp_path, journal) as house:  # without it, from nobody
        client = await house.served.dial()
        await client.reply()
        assert await client.ask(header.rstrip() % 1) == b"421 4.7.0 This is not SMTP; closing\r\n"


async def test_bug_19_refused_recipients_are_counted(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        client = await house.guest()
        await client.ask(b"MAIL FROM:<a@client.example>")
        replies = [await client.ask(b"RCPT TO:<b@relay.example>") for _ in range(21)]
        assert [reply[:4] for reply in replies] == [b"550 "] * 20 + [b"421 "]


async def test_bug_19_everything_has_a_limit(tmp_path: Path) -> None:
    limits = load(tmp_path, guerrilla_file("/x")).settings.limits
    names = set(LimitSettings.__dataclass_fields__) - {"exempt_from", "banner_delay_seconds"}
    assert [name for name in names if getattr(limits, name) is None] == []


async def test_bug_20_mail_is_not_held_in_memory(journal: Journal, tmp_path: Path) -> None:
    sink, octets = Sink(), 20_000_000
    line = b"\xe4" * 998 + b"\r\n"  # which a form of theirs has three times as large
    server = {"max_size": 2 * octets}
    async with moved(tmp_path, journal, sink.act, backend={"validate_process": ""}, server=server) as house:
        client = await house.guest()
        await client.begin()
        tracemalloc.start()
        try:
            for _ in range(octets // 1000 // 20):
                await client.send(20 * line)
            assert (await client.ask(b".")).startswith(QUEUED)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert sink.octets > octets // 1000 * (len(line) - 1)  # lines end with LF by then
    assert peak < octets // 4


async def test_bug_21_root_cas_file_is_for_clients(journal: Journal, tmp_path: Path, authority: Authority) -> None:
    server = _smtps(authority, client_auth_type="RequireAndVerifyClientCert", root_cas_file=str(authority.ca_file))
    async with moved(tmp_path, journal, server=server) as house:
        context = authority.trusting()
        own = authority.issue()
        own.configure_cert(context)
        await dialogue_over(authority.client((await house.served.dial()).stream, context)).hello()
        stranger = authority.client((await house.served.dial()).stream)
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
            await dialogue_over(stranger).hello()
        assert house.configuration.settings.listeners[0].client_certificates is ClientCertificates.REQUIRED


async def test_bug_21_names_that_tls_does_not_know_are_told(tmp_path: Path) -> None:
    tls = {
        "start_tls_on": True,
        "public_key_file": "/cert.pem",
        "private_key_file": "/key.pem",
        "protocols": ["tls1.0", "tls9.9"],
        "ciphers": ["TLS_NONE_SUCH", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
    }
    configuration = load(tmp_path, guerrilla_file("/x", server={"tls": tls}))
    (listener,) = configuration.settings.listeners
    assert (listener.tls_minimum, listener.ciphers) == (TlsVersion.TLS_1_2, ("ECDHE-RSA-AES128-GCM-SHA256",))
    told = {warning.found for warning in configuration.warnings if ".tls." in warning.key}
    assert {'"tls1.0"', '"tls9.9"', '"TLS_NONE_SUCH"'} <= told


async def test_bug_22_peers_learn_nothing_of_what_is_within(journal: Journal, tmp_path: Path) -> None:
    async def prints(line: Line) -> None:
        await line.write(stderr(SECRET) + stdout(b"Content-type: text/html\r\n\r\n" + SECRET) + end())

    async with moved(tmp_path, journal, only_at("GET", prints)) as house:
        client = await house.guest()
        heard = [await client.ask(b"MAIL FROM:<a@client.example>"), await client.ask(b"RCPT TO:<b@example.com>")]
        assert heard[1] == TEMPFAIL
        assert "secret.php" in str(journal.entries("recipient")[0]["reason"])  # but whoever runs it does
    async with moved(tmp_path, journal, only_at("POST", prints)) as house:
        client = await house.guest()
        heard.append(await client.mail())
        (tmp_path / "fcgi").unlink()
        heard.append(await client.ask(b"MAIL FROM:<a@client.example>"))
        heard.append(await client.ask(b"RCPT TO:<b@example.com>"))
    assert heard[2::2] == [TEMPFAIL, TEMPFAIL]
    for word in (b"secret", b"mysqli", b"10.1.2.3", str(tmp_path).encode(), b"Upstream"):
        assert word not in b"".join(heard)


class _Complaints(logging.Handler):
    """Counts what Trio says each time it cannot accept."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.first = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        self.first.set()


async def test_bug_23_accept_without_descriptors_waits_before_the_next_try(journal: Journal, tmp_path: Path) -> None:
    complaints = _Complaints()
    logger = logging.getLogger("trio.serve_listeners")
    logger.addHandler(complaints)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        async with moved(tmp_path, journal) as house:
            address = house.served.addresses[0]
            assert isinstance(address, TcpAddress)
            with socket.socket() as client, socket.socket() as probe:
                lowest = os.dup(probe.fileno())
                os.close(lowest)
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
                try:
                    client.connect((address.host, address.port))
                    await complaints.first.wait()
                    with trio.move_on_after(0.55):
                        await trio.sleep_forever()
                    assert complaints.count <= 8  # ten in a second, not a busy loop
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, before)
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
                assert (await Dialogue(stream).reply()).startswith(b"220 ")
    finally:
        logger.removeHandler(complaints)


async def test_bug_21_client_auth_type_without_certificate_is_an_error(tmp_path: Path) -> None:
    tls = {"start_tls_on": True, "client_auth_type": "RequireAndVerifyClientCert"}
    with pytest.raises(ConfigErrors, match=r"servers\[0\]\.tls\.public_key_file"):
        load(tmp_path, guerrilla_file("/x", server={"tls": tls}))
