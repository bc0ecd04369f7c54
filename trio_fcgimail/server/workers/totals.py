"""What all children have counted, of all generations, and the latest mails. Numbers of the dead stay."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, final

from trio_fcgimail.server.metrics import SPECS, Sample, Series, Shape, Values, fold
from trio_fcgimail.server.workers.channel import MailSeen
from trio_fcgimail.server.workers.leases import Holder

MAX_SERIES: Final = 20_000  # ours, of one child: a hundred for each of 64 upstreams, and more
MAX_MAILS: Final = 100
_KEPT: Final = (Shape.COUNTER, Shape.HISTOGRAM)


class CountError(Exception):
    """What a child says it has counted cannot be."""


@final
class Totals:
    """Adds up what children say.

    Counters never go back: a child that lowers one is not believed, and what one that is gone had counted is kept.
    """

    def __init__(self) -> None:
        self._living: dict[Holder, dict[Series, Values]] = {}
        self._gone: dict[Series, Values] = {}
        self._mails: deque[MailSeen] = deque(maxlen=MAX_MAILS)
        self._mails_seen = 0

    def hear(self, holder: Holder, samples: Iterable[Sample]) -> None:
        """What a child has counted by now, as far as it has changed.

        Raises:
            CountError: it cannot be so. What came before it is taken.
        """
        own = self._living.setdefault(holder, {})
        for series, values in samples:
            spec = SPECS[series.metric]
            if len(series.labels) != len(spec.labels) or len(values) != spec.width:
                raise CountError(f"{series.metric.value} is not counted like that")
            before = own.get(series)
            if before is None and len(own) >= MAX_SERIES:
                raise CountError(f"more than {MAX_SERIES} numbers")
            if before is not None and spec.shape in _KEPT and any(map(float.__gt__, before, values)):
                raise CountError(f"{series.metric.value} is less than it was")
            own[series] = values

    def see(self, mail: MailSeen) -> None:
        """A mail got its verdict."""
        self._mails.append(mail)
        self._mails_seen += 1

    def leave(self, holder: Holder) -> None:
        """A child is gone."""
        for series, values in self._living.pop(holder, {}).items():
            shape = SPECS[series.metric].shape
            if shape in _KEPT:
                before = self._gone.get(series)
                self._gone[series] = values if before is None else fold(shape, (before, values))

    def samples(self) -> Iterator[Sample]:
        """All of them together."""
        several: dict[Series, list[Values]] = {}
        for own in (self._gone, *self._living.values()):
            for series, values in own.items():
                several.setdefault(series, []).append(values)
        for series, found in several.items():
            yield series, fold(SPECS[series.metric].shape, found)

    @property
    def mails_seen(self) -> int:
        """How many there were."""
        return self._mails_seen

    def mails_after(self, number: int) -> Sequence[MailSeen]:
        """Those behind so many, as far as they are kept; the oldest first."""
        fresh = min(max(self._mails_seen - number, 0), len(self._mails))
        return tuple(islice(self._mails, len(self._mails) - fresh, None))
