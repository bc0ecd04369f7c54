"""How many machine instructions the cores take, beside what they are held against:  python -m benchmarks.instructions

Time says little on a busy machine; instructions are the same in every run. valgrind's callgrind counts them. They
differ between versions and builds of Python, but then they do so for the yardsticks as well: what is kept, in
instructions.json, and compared is the ratio.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, final

import click
from rich.console import Console
from rich.table import Table

from benchmarks.marked import MARK, counted
from benchmarks.workloads import CONTESTS, Contest

KEPT: Final = Path(__file__).with_name("instructions.json")
TOLERANCE: Final = 1.05  # times the kept ratio; builds of one version of Python differ by less than a hundredth
_OTHER_VERSION: Final = 1.25  # times the worst kept ratio, where none was kept for these versions
_TOTALS: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)
_SECONDS: Final = 300.0

NO_VALGRIND: Final = "valgrind is not installed: apt-get install valgrind"


class CountingError(Exception):
    """The instructions could not be counted."""


def count(names: Sequence[str], *, packages: Path | None = None) -> Mapping[str, float]:
    """Count the instructions of one piece of each work.

    Args:
        names: of the works.
        packages: where to look for trio_fcgimail first, if not beside this bench.

    Raises:
        CountingError: there is no valgrind, or it failed.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CountingError(NO_VALGRIND)
    root = str(Path(__file__).resolve().parent.parent)
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out"
        command = [valgrind, "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={MARK}"]
        done = subprocess.run(
            [*command, sys.executable, "-m", "benchmarks.marked", *names],
            cwd=directory,  # which Python looks into first, and which has no packages
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "PYTHON"))},
                "PYTHONHASHSEED": "0",
                "PYTHONPATH": os.pathsep.join([*([] if packages is None else [str(packages)]), root]),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            raise CountingError(f"{done.stdout}\n{done.stderr}")
        # Two marks for each work: what the second one ends is the work.
        return {name: _total(Path(f"{out}.{2 * at + 2}")) / counted(name) for at, name in enumerate(names)}


def _total(dump: Path) -> int:
    found = _TOTALS.search(dump.read_text())
    if found is None:
        raise CountingError(f"no totals in {dump.name}")
    return int(found[1])


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One ratio of instructions beside the greatest that is allowed."""

    contest: Contest
    ratio: float
    most: float

    @property
    def is_kept(self) -> bool:
        """Whether it is within the limit."""
        return self.ratio <= self.most


def _versions() -> str:
    """What the ratios depend on."""
    python = ".".join(platform.python_version_tuple()[:2])
    return f"Python {python}, h11 {version('h11')}, {platform.machine()}"


def _kept() -> Mapping[str, Mapping[str, float]]:
    """The ratios, by the versions of Python and h11 and the machine."""
    found: Mapping[str, Mapping[str, float]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return found


def _keep(found: Mapping[str, float]) -> None:
    kept = {**_kept()}
    kept[_versions()] = {**kept.get(_versions(), {}), **{name: round(ratio, 3) for name, ratio in found.items()}}
    KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=2) + "\n")


def limit(name: str, kept: Mapping[str, Mapping[str, float]], versions: str) -> float:
    """The greatest ratio that a work may have."""
    if name in kept.get(versions, {}):
        return kept[versions][name] * TOLERANCE
    return max(ratios[name] for ratios in kept.values()) * _OTHER_VERSION


def names_of(contests: Sequence[Contest]) -> list[str]:
    """The works of contests, each once."""
    return list(dict.fromkeys(name for contest in contests for name in (contest.ours, contest.yardstick)))


def judge(counts: Mapping[str, float], contests: Sequence[Contest] = CONTESTS) -> list[Verdict]:
    """Hold the ratios of what was counted against those that are kept."""
    kept = _kept()
    return [
        Verdict(
            contest=contest,
            ratio=counts[contest.ours] / counts[contest.yardstick],
            most=limit(contest.ours, kept, _versions()),
        )
        for contest in contests
    ]


def table(verdicts: Sequence[Verdict]) -> Table:
    """One line for each ratio."""
    shown = Table(title=f"Instructions, times those of the yardstick, on {_versions()}")
    for name in ("work", "yardstick"):
        shown.add_column(name, no_wrap=True)
    for name in ("x", "at most", ""):
        shown.add_column(name, justify="right")
    for verdict in verdicts:
        row = (verdict.contest.ours, verdict.contest.yardstick, f"{verdict.ratio:.3f}", f"{verdict.most:.3f}")
        shown.add_row(*row, "" if verdict.is_kept else "more than is allowed")
    return shown


@click.command()
@click.option("--keep", is_flag=True, help="write the ratios down as those of these versions")
@click.argument("names", nargs=-1)
def main(keep: bool, names: tuple[str, ...]) -> None:
    """Count the instructions of the cores; ends with 1 when there are more than instructions.json allows."""
    contests = [contest for contest in CONTESTS if not names or contest.ours in names]
    console = Console(stderr=True)
    try:
        with console.status("counting under valgrind"):
            counts = count(names_of(contests))
    except CountingError as exc:
        console.print(str(exc), markup=False)
        sys.exit(2)
    if keep:
        _keep({contest.ours: counts[contest.ours] / counts[contest.yardstick] for contest in contests})
    verdicts = judge(counts, contests)
    Console().print(table(verdicts))
    if not all(verdict.is_kept for verdict in verdicts):
        sys.exit(1)


if __name__ == "__main__":
    main()
