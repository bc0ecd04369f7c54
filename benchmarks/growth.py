"""Whether cost grows in line with the work:  python -m benchmarks.growth --plot growth.svg

Each series does the same with more and more of one thing, and fits how the time grows: an exponent of one is linear,
two is quadratic. Fixed costs weigh at small sizes, so the fit is over the largest ones.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.growth_plot import plot
from benchmarks.growth_works import SERIES, Series
from benchmarks.ratios import microseconds, without_collector

MOST: Final = 1.2  # exponent of time: what does not fit the caches any more is somewhat dearer
MOST_COUNTED: Final = 1.35  # exponent of instructions, from three sizes so small that warming up still shows
_FITTED: Final = 3  # largest sizes
_BEST_OF: Final = 7
_ENOUGH_MICROSECONDS: Final = 2_000.0  # of one measurement


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """One series, measured.

    Args:
        microseconds: CPU time of one work of each size, the least of several.
        exponent: of the growth over the largest sizes.
    """

    name: str
    unit: str
    microseconds: Mapping[int, float]
    exponent: float

    @property
    def is_linear(self) -> bool:
        """Whether it grows no faster than the work."""
        return self.exponent <= MOST


def measure(series: Series) -> Grown:
    """Time a series."""
    taken = {size: _least(series, size) for size in series.sizes}
    return Grown(name=series.name, unit=series.unit, microseconds=taken, exponent=exponent(taken))


def _least(series: Series, size: int) -> float:
    work = series.make(size)
    first = microseconds(work, 1)
    times = max(1, round(_ENOUGH_MICROSECONDS / first))
    return min(microseconds(work, times) for _ in range(_BEST_OF))


def exponent(costs: Mapping[int, float]) -> float:
    """The slope of the largest sizes in a log-log plot, by least squares."""
    points = [(math.log(size), math.log(cost)) for size, cost in sorted(costs.items())]
    points = points[-_FITTED:]
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    slope: float = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return slope


def counted_exponent(one: float, two: float, four: float) -> float:
    """The exponent from the costs of a size, of twice and of four times it; what is fixed cancels out."""
    return math.log2((four - two) / (two - one))


def table(grown: Sequence[Grown]) -> Table:
    """One line for each series."""
    shown = Table(title="CPU time for more and more of one thing, the least of several runs")
    shown.add_column("series", no_wrap=True)
    shown.add_column("unit", no_wrap=True)
    for name in ("from", "ns each", "to", "ns each ", "exponent", ""):
        shown.add_column(name, justify="right")
    for series in grown:
        (least, cost), *_, (most, last) = series.microseconds.items()
        shown.add_row(
            series.name,
            series.unit,
            f"{least:,}",
            _nanoseconds(cost / least),
            f"{most:,}",
            _nanoseconds(last / most),
            f"{series.exponent:.2f}",
            "" if series.is_linear else "worse than linear",
        )
    return shown


def _nanoseconds(microseconds_each: float) -> str:
    value = microseconds_each * 1000
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


@click.command()
@click.option("--series", "names", multiple=True, type=click.Choice([one.name for one in SERIES]), help="only these")
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="where to draw, as SVG")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="where to keep all figures")
def main(names: tuple[str, ...], plot_file: Path | None, json_file: Path | None) -> None:
    """Measure how cost grows; ends with 1 when something grows faster than the work."""
    grown: list[Grown] = []
    chosen = [one for one in SERIES if not names or one.name in names]

    def run() -> None:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("measuring", total=len(chosen))
            for series in chosen:
                progress.update(task, description=series.name)
                grown.append(measure(series))
                progress.advance(task)

    without_collector(run)
    Console(width=None if sys.stdout.isatty() else 110).print(table(grown))
    if plot_file is not None:
        plot_file.write_text(plot([(one.name, one.unit, one.microseconds, one.exponent) for one in grown]))
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(one) for one in grown], indent=2) + "\n")
    if not all(one.is_linear for one in grown):
        sys.exit(1)


if __name__ == "__main__":
    main()
