"""File descriptors: how many we may have, and whether they suffice for what the settings promise."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

from trio_fcgimail.config import Settings
from trio_fcgimail.server.doorman import MAX_POLITE_REFUSALS

_PER_CONNECTION: Final = 2  # the socket, and the spool file of a mail
_SPARE: Final = 64  # ours: Trio's own, the log, pipes to PHP, files that are open for a moment


def raise_limit() -> int:
    """Take as many as we are allowed to: the soft limit is for programs that use select(). Returns what we have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems have a hard limit that they do not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def find_shortage(settings: Settings, limit: int) -> str | None:
    """Say what is short, and how to mend it, when so many descriptors are too few for ``limits.connections``.

    Without a limit of connections there is nothing that could be promised.
    """
    connections = settings.limits.connections
    if connections is None or limit == resource.RLIM_INFINITY:
        return None
    others = MAX_POLITE_REFUSALS + settings.fastcgi.max_connections + len(settings.listeners) + _SPARE
    needed = _PER_CONNECTION * connections + others
    if needed <= limit:
        return None
    return (
        f"{connections} connections may need {needed} file descriptors, and {limit} are allowed: "
        "raise that (ulimit -Hn, systemd's LimitNOFILE=) or lower limits.connections"
    )
