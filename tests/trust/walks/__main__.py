"""Long walks: ``python -m tests.trust.walks --minutes 10``; over sockets and a real php-fpm with ``--over sockets``.

Exit code 1 when model and server disagree; the shortest walk that shows it is printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.certificates import Authority
from tests.support import Journal
from tests.trust.walks.driver import Driver
from tests.trust.walks.machine import Walk
from tests.trust.walks.memory import MemoryDriver
from tests.trust.walks.model import House
from tests.trust.walks.sockets import Street

_WALKS_AT_A_TIME: Final = 10
_REPLIES: Final = 3  # digits


def walk(
    open_server: Callable[[House], Driver], choose: Callable[[House], House], *, minutes: float, steps: int
) -> Counter[str]:
    """Walk until the time is over, some walks at a time; the counts of them all."""

    class Here(Walk):
        counts = Counter()

        def choose(self, house: House) -> House:
            return choose(house)

        def open_server(self, house: House) -> Driver:
            return open_server(house)

    chosen = settings(
        max_examples=_WALKS_AT_A_TIME,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        run_state_machine_as_test(Here, settings=chosen)
        print(f"{Here.counts['walks']:,} walks, {Here.counts['steps']:,} steps", flush=True)
    return Here.counts


def over_memory(folder: Path, minutes: float, steps: int) -> Counter[str]:
    """In this process."""
    journal, authority = Journal(folder / "log"), Authority(folder)
    with closing(journal.file):
        return walk(
            lambda house: MemoryDriver(house, authority, journal), lambda house: house, minutes=minutes, steps=steps
        )


def over_sockets(folder: Path, minutes: float, steps: int) -> Counter[str]:
    """In processes of their own, four for four kinds of houses, with a php-fpm."""

    def choose(house: House) -> House:
        return House(house.lmtp, True, house.asks, house.asks)

    with Street(folder) as street:
        counts = walk(street.driver, choose, minutes=minutes, steps=steps)
        street.stop()
        return counts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.trust.walks", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--over", choices=["memory", "sockets"], default="memory", help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=10, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=50, help="of one walk, at most (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fcgimail-walks-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            run = over_memory if options.over == "memory" else over_sockets
            counts = run(folder, options.minutes, options.steps)
        except AssertionError as exc:
            print(f"model and server disagree: {exc}", *getattr(exc, "__notes__", ()), sep="\n", file=sys.stderr)
            return 1
    for name, count in sorted(counts.items(), key=lambda item: (len(item[0]) == _REPLIES, item[0])):
        print(f"{name}: {count:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
