"""A child's side of the metrics: once a second it tells the parent what has changed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import Final, final

import trio

from trio_fcgimail.mail import Meaning, clean, clean_ends
from trio_fcgimail.server.gateway import MailReport
from trio_fcgimail.server.metrics import Sample, Series, Values
from trio_fcgimail.server.pool import Trip
from trio_fcgimail.server.workers.channel import MAX_LINE_CHARACTERS, Channel, Counted, MailSeen

REPORT_SECONDS: Final = 0.5
MAX_MAILS: Final = 10  # ours: accepted ones in a report, and as many others; people read no more
_SAMPLES: Final = 100  # in a message: below 64 KiB whatever the labels are
_SHORT_CHARACTERS: Final = 200
_SHOWN_RECIPIENTS: Final = 5


@final
class RecentMails:
    """The latest mails; an observer that keeps, and leaves all work to whoever takes them."""

    def __init__(self) -> None:
        self._accepted: deque[tuple[float, MailReport]] = deque(maxlen=MAX_MAILS)
        self._others: deque[tuple[float, MailReport]] = deque(maxlen=MAX_MAILS)

    def mail(self, report: MailReport) -> None:
        """A mail got its verdict."""
        kept = self._accepted if report.verdict.meaning is Meaning.ACCEPTED else self._others
        kept.append((time.time(), report))

    def take(self) -> Iterator[MailSeen]:
        """Those that nobody has taken yet, the oldest first."""
        mails = sorted((*self._accepted, *self._others), key=itemgetter(0))
        self._accepted.clear()
        self._others.clear()
        for at, report in mails:
            yield _seen(at, report)


def _seen(at: float, report: MailReport) -> MailSeen:
    envelope, verdict, trip = report.envelope, report.verdict, report.trip or Trip()
    shown = ", ".join(map(str, envelope.recipients[:_SHOWN_RECIPIENTS]))
    more = len(envelope.recipients) - _SHOWN_RECIPIENTS
    return MailSeen(
        time=at,
        queue_id=envelope.queue_id,
        peer=report.client,
        helo=clean(envelope.session.helo, _SHORT_CHARACTERS),
        mail_from=clean(envelope.sender, _SHORT_CHARACTERS),
        rcpts=clean(shown, MAX_LINE_CHARACTERS - 20) + (f" and {more} more" if more > 0 else ""),
        subject=clean(report.subject, _SHORT_CHARACTERS),
        octets=report.octets,
        verdict=verdict.meaning,
        reply=clean(verdict.reply.text, MAX_LINE_CHARACTERS),
        reason=clean(verdict.reason, MAX_LINE_CHARACTERS),
        milliseconds=round(1000 * report.seconds, 1),
        script_milliseconds=round(1000 * trip.seconds, 1),
        upstream=trip.upstream,
        stderr=clean_ends(trip.stderr, MAX_LINE_CHARACTERS),
    )


@final
class Reporter:
    """Tells the parent.

    Args:
        look: gives everything that is counted.
    """

    def __init__(self, channel: Channel, look: Callable[[], Iterable[Sample]], recent: RecentMails) -> None:
        self._channel = channel
        self._look = look
        self._recent = recent
        self._told: dict[Series, Values] = {}

    async def run(self) -> None:
        """Until cancelled. While the parent does not listen, nothing is said, so that nothing piles up."""
        while True:
            if self._channel.is_clear:
                for message in self._messages():
                    self._channel.post(message)
            await trio.sleep(REPORT_SECONDS)

    async def finish(self) -> None:
        """The end: tell the rest, and wait until it is on its way."""
        for message in self._messages():
            await self._channel.send(message)

    def _messages(self) -> Iterator[Counted | MailSeen]:
        fresh = [(series, values) for series, values in self._look() if self._told.get(series) != values]
        self._told.update(fresh)
        rest = iter(fresh)
        while part := list(islice(rest, _SAMPLES)):
            yield Counted([(series.metric, series.labels, values) for series, values in part])
        yield from self._recent.take()
