"""PROXY on real sockets: whose word is believed, and what is done with it. Time is real, and nothing waits for long."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
import trio
import trustme

from tests.server.test_prelude import IPV4, binary, tlv
from tests.server.test_prelude import ssl as tls_tlv
from tests.support import Dialogue, Journal, ScriptedResponder, Served, serving, settings
from trio_fcgimail.config import Settings
from trio_fcgimail.server import Limit

pytestmark = pytest.mark.trio

TEXT: Final = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 25\r\n"
BINARY: Final = binary(IPV4)
LOCAL: Final = binary(b"", command=0x20, family=0)
OF_TLS: Final = binary(IPV4 + tls_tlv(1, 0, tlv(0x21, b"TLSv1.2"), tlv(0x23, b"ECDHE-RSA-AES128-GCM-SHA256")))
STORED: Final = b"250 2.0.0 OK: queued as "
NO_HEADER: Final = b"421 4.7.0 A PROXY header is needed here; closing\r\n"
FROM_YOU: Final = b"421 4.7.0 Too many connections from you; try again later\r\n"


def config(
    folder: Path, listener: str = "", limits: str = "", more: str = "", address: str = "127.0.0.1:0"
) -> Settings:
    return settings(
        f'[[listeners]]\naddress = "{address}"\nproxy_protocol_from = ["127.0.0.1", "unix"]\n{listener}\n'
        f'[limits]\n{limits}\n[fastcgi]\nupstreams = ["unix:{folder}/fcgi"]\n{more}'
    )


@pytest.fixture
async def responder(nursery: trio.Nursery, tmp_path: Path) -> ScriptedResponder:
    responder = ScriptedResponder(nursery)
    await responder.listen(tmp_path / "fcgi")
    return responder


async def behind(house: Served, header: bytes) -> Dialogue:
    """A client whose proxy sends this first."""
    client = await house.dial()
    await client.send(header)
    return client


@pytest.mark.parametrize(
    ("header", "ip", "port"),
    [
        pytest.param(TEXT, "192.0.2.1", "56324", id="text"),
        pytest.param(BINARY, "192.0.2.1", "56324", id="binary"),
        pytest.param(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "2001:db8::1", "1", id="ipv6"),
        pytest.param(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "192.0.2.1", "1", id="mapped"),
        pytest.param(b"PROXY UNKNOWN\r\n", "127.0.0.1", None, id="unknown"),
        pytest.param(LOCAL, "127.0.0.1", None, id="local"),
        pytest.param(binary(b"", family=0), "127.0.0.1", None, id="unspecified"),
        pytest.param(binary(bytes(216), family=0x31), "", "", id="unix-at-the-proxy"),
    ],
)
async def test_the_script_and_the_trace_get_the_client(
    header: bytes, ip: str, port: str | None, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with serving(config(tmp_path), journal) as house:
        client = await behind(house, header)
        await client.hello()
        assert (await client.mail()).startswith(STORED)
        await client.ask(b"QUIT")
    (request,) = responder.requests
    fields = request.fields
    assert fields["remote_ip"] == ip
    assert request.params["REMOTE_ADDR"] == (ip or "127.0.0.1")
    assert port in (None, fields["remote_port"])
    literal = f" ([{'IPv6:' if ':' in ip else ''}{ip}])" if ip else ""
    assert fields["body"].startswith(f"Received: from client.example{literal}\n")
    (entry,) = journal.entries("connection closed")
    assert (entry["peer"], entry.get("via")) == (ip or "unix", "127.0.0.1" if ip != "127.0.0.1" else None)
    assert journal.entries("mail")[0]["peer"] == (ip or "unix")


async def test_header_and_mail_in_one_piece(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    async with serving(config(tmp_path), journal) as house:
        client = await behind(house, BINARY + b"EHLO early.example\r\nQUIT\r\n")
        replies = await client.rest()
    assert [line[:3] for line in replies.split(b"\r\n")] == [
        b"220",
        *[b"250"] * (replies.count(b"\n") - 2),
        b"221",
        b"",
    ]


async def test_no_banner_before_the_header_however_it_is_cut(journal: Journal, tmp_path: Path) -> None:
    async with serving(config(tmp_path), journal) as house:
        client = await house.dial()
        for octet in BINARY:
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(BlockingIOError):
                _peek(client)
            await client.send(bytes([octet]))
        await client.hello()


def _peek(client: Dialogue) -> bytes:
    assert isinstance(client.stream, trio.SocketStream)
    return os.read(client.stream.socket.fileno(), 1)


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        pytest.param(b"EHLO client.example\r\n", "no PROXY header", id="mail"),
        pytest.param(TEXT.replace(b"TCP4", b"TCP6"), "the PROXY line has a bad address", id="bad-address"),
        pytest.param(b"PROXY TCP4 " + b"1" * 200, "the PROXY line is too long", id="too-long"),
        pytest.param(binary(IPV4 + tlv(3, bytes(4))), "a PROXY header with a wrong checksum", id="checksum"),
        pytest.param(BINARY[:20], "no PROXY header in time", id="cut"),
        pytest.param(b"", "no PROXY header in time", id="nothing"),
    ],
)
async def test_a_proxy_has_to_send_a_good_header_in_time(
    wire: bytes, problem: str, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with serving(config(tmp_path, limits="proxy_header_seconds = 0.3\nconnections = 1"), journal) as house:
        client = await behind(house, wire)
        assert await client.rest() == NO_HEADER
        await client.close()
        other = await behind(house, TEXT)  # there is room again
        await other.hello()
        in_time = house.server.limits_hit[Limit.PROXY_HEADER_SECONDS]
    (entry,) = journal.entries("no PROXY header")
    assert entry["peer"] == "127.0.0.1"
    assert entry["problem"] == problem or str(entry["problem"]).startswith(problem)
    assert in_time == ("in time" in problem)


async def test_a_proxy_that_closes_or_resets(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    async with serving(config(tmp_path), journal) as house:
        client = await behind(house, TEXT[:9])
        assert isinstance(client.stream, trio.SocketStream)
        await client.stream.send_eof()
        assert await client.rest() == NO_HEADER
        await (await house.dial()).close()
        await (await behind(house, TEXT)).hello()
    assert journal.entries("session failed") == []


@pytest.mark.parametrize("wire", [TEXT, BINARY], ids=["text", "binary"])
async def test_from_others_it_is_never_honoured(
    wire: bytes, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with serving(config(tmp_path), journal) as house:
        stranger = await house.dial("127.0.0.2")
        await stranger.send(wire)
        assert (await stranger.rest()).split(b"\r\n")[-2] == b"421 4.7.0 This is not SMTP; closing"
        guest = await house.dial("127.0.0.2")
        await guest.hello()
        assert (await guest.mail()).startswith(STORED)
    assert responder.requests[0].fields["remote_ip"] == "127.0.0.2"


@pytest.mark.parametrize("wire", [TEXT, BINARY], ids=["text", "binary"])
async def test_a_second_header_is_not_honoured(wire: bytes, journal: Journal, tmp_path: Path) -> None:
    async with serving(config(tmp_path), journal) as house:
        client = await behind(house, TEXT + wire)
        replies = await client.rest()
    assert replies.startswith(b"220 ")
    assert replies.endswith(b"421 4.7.0 This is not SMTP; closing\r\n")


async def test_over_a_unix_socket(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    async with serving(config(tmp_path, address=f"unix:{tmp_path}/smtp"), journal):
        client = Dialogue(await trio.open_unix_socket(f"{tmp_path}/smtp"))
        await client.send(TEXT)
        await client.hello()
        assert (await client.mail()).startswith(STORED)
        await client.ask(b"QUIT")
        await client.close()
    assert responder.requests[0].fields["remote_ip"] == "192.0.2.1"
    assert journal.entries("connection closed")[0]["via"] == "unix"


@pytest.mark.parametrize("over", ["unix", "tcp"])
async def test_whether_unix_sockets_are_proxies_is_said_like_that_of_networks(
    over: str, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    """Where they are, a header is required of them; where they are not, it is refused."""
    path = tmp_path / "smtp"
    listed = "unix" if over == "unix" else "127.0.0.0/8"
    toml = f'[[listeners]]\naddress = "unix:{path}"\nproxy_protocol_from = ["{listed}"]\n'
    toml += f'[limits]\nproxy_header_seconds = 0.3\n[fastcgi]\nupstreams = ["unix:{tmp_path}/fcgi"]'
    async with serving(settings(toml), journal):
        clients = [Dialogue(await trio.open_unix_socket(str(path))) for _ in range(3)]
        without, too_late, with_header = clients
        await without.send(b"EHLO client.example\r\n")
        await with_header.send(TEXT)
        if over == "unix":
            assert await without.rest() == NO_HEADER
            assert await too_late.rest() == NO_HEADER
            await with_header.hello()
        else:
            assert (await without.reply()).startswith(b"220 ")
            assert (await too_late.reply()).startswith(b"220 ")
            assert (await with_header.rest()).endswith(b"421 4.7.0 This is not SMTP; closing\r\n")
        for client in clients:
            await client.close()


# Limits


async def test_limits_are_those_of_the_client(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    limits = "connections_per_ip = 1\nconnections_per_minute_per_ip = 2"
    async with serving(config(tmp_path, limits=limits), journal) as house:
        clients = [await behind(house, TEXT.replace(b"2.1 ", b"2.%d " % number)) for number in range(1, 6)]
        for client in clients:
            await client.hello()
        assert await (await behind(house, TEXT)).rest() == FROM_YOU
        assert house.server.limits_hit[Limit.CONNECTIONS_PER_IP] == 1
        for number in range(2):
            await clients[0].close()
            with trio.fail_after(10):
                while (reply := await (client := await behind(house, TEXT)).reply()) == FROM_YOU:
                    await client.close()
            clients[0] = client
            assert reply.startswith(b"421 4.7.0 Connecting too often" if number else b"220 ")
        assert (await clients[3].ask(b"EHLO x")).startswith(b"250-")


async def test_who_waits_for_a_header_has_a_place(journal: Journal, tmp_path: Path) -> None:
    async with serving(config(tmp_path, limits="connections = 1"), journal) as house:
        await house.dial()
        stranger = await house.dial("127.0.0.2")
        with trio.fail_after(10):
            while (await stranger.reply()).startswith(b"220"):  # it was faster than the first
                await stranger.close()
                stranger = await house.dial("127.0.0.2")
        assert await (await behind(house, TEXT)).rest() == b"421 4.7.0 Too many connections; try again later\r\n"


async def test_the_end_does_not_wait_for_headers(journal: Journal, tmp_path: Path) -> None:
    async with serving(config(tmp_path, limits="proxy_header_seconds = 600"), journal) as house:
        silent = await house.dial()
        await (await behind(house, TEXT)).hello()
        house.server.stop()
        assert await silent.rest() == b"421 4.3.2 Shutting down; try again later\r\n"
        await house.close_clients()
    assert journal.entries("no PROXY header") == []


# TLS


@contextmanager
def certificate(folder: Path) -> Iterator[tuple[str, ssl.SSLContext]]:
    """The settings of a listener, and what its clients trust."""
    authority = trustme.CA()
    authority.issue_cert("mx.example.com").private_key_and_cert_chain_pem.write_to_path(folder / "mx.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    yield f'certificate = "{folder}/mx.pem"', context


async def encrypted(client: Dialogue, context: ssl.SSLContext) -> trio.SSLStream[trio.abc.Stream]:
    transport: trio.abc.Stream = client.stream
    stream = trio.SSLStream(transport, context, server_hostname="mx.example.com", https_compatible=True)
    await stream.do_handshake()
    return stream


async def _talk(stream: trio.SSLStream[trio.abc.Stream], *commands: bytes) -> list[bytes]:
    """The last line of each reply, the banner's first."""
    replies, unread = [], b""
    for command in (b"", *commands):
        if command:
            await stream.send_all(command + b"\r\n")
        lines = [b"   -"]
        while lines[-1][3:4] == b"-":
            while b"\r\n" not in unread:
                unread += await stream.receive_some()
            line, _, unread = unread.partition(b"\r\n")
            lines.append(line)
        replies.append(lines[-1])
    return replies


async def test_before_implicit_tls(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    with certificate(tmp_path) as (listener, context):
        async with serving(config(tmp_path, f'tls = "implicit"\n{listener}'), journal) as house:
            stream = await encrypted(await behind(house, BINARY), context)
            mail = (b"MAIL FROM:<>", b"RCPT TO:<b@example.com>", b"BDAT 3 LAST\r\nx")
            replies = await _talk(stream, b"EHLO client.example", *mail)
            assert replies[-1].startswith(STORED)
            await trio.aclose_forcefully(stream)
    fields = responder.requests[0].fields
    assert (fields["remote_ip"], fields["tls_on"], fields["tls_protocol"]) == ("192.0.2.1", "true", "TLSv1.3")


async def test_a_refusal_before_implicit_tls_comes_within_it(journal: Journal, tmp_path: Path) -> None:
    with certificate(tmp_path) as (listener, context):
        limits = "connections_per_ip = 1"
        async with serving(config(tmp_path, f'tls = "implicit"\n{listener}', limits), journal) as house:
            first = await encrypted(await behind(house, TEXT), context)
            assert (await _talk(first))[0].startswith(b"220 ")
            second = await encrypted(await behind(house, TEXT), context)
            assert (await _talk(second))[0] + b"\r\n" == FROM_YOU
            for stream in (first, second):
                await trio.aclose_forcefully(stream)


async def test_no_header_before_implicit_tls_is_left_without_a_word(journal: Journal, tmp_path: Path) -> None:
    with certificate(tmp_path) as (listener, _):
        async with serving(config(tmp_path, f'tls = "implicit"\n{listener}'), journal) as house:
            client = await behind(house, b"\x16\x03\x01\x00\x05")
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await client.reply()
    assert len(journal.entries("no PROXY header")) == 1


@pytest.mark.parametrize(
    ("header", "facts"),
    [
        pytest.param(OF_TLS, ("true", "TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256", "ESMTPS"), id="tls"),
        pytest.param(binary(IPV4 + tls_tlv(1, 0, tlv(0x21, b"x\r\ny"))), ("true", "unknown", "unknown", "ESMTPS"),
            id="nonsense"),
        pytest.param(binary(IPV4 + tls_tlv(0)), ("false", None, None, "ESMTP"), id="none"),
        pytest.param(TEXT, ("false", None, None, "ESMTP"), id="not-said"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["none", "starttls"])
async def test_tls_that_ended_at_the_proxy(
    header: bytes,
    facts: tuple[str | None, ...],
    mode: str,
    responder: ScriptedResponder,
    journal: Journal,
    tmp_path: Path,
) -> None:
    with certificate(tmp_path) as (files, _):
        listener = f'tls = "starttls"\n{files}' if mode == "starttls" else ""
        async with serving(config(tmp_path, listener), journal) as house:
            client = await behind(house, header)
            await client.reply()
            keywords = await client.ask(b"EHLO client.example")
            assert (await client.mail()).startswith(STORED)
    fields = responder.requests[0].fields
    assert tuple(fields.get(name) for name in ("tls_on", "tls_protocol", "tls_cipher", "with")) == facts
    assert (b"STARTTLS" in keywords) == (mode == "starttls" and facts[0] == "false")
    assert (b"REQUIRETLS" in keywords) == (facts[0] == "true")
    assert (f"(using {facts[1]} with cipher" in fields["body"]) == (facts[0] == "true")


@pytest.mark.parametrize(
    ("flags", "verification", "subject"),
    [
        pytest.param(1 | 2, 0, "CN=a\\,b", id="verified"),
        pytest.param(1 | 4, 0, "CN=a\\,b", id="verified-in-that-session"),
        pytest.param(1 | 2, 1, None, id="not-verified"),
        pytest.param(1, 0, None, id="none-shown"),
    ],
)
async def test_the_certificate_that_the_proxy_has_verified(
    flags: int,
    verification: int,
    subject: str | None,
    responder: ScriptedResponder,
    journal: Journal,
    tmp_path: Path,
) -> None:
    header = binary(IPV4 + tls_tlv(flags, verification, tlv(0x21, b"TLSv1.3"), tlv(0x22, b"a,b")))
    async with serving(config(tmp_path), journal) as house:
        client = await behind(house, header)
        await client.hello()
        assert (await client.mail()).startswith(STORED)
    fields = responder.requests[0].fields
    told = (fields.get("tls_client_subject"), fields.get("tls_client_sha256"))
    assert told == (subject, None if subject is None else "")


async def test_logins_over_tls_that_ended_at_the_proxy(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    more = '[scripts]\nauth = "/srv/mail/auth.php"'
    async with serving(config(tmp_path, "require_auth = true", more=more), journal) as house:
        client = await behind(house, OF_TLS)
        await client.reply()
        assert b"AUTH PLAIN" in await client.ask(b"EHLO client.example")
        clear = await behind(house, TEXT)
        await clear.reply()
        assert b"AUTH" not in await clear.ask(b"EHLO client.example")
