"""What one measurement gave."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import final


class BenchmarkError(Exception):
    """A measurement could not be made; one line for whoever looks at the table."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of whole mails, from MAIL (or the connection, where each mail has one) to the reply to the dot; in ms."""

    p50: float
    p95: float
    p99: float
    worst: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CpuPerMail:
    """Microseconds of user and system time per mail; None where there is no such part.

    Args:
        server: all processes of whatever takes the mail.
        php: all processes of php-fpm.
        load: of whoever sends it.
    """

    server: float | None
    php: float | None
    load: float | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One measurement of one peer in one scenario.

    Args:
        seconds: from the first connection to the last reply (or the last delivery).
        failures: mails that were not answered as they should have been.
        peak_mib: the most memory that the server's processes had, added up; it was reset before.
        idle_kib: of memory for each idle connection.
        visits_per_second: connections that were served beside the mails.
    """

    mails: int
    seconds: float
    failures: int = 0
    cpu: CpuPerMail = CpuPerMail(server=None, php=None, load=None)
    latency: Latency | None = None
    peak_mib: float | None = None
    idle_kib: float | None = None
    visits_per_second: float | None = None

    @property
    def rate(self) -> float:
        """Mails per second."""
        return self.mails / self.seconds


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An outcome, with its place in the run."""

    scenario: str
    peer: str
    round: int
    outcome: Outcome

    def as_json(self) -> dict[str, object]:
        """For keeping."""
        return {
            "scenario": self.scenario,
            "peer": self.peer,
            "round": self.round,
            "mails_per_second": self.outcome.rate if self.outcome.mails else None,
            **asdict(self.outcome),
        }
