"""``check`` on chains: a configuration without scripts, processors that are not there, folders for maildirs."""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.server_process import free_port, run_command

HEAD: Final = 'hostname = "mx.example.com"\nallowed_hosts = ["example.com"]\n'
AS_ROOT = os.geteuid() == 0


def _check(folder: Path, text: str) -> tuple[int, str]:
    listener = f'[[listeners]]\naddress = "127.0.0.1:{free_port()}"\n'
    (folder / "fcgimail.toml").write_text(HEAD + listener + text)
    done = run_command("check", folder=folder)
    return done.returncode, done.stdout.decode()


def _row(output: str, subject: str) -> str:
    return next(line for line in output.splitlines() if f" {subject} " in line)


def _maildirs(path: str) -> str:
    users = 'user_map = {ann = "", bob = ""}'
    return f'[chain]\nsave = ["Header", "MailDir"]\nvalidate = []\n[maildir]\npath = "{path}"\n{users}\n'


def test_maildirs_need_no_scripts(tmp_path: Path) -> None:
    code, output = _check(tmp_path, _maildirs(f"{tmp_path}/[user]"))
    assert code == 0, output
    assert _row(output, "chain.save").split() == ["ok", "chain.save", "Header", "|", "MailDir"]
    assert "a place for the mails of all 2 users" in _row(output, "maildir.path")
    assert "fastcgi" not in output


def test_home_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    code, output = _check(tmp_path, _maildirs(f"{tmp_path}/[user]/Maildir"))
    assert code == 1
    assert _row(output, "maildir.path").startswith("NO")
    assert "bob (" in output
    assert "ann (" not in output


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_home_that_is_closed_to_us_is_named(tmp_path: Path) -> None:
    (tmp_path / "homes").mkdir(mode=0o500)
    code, _ = _check(tmp_path, _maildirs(f"{tmp_path}/homes/[user]"))
    assert code == 1


def test_processor_that_nobody_has_is_named(tmp_path: Path) -> None:
    code, output = _check(tmp_path, '[chain]\nsave = ["archive"]\nvalidate = []\n')
    assert code == 1
    assert "there is no processor archive" in _row(output, "chain.save")


def test_server_does_not_start_without_it_and_says_so_in_a_line(tmp_path: Path) -> None:
    _check(tmp_path, '[chain]\nsave = ["archive"]\nvalidate = []\n')
    done = run_command("serve", folder=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr.decode()
        .splitlines()[-1]
        .endswith("there is no processor archive: none is registered, and no package has one of that name")
    )


def test_discard_is_shown(tmp_path: Path) -> None:
    code, output = _check(tmp_path, '[chain]\nsave = ["Debugger"]\nvalidate = []\ndiscard = true\n')
    assert code == 0, output
    assert "Debugger; every mail is dropped" in _row(output, "chain.save")
