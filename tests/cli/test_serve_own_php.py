"""``serve --save`` with a PHP of its own."""

import os
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.cli.support import MAIL, SENDER, deliver
from tests.phpfpm import children_of, require_php, script_user, wait_gone
from tests.server_process import SECONDS, ServerProcess, environment, eventually, run_command

EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "php"
#: The command line with nothing to be found where PHP could be but what is in the folder that is named first.
WITHOUT_PHP: Final = """
import functools, pathlib, sys
from trio_fcgimail.cli import commands
commands.find_php = functools.partial(commands.find_php, [pathlib.Path(sys.argv.pop(1))])
commands.main()
"""


@pytest.fixture
def mails(folder: Path) -> Path:
    path = folder / "mails"
    path.mkdir()
    path.chmod(0o777)
    return path


def _server(folder: Path, mails: Path, *more: str) -> ServerProcess:
    """With the example scripts, mails for info@example.com alone, and all its temporary files in a folder we see."""
    require_php()
    for name in ("save.php", "validate.php"):
        (folder / name).write_text((EXAMPLES / name).read_text())
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o755)
    user = script_user()
    return ServerProcess(
        *("serve", "--save", "save.php", "--validate", "validate.php", "--listen", "127.0.0.1:0"),
        *(() if user is None else ("--php-user", user)),
        *more,
        folder=folder,
        env={"FCGIMAIL_DIR": str(mails), "FCGIMAIL_RCPTS": "info@example.com", "TMPDIR": str(folder / "tmp")},
    )


def _master(server: ServerProcess, workers: int) -> int:
    """The process id of the php-fpm once it has so many workers; the other child of the server is a shell."""
    masters: list[int] = []

    def found() -> bool:  # it listens before it has them
        masters[:] = [pid for pid in children_of(server.pid) if len(children_of(pid)) == workers]
        return len(masters) == 1

    eventually(found, "php-fpm has its workers")
    return masters[0]


def test_mail_goes_in_and_is_stored_and_nothing_is_left_at_the_end(folder: Path, mails: Path) -> None:
    with _server(folder, mails) as server:
        workers = children_of(_master(server, 5))
        children = children_of(server.pid)
        deliver(server.port)
        with (
            smtplib.SMTP("127.0.0.1", server.port, timeout=SECONDS) as client,
            pytest.raises(smtplib.SMTPRecipientsRefused) as refused,
        ):
            client.sendmail(SENDER, "nobody@example.com", MAIL)
        assert refused.value.recipients == {"nobody@example.com": (550, b"5.1.1 no such user")}
        (stored,) = mails.iterdir()
        assert stored.read_bytes().endswith(MAIL.replace(b"\r\n", b"\n"))
        assert server.stop(signal.SIGINT) == 0
        for pid in (*children, *workers):
            wait_gone(pid)
    assert list((folder / "tmp").iterdir()) == []


def test_a_killed_php_is_451_and_then_started_again(folder: Path, mails: Path) -> None:
    with _server(folder, mails, "--max-connections", "2") as server:
        first = _master(server, 2)
        os.kill(first, signal.SIGKILL)
        wait_gone(first)
        server.wait_for_log("php is back")
        assert _master(server, 2) != first
        deliver(server.port)
        assert len(list(mails.iterdir())) == 1
        assert server.stop(signal.SIGTERM) == 0
    assert list((folder / "tmp").iterdir()) == []


#: Says when it has begun, and stores the mail once it may.
SLOW_SAVE: Final = """<?php
file_put_contents('{folder}/begun', 'x');
while (!file_exists('{folder}/go')) {{ usleep(2000); clearstatcache(); }}
file_put_contents(getenv('FCGIMAIL_DIR') . '/' . $_POST['mail_digest'], $_POST['body']);
echo 'SAVED';
"""


@contextmanager
def _mail_under_way(folder: Path, server: ServerProcess) -> Iterator[Future[dict[str, tuple[int, bytes]] | str]]:
    """A mail whose script has begun; what its sender is told, or the error that it has."""

    def send() -> dict[str, tuple[int, bytes]] | str:
        try:
            with smtplib.SMTP("127.0.0.1", server.port, timeout=SECONDS) as client:
                return client.sendmail(SENDER, "info@example.com", MAIL)
        except (smtplib.SMTPException, OSError) as exc:
            return repr(exc)

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(send)
        eventually((folder / "begun").exists, "the script has begun")
        yield future


def _slow_server(folder: Path, mails: Path) -> ServerProcess:
    server = _server(folder, mails, "--max-connections", "2")
    (folder / "save.php").write_text(SLOW_SAVE.format(folder=folder))
    folder.chmod(0o777)
    return server


def _everybody(server: ServerProcess) -> set[int]:
    """All processes below the server: its worker, php-fpm and its workers, and the shell that outlives us."""
    master = _master(server, 2)
    return {*children_of(server.pid), *children_of(master)}


def test_on_hup_php_stays_and_a_mail_under_way_is_stored(folder: Path, mails: Path) -> None:
    """php-fpm is a child of the parent, as the workers of the mail server are: it does not go with those."""
    with _slow_server(folder, mails) as server:
        master = _master(server, 2)
        with _mail_under_way(folder, server) as told:
            server.send(signal.SIGHUP)
            server.wait_for_log("reloaded")
            (folder / "go").touch()
            assert told.result(SECONDS) == {}
        deliver(server.port)
        assert _master(server, 2) == master
        assert len(list(mails.iterdir())) == 1  # both are one by their digest
        everybody = _everybody(server)
        assert server.stop() == 0
    for pid in everybody:
        wait_gone(pid)
    assert list((folder / "tmp").iterdir()) == []


def test_on_term_a_mail_under_way_is_stored_before_php_goes(folder: Path, mails: Path) -> None:
    with _slow_server(folder, mails) as server:
        everybody = _everybody(server)
        with _mail_under_way(folder, server) as told:
            server.send(signal.SIGTERM)
            eventually(lambda: not _listens(server.port), "it has begun to end")
            (folder / "go").touch()
            assert told.result(SECONDS) == {}
        assert server.wait() == 0
    assert len(list(mails.iterdir())) == 1
    for pid in everybody:
        wait_gone(pid)
    assert list((folder / "tmp").iterdir()) == []


def test_when_the_server_is_killed_with_a_mail_under_way_nobody_is_left_and_no_250_is_untrue(
    folder: Path, mails: Path
) -> None:
    with _slow_server(folder, mails) as server:
        everybody = _everybody(server)
        with _mail_under_way(folder, server) as told:
            server.send(signal.SIGKILL)
            (folder / "go").touch()
            answer = told.result(SECONDS)
        for pid in everybody:
            wait_gone(pid)
    assert answer != {} or len(list(mails.iterdir())) == 1
    eventually(lambda: list((folder / "tmp").iterdir()) == [], "the folder of php-fpm is gone")


def test_a_killed_worker_of_the_server_leaves_php_alone(folder: Path, mails: Path) -> None:
    with _server(folder, mails, "--max-connections", "2") as server:
        master = _master(server, 2)
        (worker,) = {pid for pid in children_of(server.pid) if b"workers.child" in _command(pid)}
        os.kill(worker, signal.SIGKILL)
        server.wait_for_log("worker died")
        eventually(lambda: len(children_of(server.pid)) == 3, "another worker")
        deliver(server.port)
        assert _master(server, 2) == master
        assert server.stop() == 0


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("children", [1, 3, 8])
def test_there_are_as_many_children_as_connections(children: int, folder: Path, mails: Path) -> None:
    with _server(folder, mails, "--max-connections", str(children)) as server:
        master = _master(server, children)
        deliver(server.port)
        assert len(children_of(master)) == children
        assert server.stop() == 0


def test_php_goes_with_a_killed_server(folder: Path, mails: Path) -> None:
    with _server(folder, mails) as server:
        master = _master(server, 5)
    wait_gone(master)
    eventually(lambda: list((folder / "tmp").iterdir()) == [], "its folder is gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_signal_ends_the_start_and_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    for name in ("empty", "tmp"):
        (folder / name).mkdir()
    (folder / "save.php").touch()
    php = folder / "empty" / "php-fpm"  # never takes a connection
    php.write_text(f"#!/bin/sh\necho $$ >{folder}/pid\nmv {folder}/pid {folder}/started\nexec sleep 600\n")
    php.chmod(0o755)
    user = script_user()
    command = [sys.executable, "-c", WITHOUT_PHP, str(folder / "empty"), "serve", "--save", "save.php"]
    with subprocess.Popen(
        command + ([] if user is None else ["--php-user", user]),
        cwd=folder,
        env=environment({"TMPDIR": str(folder / "tmp")}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually((folder / "started").exists, "PHP is being started")
        process.send_signal(signal.SIGUSR1)  # harmless
        process.send_signal(number)
        shown, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, shown) == (1, "")
    assert said.splitlines()[-1] == "trio_fcgimail: stopped before it was ready"
    assert "Traceback" not in said
    wait_gone(int((folder / "started").read_text()))
    assert list((folder / "tmp").iterdir()) == []


def test_without_php_it_says_what_to_install_and_ends_with_1(folder: Path) -> None:
    (folder / "save.php").touch()
    (folder / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PHP, str(folder / "empty"), "serve", "--save", "save.php"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("trio_fcgimail: There is no PHP here that speaks FastCGI")
    assert "apt-get install php-fpm" in done.stderr
    assert "--fastcgi" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could run scripts as root")
def test_scripts_never_run_as_root(folder: Path) -> None:
    require_php()
    (folder / "save.php").touch()
    done = run_command("serve", "--save", "save.php", "--listen", "127.0.0.1:0", folder=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"scripts never run as root" in done.stderr.splitlines()[-1]
    assert b"--php-user" in done.stderr.splitlines()[-1]
