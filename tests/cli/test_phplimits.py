"""What a report of probe.php means, for what no php-fpm at hand can be made to say."""

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.config.support import read
from trio_fcgimail.cli.finding import State
from trio_fcgimail.cli.phplimits import judge_php
from trio_fcgimail.cli.phpreport import NoReportError, PhpFolder, PhpReport, PhpValue, Place, read_report

GOOD: Final = {
    "display_errors": "0",
    "enable_post_data_reading": "1",
    "error_log": "",
    "file_uploads": "1",
    "log_errors": "1",
    "max_file_uploads": "20",
    "max_input_vars": "1000",
    "max_multipart_body_parts": "-1",
    "memory_limit": "-1",
    "post_max_size": "0",
    "upload_max_filesize": "0",
    "upload_tmp_dir": "",
}
REPORT: Final = PhpReport(
    fcgimail_probe=1,
    sapi="fpm-fcgi",
    version="8.2.1",
    pool="www",
    settings={name: PhpValue(value, None, of_pool=False) for name, value in GOOD.items()},
    directives={
        "pm.max_children": PhpValue("5", None, of_pool=True),
        "request_terminate_timeout": PhpValue("30s", None, of_pool=True),
    },
    folder=PhpFolder("/tmp", is_writable=True, free_octets=1 << 40),
)


def states(report: PhpReport, toml: str = "") -> dict[str, tuple[State, str]]:
    findings = judge_php(report, read(f'[scripts]\nbody = "multipart"\n{toml}'))
    return {finding.subject.removeprefix("PHP: "): (finding.state, finding.detail) for finding in findings}


def with_value(name: str, value: str | None, place: Place | None = None, *, of_pool: bool = False) -> PhpReport:
    return replace(REPORT, settings=REPORT.settings | {name: PhpValue(value, place, of_pool)})


def test_all_good() -> None:
    assert {state for state, _ in states(REPORT).values()} == {State.GOOD}


MAIL: Final = 26_214_400 + 2048
MULTIPART: Final = MAIL + 262_144


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        pytest.param("post_max_size", str(MULTIPART), State.GOOD, id="post-just-enough"),
        pytest.param("post_max_size", str(MULTIPART - 1), State.BAD, id="post-one-octet-too-small"),
        pytest.param("post_max_size", "1G", State.GOOD, id="post-gigabyte"),
        pytest.param("post_max_size", "26214400K", State.GOOD, id="post-kilobytes"),
        pytest.param("post_max_size", "25m", State.BAD, id="post-lower-case"),
        pytest.param("post_max_size", "much", State.UNKNOWN, id="post-unreadable"),
        pytest.param("post_max_size", None, State.UNKNOWN, id="post-unknown"),
        pytest.param("upload_max_filesize", str(MAIL), State.GOOD, id="upload-just-enough"),
        pytest.param("upload_max_filesize", str(MAIL - 1), State.BAD, id="upload-one-octet-too-small"),
        pytest.param("memory_limit", "128M", State.GOOD, id="memory"),
        pytest.param("memory_limit", "32M", State.UNKNOWN, id="memory-for-a-copy"),
        pytest.param("memory_limit", "4M", State.BAD, id="memory-for-nothing"),
        pytest.param("memory_limit", "x", State.UNKNOWN, id="memory-unreadable"),
        pytest.param("file_uploads", "On", State.GOOD, id="flag-on"),
        pytest.param("file_uploads", "", State.BAD, id="flag-off"),
        pytest.param("file_uploads", None, State.UNKNOWN, id="flag-unknown"),
        pytest.param("max_multipart_body_parts", None, State.GOOD, id="parts-of-an-older-php"),
        pytest.param("max_multipart_body_parts", "899", State.BAD, id="parts-too-few"),
        pytest.param("max_multipart_body_parts", "900", State.GOOD, id="parts-just-enough"),
        pytest.param("max_input_vars", "many", State.UNKNOWN, id="variables-unreadable"),
        pytest.param("max_input_vars", "899", State.BAD, id="variables-too-few"),
        pytest.param("max_input_vars", "-1", State.BAD, id="variables-negative"),
    ],
)
def test_a_value_rows(name: str, value: str | None, state: State) -> None:
    assert states(with_value(name, value))[name][0] is state


def test_an_error_log_hides_what_was_dropped() -> None:
    assert states(with_value("error_log", "syslog"))["error_log"][0] is State.BAD


@pytest.mark.parametrize(
    ("report", "told"),
    [
        pytest.param(
            with_value("post_max_size", "8M"),
            "add php_admin_value[post_max_size] = 0 to the pool [www] of php-fpm, and reload it",
            id="default-of-php",
        ),
        pytest.param(
            replace(with_value("post_max_size", "8M"), pool=None), "set post_max_size = 0 in php.ini", id="no-fpm"
        ),
        pytest.param(
            with_value("post_max_size", "8M", Place("/etc/php.ini", 7)),
            "change line 7 of /etc/php.ini to post_max_size = 0, and reload PHP",
            id="php.ini",
        ),
        pytest.param(
            with_value("post_max_size", "8M", Place("/etc/www.conf", 7), of_pool=True),
            "change line 7 of /etc/www.conf to php_admin_value[post_max_size] = 0, and reload PHP",
            id="pool",
        ),
    ],
)
def test_which_line_to_change(report: PhpReport, told: str) -> None:
    assert states(report)["post_max_size"][1].endswith("; " + told)


@pytest.mark.parametrize(
    ("value", "state", "told"),
    [
        pytest.param("30", State.GOOD, "30 s", id="just-in-time"),
        pytest.param("1m", State.UNKNOWN, "60 s is longer", id="too-late"),
        pytest.param("0", State.UNKNOWN, "nothing ends", id="never"),
        pytest.param(None, State.UNKNOWN, "add request_terminate_timeout = 30s", id="not-set"),
        pytest.param("soon", State.UNKNOWN, "found 'soon'", id="unreadable"),
    ],
)
def test_the_clock_of_php_fpm(value: str | None, state: State, told: str) -> None:
    directives = REPORT.directives | {"request_terminate_timeout": PhpValue(value, None, of_pool=True)}
    found = states(replace(REPORT, directives=directives))["request_terminate_timeout"]
    assert found[0] is state
    assert told in found[1]


def test_a_pool_that_cannot_be_seen_is_unknown() -> None:
    found = states(replace(REPORT, directives={}))
    assert {name for name, (state, _) in found.items() if state is State.UNKNOWN} == {
        "pm.max_children",
        "request_terminate_timeout",
    }


def test_fewer_children_than_connections() -> None:
    assert states(REPORT, "[fastcgi]\nmax_connections = 6")["pm.max_children"][0] is State.BAD


@pytest.mark.parametrize(
    ("folder", "state"),
    [
        pytest.param(PhpFolder("/tmp", is_writable=False, free_octets=1 << 40), State.BAD, id="not-writable"),
        pytest.param(PhpFolder("/tmp", is_writable=True, free_octets=MAIL - 1), State.BAD, id="full"),
        pytest.param(PhpFolder("/tmp", is_writable=True, free_octets=MAIL), State.GOOD, id="just-enough"),
    ],
)
def test_the_folder_of_uploads(folder: PhpFolder, state: State) -> None:
    assert states(replace(REPORT, folder=folder))["upload_tmp_dir"][0] is state


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"[1]", b'{"fcgimail_probe": 1}', b"\xff", b"null"]))
def test_whatever_is_no_report_is_said_to_be_none(output: bytes) -> None:
    with pytest.raises(NoReportError):
        read_report(output)
