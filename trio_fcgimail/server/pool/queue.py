"""Requests under way, and the line in which those without a connection wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
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
    is_last_try: bool = False


@final
class Line:
    """First come, first served; who is put back stands in front.

    The deadlines never get earlier from front to back, as everybody may wait equally long.
    """

    __slots__ = ("_by_kind",)

    def __init__(self) -> None:
        self._by_kind: dict[Kind, OrderedDict[Ticket, Request]] = {kind: OrderedDict() for kind in Kind}

    def __len__(self) -> int:
        return sum(map(len, self._by_kind.values()))

    def length_of(self, kind: Kind) -> int:
        """How many of a kind wait."""
        return len(self._by_kind[kind])

    def append(self, request: Request) -> None:
        """Let somebody join."""
        request.phase = Phase.WAITING
        self._by_kind[request.kind][request.ticket] = request

    def put_back(self, request: Request) -> None:
        """Let somebody in again, in front."""
        self.append(request)
        self._by_kind[request.kind].move_to_end(request.ticket, last=False)

    def remove(self, request: Request) -> None:
        """Let somebody go."""
        del self._by_kind[request.kind][request.ticket]

    def first_of(self, kind: Kind) -> Request | None:
        """Who of a kind is next."""
        return next(iter(self._by_kind[kind].values()), None)

    def heads(self) -> Iterator[Request]:
        """The first of each kind, the one who came first in front."""
        first, second = self.first_of(Kind.VALIDATE), self.first_of(Kind.SAVE)
        if first is not None and second is not None and second.began < first.began:
            first, second = second, first
        yield from (request for request in (first, second) if request is not None)
