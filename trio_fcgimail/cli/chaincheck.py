"""What ``check`` finds out about the chains: whether each processor is to be had, and MailDir's folders are there."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import structlog
import structlog.typing

from trio_fcgimail.cli.finding import Finding, State
from trio_fcgimail.config import Processor, Settings
from trio_fcgimail.server.processors import Chain, ChainError, maildir_of
from trio_fcgimail.server.scripts import Scripts


def check_chains(settings: Settings) -> list[Finding]:
    """Make the processors, but set none of them up: that may touch what a server works with just now."""
    chain = settings.chain
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    try:
        Chain(settings, Scripts(settings), log=log, now=lambda: datetime.now(UTC))
    except ChainError as exc:
        return [Finding("chain.save", State.BAD, f"{exc}; correct its name, or install the package that has it")]
    names = " | ".join(step.value for step in chain.save) or "nothing"
    findings = [Finding("chain.save", State.GOOD, f"{names}{'; every mail is dropped' if chain.discard else ''}")]
    if Processor.MAILDIR in chain.save:
        findings.append(_check_maildirs(settings))
    return findings


def _check_maildirs(settings: Settings) -> Finding:
    """The folder of a maildir, or the one above it in which it is to be made."""
    users = settings.maildir.user_map
    paths = {user.name: maildir_of(settings.maildir, user.name) for user in users}
    bad = [f"{name} ({path})" for name, path in paths.items() if not _is_usable(path)]
    if bad:
        mend = "make the folder, or the one above it, and let our user write there"
        return Finding("maildir.path", State.BAD, f"no place for the mails of {', '.join(bad[:3])}: {mend}")
    return Finding("maildir.path", State.GOOD, f"there is a place for the mails of all {len(users)} users")


def _is_usable(path: Path) -> bool:
    folder = path if path.is_dir() else path.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
