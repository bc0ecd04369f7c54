"""What the tests of the commands share: a php-fpm, folders that its users may read, a configuration."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.phpfpm import PhpFpm, open_folder, php_fpm
from trio_fcgimail.cli.commands import cli


@pytest.fixture(scope="session")
def php() -> Iterator[PhpFpm]:
    """A running php-fpm for all tests that do not stop it."""
    yield from php_fpm()


@pytest.fixture
def usage_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command line that has to be refused, in this process as nothing is started, and gives what it says."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments, prog_name="trio_fcgimail")
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (2, "")
        return said.err

    return run


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that every user may enter and write to."""
    with open_folder() as path:
        yield path
