"""The latest minutes, second by second, for the plots."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, final

import msgspec

from trio_fcgimail.server.metrics import BUCKETS, Metric, Series, Values

KEPT_MOMENTS: Final = 300  # ours: five minutes
#: Rates are those of so many seconds: processes report when they like, so a single one has too much or too little.
WINDOW_LOOKS: Final = 3
_SAVE: Final = "save"


class Moment(msgspec.Struct, frozen=True):
    """What happened in the latest seconds; all by the second.

    Args:
        number: of the moment, from 1.
        time: seconds of the wall clock.
        octets: received.
        waiting: requests for the scripts, now.
        save: of the save script, in seconds: the median, and what 95 % stay below; None when it was not asked.
        check: of all other stages.
    """

    number: int
    time: float
    accepted: float
    discarded: float
    refused: float
    failed: float
    connections: float
    octets: float
    open: float
    waiting: float
    save: tuple[float, float] | None
    check: tuple[float, float] | None


@final
class History:
    """Makes moments of what was counted."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque(maxlen=KEPT_MOMENTS)
        self._latest: deque[tuple[float, dict[Series, Values]]] = deque(maxlen=WINDOW_LOOKS + 1)
        self._number = 0

    def add(self, samples: dict[Series, Values], at: float) -> None:
        """What was counted by now; the first time there is nothing to compare it with."""
        self._latest.append((at, samples))
        since, before = self._latest[0]
        if at <= since:
            if at < since:  # somebody has set the clock
                self._latest.clear()
                self._latest.append((at, samples))
            return
        seconds = at - since

        def rate(metric: Metric, *labels: str) -> float:
            series = Series(metric, labels)
            return round((samples.get(series, (0.0,))[0] - before.get(series, (0.0,))[0]) / seconds, 3)

        self._number += 1
        self._moments.append(
            Moment(
                number=self._number,
                time=round(at, 1),
                accepted=rate(Metric.MAILS, "accepted"),
                discarded=rate(Metric.MAILS, "discarded"),
                refused=rate(Metric.MAILS, "refused"),
                failed=rate(Metric.MAILS, "failed"),
                connections=rate(Metric.CONNECTIONS),
                octets=rate(Metric.RECEIVED_OCTETS),
                open=samples.get(Series(Metric.OPEN_CONNECTIONS), (0.0,))[0],
                waiting=sum(
                    values[0] for series, values in samples.items() if series.metric is Metric.WAITING_REQUESTS
                ),
                save=_latency(samples, before, is_save=True),
                check=_latency(samples, before, is_save=False),
            )
        )

    def after(self, number: int) -> list[Moment]:
        """Those behind a moment."""
        return [moment for moment in self._moments if moment.number > number]


def _latency(
    samples: dict[Series, Values], before: dict[Series, Values], *, is_save: bool
) -> tuple[float, float] | None:
    counts = [0.0] * (len(BUCKETS) + 1)
    for series, values in samples.items():
        if series.metric is Metric.SCRIPT_SECONDS and (series.labels[0] == _SAVE) is is_save:
            old = before.get(series, (0.0,) * len(values))
            counts = [count + new - then for count, new, then in zip(counts, values, old, strict=False)]
    if sum(counts) <= 0:
        return None
    return quantile(counts, 0.5), quantile(counts, 0.95)


def quantile(counts: Sequence[float], share: float) -> float:
    """What a share of the values stays below, evenly spread within its bucket; of the last one, its lower bound."""
    wanted, seen = share * sum(counts), 0.0
    for count, (low, high) in zip(counts, _bounds(), strict=False):
        if count and seen + count >= wanted:
            return round(low + (high - low) * (wanted - seen) / count, 6)
        seen += count
    return BUCKETS[-1]


def _bounds() -> Iterator[tuple[float, float]]:
    return pairwise((0.0, *BUCKETS))
