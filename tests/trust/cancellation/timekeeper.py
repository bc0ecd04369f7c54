"""Time that passes only when nobody has anything else to do, threads included."""

from __future__ import annotations

import math
import threading
from typing import Final, NoReturn

import trio
from trio._core._thread_cache import THREAD_CACHE
from trio.testing import MockClock, wait_all_tasks_blocked

_CUSHION_SECONDS: Final = 0.001  # real, where threads may be at work: what they have done has to be noticed
_PATIENCE_SECONDS: Final = 0.05  # real: nothing is ever due, so somebody else has to act


def _is_busy() -> bool:
    """Whether a thread of Trio's is at work, abandoned ones included: all that are not waiting to be used again."""
    threads = sum(thread.name.startswith("Trio thread") or " from " in thread.name for thread in threading.enumerate())
    return threads > len(THREAD_CACHE._idle_workers)


async def keep_time(clock: MockClock, *, has_threads: bool) -> NoReturn:
    """Jump to what is due next whenever all wait, until cancelled.

    Args:
        has_threads: whether any may be at work; without them the time is kept quicker.
    """
    cushion = _CUSHION_SECONDS if has_threads else 0.0
    was_busy = False
    while True:
        await wait_all_tasks_blocked(cushion)
        if has_threads:
            is_busy = _is_busy()
            if is_busy or was_busy:  # what it has done may still be on its way
                was_busy = is_busy
                continue
        seconds = trio.lowlevel.current_statistics().seconds_to_next_deadline
        if seconds == math.inf:
            await wait_all_tasks_blocked(_PATIENCE_SECONDS)
        elif seconds > 0:
            clock.jump(seconds)
            was_busy = has_threads  # look twice before the next jump
