"""What runs within callgrind: each work between two marks. It imports no more than it needs, as all of that counts.

python -m benchmarks.marked WORK...
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import Final

from benchmarks.workloads import LARGE, WORKS, Work

MARK: Final = "getppid"  # of libc: nobody else calls it
_WARM_UP: Final = 12  # runs before counting: CPython 3.11 specialises its bytecode after eight
_COUNTED: Final = 4


def make(name: str) -> Work:
    """A work by its name, set up."""
    if name in WORKS:
        return WORKS[name]()
    from benchmarks.growth_works import GROWTH_WORKS  # noqa: PLC0415 - it imports much

    return GROWTH_WORKS[name]()


def is_repeated(name: str) -> bool:
    """Whether a work is so small that it has to be done more than once."""
    return name in WORKS and name not in LARGE


def counted(name: str) -> int:
    """How many runs of a work are counted."""
    return _COUNTED if is_repeated(name) else 1


def run(names: Sequence[str]) -> None:
    """Do the works, each between two marks."""
    gc.disable()
    for name in names:
        work = make(name)
        for _ in range(_WARM_UP if is_repeated(name) else 1):
            work()
        os.getppid()
        for _ in range(counted(name)):
            work()
        os.getppid()


if __name__ == "__main__":
    run(sys.argv[1:])
