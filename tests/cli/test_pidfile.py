"""The pid file is written where it stands, and nowhere else."""

import os
from pathlib import Path

import pytest

from trio_fcgimail.cli.pidfile import pid_file
from trio_fcgimail.cli.problems import Failure


def test_a_pid_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Whoever may write to its folder could have us, as root, empty any file."""
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "pid").symlink_to(other)
    with pytest.raises(Failure, match="cannot write the pid file"), pid_file(tmp_path / "pid"):
        pass
    assert other.read_text() == "precious"


def test_a_pid_file_holds_our_number_and_goes(tmp_path: Path) -> None:
    with pid_file(tmp_path / "pid"):
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "pid").exists()
