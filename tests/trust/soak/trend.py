"""Straight lines through what was measured, and what counts as growth."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_Z: Final = statistics.NormalDist().inv_cdf(0.975)
_FEWEST: Final = 5  # points, below which no line says anything


@dataclass(frozen=True, slots=True)
class Trend:
    """A least-squares line.

    Attributes:
        mean: of the values.
        slope: in units a minute.
        margin: of the slope; the 95 % confidence interval is slope - margin to slope + margin.
    """

    mean: float
    slope: float
    margin: float

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> "Trend | None":
        """The line through (minute, value); None when there are too few points."""
        if len(points) < _FEWEST:
            return None
        times, values = zip(*points, strict=True)
        slope, intercept = statistics.linear_regression(times, values)
        residuals = [value - intercept - slope * time for time, value in points]
        freedom = max(len(points) * _independence(residuals), _FEWEST) - 2
        squares = sum(one**2 for one in residuals)
        middle = statistics.fmean(times)
        spread = sum((time - middle) ** 2 for time in times)
        return cls(statistics.fmean(values), slope, _t(freedom) * math.sqrt(squares / freedom / spread))

    @property
    def least(self) -> float:
        """The lower end of the confidence interval."""
        return self.slope - self.margin

    def __str__(self) -> str:
        return f"mean {self.mean:.2f}, {self.slope:+.3f} ± {self.margin:.3f} a minute"


def _independence(residuals: Sequence[float]) -> float:
    """Which share of the residuals says something of its own.

    Memory that was high a moment ago is high still, so many looks say little more than one: where each value goes with
    the one before by r, n of them are worth n (1 - r) / (1 + r) that are independent.
    """
    squares = sum(one**2 for one in residuals)
    if not squares:
        return 1.0
    follows = sum(one * following for one, following in itertools.pairwise(residuals)) / squares
    return (1 - follows) / (1 + follows) if follows > 0 else 1.0


def _t(freedom: float) -> float:
    """The quantile 0.975 of Student's distribution (Cornish-Fisher; within 0.5 % from 4 degrees of freedom on)."""
    return (
        _Z
        + (_Z**3 + _Z) / (4 * freedom)
        + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
        + (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / (384 * freedom**3)
    )


#: Of a process: 23 MiB a day. At 200 mails a second that is 1.4 octets a mail, so no object can be forgotten for each
#: mail, each connection, or each thousandth mail, without being found.
KIB_A_MINUTE: Final = 16.0
#: Of a process: one in twenty minutes. One that is forgotten for each thousandth connection is more.
DESCRIPTORS_A_MINUTE: Final = 0.05
#: Of the latency's mean: a fifth in twenty minutes. Less cannot be told from what else a machine does.
LATENCY_SHARE_A_MINUTE: Final = 0.01
#: Of the time, at the beginning: caches and the allocator fill up, and nothing is judged.
WARM_UP_SHARE: Final = 0.25


def settled(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those after the warm-up."""
    if not points:
        return []
    first, last = points[0][0], points[-1][0]
    return [point for point in points if point[0] >= first + WARM_UP_SHARE * (last - first)]


def growth(points: Sequence[tuple[float, float]], limit: float) -> Trend | None:
    """The trend when it is certain that values grow faster than the limit, in units a minute; else None."""
    trend = Trend.of(settled(points))
    return trend if trend is not None and trend.least > limit else None


def latency_growth(points: Sequence[tuple[float, float]]) -> Trend | None:
    """The same for latencies, whose limit is a share of their mean."""
    trend = Trend.of(settled(points))
    return trend if trend is not None and trend.least > LATENCY_SHARE_A_MINUTE * trend.mean else None
