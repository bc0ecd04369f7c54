"""``check``: what holds, what does not, and how to mend it."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.support import HOSTNAME, configuration, run_in_shell, write_configuration
from tests.phpfpm import PhpFpm
from tests.server_process import ServerProcess, free_port, run_command

PASSES: Final = "<?php echo 'PASSED';"
REFUSES: Final = "<?php echo '550 5.1.1 no postmaster here';"
#: What a probe asks about, seen by the script.
NOTES: Final = "<?php file_put_contents('%s', $_GET['rcpt_to']); echo 'PASSED';"


def _rows(output: bytes) -> dict[str, tuple[str, str]]:
    """Mark and finding by subject."""
    rows = {}
    for line in output.decode().splitlines()[1:]:
        mark, rest = line.split(maxsplit=1)
        subject, finding = rest.split("  ", 1)
        rows[subject] = (mark, finding.strip())
    return rows


@contextlib.contextmanager
def _another_program(banner: bytes = b"220 other.example ESMTP\r\n") -> Iterator[int]:
    """Something else that speaks SMTP, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    conn, _ = listener.accept()
                    with conn:
                        conn.sendall(banner)

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_all_good_is_0(php: PhpFpm, folder: Path) -> None:
    save, validate = php.script("never.php", "<?php touch('never');"), php.script("passes.php", PASSES)
    text = configuration(listen=f"127.0.0.1:{free_port()}", upstream=php.address, save=save, validate=validate)
    (folder / "other.toml").write_text(text)
    done = run_command("check", "-c", "other.toml", folder=folder)
    rows = _rows(done.stdout)
    assert done.returncode == 0, done.stdout.decode()
    assert rows["configuration"] == ("ok", "other.toml can be read")
    for subject in ("listeners[0].address", "log.file", "spool.directory", "fastcgi.upstreams", "scripts.save"):
        assert rows[subject][0] == "ok"
    assert "probe" not in rows


def test_the_file_here_is_found(php: PhpFpm, folder: Path) -> None:
    write_configuration(folder, configuration(upstream=php.address))
    done = run_command("check", folder=folder)
    assert (done.returncode, _rows(done.stdout)["configuration"][0]) == (0, "ok")


def test_a_probe_that_passes_is_0_and_asks_about_postmaster(php: PhpFpm, folder: Path) -> None:
    asked = php.data / "asked"
    script = php.script("notes.php", NOTES % asked)
    write_configuration(folder, configuration(upstream=php.address, validate=script))
    done = run_command("check", "--probe", folder=folder)
    assert done.returncode == 0, done.stdout.decode()
    assert _rows(done.stdout)["probe"][0] == "ok"
    assert asked.read_text() == "postmaster@example.com"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        pytest.param(REFUSES, "no postmaster here", id="refuses"),
        pytest.param("<?php throw new Exception('broken');", "HTTP status 500", id="dies"),
        pytest.param("<?php", "the output is empty", id="says-nothing"),
    ],
)
def test_a_probe_that_does_not_pass_is_1(php: PhpFpm, folder: Path, source: str, told: str) -> None:
    script = php.script("probe.php", source)
    write_configuration(folder, configuration(upstream=php.address, validate=script))
    done = run_command("check", "--probe", folder=folder)
    mark, finding = _rows(done.stdout)["probe"]
    assert (done.returncode, mark) == (1, "NO")
    assert told in finding


def test_a_probe_never_saves(php: PhpFpm, folder: Path) -> None:
    touched = php.data / "touched"
    save, validate = php.script("touch.php", f"<?php touch('{touched}');"), php.script("passes.php", PASSES)
    write_configuration(folder, configuration(upstream=php.address, save=save, validate=validate))
    assert run_command("check", "--probe", folder=folder).returncode == 0
    assert not touched.exists()


@pytest.mark.parametrize(
    ("upstream", "mend"),
    [
        pytest.param("unix:/nonexistent/php.sock", "is php-fpm running", id="unix"),
        pytest.param("127.0.0.1:{port}", "nobody listens there; is the FastCGI server running", id="tcp"),
    ],
)
def test_an_upstream_that_is_not_there_is_1_and_told_how_to_mend(folder: Path, upstream: str, mend: str) -> None:
    upstream = upstream.format(port=free_port())
    write_configuration(folder, configuration(upstream=upstream))
    done = run_command("check", folder=folder)
    mark, finding = _rows(done.stdout)["fastcgi.upstreams"]
    assert (done.returncode, mark) == (1, "NO")
    assert finding.startswith(upstream)
    assert mend in finding


@pytest.mark.parametrize(
    "banner",
    [
        pytest.param(b"220 other.example ESMTP\r\n", id="another-name"),
        pytest.param(f"220 {HOSTNAME} ESMTP Postfix\r\n".encode(), id="our-name-but-another-server"),
        pytest.param(f"220 {HOSTNAME} ESMTP\r\n220".encode(), id="more-than-our-banner"),
    ],
)
def test_a_port_of_another_program_is_1(php: PhpFpm, folder: Path, banner: bytes) -> None:
    with _another_program(banner) as port:
        write_configuration(folder, configuration(listen=f"127.0.0.1:{port}", upstream=php.address))
        done = run_command("check", folder=folder)
    mark, finding = _rows(done.stdout)["listeners[0].address"]
    assert (done.returncode, mark) == (1, "NO")
    assert f"127.0.0.1:{port}" in finding
    assert "in use" in finding


def test_our_own_running_server_is_good(php: PhpFpm, folder: Path) -> None:
    write_configuration(folder, configuration(listen=f"127.0.0.1:{free_port()}", upstream=php.address))
    with ServerProcess("serve", folder=folder):
        done = run_command("check", folder=folder)
    assert done.returncode == 0, done.stdout.decode()
    assert "our server is running there" in _rows(done.stdout)["listeners[0].address"][1]


@pytest.mark.parametrize(
    ("more", "subject"),
    [
        pytest.param('[log]\nfile = "/nonexistent/mail.log"', "log.file", id="log"),
        pytest.param(
            '[[listeners]]\naddress = "127.0.0.1:0"\nlog_file = "/nonexistent/own.log"',
            "listeners[1].log_file",
            id="log-of-a-listener",
        ),
        pytest.param('[spool]\ndirectory = "/nonexistent/spool"', "spool.directory", id="spool"),
    ],
)
def test_a_folder_that_is_not_there_is_1(php: PhpFpm, folder: Path, more: str, subject: str) -> None:
    write_configuration(folder, configuration(upstream=php.address, more=more))
    done = run_command("check", folder=folder)
    assert (done.returncode, _rows(done.stdout)[subject][0]) == (1, "NO")


@pytest.mark.parametrize(
    ("connections", "mark"), [pytest.param(40, "ok", id="enough"), pytest.param(1000, "??", id="too-few")]
)
def test_too_few_file_descriptors_are_told(php: PhpFpm, folder: Path, connections: int, mark: str) -> None:
    write_configuration(folder, configuration(upstream=php.address, more=f"[limits]\nconnections = {connections}"))
    done = run_in_shell('ulimit -n 300; "$@"', "check", folder=folder)
    told, finding = _rows(done.stdout)["limits.connections"]
    assert (done.returncode, told) == (0, mark)
    assert ("LimitNOFILE" in finding) == (mark == "??")


def test_output_that_cannot_be_written_is_one_line_and_1(folder: Path) -> None:
    write_configuration(folder, configuration())
    done = run_in_shell('"$@" >/dev/full', "check", folder=folder)
    assert done.returncode == 1
    assert done.stderr == b"trio_fcgimail: cannot write to standard output: No space left on device\n"


def test_all_that_is_wrong_is_told_at_once(folder: Path) -> None:
    with _another_program() as port:
        text = configuration(listen=f"127.0.0.1:{port}", more='[log]\nfile = "/nonexistent/mail.log"')
        write_configuration(folder, text)
        done = run_command("check", folder=folder)
    bad = {subject for subject, (mark, _) in _rows(done.stdout).items() if mark == "NO"}
    assert bad == {"listeners[0].address", "log.file", "fastcgi.upstreams"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param((), "hostname = 1\nallowed_hosts = 2\n", id="wrong-values"),
        pytest.param((), "= nonsense\n", id="no-toml"),
        pytest.param(("-c", "missing.toml"), "", id="no-such-file"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_2(folder: Path, arguments: tuple[str, ...], text: str) -> None:
    write_configuration(folder, text)
    done = run_command("check", *arguments, folder=folder)
    assert (done.returncode, done.stdout) == (2, b"")
    assert all(": found " in line and ", expected " in line for line in done.stderr.decode().splitlines())


def test_no_configuration_at_all_is_2(folder: Path) -> None:
    done = run_command("check", folder=folder)
    assert done.returncode == 2
    assert b"no fcgimail.toml here" in done.stderr


def test_the_script_of_each_stage_is_looked_for(php: PhpFpm, folder: Path) -> None:
    there = php.script("passes.php", PASSES)
    more = f'connect = "{there}"\nhelo = "/nonexistent/helo.php"\nmail = ""\nauth = "{there}"'
    write_configuration(folder, configuration(upstream=php.address, more=more))
    done = run_command("check", folder=folder)
    marks = {subject: mark for subject, (mark, _) in _rows(done.stdout).items() if subject.startswith("scripts.")}
    assert done.returncode == 0, done.stdout.decode()
    assert marks == {"scripts.connect": "ok", "scripts.helo": "??", "scripts.auth": "ok", "scripts.save": "??"}


def test_each_upstream_has_a_row(php: PhpFpm, folder: Path) -> None:
    text = configuration(upstream=f'{php.address}", "unix:{folder}/gone')
    write_configuration(folder, text)
    done = run_command("check", folder=folder)
    rows = _rows(done.stdout)
    assert done.returncode == 1
    assert (rows["fastcgi.upstreams[0]"][0], rows["fastcgi.upstreams[1]"][0]) == ("ok", "NO")
