"""What stands in a folder that others may write to is never followed: as root we would change what is not theirs."""

import os
import socket
from pathlib import Path

import pytest

from trio_fcgimail.config import ListenerSettings, UnixAddress
from trio_fcgimail.server import ListenError, LogFile
from trio_fcgimail.server.listeners import change_rights


def test_a_link_in_the_place_of_a_socket_gets_no_rights(tmp_path: Path) -> None:
    """Else a reload would open the file that it leads to for everybody."""
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    (tmp_path / "smtp").symlink_to(precious)
    with pytest.raises(ListenError, match="cannot give"):
        change_rights(ListenerSettings(address=UnixAddress(str(tmp_path / "smtp")), mode=0o666))
    assert precious.stat().st_mode & 0o777 == 0o600


def test_a_link_to_another_socket_gets_none_either(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        (tmp_path / "other").chmod(0o600)
        (tmp_path / "smtp").symlink_to(tmp_path / "other")
        with pytest.raises(ListenError, match="cannot give"):
            change_rights(ListenerSettings(address=UnixAddress(str(tmp_path / "smtp")), mode=0o666))
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o600


def test_a_socket_gets_its_mode_and_group(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(tmp_path / "smtp"))
        change_rights(ListenerSettings(address=UnixAddress(str(tmp_path / "smtp")), mode=0o640))
    assert (tmp_path / "smtp").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("euid", [0, 1000], ids=["root", "user"])
def test_a_log_that_is_a_link_is_not_written_as_root(
    euid: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user of a folder of logs could have root write into any file, at the next reopening."""
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    tmp_path.chmod(0o770)
    precious = tmp_path / "precious"
    precious.touch()
    (tmp_path / "log").symlink_to(precious)
    if euid == 0:
        with pytest.raises(OSError, match="symbolic link"):
            LogFile(tmp_path / "log")
        return
    file = LogFile(tmp_path / "log")
    file.line("hello")
    file.close()
    assert precious.read_text() == "hello\n"


def test_a_link_of_roots_own_is_followed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Containers have their logs go to /dev/stdout, which is one."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Path("/dev/stdout").is_symlink()
    file = LogFile(Path("/dev/stdout"))
    file.line("hello")
    file.close()
    assert capfd.readouterr().out == "hello\n"


def test_a_log_that_becomes_a_link_is_not_reopened_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    tmp_path.chmod(0o770)
    precious, log = tmp_path / "precious", tmp_path / "log"
    precious.touch()
    file = LogFile(log)
    log.rename(tmp_path / "log.1")
    log.symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        file.reopen()
    file.line("hello")
    file.close()
    assert precious.read_text() == ""
    assert (tmp_path / "log.1").read_text() == "hello\n"
