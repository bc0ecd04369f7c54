"""Files, and the command line without a file."""

from pathlib import Path

import pytest

from tests.config.support import MINIMAL, read
from trio_fcgimail.config import (
    ConfigErrors,
    HostList,
    LogFormat,
    LogSettings,
    TcpAddress,
    UnixAddress,
    find_configuration,
    load_settings,
    parse_listen_address,
    serve_settings,
)

_A_FILE = "expected a TOML file, or a JSON file of go-guerrilla"


def _lines(path: Path) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load_settings(path, default_hostname="mx.example.com")
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).split("\n")]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order-mark"])
def test_file_is_read(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "fcgimail.toml"
    path.write_text(mark + MINIMAL, encoding="utf-8")
    assert load_settings(path, default_hostname="mx.example.com") == read("")


CONTENTS = [
    pytest.param(
        "a.toml", b"a = 1\nb 2\n", "line 2: found \"b 2\", expected TOML (Expected '=' after a key", id="syntax"
    ),
    pytest.param("a.toml", b'a = 1\nb = "x', 'line 2: found "b = \\"x", expected TOML (', id="end-of-file"),
    pytest.param("a.toml", b"a = 1\na = 2", 'line 2: found "a = 2", expected TOML (Cannot overwrite', id="twice"),
    pytest.param("a.toml", b"a\n= \x1b", 'line 1: found "a", expected TOML (', id="control"),
    pytest.param("a.toml", b"a = " + b"9" * 5000, 'line 1: found "a = 999', id="endless-integer"),
    pytest.param("a.toml", b"a = " + b"[" * 9000, "file: found values nested too deeply, expected TOML", id="nesting"),
    pytest.param("a.toml", b'a = 1\nb = "\xff"', "line 2: found the octet 0xff, expected UTF-8", id="latin-1"),
    pytest.param("a.toml", b"#" * 1048577, "file: found a larger one, expected at most 1048576 octets", id="large"),
]


@pytest.mark.parametrize(("name", "content", "line"), CONTENTS)
def test_bad_file_is_one_line(tmp_path: Path, name: str, content: bytes, line: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    (found,) = _lines(path)
    assert found.startswith(line)


def test_unreadable_paths_are_one_line(tmp_path: Path) -> None:
    assert _lines(tmp_path / "none") == [f"file: found that it cannot be read (No such file or directory), {_A_FILE}"]
    assert _lines(tmp_path) == [f"file: found that it cannot be read (Is a directory), {_A_FILE}"]
    with pytest.raises(ConfigErrors, match="no such file"):
        load_settings(Path("a\0b"), default_hostname="mx.example.com")


def test_file_of_garbage_is_refused_quickly(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("".join(f"k{number:x}=1\n" for number in range(100_000)))
    lines = _lines(path)
    assert len(lines) == 101
    assert lines[0] == "k0: found an unknown key, expected a known key"


def test_configuration_is_found_in_the_order_of_the_contract(tmp_path: Path) -> None:
    assert find_configuration(tmp_path) is None
    for name in ("maildiranasaurus.conf", "goguerrilla.conf.json", "goguerrilla.conf", "fcgimail.toml"):
        (tmp_path / name).touch()
        assert find_configuration(tmp_path) == tmp_path / name


def test_dangling_link_is_found_rather_than_passed_over(tmp_path: Path) -> None:
    (tmp_path / "fcgimail.toml").symlink_to(tmp_path / "gone")
    assert find_configuration(tmp_path) == tmp_path / "fcgimail.toml"


def test_folder_that_cannot_be_searched_is_not_taken_for_empty(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert find_configuration(tmp_path / "loop") == tmp_path / "loop" / "fcgimail.toml"


def test_nothing_is_found_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert find_configuration(tmp_path / "file") is None


UPSTREAM = UnixAddress("/run/php.sock")


def test_serve_without_a_file_takes_any_domain_on_loopback() -> None:
    settings = serve_settings(save="/s.php", upstream=UPSTREAM, hostname="localhost")
    assert settings.allowed_hosts.holds_any
    assert [listener.address for listener in settings.listeners] == [TcpAddress("127.0.0.1", 2525)]
    assert settings.fastcgi.upstreams == (UPSTREAM,)
    assert (settings.hostname, settings.scripts.save, settings.scripts.validate) == ("localhost", "/s.php", None)


def test_serve_without_a_file_takes_what_is_given() -> None:
    log = LogSettings(format=LogFormat.JSON)
    settings = serve_settings(
        save="/s.php",
        validate="/v.php",
        upstream=TcpAddress("::1", 9000),
        listen=TcpAddress("0.0.0.0", 25),
        allow=["example.com"],
        hostname="mx.example.com",
        max_connections=1,
        log=log,
    )
    assert settings.allowed_hosts == HostList.parse(["example.com"])
    assert settings.scripts.validate == "/v.php"
    assert settings.fastcgi.upstreams == (TcpAddress("::1", 9000),)
    assert (settings.fastcgi.max_connections, settings.fastcgi.reserve_for_validate) == (1, 0)
    assert settings.log is log


@pytest.mark.parametrize("listen", ["0.0.0.0:25", "[::]:25", "192.0.2.1:25"])
def test_serve_where_others_can_reach_us_needs_allow(listen: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        serve_settings(save="/s.php", upstream=UPSTREAM, listen=parse_listen_address(listen), hostname="localhost")
    assert str(caught.value) == (
        "command line: --allow: found nothing, expected at least one recipient domain, "
        f"since {listen} can be reached from other machines"
    )


def test_serve_names_its_options_in_errors() -> None:
    with pytest.raises(ConfigErrors) as caught:
        serve_settings(
            save="s.php",
            validate="v.php",
            upstream=UnixAddress("php.sock"),
            listen=UnixAddress("mail.sock"),
            allow=["example.com", "*"],
            hostname="a_b",
            max_connections=0,
        )
    assert [error.key for error in caught.value.errors] == [
        "--hostname",
        "--allow",
        "--listen",
        "--fastcgi",
        "--max-connections",
        "--validate",
        "--save",
    ]
