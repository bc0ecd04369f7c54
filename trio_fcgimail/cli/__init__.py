"""The commands (docs/operating.md). Exit codes: 0 done, 1 it ran and failed, 2 wrong usage or configuration."""

from trio_fcgimail.cli.commands import main

__all__ = ["main"]
