"""A real HAProxy in front of a running server: what it says of its clients reaches the script."""

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio
import trustme

from tests.clients import require
from tests.support import Dialogue, Journal, ScriptedResponder, serving, settings
from trio_fcgimail.config import ListenAddress

pytestmark = pytest.mark.trio

STORED: Final = b"250 2.0.0 OK: queued as "
CLIENT: Final = "127.0.0.5"  # while HAProxy comes from 127.0.0.1
NAME: Final = "mx.example.com"
_GLOBAL: Final = """
global
    log stderr local0
defaults
    mode tcp
    timeout connect 10s
    timeout client 30s
    timeout server 30s
    timeout check 10s
frontend mail
    bind {bind}
    default_backend servers
backend servers
    {backend}
    server ours {server}
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Of the server or of HAProxy.

    Attributes:
        path: Certificate and key.
        trusted: By a client.
    """

    path: Path
    trusted: ssl.SSLContext


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    authority = trustme.CA()
    authority.issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(tmp_path / "mx.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return Certificate(tmp_path / "mx.pem", context)


@pytest.fixture
async def responder(nursery: trio.Nursery, tmp_path: Path) -> ScriptedResponder:
    responder = ScriptedResponder(nursery)
    await responder.listen(tmp_path / "fcgi")
    return responder


@asynccontextmanager
async def haproxy(
    listening: socket.socket, folder: Path, *, server: str, bind: str, backend: str
) -> AsyncIterator[None]:
    """HAProxy on a socket that listens already, so that nobody has to wait for it."""
    program = require("haproxy", "haproxy")
    path = folder / "haproxy.cfg"
    text = _GLOBAL.format(bind=f"fd@{listening.fileno()} {bind}", server=server, backend=backend)
    path.write_text(text)
    command = [program, "-db", "-q", "-f", str(path)]
    with (folder / "haproxy.log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            command, pass_fds=[listening.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@dataclass(frozen=True, slots=True)
class Front:
    """How HAProxy stands before the server.

    Attributes:
        sends: Its options of the server.
        bind: Its options towards the client.
        listener: Ours.
        over: "tcp" or "unix", from HAProxy to us.
        by: Likewise, from the client to HAProxy.
        backend: More of its settings.
    """

    sends: str
    bind: str = ""
    listener: str = ""
    over: str = "tcp"
    by: str = "tcp"
    backend: str = ""


def _listening(by: str, folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if by == "unix" else socket.AF_INET)
    sock.bind(str(folder / "front") if by == "unix" else ("127.0.0.1", 0))
    sock.listen()
    return sock


async def _dial(sock: socket.socket) -> trio.SocketStream:
    if sock.family == socket.AF_UNIX:
        return await trio.open_unix_socket(sock.getsockname())
    return await trio.open_tcp_stream(*sock.getsockname(), local_address=CLIENT)


def _where(address: ListenAddress) -> str:
    text = str(address)
    return text.replace("unix:", "unix@") if text.startswith("unix:") else f"ipv4@{text}"


@asynccontextmanager
async def in_front(front: Front, folder: Path, journal: Journal) -> AsyncIterator[trio.SocketStream]:
    """A client of HAProxy, behind which the server is."""
    address = f"unix:{folder}/smtp" if front.over == "unix" else "127.0.0.1:0"
    config = settings(
        f'[[listeners]]\naddress = "{address}"\nproxy_protocol_from = ["127.0.0.1", "unix"]\n{front.listener}\n'
        f'[fastcgi]\nupstreams = ["unix:{folder}/fcgi"]'
    )
    async with serving(config, journal) as house:
        server = f"{_where(house.addresses[0])} {front.sends}"
        with _listening(front.by, folder) as listening, trio.fail_after(60):
            running = haproxy(listening, folder, server=server, bind=front.bind, backend=front.backend)
            async with running, await _dial(listening) as stream:
                yield stream


async def _encrypt(stream: trio.SocketStream, certificate: Certificate) -> trio.SSLStream[trio.SocketStream]:
    encrypted = trio.SSLStream(stream, certificate.trusted, server_hostname=NAME, https_compatible=True)
    await encrypted.do_handshake()
    return encrypted


PLAIN: Final = [
    pytest.param(Front("send-proxy"), CLIENT, id="text"),
    pytest.param(Front("send-proxy-v2"), CLIENT, id="binary"),
    pytest.param(Front("send-proxy-v2 proxy-v2-options crc32c,unique-id"), CLIENT, id="checksum"),
    pytest.param(Front("send-proxy", over="unix"), CLIENT, id="text-over-unix"),
    pytest.param(Front("send-proxy-v2", over="unix"), CLIENT, id="binary-over-unix"),
    pytest.param(Front("send-proxy", by="unix"), "127.0.0.1", id="text-of-a-local-client"),
    pytest.param(Front("send-proxy-v2", by="unix"), "127.0.0.1", id="binary-of-a-local-client"),
]


@pytest.mark.parametrize(("front", "ip"), PLAIN)
async def test_the_script_gets_the_client(
    front: Front, ip: str, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    async with in_front(front, tmp_path, journal) as stream:
        client = Dialogue(stream)
        await client.hello()
        assert (await client.mail()).startswith(STORED)
        port = "" if stream.socket.family == socket.AF_UNIX else str(stream.socket.getsockname()[1])
    fields = responder.requests[0].fields
    assert fields["remote_ip"] == ip
    assert fields["tls_on"] == "false"
    if ip == CLIENT:
        assert fields["remote_port"] == port


@pytest.mark.parametrize("sends", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
async def test_tls_passes_through(
    sends: str, certificate: Certificate, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    front = Front(sends, listener=f'tls = "implicit"\ncertificate = "{certificate.path}"')
    async with in_front(front, tmp_path, journal) as stream:
        encrypted = await _encrypt(stream, certificate)
        client = Dialogue(trio.StapledStream(encrypted, encrypted))
        await client.hello()
        assert (await client.mail()).startswith(STORED)
    fields = responder.requests[0].fields
    assert (fields["remote_ip"], fields["tls_on"], fields["tls_protocol"]) == (CLIENT, "true", "TLSv1.3")


async def test_starttls_passes_through(
    certificate: Certificate, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    front = Front("send-proxy-v2", listener=f'tls = "starttls"\ncertificate = "{certificate.path}"')
    async with in_front(front, tmp_path, journal) as stream:
        client = Dialogue(stream)
        await client.hello()
        assert (await client.ask(b"STARTTLS")).startswith(b"220 ")
        encrypted = await _encrypt(stream, certificate)
        client = Dialogue(trio.StapledStream(encrypted, encrypted))
        await client.ask(b"EHLO client.example")
        assert (await client.mail()).startswith(STORED)
    fields = responder.requests[0].fields
    assert (fields["remote_ip"], fields["with"]) == (CLIENT, "ESMTPS")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param("proxy-v2-options ssl,ssl-cipher,cert-cn,authority,crc32c", True, id="all"),
        pytest.param("proxy-v2-options ssl", False, id="version-only"),
    ],
)
async def test_tls_ends_at_haproxy(
    options: str, told: bool, certificate: Certificate, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    front = Front(f"send-proxy-v2 {options}", bind=f"ssl crt {certificate.path}")
    async with in_front(front, tmp_path, journal) as stream:
        encrypted = await _encrypt(stream, certificate)
        client = Dialogue(trio.StapledStream(encrypted, encrypted))
        assert (await client.reply()).startswith(b"220 ")
        assert b"STARTTLS" not in await client.ask(b"EHLO client.example")
        assert (await client.mail()).startswith(STORED)
        cipher = str(encrypted.cipher()[0])
    fields = responder.requests[0].fields
    assert (fields["remote_ip"], fields["tls_on"], fields["with"]) == (CLIENT, "true", "ESMTPS")
    assert (fields["tls_protocol"], fields["tls_cipher"]) == ("TLSv1.3", cipher if told else "unknown")


async def test_the_client_that_haproxy_has_verified(
    certificate: Certificate, responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "clients.pem")
    authority.issue_cert("sender.example", common_name="A, B").configure_cert(certificate.trusted)
    bind = f"ssl crt {certificate.path} ca-file {tmp_path}/clients.pem verify required"
    front = Front("send-proxy-v2 proxy-v2-options ssl,cert-cn", bind=bind)
    async with in_front(front, tmp_path, journal) as stream:
        encrypted = await _encrypt(stream, certificate)
        client = Dialogue(trio.StapledStream(encrypted, encrypted))
        await client.hello()
        assert (await client.mail()).startswith(STORED)
    assert responder.requests[0].fields["tls_client_subject"] == "CN=A\\, B"


async def test_health_checks_speak_for_haproxy_itself(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    front = Front("check inter 20ms send-proxy-v2 check-send-proxy", backend="option smtpchk EHLO haproxy.example")
    async with in_front(front, tmp_path, journal) as stream:
        await Dialogue(stream).hello()
        while not (checks := [one for one in journal.entries("connection closed") if one["peer"] == "127.0.0.1"]):
            await trio.lowlevel.checkpoint()
    assert checks[0]["reason"] == "the client said QUIT"
    assert "via" not in checks[0]
    assert journal.entries("no PROXY header") == []


async def test_without_a_header_it_is_told_so(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    front = Front("", listener="[limits]\nproxy_header_seconds = 0.2")
    async with in_front(front, tmp_path, journal) as stream:
        assert await Dialogue(stream).rest() == b"421 4.7.0 A PROXY header is needed here; closing\r\n"
    assert journal.entries("no PROXY header")[0]["problem"] == "no PROXY header in time"
