"""A goguerrilla.conf.json in the place of a TOML file: ``serve``, ``check``, ``convert``; and the pid file."""

import json
import re
import signal
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.cli.support import MAIL, SENDER, deliver, write_configuration
from tests.cli.support import configuration as toml_configuration
from tests.phpfpm import PhpFpm
from tests.server_process import ServerProcess, run_command

#: Tells what it got: the end of the promise that a script of theirs sees what it always saw.
SAVE: Final = (
    "<?php file_put_contents('%(data)s/got.json', json_encode([$_POST, $_SERVER], JSON_PARTIAL_OUTPUT_ON_ERROR));"
    " echo 'SAVED';"
)
VALIDATE: Final = "<?php echo $_GET['rcpt_to'] === 'info@example.com' ? 'PASSED' : 'NO';"


def _file(php: PhpFpm, **backend: object) -> dict[str, object]:
    return {
        "allowed_hosts": ["example.com"],
        "log_level": "info",
        "backend_config": {
            "save_process": "HeadersParser|FastCGI",
            "validate_process": "FastCGI",
            "fcgi_script_filename_save": php.script("gg-save.php", SAVE % {"data": php.data}),
            "fcgi_script_filename_validate": php.script("gg-validate.php", VALIDATE),
            "fcgi_connection_type": "unix",
            "fcgi_connection_address": php.address.removeprefix("unix:"),
            **backend,
        },
        "servers": [{"is_enabled": True, "listen_interface": "127.0.0.1:0", "host_name": "mx.example.com"}],
    }


def _write(folder: Path, content: object, name: str = "goguerrilla.conf.json") -> None:
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["goguerrilla.conf.json", "maildiranasaurus.conf"])
def test_their_file_is_served_as_it_stands(php: PhpFpm, folder: Path, name: str) -> None:
    _write(folder, {**_file(php), "nonsense": 1, "backend_name": "x"}, name)
    with ServerProcess("serve", folder=folder) as server:
        deliver(server.port)
        log = server.log
        assert server.stop() == 0
    fields, parameters = json.loads((php.data / "got.json").read_bytes())
    assert fields["body"] == MAIL.decode().replace("\r\n", "\n")  # no line of ours before it
    assert (fields["mail_from"], fields["rcpt_to_0"], fields["subject"]) == (SENDER, "info@example.com", "First mail")
    assert (fields["tls_on"], fields["remote_ip"]) == ("false", "127.0.0.1")
    assert (parameters["SERVER_SOFTWARE"], parameters["REMOTE_ADDR"]) == ("Go-guerrilla fastcgi", "127.0.0.1")
    assert re.search(r"warning.*configuration.*key=nonsense.*an unknown key, left out", log)
    assert re.search(r"info.*configuration.*save_workers_size.*at most 2 requests", log)
    assert "backend_name" not in log  # which is for level debug


def test_options_of_guerrillad(php: PhpFpm, folder: Path) -> None:
    _write(folder, {**_file(php), "backend_name": "x", "pid_file": "other.pid"}, "any.json")
    with ServerProcess("serve", "-c", "any.json", "-v", "--pidFile", "my.pid", folder=folder) as server:
        assert (folder / "my.pid").read_text() == f"{server.pid}\n"
        assert not (folder / "other.pid").exists()
        server.wait_for_log("debug.*configuration.*key=backend_name")
        second = run_command("serve", "-c", "any.json", "-p", "my.pid", folder=folder)
        assert second.returncode == 1
        assert f"my.pid is that of another server that runs, process {server.pid}" in second.stderr.decode()
        assert server.stop(signal.SIGTERM) == 0
    assert not (folder / "my.pid").exists()


def test_pid_file_of_a_dead_server_is_taken_over(folder: Path) -> None:
    (folder / "my.pid").write_text("999999999999999\n")
    write_configuration(folder, 'pid_file = "my.pid"\n' + toml_configuration())
    with ServerProcess("serve", folder=folder) as server:
        assert (folder / "my.pid").read_text() == f"{server.pid}\n"
        assert server.stop() == 0
    assert not (folder / "my.pid").exists()


def test_pid_file_that_cannot_be_written_is_one_line_and_1(folder: Path) -> None:
    write_configuration(folder, 'pid_file = "none/my.pid"\n' + toml_configuration())
    done = run_command("serve", folder=folder)
    assert (done.returncode, done.stderr) == (
        1,
        b"trio_fcgimail: cannot write the pid file none/my.pid: No such file or directory\n",
    )


def test_every_error_of_their_file_is_a_line_and_2(php: PhpFpm, folder: Path) -> None:
    _write(
        folder, {**_file(php, save_process="HeadersParser|Debugger", fcgi_connection_type="udp"), "log_level": "loud"}
    )
    done = run_command("serve", folder=folder)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (2, b"")
    assert [line.split(": ")[1] for line in lines] == [
        "backend_config.save_process",
        "backend_config.fcgi_connection_type",
    ]


def test_check_shows_warnings_as_rows(php: PhpFpm, folder: Path) -> None:
    _write(folder, {**_file(php), "nonsense": 1, "backend_name": "x"})
    done = run_command("check", folder=folder)
    out = done.stdout.decode()
    assert done.returncode == 0, out
    assert re.search(r"^\?\? +nonsense +found 1: an unknown key", out, re.MULTILINE)
    assert re.search(r"^ok +backend_name +found", out, re.MULTILINE)


def test_convert_prints_a_file_that_serves_alike(php: PhpFpm, folder: Path) -> None:
    _write(folder, _file(php))
    done = run_command("convert", "goguerrilla.conf.json", folder=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert tomllib.loads(done.stdout.decode())["scripts"]["remote_addr"] == "127.0.0.1"
    (folder / "goguerrilla.conf.json").unlink()
    write_configuration(folder, done.stdout.decode())
    with ServerProcess("serve", folder=folder) as server:
        deliver(server.port)
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(("convert", "none.json"), "none.json: file: found that it cannot be read", id="no-file"),
        pytest.param(("convert", "fcgimail.toml"), "found no JSON", id="toml"),
        pytest.param(("serve", "--save", "save.php", "--discard"), "--discard is for a configuration", id="discard"),
    ],
)
def test_wrong_usage_is_2(folder: Path, arguments: tuple[str, ...], told: str) -> None:
    write_configuration(folder, toml_configuration())
    (folder / "save.php").write_text("")
    done = run_command(*arguments, folder=folder)
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in done.stderr.decode()


def test_discard_is_asked_for_by_name(php: PhpFpm, folder: Path) -> None:
    _write(folder, _file(php, save_process="HeadersParser|Debugger"))
    done = run_command("convert", "--discard", "goguerrilla.conf.json", folder=folder)
    assert tomllib.loads(done.stdout.decode())["chain"]["discard"] is True
