"""``python -m trio_fcgimail`` and nothing else: the embedded default, or the configuration that is there."""

import contextlib
import fcntl
import os
import signal
import smtplib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.support import MAIL, SENDER, answers, begin_mail, configuration, deliver, greeted, write_configuration
from tests.phpfpm import PhpFpm
from tests.server_process import SECONDS, ServerProcess, eventually, run_command

PORT: Final = 2525  # which the default has, and cannot be told otherwise


@pytest.fixture
def port() -> Iterator[int]:
    """The one port, for one test at a time on this machine."""
    with Path(tempfile.gettempdir(), f"fcgimail-test-port-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=SECONDS):
            reason = f"port {PORT} is taken by another program"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        yield PORT


def _demo(folder: Path) -> ServerProcess:
    (folder / "tmp").mkdir()
    return ServerProcess(
        folder=folder,
        env={"TMPDIR": str(folder / "tmp")},
        ready=lambda server: server.wait_for_shown("Ctrl-C"),
    )


def _stored(folder: Path) -> list[Path]:
    return list((folder / "Maildir" / "new").iterdir())


def test_mail_is_shown_and_stored_whatever_its_domain(folder: Path, port: int) -> None:
    with _demo(folder) as server:
        deliver(port, recipient="someone@wherever.example")
        (stored,) = _stored(folder)
        server.wait_for_shown("First mail")
        assert server.stop(signal.SIGINT) == 0
        shown = server.shown
        assert server.log == ""
    assert stored.read_bytes().replace(b"\r\n", b"\n").endswith(MAIL.replace(b"\r\n", b"\n"))
    for word in (f"127.0.0.1:{port}", "Maildir", "serve --save", SENDER, "someone@wherever.example", "First mail"):
        assert word in shown
    assert "SAVED" in shown
    assert " ms" in shown
    assert list((folder / "tmp").iterdir()) == []


def test_the_mail_is_stored_before_the_client_hears_of_it(folder: Path, port: int) -> None:
    with _demo(folder) as server:
        with smtplib.SMTP("127.0.0.1", port, timeout=SECONDS) as client:
            for number in range(20):
                client.sendmail(SENDER, "me@example.com", MAIL + b"%d\r\n" % number)
                assert len(_stored(folder)) == number + 1
        assert server.stop(signal.SIGTERM) == 0


def test_a_client_within_its_mail_may_finish_it(folder: Path, port: int) -> None:
    with _demo(folder) as server:
        with greeted(port) as client:
            begin_mail(client)
            server.send(signal.SIGINT)
            eventually(lambda: not answers(port), "no connection is taken any more")
            assert client.data(MAIL)[0] == 250
            assert client.noop()[0] == 421
        assert server.wait() == 0
        assert len(_stored(folder)) == 1


def test_a_busy_port_is_one_line_and_1(folder: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        done = run_command(folder=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"trio_fcgimail: cannot listen on 127.0.0.1:{port}: the address is in use")
    assert list(folder.iterdir()) == []


def test_a_maildir_that_cannot_be_made_is_one_line_and_1(folder: Path, port: int) -> None:
    (folder / "Maildir").touch()
    done = run_command(folder=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("trio_fcgimail: cannot store mail in ")


def test_a_configuration_that_is_there_is_served(php: PhpFpm, folder: Path) -> None:
    script = php.script("named.php", "<?php echo 'SAVED id=configured';")
    write_configuration(folder, configuration(upstream=php.address, save=script))
    with ServerProcess(folder=folder) as server:
        with greeted(server.port) as client:
            begin_mail(client)
            assert client.data(MAIL) == (250, b"2.0.0 OK: queued as configured")
        assert server.stop() == 0
    assert not (folder / "Maildir").exists()


def test_a_configuration_with_errors_is_not_passed_over(folder: Path) -> None:
    write_configuration(folder, "hostname = 1\n")
    done = run_command(folder=folder)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"fcgimail.toml: hostname: found 1, expected " in done.stderr
