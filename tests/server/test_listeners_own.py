"""What one listener has of its own, beside another that has not: name, patience, room and log; through real workers."""

import contextlib
import re
import signal
import smtplib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.support import answers, configuration, deliver, write_configuration
from tests.phpfpm import children_of, open_folder
from tests.server.responder_process import Store, storing
from tests.server_process import ServerProcess, eventually, free_port, run_command

FULL_HERE: Final = (421, b"4.7.0 Too many connections to this address; try again later")
FULL: Final = (421, b"4.7.0 Too many connections; try again later")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A save script that keeps what it gets."""
    with open_folder() as path, storing(path / "fcgi") as store:
        yield store


class Two:
    """A server with two listeners, of which the second has settings of its own.

    Attributes:
        plain: the port of the first.
        own: the port of the second.
    """

    def __init__(self, store: Store, folder: Path, listener: str, top: str = "", more: str = "") -> None:
        self.plain, self.own = free_port(), free_port()
        self._folder = folder
        self._store = store
        self._top, self._more = top, more
        self.configure(listener)
        self.server = ServerProcess("serve", folder=folder)

    def configure(self, listener: str) -> None:
        """Write the file."""
        second = f'[[listeners]]\naddress = "127.0.0.1:{self.own}"\n{listener}'
        text = configuration(
            listen=f"127.0.0.1:{self.plain}", upstream=self._store.address, more=f"{self._more}\n{second}"
        )
        write_configuration(self._folder, f"{self._top}\n{text}")


def _greeting(port: int) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", port), 30) as sock, sock.makefile("rb") as lines:
        line = lines.readline().rstrip()
        return int(line[:3]), line[4:]


# The name


def test_name_is_that_of_the_listener(store: Store, tmp_path: Path) -> None:
    two = Two(store, tmp_path, 'hostname = "other.example.com"')
    with two.server as server:
        names = []
        for port in (two.plain, two.own):
            with smtplib.SMTP("127.0.0.1", port) as client:
                names.append(client.ehlo()[1].split(b"\n")[0].decode())
                client.sendmail("a@b.example", ["postmaster"], b"Subject: x\r\n\r\nx\r\n")
            assert _greeting(port)[1].decode().split()[0] == names[-1].split()[0]
        assert [name.split()[0] for name in names] == ["mx.example.com", "other.example.com"]
        assert server.stop() == 0
    mails = [request for request in store.requests if request.is_post][-2:]
    for request, name in zip(mails, ("mx.example.com", "other.example.com"), strict=True):
        mail = request.fields
        assert request.params["SERVER_NAME"] == name
        assert mail["rcpt_to_0"] == f"postmaster@{name}"
        assert re.search(rf"^Received: .*\n?\s+by {name} ", mail["body"], re.MULTILINE), mail["body"]


# The patience


def test_patience_is_that_of_the_listener(store: Store, tmp_path: Path) -> None:
    two = Two(store, tmp_path, "idle_seconds = 0.2")
    with (
        two.server,
        socket.create_connection(("127.0.0.1", two.plain), 30) as patient,
        socket.create_connection(("127.0.0.1", two.own), 30) as hasty,
    ):
        for sock in (patient, hasty):
            assert sock.recv(4) == b"220 "
        with hasty.makefile("rb") as lines:
            assert lines.readlines()[-1] == b"421 4.4.2 Timed out waiting for you; closing\r\n"
        patient.sendall(b"QUIT\r\n")
        with patient.makefile("rb") as lines:
            assert lines.readlines()[-1] == b"221 2.0.0 Bye\r\n"


# The room


def test_room_is_shared_by_all_workers(store: Store, tmp_path: Path) -> None:
    two = Two(store, tmp_path, "connections = 3", "workers = 2")
    with two.server as server, contextlib.ExitStack() as clients:
        assert len(children_of(server.pid)) == 2
        inside = [clients.enter_context(smtplib.SMTP("127.0.0.1", two.own)) for _ in range(3)]
        assert [_greeting(two.own) for _ in range(6)] == [FULL_HERE] * 6
        deliver(two.plain)  # the other listener has room
        server.wait_for_log("connection refused", 6)
        inside[0].quit()
        eventually(lambda: answers(two.own), "there is room again")


def test_room_of_the_whole_comes_first(store: Store, tmp_path: Path) -> None:
    two = Two(store, tmp_path, "connections = 1", more="[limits]\nconnections = 1")
    with two.server, smtplib.SMTP("127.0.0.1", two.plain):
        assert _greeting(two.own) == FULL


def test_reload_changes_the_room_and_keeps_who_is_in(store: Store, tmp_path: Path) -> None:
    two = Two(store, tmp_path, "connections = 1")
    with two.server as server, smtplib.SMTP("127.0.0.1", two.own) as first:
        assert _greeting(two.own) == FULL_HERE
        two.configure("connections = 2")
        server.send(signal.SIGHUP)
        server.wait_for_log("] reloaded ")
        with smtplib.SMTP("127.0.0.1", two.own):
            assert _greeting(two.own) == FULL_HERE
        first.quit()


# The log


def test_log_is_that_of_the_listener(store: Store, tmp_path: Path) -> None:
    log, moved = tmp_path / "own.log", tmp_path / "own.log.1"
    two = Two(store, tmp_path, f'log_file = "{log}"', "workers = 2", '[log]\nlevel = "debug"')
    with two.server as server:
        deliver(two.plain, recipient="everywhere@example.com")
        deliver(two.own, recipient="before@example.com")
        eventually(lambda: "before@example.com" in log.read_text(), "the mail is logged")
        log.rename(moved)
        server.send(signal.SIGUSR1)
        eventually(log.exists, "the log is opened anew")
        for number in range(8):  # by whichever worker: each has opened it anew
            deliver(two.own, recipient=f"behind{number}@example.com")
        eventually(lambda: all(f"behind{number}@" in log.read_text() for number in range(8)), "the mails are logged")
        assert server.stop() == 0
        assert "everywhere@" in server.log
        for name in ("before@", "behind"):
            assert name not in server.log
    assert "behind" not in moved.read_text()
    assert "everywhere@" not in moved.read_text() + log.read_text()
    assert re.search(r"\] mail .* worker=", log.read_text())
    assert "\x1b" not in log.read_text()


def _logs(log: Path, port: int, recipient: str) -> bool:
    deliver(port, recipient=recipient)
    return recipient in log.read_text()


def test_log_that_cannot_be_written_ends_the_start(store: Store, tmp_path: Path) -> None:
    two = Two(store, tmp_path, 'log_file = "/nonexistent/own.log"')
    done = run_command("serve", folder=tmp_path)
    assert done.returncode == 1
    assert b"cannot write the log file /nonexistent/own.log: No such file or directory" in done.stderr
    assert two.own


def test_reload_takes_up_another_log(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "own.log"
    two = Two(store, tmp_path, "")
    with two.server as server:
        two.configure(f'log_file = "{log}"')
        server.send(signal.SIGHUP)
        server.wait_for_log("] reloaded ")
        eventually(lambda: _logs(log, two.own, "after@example.com"), "no worker of before takes mail")
        two.configure('log_file = "/nonexistent/own.log"')
        server.send(signal.SIGHUP)
        server.wait_for_log("not reloaded.*cannot write the log file /nonexistent/own.log")
        deliver(two.own, recipient="still@example.com")
        eventually(lambda: "still@example.com" in log.read_text(), "the mail is logged where it was")
