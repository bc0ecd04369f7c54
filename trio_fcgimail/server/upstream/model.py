"""A request's body, and what comes of a request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from enum import Enum
from typing import final

from trio_fcgimail.mail import Answer


@final
@dataclass(frozen=True, slots=True)
class Body:
    """A request body whose length is known before it is read.

    Args:
        octets: exactly what ``pieces`` will give in all.
        pieces: begins a reading, which is closed when the request is over; another try begins another one.
        whole: the same octets, where they are at hand: a request that is made in one piece takes fewer steps.
    """

    octets: int
    pieces: Callable[[], AsyncGenerator[bytes, None]]
    whole: bytes | None = None


@final
class CleanEnd(Enum):
    """What it means that the server closed after a whole request, without a single octet of response."""

    UNKNOWN = "the script may have run"
    UNEXECUTED = "the script has not run"  # php-fpm: 497 of 497, while a worker that was killed resets


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and what may become of its connection.

    Args:
        is_reusable: the whole request was sent, END_REQUEST came with its padding, and nothing behind it.
        received_at: when its last octets were, or the last of the request was sent, by Trio's clock.
    """

    answer: Answer
    is_reusable: bool
    received_at: float
