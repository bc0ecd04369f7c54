"""What the parent and the process of the status page say to each other, over a channel of their own."""

from __future__ import annotations

import msgspec

from trio_fcgimail.server.metrics import Metric
from trio_fcgimail.server.workers.channel import Cut, MailSeen, Reopen


class StatusStart(msgspec.Struct, tag=True, frozen=True):
    """The first message to the process: what it is to serve.

    Args:
        settings: pickled; only a parent of the same program is ever at the other end.
        sockets: file descriptors that are listened on.
        password: None for whoever comes from this machine.
        uid: whom to become, with ``gid`` and ``user``; None to stay.
    """

    settings: bytes
    sockets: list[int]
    password: str | None
    uid: int | None = None
    gid: int | None = None
    user: str | None = None


class Look(msgspec.Struct, tag=True, frozen=True):
    """How do things stand? One ``Report`` is the answer.

    Args:
        mails_seen: so many are known.
    """

    mails_seen: int


class Report(msgspec.Struct, tag=True, frozen=True):
    """How things stand.

    Args:
        samples: as in ``Counted``, of all processes together, of the parent as well.
        mails: those that are new, as far as they are kept.
        mails_seen: how many there were in all.
        is_alive: the processes of the newest settings answer.
        is_serving: connections are accepted.
    """

    samples: list[tuple[Metric, tuple[str, ...], tuple[float, ...]]]
    mails: list[MailSeen]
    mails_seen: int
    is_alive: bool
    is_serving: bool


ToStatus = StatusStart | Report | Reopen | Cut
