"""``serve`` with a configuration file: its start, its log, its signals, its end."""

import json
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.support import (
    HOSTNAME,
    MAIL,
    SENDER,
    answers,
    begin_mail,
    configuration,
    deliver,
    greeted,
    run_in_shell,
    send_mail,
    write_configuration,
)
from tests.phpfpm import PhpFpm
from tests.server_process import SECONDS, ServerProcess, eventually, free_port, run_command

SAVED: Final = "<?php echo 'SAVED';"
#: Keeps the verdict back until the test wants it.
HELD: Final = "<?php touch('%(data)s/held'); while (!file_exists('%(data)s/go')) usleep(5000); echo 'SAVED';"
#: What must not reach a terminal or start a line: controls of both sets and the line ends of Unicode.
UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def test_every_error_of_a_configuration_is_a_line_and_2(folder: Path) -> None:
    write_configuration(
        folder,
        """
allowed_hosts = ["not a host"]
hostnome = "mx.example.com"
[[listeners]]
address = "127.0.0.1"
tls = "always"
[fastcgi]
upstreams = []
[limits]
recipients = -1
""",
    )
    done = run_command("serve", folder=folder)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (2, b"")
    assert all(re.fullmatch(r"\S*fcgimail\.toml: \S+: found .+, expected .+", line) for line in lines), lines
    keys = [line.split(": ")[1] for line in lines]
    assert sorted(keys) == [
        "allowed_hosts[0]",
        "fastcgi.upstreams",
        "hostnome",
        "limits.recipients",
        "listeners[0].address",
        "listeners[0].tls",
        "scripts.save",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(("-c", "fcgimail.toml", "--save", "save.php"), "exclude each other", id="file-and-script"),
        pytest.param(("--listen", "127.0.0.1:2526"), "goes with --save", id="option-that-needs-a-script"),
        pytest.param(("--save", "missing.php"), "no script missing.php", id="no-such-script"),
        pytest.param(("--listen", "nonsense", "--save", "save.php"), "--listen", id="no-such-address"),
        pytest.param(("--listen", "0.0.0.0:2525", "--save", "save.php"), "--allow", id="open-relay"),
        pytest.param((), "no fcgimail.toml here", id="no-configuration"),
        pytest.param(("-c", "missing.toml"), "missing.toml: file: found ", id="no-such-file"),
        pytest.param(
            ("--save", "save.php", "--fastcgi", "unix:/php.sock", "--php-user", "www-data"),
            "--php-user",
            id="user-for-the-php-of-another",
        ),
    ],
)
def test_wrong_usage_is_2(folder: Path, usage_error: Callable[..., str], arguments: tuple[str, ...], told: str) -> None:
    (folder / "save.php").write_text(SAVED)
    assert told in usage_error("serve", *arguments)


def test_a_busy_port_is_one_line_and_1(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        write_configuration(folder, configuration(listen=address))
        done = run_command("serve", folder=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = [line for line in done.stderr.decode().splitlines() if "serving as root" not in line]
    assert line == f"trio_fcgimail: cannot listen on {address}: the address is in use; is another server running there?"


def test_a_log_file_that_cannot_be_opened_is_one_line_and_1(folder: Path) -> None:
    write_configuration(folder, configuration(more='[log]\nfile = "/nonexistent/mail.log"'))
    done = run_command("serve", folder=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"trio_fcgimail: cannot write the log file /nonexistent/mail.log: No such file or directory\n"


def test_save_with_a_server_of_another_needs_no_file(php: PhpFpm, folder: Path) -> None:
    script = php.script("saved.php", SAVED)
    address = ("--fastcgi", php.address, "--listen", "127.0.0.1:0", "--hostname", HOSTNAME)
    with ServerProcess("serve", "--save", script, *address, folder=folder) as server:
        deliver(server.port, recipient="anyone@anywhere.example")
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_signal_ends_an_idle_server_with_0(folder: Path, number: signal.Signals) -> None:
    write_configuration(folder, configuration())
    with ServerProcess("serve", folder=folder) as server:
        assert server.stop(number) == 0


@pytest.mark.parametrize(
    ("limit", "warned"),
    [pytest.param("ulimit -Sn 300", False, id="soft"), pytest.param("ulimit -n 300", True, id="hard")],
)
def test_file_descriptors_are_taken_as_many_as_may_be_and_too_few_are_told(
    folder: Path, limit: str, warned: bool
) -> None:
    write_configuration(folder, configuration(listen="192.0.2.1:1"))  # ends it at once
    done = run_in_shell(f'{limit}; "$@"', "serve", folder=folder)
    assert done.returncode == 1
    assert (b"too few file descriptors" in done.stderr) is warned
    assert (b"1000 connections may need 2" in done.stderr) is warned


def test_on_term_a_mail_under_way_is_finished_and_an_idle_client_told_to_go(php: PhpFpm, folder: Path) -> None:
    write_configuration(folder, configuration(upstream=php.address, save=php.script("saved.php", SAVED)))
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as idle, greeted(server.port) as client:
            begin_mail(client)
            server.send(signal.SIGTERM)
            eventually(lambda: not answers(server.port), "no connection is taken any more")
            assert idle.noop()[0] == 421
            assert client.rcpt("second@example.com")[0] == 250
            assert client.data(MAIL)[0] == 250
            assert client.noop()[0] == 421
        assert server.wait() == 0


@pytest.fixture
def held(php: PhpFpm) -> Iterator[Path]:
    """The path of a script that runs until the file "go" beside its data is there; "held" tells that it runs."""
    for name in ("held", "go"):
        (php.data / name).unlink(missing_ok=True)
    yield Path(php.script("held.php", HELD % {"data": php.data}))
    (php.data / "go").touch()


def test_on_term_a_verdict_that_is_awaited_is_still_told(php: PhpFpm, folder: Path, held: Path) -> None:
    write_configuration(folder, configuration(upstream=php.address, save=str(held)))
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as client:
            send_mail(client)
            eventually((php.data / "held").exists, "the script runs")
            server.send(signal.SIGTERM)
            server.wait_for_log("stopping")
            (php.data / "go").touch()
            assert client.getreply()[0] == 250
            assert client.noop()[0] == 421
        assert server.wait() == 0


def test_a_second_signal_cuts_what_is_left_and_ends_with_1(php: PhpFpm, folder: Path, held: Path) -> None:
    write_configuration(folder, configuration(upstream=php.address, save=str(held)))
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as client:
            send_mail(client)
            eventually((php.data / "held").exists, "the script runs")
            server.send(signal.SIGINT)
            server.wait_for_log("stopping")
            server.send(signal.SIGINT)
            assert client.getreply()[0] == 451
            assert client.getreply()[0] == 421
        assert server.wait() == 1


def test_drain_seconds_bound_a_client_that_does_not_come_to_its_end(folder: Path) -> None:
    write_configuration(folder, "drain_seconds = 0.2\n" + configuration())
    with ServerProcess("serve", folder=folder) as server:
        with greeted(server.port) as client:
            begin_mail(client)
            server.send(signal.SIGTERM)
            assert client.getreply()[0] == 421
        assert server.wait() == 1


def test_usr1_opens_the_log_file_anew(php: PhpFpm, folder: Path) -> None:
    path, rotated = folder / "mail.log", folder / "mail.log.1"
    port = free_port()
    write_configuration(
        folder,
        configuration(
            listen=f"127.0.0.1:{port}",
            upstream=php.address,
            save=php.script("saved.php", SAVED),
            more=f'[log]\nfile = "{path}"',
        ),
    )

    def ready(_: ServerProcess) -> None:
        eventually(lambda: answers(port), "it serves")

    with ServerProcess("serve", folder=folder, ready=ready) as server:
        deliver(port, recipient="before@example.com")
        path.rename(rotated)
        deliver(port, recipient="between@example.com")
        server.send(signal.SIGUSR1)
        eventually(path.exists, "the log is opened anew")
        deliver(port, recipient="after@example.com")
        assert server.stop() == 0
        assert server.log == ""
    old, new = rotated.read_text(), path.read_text()
    assert "before@example.com" in old
    assert "between@example.com" in old
    assert "after@example.com" in new
    assert "after@example.com" not in old
    assert "between@example.com" not in new


NASTY_HEADER: Final = b"Subject: =?utf-8?q?=1B[2J=0D=0A{=22forged=22:=20true}=C2=9B=E2=80=A8?=\r\n\r\nHello \x1b[2J\r\n"
NASTY_SCRIPT: Final = """<?php
error_log("on stderr \\x1b[2J\\n{\\"forged\\": true}\\u{9b}\\u{2028}\\xff");
echo "printed \\x1b[2J\\r\\n{\\"forged\\": true}\\u{9b}\\u{2028}\\xff";
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_from_outside_can_forge_a_log_line(php: PhpFpm, folder: Path, form: str) -> None:
    more = f'[log]\nformat = "{form}"\nlevel = "debug"\n[limits]\nbad_commands = 0'
    script = php.script("nasty.php", NASTY_SCRIPT)
    write_configuration(folder, configuration(upstream=php.address, save=script, validate=script, more=more))
    with ServerProcess("serve", folder=folder) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as sock:
            sock.sendall(
                b"EHLO \x1b[2Jx\r\nEHLO [\xc2\x9b]\r\n\x1b[2J{\r\nEHLO x\r\n"
                b'MAIL FROM:<"a\\\x1b[2J"@example.net>\r\nMAIL FROM:<"\xe2\x80\xa8{"@example.net> SMTPUTF8\r\n'
                b"MAIL FROM:<>\r\nRCPT TO:<a\x00@example.com>\r\nRCPT TO:<nobody@example.com>\r\nQUIT\r\n"
            )
            with sock.makefile("rb") as stream:
                replies = stream.read()
        assert not re.search(rb"[^\r\n\x20-\x7e]", replies)
        assert server.stop() == 0
        lines = server.log.splitlines()
    assert "forged" in server.log
    assert not any(UNSAFE.search(line) for line in server.log.split("\n"))
    assert all(not line.startswith("{") or form == "json" for line in lines)
    if form == "json":
        told = [json.loads(line) for line in server.log.split("\n")[:-1]]
        assert all(isinstance(line, dict) and "event" in line and "forged" not in line for line in told)


def test_a_mail_is_one_json_line_with_all_that_is_known_of_it(php: PhpFpm, folder: Path) -> None:
    script = php.script("saved.php", SAVED)
    text = configuration(upstream=php.address, save=script, more='[log]\nformat = "json"')
    write_configuration(folder, text)
    with ServerProcess("serve", folder=folder) as server:
        deliver(server.port, NASTY_HEADER)
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log.split("\n")[:-1]]
        assert not any(UNSAFE.search(line) for line in server.log.split("\n"))
    (mail,) = [line for line in lines if line["event"] == "mail"]
    assert mail["subject"] == '[2J {"forged": true}'
    assert (mail["mail_from"], mail["rcpts"], mail["peer"]) == (SENDER, "info@example.com", "127.0.0.1")
    assert mail["reply"] == f"250 2.0.0 OK: queued as {mail['queue_id']}"
    assert mail["level"] == "info"


@pytest.mark.parametrize(
    ("listener", "mode"),
    [pytest.param('mode = "0660"', 0o660, id="0660"), pytest.param('mode = "0600"', 0o600, id="0600")],
)
def test_a_unix_socket_has_its_mode_and_goes_with_the_server(
    php: PhpFpm, folder: Path, listener: str, mode: int
) -> None:
    path = folder / "smtp.sock"
    script = php.script("peer.php", "<?php echo $_POST['remote_ip'] === '' ? 'SAVED id=unix' : 'no';")
    write_configuration(
        folder, configuration(listen=f"unix:{path}", upstream=php.address, save=script, listener=listener)
    )
    with ServerProcess("serve", folder=folder, ready=lambda one: one.wait_for_log("listening")) as server:
        assert path.stat().st_mode & 0o777 == mode
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SECONDS)
            sock.connect(str(path))
            sock.sendall(
                b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<info@example.com>\r\nDATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n"
            )
            with sock.makefile("rb") as stream:
                replies = stream.read()
        assert b"\r\n250 2.0.0 OK: queued as unix\r\n221 " in replies
        assert server.stop() == 0
    assert not path.exists()


def test_the_socket_of_a_killed_server_is_no_hindrance(folder: Path) -> None:
    path = folder / "smtp.sock"
    write_configuration(folder, configuration(listen=f"unix:{path}"))
    with ServerProcess("serve", folder=folder, ready=lambda one: one.wait_for_log("listening")):
        pass  # leaving it kills it
    assert path.is_socket()
    with ServerProcess("serve", folder=folder, ready=lambda one: one.wait_for_log("listening")) as server:
        assert server.stop() == 0
