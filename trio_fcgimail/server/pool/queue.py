"""Requests under way, and the line in which those without a connection wait."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import final

from trio_fcgimail.server.pool.model import Kind, Link, Ticket


@final
class Phase(Enum):
    """Where a request is."""

    WAITING = "in the line"
    PAUSED = "out of the line for a moment, after a refusal"
    OPENING = "its connection is coming about"
    BUSY = "has a connection"


@final
@dataclass(slots=True, kw_only=True)
class Request:
    """One request.

    Args:
        began: to wait.
        deadline: for the last of its tries to begin.
        link: in OPENING and BUSY.
        needs_fresh: it met an unlucky connection, and gets no used one any more.
        refused_by: upstreams, which are the last choice from then on.
        refused_since: when every upstream had refused it.
        pause: the next one.
        ordered: when it was told to open or to send, if it had to wait for that.
        is_last_try: its time is over but for this.
    """

    ticket: Ticket
    kind: Kind
    began: float
    deadline: float
    pause: float
    phase: Phase = Phase.WAITING
    link: Link | None = None
    needs_fresh: bool = False
    refused_by: set[int] = field(default_factory=set)
    refused_since: float | None = None
    ordered: float | None = None
    is_last_try: bool = False


@final
class Line:
    """First come, first served; who is put back stands in front.

    The deadlines never get earlier from front to back, as everybody may wait equally long.
    """

    __slots__ = ("_saves", "_validations")

    def __init__(self) -> None:
        self._saves: OrderedDict[Ticket, Request] = OrderedDict()
        self._validations: OrderedDict[Ticket, Request] = OrderedDict()

    def __len__(self) -> int:
        return len(self._saves) + len(self._validations)

    def _of(self, kind: Kind) -> OrderedDict[Ticket, Request]:
        return self._saves if kind is Kind.SAVE else self._validations  # no dict: hashing an enum is slow

    def length_of(self, kind: Kind) -> int:
        """How many of a kind wait."""
        return len(self._of(kind))

    def append(self, request: Request) -> None:
        """Let somebody join."""
        request.phase = Phase.WAITING
        self._of(request.kind)[request.ticket] = request

    def put_back(self, request: Request) -> None:
        """Let somebody in again, in front."""
        self.append(request)
        self._of(request.kind).move_to_end(request.ticket, last=False)

    def remove(self, request: Request) -> None:
        """Let somebody go."""
        del self._of(request.kind)[request.ticket]

    def discard(self, request: Request) -> None:
        """Let somebody go who perhaps did not wait at all."""
        self._of(request.kind).pop(request.ticket, None)

    def first_of(self, kind: Kind) -> Request | None:
        """Who of a kind is next."""
        return next(iter(self._of(kind).values()), None)

    def heads(self) -> tuple[Request, ...]:
        """The first of each kind, the one who came first in front."""
        if not self._validations:
            return (next(iter(self._saves.values())),) if self._saves else ()
        first = next(iter(self._validations.values()))
        if not self._saves:
            return (first,)
        second = next(iter(self._saves.values()))
        is_later = (first.began, first.ticket) > (second.began, second.ticket)
        return (second, first) if is_later else (first, second)
