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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

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


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how many steps a walk has at most, and what came of it."""

    minutes: float
    steps: int
    counts: Counter[str] = field(default_factory=Counter)


def walk(open_server: Callable[[House], Driver], choose: Callable[[House], House], plan: Plan) -> None:
    """Walk until the time is over, some walks at a time."""

    class Here(Walk):
        counts = plan.counts

        def choose(self, house: House) -> House:
            return choose(house)

        def open_server(self, house: House) -> Driver:
            return open_server(house)

    chosen = settings(
        max_examples=_WALKS_AT_A_TIME,
        stateful_step_count=plan.steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    end = time.monotonic() + 60 * plan.minutes
    while time.monotonic() < end:
        run_state_machine_as_test(Here, settings=chosen)
        print(f"{plan.counts['walks']:,} walks, {plan.counts['steps']:,} steps", flush=True)


def over_memory(folder: Path, plan: Plan) -> None:
    """In this process."""
    journal, authority = Journal(folder / "log"), Authority(folder)
    with closing(journal.file):
        walk(lambda house: MemoryDriver(house, authority, journal), lambda house: house, plan)


def over_sockets(folder: Path, plan: Plan) -> None:
    """In processes of their own, for four kinds of houses, with a php-fpm."""

    def choose(house: House) -> House:
        return House(house.lmtp, True, house.asks, house.asks)

    with Street(folder) as street:
        walk(street.driver, choose, plan)
        street.stop()


def main() -> int:
    """Returns 1 when model and server disagree, 130 when stopped by hand."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.walks", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--over", choices=["memory", "sockets"], default="memory", help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=10, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=50, help="of one walk, at most (default: %(default)s)")
    options = parser.parse_args()
    plan = Plan(options.minutes, options.steps)
    code = 0
    with tempfile.TemporaryDirectory(prefix="fcgimail-walks-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            (over_memory if options.over == "memory" else over_sockets)(folder, plan)
        except AssertionError as exc:
            print(f"model and server disagree: {exc}", *getattr(exc, "__notes__", ()), sep="\n", file=sys.stderr)
            code = 1
        except (KeyboardInterrupt, BaseExceptionGroup) as exc:  # the latter when Trio was stopped within a step
            if isinstance(exc, BaseExceptionGroup) and exc.subgroup(KeyboardInterrupt) is None:
                raise
            code = 130
    for name, count in sorted(plan.counts.items(), key=lambda item: (len(item[0]) == _REPLIES, item[0])):
        print(f"{name}: {count:,}")
    return code


if __name__ == "__main__":
    sys.exit(main())
