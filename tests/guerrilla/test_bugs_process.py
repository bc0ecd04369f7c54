"""Bugs 6, 38 and 42 of go-guerrilla, which only a whole process can show.

Each test has the number that docs/migrating.md has for the bug.
"""

import re
import signal
import smtplib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import SENDER, answers, deliver
from tests.config.guerrilla_files import text_of
from tests.guerrilla.support import guerrilla_file
from tests.server.responder_process import Store, storing
from tests.server_process import SECONDS, ServerProcess, eventually, free_port, run_command


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Scripts that take everything."""
    with storing(tmp_path / "fcgi") as store:
        yield store


def test_bug_06_reload_with_php_down_ends_nothing(tmp_path: Path) -> None:
    port = free_port()

    def write(address: str, **backend: object) -> None:
        server = {"listen_interface": f"127.0.0.1:{port}"}
        content = guerrilla_file(address, server=server, backend={"gw_val_rcpt_timeout": "1s", **backend})
        (tmp_path / "goguerrilla.conf.json").write_text(text_of(content))

    good, gone = str(tmp_path / "fcgi"), str(tmp_path / "gone")
    with storing(Path(good)):
        write(good)
        with ServerProcess("serve", folder=tmp_path) as server:
            deliver(port)
            write(gone, save_process="HeadersParser|Header|FastCGI")  # valid: PHP may come later
            server.send(signal.SIGHUP)
            server.wait_for_log("] reloaded ")
            write(gone, save_process="HeadersParser|SQL")  # not valid: nothing changes
            server.send(signal.SIGHUP)
            server.wait_for_log("not reloaded.*save_process")
            write(good)
            server.send(signal.SIGHUP)
            server.wait_for_log("] reloaded ", 2)
            eventually(lambda: _takes_mail(port), "who serves has the address that is right")
            assert server.stop() == 0


def _takes_mail(port: int) -> bool:
    """Whether a mail is taken; a child of before the reload may still say 451, for once."""
    with smtplib.SMTP("127.0.0.1", port, timeout=SECONDS) as client:
        client.ehlo()
        client.mail(SENDER)
        code, _ = client.rcpt("info@example.com")
        assert code in (250, 451)
        return code == 250


class _Two:
    """Two servers in one file.

    Attributes:
        ports: theirs.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.ports = (free_port(), free_port())
        self._folder = folder
        self._address = store.address.removeprefix("unix:")

    def write(self, *, log_level: str = "info", **second: object) -> None:
        """With these keys of the second."""
        content = guerrilla_file(self._address, more={"log_level": log_level})
        common = {"is_enabled": True, "host_name": "mx.example.com"}
        one, two = ({**common, "listen_interface": f"127.0.0.1:{port}"} for port in self.ports)
        content["servers"] = [one, {**two, **second}]
        (self._folder / "goguerrilla.conf.json").write_text(text_of(content))

    def reload(self, server: ServerProcess, times: int) -> None:
        """HUP, and wait until the children of before take nobody any more."""
        server.send(signal.SIGHUP)
        server.wait_for_log("] reloaded ", times)


def _goodbye(port: int) -> bytes:
    """What a silent client is told at last."""
    with socket.create_connection(("127.0.0.1", port), 30) as sock, sock.makefile("rb") as lines:
        return lines.readlines()[-1]


def test_bug_38_reload_changes_what_was_changed(store: Store, tmp_path: Path) -> None:
    two, log = _Two(tmp_path, store), tmp_path / "second.log"
    two.write()
    with ServerProcess("serve", folder=tmp_path) as server:
        for port in two.ports:
            deliver(port)
        two.write(timeout=1, log_file=str(log), max_clients=2)
        two.reload(server, 1)

        eventually(lambda: _delivered(two.ports[1], "second@example.com", log), "the second has a log of its own")
        deliver(two.ports[0], recipient="first@example.com")
        server.wait_for_log("rcpts=first@example.com")  # the first one's did not move
        assert "first@" not in log.read_text()

        with socket.create_connection(("127.0.0.1", two.ports[0]), 30) as patient:
            assert patient.recv(4) == b"220 "
            assert _goodbye(two.ports[1]) == b"421 4.4.2 Timed out waiting for you; closing\r\n"
            patient.sendall(b"QUIT\r\n")  # after more than the second of the other
            with patient.makefile("rb") as lines:
                assert lines.readlines()[-1] == b"221 2.0.0 Bye\r\n"

        two.write(timeout=30, max_clients=1)
        two.reload(server, 2)
        with smtplib.SMTP("127.0.0.1", two.ports[1]):
            eventually(lambda: not answers(two.ports[1]), "the second has room for one")
            deliver(two.ports[0])
        assert server.stop() == 0


def _delivered(port: int, recipient: str, log: Path) -> bool:
    deliver(port, recipient=recipient)
    return log.exists() and recipient in log.read_text()


def test_bug_38_reload_changes_the_level_everywhere(store: Store, tmp_path: Path) -> None:
    two = _Two(tmp_path, store)
    two.write(log_level="error")
    with ServerProcess(
        "serve", folder=tmp_path, ready=lambda _: eventually(lambda: answers(two.ports[0]), "")
    ) as server:
        deliver(two.ports[0], recipient="quiet@example.com")
        two.write(log_level="info")
        server.send(signal.SIGHUP)
        eventually(lambda: _told(server, two.ports[1]), "both write what they are to")
        assert "quiet@" not in server.log
        assert server.stop() == 0


def _told(server: ServerProcess, port: int) -> bool:
    deliver(port, recipient="loud@example.com")
    return "loud@" in server.log


def test_bug_42_pid_file_is_removed_and_systemd_is_told(store: Store, tmp_path: Path) -> None:
    pid_file, notify = tmp_path / "my.pid", tmp_path / "notify"
    content = guerrilla_file(store.address.removeprefix("unix:"))
    (tmp_path / "goguerrilla.conf.json").write_text(text_of(content))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(notify))
        told.settimeout(30)
        env = {"NOTIFY_SOCKET": str(notify)}
        with ServerProcess("serve", "-p", str(pid_file), folder=tmp_path, env=env) as server:
            assert re.match(rb"READY=1\n", told.recv(4096))
            assert pid_file.read_text() == f"{server.pid}\n"
            assert server.stop(signal.SIGTERM) == 0
            eventually(lambda: b"STOPPING=1" in told.recv(4096), "it says that it ends")
    assert not pid_file.exists()


def test_bug_42_file_can_be_checked_before_it_is_served(store: Store, tmp_path: Path) -> None:
    content = guerrilla_file(store.address.removeprefix("unix:"), more={"pid-file": "x"})
    (tmp_path / "goguerrilla.conf.json").write_text(text_of(content))
    done = run_command("check", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert re.search(rb"^\?\? +pid-file +found \"x\": an unknown key", done.stdout, re.MULTILINE)
