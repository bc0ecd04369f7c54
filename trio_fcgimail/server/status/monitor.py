"""What the process knows: the latest report, and what came of the ones before."""

from __future__ import annotations

import secrets
import time
from collections import deque
from operator import attrgetter
from typing import Final, final

import trio

from trio_fcgimail import __version__
from trio_fcgimail.config import Settings
from trio_fcgimail.mail import Meaning
from trio_fcgimail.server.metrics import Metric, Series, Values
from trio_fcgimail.server.status.history import History
from trio_fcgimail.server.status.readiness import Readiness
from trio_fcgimail.server.status.view import Shown, View, by_label, upstreams
from trio_fcgimail.server.workers.report import Report

LOOK_SECONDS: Final = 1.0
STALE_SECONDS: Final = 5.0  # ours: a parent that has not answered for so long is not well
_KEPT_MAILS: Final = 50  # that were accepted, and as many others, who would be lost among them


@final
class Monitor:
    """Takes reports, and answers for them.

    Attributes:
        mails_seen: how many mails there were.
    """

    def __init__(self, settings: Settings) -> None:
        self.mails_seen = 0
        self._hostname = settings.hostname
        self._upstreams = tuple(map(str, settings.fastcgi.upstreams))
        self._readiness = Readiness(settings.fastcgi.upstreams)
        self._history = History()
        self._accepted: deque[Shown] = deque(maxlen=_KEPT_MAILS)
        self._others: deque[Shown] = deque(maxlen=_KEPT_MAILS)
        self._run = secrets.token_hex(8)
        self._heard_at = -STALE_SECONDS
        self._report: Report | None = None
        self.samples: dict[Series, Values] = {}

    def take(self, report: Report) -> None:
        """How things stand now."""
        self._report = report
        self._heard_at = trio.current_time()
        self.samples = {Series(metric, labels): values for metric, labels, values in report.samples}
        self._history.add(self.samples, time.time())
        self._readiness.learn(self.samples)
        first = report.mails_seen - len(report.mails)
        for at, mail in enumerate(report.mails, 1):
            kept = self._accepted if mail.verdict is Meaning.ACCEPTED else self._others
            kept.append(Shown(first + at, mail))
        self.mails_seen = report.mails_seen

    @property
    def is_alive(self) -> bool:
        """Whether the parent answers, and those that serve answer to it."""
        is_fresh = trio.current_time() - self._heard_at < STALE_SECONDS
        return is_fresh and self._report is not None and self._report.is_alive

    async def is_ready(self) -> bool:
        """Whether a mail that came now could be handed to a script."""
        is_serving = self._report is not None and self._report.is_serving
        return is_serving and self.is_alive and await self._readiness.is_ready()

    def view(self, moment: int, mail: int) -> View:
        """What the page is to show.

        Args:
            moment: the latest that it has; ``mail`` likewise.
        """
        samples = self.samples
        return View(
            run=self._run,
            hostname=self._hostname,
            version=__version__,
            state=self._state(),
            workers=self._value(Metric.WORKERS),
            deaths=self._value(Metric.WORKER_DEATHS),
            reloads=self._value(Metric.RELOADS, "done"),
            open=self._value(Metric.OPEN_CONNECTIONS),
            totals=by_label(samples, Metric.MAILS),
            octets=self._value(Metric.RECEIVED_OCTETS),
            waiting=by_label(samples, Metric.WAITING_REQUESTS),
            limits={name: hits for name, hits in by_label(samples, Metric.LIMITS_HIT).items() if hits},
            upstreams=upstreams(samples, self._upstreams),
            moments=self._history.after(moment),
            mails=sorted(
                (shown for shown in (*self._accepted, *self._others) if shown.number > mail),
                key=attrgetter("number"),
            ),
        )

    def _state(self) -> str:
        if not self.is_alive:
            return "failing"
        return "serving" if self._report is not None and self._report.is_serving else "stopping"

    def _value(self, metric: Metric, *labels: str) -> float:
        return self.samples.get(Series(metric, labels), (0.0,))[0]
