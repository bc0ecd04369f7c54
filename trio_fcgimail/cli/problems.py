"""How a command says that something is wrong: in lines on standard error, never in a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def writing_output() -> Iterator[None]:
    """Around what writes the result to standard output, which may be a full disk.

    Raises:
        Failure: it cannot be written.
        BrokenPipeError: nobody reads it any more, which click takes for the end.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # else Python would fail once more, at its end, with what is buffered
        os.close(nowhere)
        raise Failure(f"cannot write to standard output: {exc.strerror}") from exc
