"""The cores in memory beside h11 and beside bare passes in C:  python -m benchmarks.ratios

Each work of ours and its yardstick take turns in one process, so that whatever else the machine does falls on both. The
CPU time of the thread is taken, not the time of day.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.summary import Spread
from benchmarks.workloads import CONTESTS, WORKS, Contest, Work

_ROUND_SECONDS: Final = 0.02  # of each of the two, in each round
_TENTHS: Final = 10


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One contest. Times are microseconds of CPU for one piece of work; the ratio is that within a round."""

    contest: Contest
    ours: Spread
    yardstick: Spread
    ratio: Spread

    @property
    def is_met(self) -> bool:
        """Whether the goal is met, if there is one."""
        return self.contest.most is None or self.ratio.median <= self.contest.most


def measure(contest: Contest, rounds: int) -> Result:
    """Hold a work against its yardstick."""
    ours, yardstick = WORKS[contest.ours](), WORKS[contest.yardstick]()
    times_ours, times_yardstick = repeats(ours), repeats(yardstick)
    pairs = [(microseconds(ours, times_ours), microseconds(yardstick, times_yardstick)) for _ in range(rounds)]
    return Result(
        contest=contest,
        ours=_spread([mine for mine, _ in pairs]),
        yardstick=_spread([theirs for _, theirs in pairs]),
        ratio=_spread([mine / theirs for mine, theirs in pairs]),
    )


def repeats(work: Work) -> int:
    """How often to do a work for one measurement; it is warm by then."""
    times = 1
    while (taken := microseconds(work, times) * times / 1e6) < _ROUND_SECONDS / _TENTHS:
        times *= 2
    return max(1, round(times * _ROUND_SECONDS / taken))


def microseconds(work: Work, times: int) -> float:
    """CPU time of one piece of work."""
    began = time.thread_time_ns()
    for _ in range(times):
        work()
    return max(time.thread_time_ns() - began, 1) / times / 1000


def without_collector(do: Callable[[], None]) -> None:
    """Garbage is made by both sides of a contest, and collected in the middle of either."""
    gc.collect()
    gc.disable()
    try:
        do()
    finally:
        gc.enable()


def _spread(values: Sequence[float]) -> Spread:
    spread = Spread.of(values)
    assert spread is not None
    return spread


def table(results: Sequence[Result]) -> Table:
    """One line for each contest."""
    shown = Table(title="CPU time, medians of all rounds (least-most); x = times the yardstick in the same round")
    shown.add_column("work", no_wrap=True)
    shown.add_column("us", justify="right")
    shown.add_column("yardstick", no_wrap=True)
    for name in ("us ", "x", "goal"):
        shown.add_column(name, justify="right")
    for result in results:
        ratio, most = result.ratio, result.contest.most
        goal = "" if most is None else f"{most:.2f}" if result.is_met else f"{most:.2f} (missed)"
        shown.add_row(
            result.contest.ours,
            f"{result.ours.median:.1f}",
            result.contest.yardstick,
            f"{result.yardstick.median:.1f}",
            f"{ratio.median:.2f} ({ratio.least:.2f}-{ratio.most:.2f})",
            goal,
        )
    return shown


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=25, show_default=True, help="how often each is measured")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="where to keep all figures")
def main(rounds: int, json_file: Path | None) -> None:
    """Measure the cores in memory beside their yardsticks; ends with 1 when a goal is missed."""
    console = Console(stderr=True)
    results: list[Result] = []

    def run() -> None:
        for contest in track(CONTESTS, "measuring", console=console, transient=True):
            results.append(measure(contest, rounds))  # noqa: PERF401 - the progress bar is the point

    without_collector(run)
    Console().print(table(results))
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    if not all(result.is_met for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
