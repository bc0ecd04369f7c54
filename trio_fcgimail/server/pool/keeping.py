"""Whether an upstream keeps the connections that it is asked to keep: found out before a request depends on it."""

from __future__ import annotations

from typing import Final, final

from trio_fcgimail.server.pool.model import Link

TRIAL_SECONDS: Final = 0.01  # ours: node-fastcgi closes within 1 ms of its answer; the longest linger is 0.02
_FIRST_PAUSE_SECONDS: Final = 10.0  # ours: before another trial; doubled each time, up to
_LONGEST_PAUSE_SECONDS: Final = 300.0  # this
_WEIGHT: Final = 1 / 8  # ours: of the latest use in the share of those that were closed
_TOO_MANY: Final = 0.5  # ours: such a share of used connections that were closed gains nothing


@final
class Keeping:
    """What is known of one upstream.

    Some servers (node-fastcgi) close behind their answer even when KEEP_CONN asks them not to. A request that is sent
    before that is seen is lost, and nobody can tell whether it was executed. So one connection at a time is put on
    trial: it rests for a moment, is looked at and closed. Only after a good trial are connections used again, and
    only as long as most of them turn out to be open.

    Args:
        is_certain: it does keep them, whatever else is seen: php-fpm, whose workers retire now and then.
    """

    __slots__ = ("_closed_share", "_is_certain", "_is_proven", "_pause", "_trial", "_try_at")

    def __init__(self, *, is_certain: bool) -> None:
        self._is_certain = is_certain
        self._is_proven = is_certain
        self._closed_share = 0.0
        self._pause = _FIRST_PAUSE_SECONDS
        self._trial: Link | None = None
        self._try_at = 0.0

    def permits(self, now: float) -> bool:
        """Whether a connection may be asked to stay."""
        return self._is_proven or (self._trial is None and now >= self._try_at)

    def ask(self, link: Link) -> None:
        """A connection is asked to stay."""
        if not self._is_proven:
            self._trial = link

    def is_on_trial(self, link: Link) -> bool:
        """Whether a connection is to be looked at, and used no more."""
        return self._trial == link

    def forget(self, link: Link) -> None:
        """A connection is no more."""
        if self._trial == link:
            self._trial = None

    def judge(self, now: float, *, is_open: bool) -> bool:
        """The end of a trial; whether an operator should hear of it."""
        if is_open:
            self._is_proven = True
            self._closed_share = 0.0
            self._pause = _FIRST_PAUSE_SECONDS
            return False
        return self._give_up(now)

    def add(self, now: float, *, was_closed: bool) -> bool:
        """A used connection turned out closed, or not; whether an operator should hear of it."""
        if self._is_certain or not self._is_proven:
            return False
        self._closed_share += _WEIGHT * (was_closed - self._closed_share)
        if self._closed_share < _TOO_MANY:
            return False
        self._is_proven = False
        return self._give_up(now)

    def _give_up(self, now: float) -> bool:
        is_news = self._pause == _FIRST_PAUSE_SECONDS
        self._try_at = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        return is_news
