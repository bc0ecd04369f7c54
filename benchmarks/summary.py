"""From samples to what can be compared: medians with their spread, and ratios within a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Self, final

from benchmarks.outcome import Outcome, Sample


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several measurements, and how far they lie apart."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """None when there are none."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


Value = Callable[[Outcome], float | None]


def rate(outcome: Outcome) -> float | None:
    """Mails per second; more is better."""
    return outcome.rate if outcome.mails else None


def server_cpu(outcome: Outcome) -> float | None:
    """Microseconds of the server per mail; less is better."""
    return outcome.cpu.server


def median_latency(outcome: Outcome) -> float | None:
    """Milliseconds; less is better."""
    return None if outcome.latency is None else outcome.latency.p50


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All rounds of one peer in one scenario.

    Args:
        rate_ratio: mails per second against the yardstick in the same round; None without a yardstick.
        cpu_ratio: CPU of the server per mail, in the same way.
        latency_ratio: the median latency, in the same way.
        others: median CPU per mail of php-fpm and of the load generator.
    """

    scenario: str
    peer: str
    rounds: int
    failures: int
    rate: Spread | None
    rate_ratio: Spread | None
    cpu: Spread | None
    cpu_ratio: Spread | None
    cpu_php: Spread | None
    cpu_load: Spread | None
    p50: Spread | None
    p99: Spread | None
    latency_ratio: Spread | None
    peak_mib: Spread | None
    idle_kib: Spread | None
    visits_per_second: Spread | None

    def as_json(self) -> dict[str, object]:
        """For keeping."""
        return asdict(self)


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """Rows in the order in which their first samples came."""

    samples: tuple[Sample, ...]
    yardstick: str

    def rows(self) -> list[Row]:
        """One for each scenario and peer that was measured."""
        keys = dict.fromkeys((sample.scenario, sample.peer) for sample in self.samples)
        return [self._row(scenario, peer) for scenario, peer in keys]

    def _row(self, scenario: str, peer: str) -> Row:
        outcomes = [sample.outcome for sample in self._of(scenario, peer)]
        return Row(
            scenario=scenario,
            peer=peer,
            rounds=len(outcomes),
            failures=sum(outcome.failures for outcome in outcomes),
            rate=_spread(outcomes, rate),
            rate_ratio=self._ratio(scenario, peer, rate),
            cpu=_spread(outcomes, server_cpu),
            cpu_ratio=self._ratio(scenario, peer, server_cpu),
            cpu_php=_spread(outcomes, lambda outcome: outcome.cpu.php),
            cpu_load=_spread(outcomes, lambda outcome: outcome.cpu.load),
            p50=_spread(outcomes, median_latency),
            p99=_spread(outcomes, lambda outcome: None if outcome.latency is None else outcome.latency.p99),
            latency_ratio=self._ratio(scenario, peer, median_latency),
            peak_mib=_spread(outcomes, lambda outcome: outcome.peak_mib),
            idle_kib=_spread(outcomes, lambda outcome: outcome.idle_kib),
            visits_per_second=_spread(outcomes, lambda outcome: outcome.visits_per_second),
        )

    def _of(self, scenario: str, peer: str) -> list[Sample]:
        return [sample for sample in self.samples if (sample.scenario, sample.peer) == (scenario, peer)]

    def _ratio(self, scenario: str, peer: str, value: Value) -> Spread | None:
        yardstick = {sample.round: value(sample.outcome) for sample in self._of(scenario, self.yardstick)}
        ratios = []
        for sample in self._of(scenario, peer):
            ours, theirs = value(sample.outcome), yardstick.get(sample.round)
            if ours is not None and theirs:
                ratios.append(ours / theirs)
        return Spread.of(ratios)


def _spread(outcomes: Sequence[Outcome], value: Value) -> Spread | None:
    return Spread.of([found for outcome in outcomes if (found := value(outcome)) is not None])
