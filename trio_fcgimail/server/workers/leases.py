"""Who may have how many connections to which FastCGI server: one book for all children of all generations.

Pure bookkeeping, kept by the parent. A child asks for one connection after the other, uses what it is granted, and
gives it back; everything of a child that is gone is free at once. Children are trusted no further than the network
that they read: whoever gives back what it does not have, or asks twice, is found out, and can make nobody else wait for
more than it could by asking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from trio_fcgimail.server.pool import Kind

Holder = int  # a child, by a number that no other child ever has

_NO_LEASES: Final = 0


@final
class LeaseError(Exception):
    """A child said what it may not say."""


@final
@dataclass(frozen=True, slots=True)
class Granted:
    """A child may open one connection."""

    holder: Holder
    upstream: str
    use: Kind


@final
@dataclass(frozen=True, slots=True)
class Scarcity:
    """All children are to know whether any of them waits for an upstream: then nobody keeps a lease in stock."""

    upstream: str
    is_scarce: bool


Notice = Granted | Scarcity


@final
class LeaseBook:
    """The leases of connections to each upstream, and who waits for one.

    The first to ask is the first to get, but a save that has to leave the reserve alone is passed by. A child asks for
    one connection of a use at a time, so those who wait take turns.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    def set_rules(self, upstreams: Sequence[str], max_connections: int, reserve: int) -> list[Notice]:
        """The settings that are in force from here on; what is leased beyond them stays so until it is given back.

        Upstreams that are not named any more keep their rules, for the children that still use them.

        Args:
            max_connections: to each of them, at least 1.
            reserve: of those, kept from saves; of a single connection none is.
        """
        notices: list[Notice] = []
        for upstream in upstreams:
            line = self._lines.setdefault(upstream, _Line(upstream))
            line.max_connections = max_connections
            line.max_saves = max(max_connections - reserve, 1)
            notices += line.grant()
        return notices

    def scarce(self) -> list[Scarcity]:
        """What a child that is new has to know."""
        return [Scarcity(line.upstream, True) for line in self._lines.values() if line.is_scarce]

    def ask(self, holder: Holder, upstream: str, use: Kind) -> list[Notice]:
        """Get in line for one connection. Raises LeaseError."""
        line = self._line(upstream)
        if (holder, use) in line.waiting:
            raise LeaseError(f"asked twice for a connection to {upstream}")
        line.waiting[holder, use] = None
        return line.grant()

    def lower(self, holder: Holder, upstream: str) -> list[Notice]:
        """Use a connection for something else than a save from here on. Raises LeaseError."""
        line = self._line(upstream)
        line.give_back(holder, Kind.SAVE)
        line.held[holder, Kind.VALIDATE] += 1
        return line.grant()

    def release(self, holder: Holder, upstream: str, use: Kind) -> list[Notice]:
        """Give back one connection, which is closed. Raises LeaseError."""
        line = self._line(upstream)
        line.give_back(holder, use)
        return line.grant()

    def forget(self, holder: Holder) -> list[Notice]:
        """A child is gone, whatever ended it."""
        notices: list[Notice] = []
        for line in self._lines.values():
            for use in Kind:
                line.waiting.pop((holder, use), None)
                line.held.pop((holder, use), None)
            notices += line.grant()
        return notices

    def leased(self, upstream: str) -> int:
        """How many connections to it may be open now."""
        return self._line(upstream).open

    def _line(self, upstream: str) -> _Line:
        line = self._lines.get(upstream)
        if line is None:
            raise LeaseError(f"there is no upstream {upstream}")
        return line


@final
class _Line:
    """One upstream: its rules, who holds a lease, and who waits."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.max_connections = 1
        self.max_saves = 1
        self.held: Counter[tuple[Holder, Kind]] = Counter()
        self.waiting: dict[tuple[Holder, Kind], None] = {}  # in the order of asking
        self.is_scarce = False

    @property
    def open(self) -> int:
        return self.held.total()

    @property
    def saves(self) -> int:
        return sum(count for (_, use), count in self.held.items() if use is Kind.SAVE)

    def give_back(self, holder: Holder, use: Kind) -> None:
        """Raises LeaseError."""
        if self.held[holder, use] == _NO_LEASES:
            raise LeaseError(f"gave back a connection to {self.upstream} that it did not have")
        self.held[holder, use] -= 1
        if not self.held[holder, use]:
            del self.held[holder, use]

    def grant(self) -> list[Notice]:
        """Serve the line as far as there is something to lease."""
        notices: list[Notice] = []
        free, free_for_saves = self.max_connections - self.open, self.max_saves - self.saves
        for holder, use in tuple(self.waiting):
            if free <= 0:
                break
            if use is Kind.SAVE:
                if free_for_saves <= 0:
                    continue
                free_for_saves -= 1
            free -= 1
            del self.waiting[holder, use]
            self.held[holder, use] += 1
            notices.append(Granted(holder, self.upstream, use))
        is_scarce = bool(self.waiting)
        if is_scarce is not self.is_scarce:
            self.is_scarce = is_scarce
            notices.append(Scarcity(self.upstream, is_scarce))
        return notices
