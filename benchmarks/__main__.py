"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.outcome import BenchmarkError, Sample
from benchmarks.peers import PEERS, YARDSTICK, Peer
from benchmarks.peers.haraka import install
from benchmarks.report import plot, table
from benchmarks.runner import Failure, Measurement, plan, run
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.summary import Row, Summary

JSON_FORMAT: Final = 1  # counted up when its shape changes
_QUICK_PEERS: Final = ("ours", "sketch")
_QUICK_SCENARIOS: Final = ("kept",)
_PACKAGES: Final = ("trio", "aiosmtpd", "structlog", "msgspec")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for."""

    rounds: int
    seconds: float
    octets: int | None
    peers: tuple[str, ...]
    scenarios: tuple[str, ...]


@click.command()
@click.option("--quick", is_flag=True, help="ours and the sketch, one scenario, a second: whether all works")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="how often each is measured")
@click.option("--seconds", type=click.FloatRange(0.05), default=3.0, show_default=True, help="of each measurement")
@click.option("--octets", type=click.IntRange(300), help="size of the mails, in place of each scenario's own")
@click.option("--peer", "peers", multiple=True, type=click.Choice([peer.name for peer in PEERS]), help="only these")
@click.option(
    "--scenario", "scenarios", multiple=True, type=click.Choice([entry.name for entry in SCENARIOS]), help="only these"
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="where to keep all figures")
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="where to draw, as SVG; by default beside the JSON",
)
@click.option("--list", "listing", is_flag=True, help="say what there is, and end")
@click.option("--install", "installing", is_flag=True, help="bring Haraka from npm into ~/.cache, and end")
def main(
    quick: bool,
    rounds: int,
    seconds: float,
    octets: int | None,
    peers: tuple[str, ...],
    scenarios: tuple[str, ...],
    json_file: Path | None,
    plot_file: Path | None,
    listing: bool,
    installing: bool,
) -> None:
    """Measure this server beside others, on a php-fpm of its own, all on loopback."""
    console = Console(stderr=True)
    if listing:
        _list(console)
        return
    options = Options(rounds=rounds, seconds=seconds, octets=octets, peers=peers, scenarios=scenarios)
    if quick:
        options = replace(
            options,
            rounds=1,
            seconds=min(seconds, 0.5),
            peers=peers or _QUICK_PEERS,
            scenarios=scenarios or _QUICK_SCENARIOS,
        )
    try:
        if installing:
            install()
            return
        _run(options, console, json_file, plot_file)
    except BenchmarkError as exc:
        console.print(f"benchmarks: {exc}", markup=False)
        sys.exit(1)


def _list(console: Console) -> None:
    for scenario in SCENARIOS:
        console.print(f"scenario {scenario.name:13} {scenario.about}", markup=False, highlight=False)
    for peer in PEERS:
        missing = peer.missing()
        note = "" if missing is None else f"  [to install: {missing}]"
        console.print(f"peer     {peer.name:13} {peer.about}{note}", markup=False, highlight=False)


def _run(options: Options, console: Console, json_file: Path | None, plot_file: Path | None) -> None:
    asked = [peer for peer in PEERS if not options.peers or peer.name in options.peers]
    skipped = {peer.name: missing for peer in asked if (missing := peer.missing()) is not None}
    for name, missing in skipped.items():
        console.print(f"skipped: {name}; to install it: {missing}", markup=False)
    chosen = [_sized(entry, options) for entry in SCENARIOS if not options.scenarios or entry.name in options.scenarios]
    steps = plan(chosen, [peer for peer in asked if peer.name not in skipped], options.rounds)
    samples, failures = _measure(steps, options.seconds, console)
    for failure in failures:
        step = failure.measurement
        console.print(f"not measured: {step.peer.name} in {step.scenario.name}: {failure.problem}", markup=False)
    rows = _in_order(Summary(tuple(samples), YARDSTICK.name).rows())
    Console(width=None if sys.stdout.isatty() else 200).print(table(rows, YARDSTICK.name))
    if json_file is not None:
        kept = _as_json(options, samples, rows, failures, skipped)
        json_file.write_text(json.dumps(kept, indent=1) + "\n")
        plot_file = plot_file or json_file.with_suffix(".svg")
    if plot_file is not None:
        plot_file.write_text(plot(rows, YARDSTICK.name))
        console.print(f"plot: {plot_file}", markup=False)


def _sized(scenario: Scenario, options: Options) -> Scenario:
    return scenario if options.octets is None else replace(scenario, octets=options.octets)


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """As the peers are listed, whoever began a round."""
    peers = [peer.name for peer in PEERS]
    scenarios = [scenario.name for scenario in SCENARIOS]
    return sorted(rows, key=lambda row: (scenarios.index(row.scenario), peers.index(row.peer)))


def _measure(steps: Sequence[Measurement], seconds: float, console: Console) -> tuple[list[Sample], list[Failure]]:
    columns = (
        TextColumn("{task.description:32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        task = progress.add_task("starting php-fpm", total=len(steps))
        begun = -1

        def watch(step: Measurement) -> None:
            nonlocal begun
            begun += 1
            label = f"{step.scenario.name}, round {step.round + 1}: {step.peer.name}"
            progress.update(task, completed=begun, description=label)

        found = run(steps, seconds, watch)
        progress.update(task, completed=len(steps), description="done")
    return found


def _as_json(
    options: Options,
    samples: Sequence[Sample],
    rows: Sequence[Row],
    failures: Sequence[Failure],
    skipped: dict[str, str],
) -> dict[str, object]:
    return {
        "format": JSON_FORMAT,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": asdict(options),
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        },
        "yardstick": YARDSTICK.name,
        "peers": {peer.name: peer.about for peer in _used(samples)},
        "skipped": skipped,
        "failed": [
            {
                "scenario": failure.measurement.scenario.name,
                "peer": failure.measurement.peer.name,
                "problem": failure.problem,
            }
            for failure in failures
        ],
        "samples": [sample.as_json() for sample in samples],
        "summary": [row.as_json() for row in rows],
    }


def _used(samples: Sequence[Sample]) -> list[Peer]:
    names = {sample.peer for sample in samples}
    return [peer for peer in PEERS if peer.name in names]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
