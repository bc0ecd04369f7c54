"""How a command says that something is wrong: in lines on standard error, never in a traceback."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Final, final

import click

if TYPE_CHECKING:
    from trio_fcgimail.config import ConfigErrors

RAN_AND_FAILED: Final = 1
WRONG_USAGE: Final = 2


@final
class Failure(click.ClickException):
    """It ran and failed: exit 1 and one line."""

    exit_code = RAN_AND_FAILED

    def show(self, file: IO[str] | None = None) -> None:
        """Print the line."""
        click.echo(f"trio_fcgimail: {self.message}", file=file or sys.stderr)


@final
class BadConfiguration(click.ClickException):
    """The configuration cannot be used: exit 2 and a line for each error."""

    exit_code = WRONG_USAGE

    def __init__(self, errors: ConfigErrors) -> None:
        super().__init__(str(errors))

    def show(self, file: IO[str] | None = None) -> None:
        """Print the lines."""
        click.echo(self.message, file=file or sys.stderr)
