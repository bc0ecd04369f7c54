"""What ``check`` found of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final


@final
class State(Enum):
    """How a thing that was tried stands."""

    GOOD = "good"
    UNKNOWN = "unknown"
    BAD = "bad"


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table.

    Args:
        subject: the key or the thing.
        detail: what was found, and how to mend it when it is bad.
    """

    subject: str
    state: State
    detail: str
