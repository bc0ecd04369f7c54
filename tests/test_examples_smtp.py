"""The examples of the SMTP core, as their readers run them: a process, and Python's own smtplib as the client."""

from __future__ import annotations

import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, final

import pytest

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"
MAIL: Final = "Subject: hello\r\n\r\n.a dot\r\n..two\r\nlast line\r\n"
ENVELOPE_CODES: Final = ["220", "250", "250", "250", "354"]
PROGRAMS = pytest.mark.parametrize("program", ["smtp_blocking.py", "smtp_asyncio.py"])


@final
@dataclass(frozen=True, slots=True)
class Server:
    """An example under way."""

    port: int
    stdout: IO[str]

    def client(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, local_hostname="client.example", timeout=30)


@contextmanager
def running(program: str) -> Iterator[Server]:
    """Start an example on any free port, wait for its ready line, and stop it as a user would."""
    process = subprocess.Popen(
        [sys.executable, "-u", str(EXAMPLES / program), "127.0.0.1:0"],
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
        if program == "smtp_asyncio.py":
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


def test_asyncio_serves_many_at_once_and_keeps_what_it_refuses_out() -> None:
    with running("smtp_asyncio.py") as server:
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
