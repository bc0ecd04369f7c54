"""The examples of the SMTP core, as their readers run them: a process, and Python's own smtplib as the client."""

from __future__ import annotations

import signal
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, final

import pytest
import trio
import trio.testing
import trustme

from examples import smtp_trio

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"
MAIL: Final = "Subject: hello\r\n\r\n.a dot\r\n..two\r\nlast line\r\n"
ENVELOPE_CODES: Final = ["220", "250", "250", "250", "354"]
PROGRAMS = pytest.mark.parametrize("program", ["smtp_blocking.py", "smtp_asyncio.py", "smtp_trio.py"])
CONCURRENT_PROGRAMS = pytest.mark.parametrize("program", ["smtp_asyncio.py", "smtp_trio.py"])


@final
@dataclass(frozen=True, slots=True)
class Server:
    """An example under way."""

    port: int
    stdout: IO[str]

    def client(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, local_hostname="client.example", timeout=30)


@contextmanager
def running(program: str, *arguments: str) -> Iterator[Server]:
    """Start an example on any free port, wait for its ready line, and stop it as a user would."""
    process = subprocess.Popen(
        [sys.executable, "-u", str(EXAMPLES / program), "127.0.0.1:0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        assert ready.startswith("listening on 127.0.0.1:")
        yield Server(int(ready.rpartition(":")[2]), process.stdout)
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors


@PROGRAMS
def test_mail_goes_through_and_a_refused_recipient_does_not(program: str) -> None:
    with running(program) as server:
        with server.client() as client:
            refused = client.sendmail("alice@example.net", ["bob@example.com", "nobody@example.com"], MAIL)
            assert refused["nobody@example.com"][0] == 550
            client.sendmail("", ["postmaster"], MAIL)
        first = server.stdout.readline()
        assert first.startswith("mail from <alice@example.net> to bob@example.com")
        if program != "smtp_blocking.py":
            assert first.endswith(f": {len(MAIL)} octets\n")
        else:
            assert [server.stdout.readline() for _ in range(5)] == [f"    {line}\n" for line in MAIL.splitlines()]
        assert server.stdout.readline().startswith("mail from <> to postmaster")


@PROGRAMS
def test_whole_session_in_one_write(program: str) -> None:
    """Pipelining, with the end of file right behind; and the server goes on after a client that vanishes."""
    with running(program) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            sock.sendall(b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRC")  # and gone
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            sock.sendall(
                b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n\x1b[31mred\r\n.\r\n"
                b"RSET\r\nVRFY x\r\nXYZZY\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\na\nb\r\n.\r\nQUIT\r\n"
            )
            sock.shutdown(socket.SHUT_WR)
            with sock.makefile("rb") as replies:
                codes = [line[:3].decode() for line in replies.readlines() if line[3:4] == b" "]
        assert codes == [*ENVELOPE_CODES, "250", "250", "252", "500", *ENVELOPE_CODES[2:], "550", "221"]
        assert server.stdout.readline().startswith("mail from <a@b.c> to d@e.f")
        if program == "smtp_blocking.py":
            assert server.stdout.readline() == "    '\\x1b[31mred'\n"


@PROGRAMS
def test_stream_that_makes_no_sense_is_answered_and_closed(program: str) -> None:
    with running(program) as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(b"BDAT nonsense\r\n")
        with sock.makefile("rb") as replies:
            assert [line[:3] for line in replies] == [b"220", b"501"]


@CONCURRENT_PROGRAMS
def test_many_are_served_at_once_and_what_is_refused_stays_out(program: str) -> None:
    with running(program) as server:
        clients = [server.client() for _ in range(20)]  # all greeted before the first one leaves
        try:
            for client in clients:
                client.ehlo()
            for client in reversed(clients):
                client.sendmail("alice@example.net", ["bob@example.com"], MAIL)
            with pytest.raises(smtplib.SMTPDataError) as caught:
                clients[0].sendmail("alice@example.net", ["bob@example.com"], "X-Refuse: yes\r\n\r\n")
            assert caught.value.smtp_code == 451
        finally:
            for client in clients:
                client.quit()
        assert all(server.stdout.readline().startswith("mail from <alice") for _ in clients)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="greeted"),
        pytest.param(b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\nhalf a", id="within-a-mail"),
    ],
)
def test_trio_says_goodbye_when_it_is_stopped(said: bytes) -> None:
    with running("smtp_trio.py") as server:
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        replies = sock.makefile("rb")
        assert replies.readline().startswith(b"220 ")
        sock.sendall(said)
        while said and not replies.readline().startswith(b"354 "):
            pass
    with sock, replies:
        assert replies.readlines() == [b"421 4.3.2 Shutting down; try again later\r\n"]


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PEM file with a certificate for 127.0.0.1 and its key."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@PROGRAMS
def test_mail_over_starttls(program: str, certificate: str, trusting: ssl.SSLContext) -> None:
    with running(program, certificate) as server:
        for _ in range(2):
            with server.client() as client:
                client.ehlo()
                assert client.has_extn("starttls")
                client.starttls(context=trusting)
                client.ehlo()
                assert not client.has_extn("starttls")
                client.sendmail("alice@example.net", ["bob@example.com"], MAIL * 100)
        assert server.stdout.readline().startswith("mail from <alice@example.net> to bob@example.com")


@PROGRAMS
def test_starttls_forgets_what_came_before(program: str, certificate: str, trusting: ssl.SSLContext) -> None:
    with running(program, certificate) as server, server.client() as client:
        client.ehlo()
        client.mail("alice@example.net")
        client.rcpt("bob@example.com")
        client.starttls(context=trusting)
        assert client.docmd("DATA")[0] == 503
        client.ehlo()
        assert client.rcpt("bob@example.com")[0] == 503


@PROGRAMS
@pytest.mark.parametrize(
    "behind", [b"EHLO evil\r\nMAIL FROM:<evil@example.net>\r\n", b""], ids=["plaintext", "nothing"]
)
def test_no_tls_behind_starttls(program: str, certificate: str, behind: bytes) -> None:
    """Plaintext in the same packet is 554, garbage later is no word more; and the next client is served."""
    with running(program, certificate) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock, sock.makefile("rb") as replies:
            sock.sendall(b"EHLO x\r\nSTARTTLS\r\n" + behind)
            codes: list[bytes] = []
            while len(codes) < 3:
                line = replies.readline()
                codes += [line[:3]] if line[3:4] == b" " else []
            assert codes == [b"220", b"250", b"554" if behind else b"220"]
            with suppress(OSError):  # closed, with what we say behind it unread
                sock.sendall(b"MAIL FROM:<evil@example.net>\r\n")
                sock.shutdown(socket.SHUT_WR)
                assert replies.read() == b""
        with server.client() as client:
            client.sendmail("alice@example.net", ["bob@example.com"], MAIL)


def test_trio_asks_for_a_password_over_tls_only(certificate: str, trusting: ssl.SSLContext) -> None:
    with running("smtp_trio.py", certificate) as server, server.client() as client:
        client.ehlo()
        assert not client.has_extn("auth")
        assert client.docmd("AUTH PLAIN")[0] == 538
        client.starttls(context=trusting)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("alice", "wrong")  # twice, by PLAIN and by LOGIN
        assert client.login("alice", "wonderland")[0] == 235
        client.sendmail("alice@example.net", ["bob@example.com"], MAIL)


NO_CERTIFICATE: Final = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
_TO_DATA: Final = b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n"


@final
@dataclass(frozen=True, slots=True)
class SlowClient:
    """One that keeps the Trio example waiting: what it says at which second, and what it hears last, when."""

    id: str
    says: Sequence[tuple[float, bytes]]
    hears: bytes
    at: float
    tls: ssl.SSLContext | None = None


@pytest.mark.trio
@pytest.mark.parametrize(
    "case",
    [
        SlowClient("silent", [], b"421 4.4.2 Timed out", 300),
        SlowClient("a-command-trickles-in", [(100, b"EH"), (200, b"LO"), (290, b" ")], b"421 4.4.2 Timed out", 300),
        SlowClient("each-command-has-its-time", [(299, b"NOOP\r\n"), (598, b"NO")], b"421 4.4.2 Timed out", 599),
        SlowClient("silent-within-the-data", [(10, _TO_DATA + b"a")], b"421 4.4.2 Timed out", 190),
        SlowClient("silent-after-starttls", [(1, b"EHLO x\r\nSTARTTLS\r\n")], b"220 2.0.0 Ready", 31, NO_CERTIFICATE),
        SlowClient("slow-data-arrive", [(1, _TO_DATA), (180, b"a"), (359, b"\r\n.\r\nQUIT\r\n")], b"221 ", 359),
    ],
    ids=lambda case: case.id,
)
async def test_trio_keeps_the_deadlines(case: SlowClient, autojump_clock: trio.testing.MockClock) -> None:
    client, server = trio.testing.memory_stream_pair()
    heard = b""
    began = trio.current_time()

    async def say() -> None:
        for second, octets in case.says:
            await trio.sleep_until(began + second)
            await client.send_all(octets)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(smtp_trio.Session(server, case.tls).run)
        nursery.start_soon(say)
        async for data in client:
            heard += data
        assert trio.current_time() - began == pytest.approx(case.at)
        await client.send_eof()
    assert heard.splitlines()[-1].startswith(case.hears)
