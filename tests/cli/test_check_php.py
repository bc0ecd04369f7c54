"""``check --probe-script``: what a real PHP is set to, and which line of which file to change."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.support import configuration, run_in_shell, write_configuration
from tests.cli.test_check import _rows as rows
from tests.phpfpm import PhpFpm, call_script, open_folder
from tests.server_process import run_command
from trio_fcgimail.cli.phpreport import PROBE_SCRIPT
from trio_fcgimail.mail import BodyKind

KINDS: Final = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in BodyKind])
#: Debian's, and what else is easily found too small.
SMALL: Final = {
    "post_max_size": "8M",
    "upload_max_filesize": "2M",
    "memory_limit": "128M",
    "max_input_vars": "100",
    "max_file_uploads": "0",
    "max_multipart_body_parts": "20",
    "file_uploads": "0",
    "enable_post_data_reading": "0",
    "upload_tmp_dir": "/nonexistent",
    "log_errors": "0",
    "display_errors": "1",
}
#: Of these, the ones that matter.
BAD: Final = {
    BodyKind.FORM: SMALL.keys()
    - {"upload_max_filesize", "max_file_uploads", "max_multipart_body_parts", "file_uploads"},
    BodyKind.MULTIPART: SMALL.keys() - {"memory_limit"},
    BodyKind.RAW: {
        "post_max_size", "max_input_vars", "upload_tmp_dir", "log_errors", "display_errors",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Iterator[PhpFpm]:
    with PhpFpm(children=1, ini=SMALL, request_terminate_timeout=60) as php:
        yield php


def check(php: PhpFpm, folder: Path, kind: BodyKind, more: str = "") -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code and rows of PHP."""
    script = php.script("probe.php", PROBE_SCRIPT.read_text())
    text = configuration(upstream=php.address, more=more).replace("[scripts]", f'[scripts]\nbody = "{kind.value}"')
    write_configuration(folder, text)
    done = run_command("check", "--probe-script", script, folder=folder, env={"COLUMNS": "1000"})
    found = {name.removeprefix("PHP: "): row for name, row in rows(done.stdout).items() if name.startswith("PHP")}
    return done.returncode, found


@KINDS
def test_a_php_with_room_is_good(php: PhpFpm, folder: Path, kind: BodyKind) -> None:
    code, found = check(php, folder, kind)
    assert {name for name, (mark, _) in found.items() if mark != "ok"} == {"request_terminate_timeout"}  # it has none
    assert code == 0
    assert found["post_max_size"] == ("ok", "no limit")
    assert "PHP's limits" not in found


@KINDS
def test_a_php_without_room_is_told_line_by_line(small: PhpFpm, folder: Path, kind: BodyKind) -> None:
    code, found = check(small, folder, kind)
    bad = {name: detail for name, (mark, detail) in found.items() if mark == "NO"}
    assert (code, set(bad)) == (1, BAD[kind] | {"pm.max_children"})
    for name, detail in bad.items():
        line, file = re.findall(r"line (\d+) of (\S+?)(?: |\)|$)", detail)[0]
        text = Path(file).read_text().splitlines()[int(line) - 1]
        assert text.startswith((f"php_admin_value[{name}] = {SMALL.get(name)}", f"{name} = 1"))
    assert found["request_terminate_timeout"][0] == "??"
    assert "60 s is longer than save_seconds" in found["request_terminate_timeout"][1]


@KINDS
def test_what_is_told_is_what_mends_it(small: PhpFpm, folder: Path, kind: BodyKind) -> None:
    """The values that the advice names, taken literally, make every row good."""
    _, found = check(small, folder, kind)
    told = dict(re.findall(r"php_admin_value\[(\w+)\] = (\S*?),", " ".join(detail for _, detail in found.values())))
    assert told.keys() == BAD[kind]
    (seconds,) = re.findall(r"to request_terminate_timeout = (\d+)s", found["request_terminate_timeout"][1])
    with PhpFpm(children=2, ini=SMALL | told, request_terminate_timeout=float(seconds)) as php:
        code, found = check(php, folder, kind)
    assert (code, {mark for mark, _ in found.values()}) == (0, {"ok"}), found


def test_a_line_of_php_ini_is_named_as_well() -> None:
    with open_folder() as folder:
        (folder / "php.ini").write_text("; ours\n\nmax_input_vars = 50\n")
        with PhpFpm(env={"PHPRC": str(folder)}) as php:
            code, found = check(php, folder, BodyKind.FORM)
            assert code == 1
            mark, detail = found["max_input_vars"]
            assert mark == "NO"
            assert f"change line 3 of {folder}/php.ini to max_input_vars = 1000, and reload PHP" in detail


def test_mails_of_any_size_need_a_php_without_limits(small: PhpFpm, php: PhpFpm, folder: Path) -> None:
    more = "[limits]\nmessage_octets = 0"
    _, found = check(small, folder, BodyKind.MULTIPART, more)
    assert found["post_max_size"][0] == "NO"
    assert found["memory_limit"][0] == "??"
    code, found = check(php, folder, BodyKind.FORM, more)
    assert (code, found["memory_limit"][0], found["post_max_size"][0]) == (1, "NO", "ok")
    assert "php_admin_value[memory_limit] = -1" in found["memory_limit"][1]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        pytest.param(None, "HTTP status 404", id="missing"),
        pytest.param("<?php echo 'PASSED';", "is not our probe", id="another-script"),
        pytest.param("<?php echo '{\"fcgimail_probe\": 2}';", "is not our probe", id="another-report"),
    ],
)
def test_a_probe_that_is_not_there_is_told_where_to_find_one(
    php: PhpFpm, folder: Path, source: str | None, told: str
) -> None:
    script = "/nonexistent/probe.php" if source is None else php.script("other.php", source)
    write_configuration(folder, configuration(upstream=php.address))
    done = run_command("check", "--probe-script", script, folder=folder, env={"COLUMNS": "1000"})
    mark, finding = rows(done.stdout)["PHP's limits"]
    assert (done.returncode, mark) == (1, "NO")
    assert told in finding
    assert f"copy {PROBE_SCRIPT} there" in finding


def test_a_php_that_is_not_there_is_no_traceback(folder: Path) -> None:
    write_configuration(folder, configuration())
    done = run_command("check", "--probe-script", "/srv/probe.php", folder=folder)
    assert (done.returncode, rows(done.stdout)["PHP's limits"][0]) == (1, "NO")


def test_without_a_probe_the_limits_are_never_good(php: PhpFpm, folder: Path) -> None:
    write_configuration(folder, configuration(upstream=php.address))
    done = run_command("check", folder=folder, env={"COLUMNS": "1000"})
    mark, finding = rows(done.stdout)["PHP's limits"]
    assert (done.returncode, mark) == (0, "??")
    assert f"copy {PROBE_SCRIPT} to where PHP may read it" in finding


def test_the_probe_answers_nobody_else(php: PhpFpm) -> None:
    answer = call_script(php.socket_path, php.script("probe.php", PROBE_SCRIPT.read_text()))
    assert (answer.text, answer.head.splitlines()[0]) == ("", "Status: 404 Not Found")


def test_a_relative_path_is_wrong_usage(folder: Path) -> None:
    write_configuration(folder, configuration())
    done = run_in_shell('"$@"', "check", "--probe-script", "probe.php", folder=folder)
    assert done.returncode == 2
    assert b"--probe-script is an absolute path." in done.stderr
