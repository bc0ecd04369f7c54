"""``serve --save`` with a PHP of its own."""

import os
import signal
import smtplib
import subprocess
import sys
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
