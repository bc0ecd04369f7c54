"""The cores take no more instructions than they did, and no more for twice the work than twice as many."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from benchmarks.growth import MOST_COUNTED, counted_exponent, exponent
from benchmarks.growth_plot import plot
from benchmarks.growth_works import SERIES, Series
from benchmarks.instructions import KEPT, NO_VALGRIND, count, judge, limit, names_of
from benchmarks.ratios import measure
from benchmarks.workloads import CONTESTS, WORKS, Contest

ROOT: Final = Path(__file__).resolve().parent.parent
MAIL: Final = next(contest for contest in CONTESTS if contest.ours == "smtp-mail")


def require_valgrind() -> None:
    if shutil.which("valgrind") is None:
        if os.environ.get("CI"):
            pytest.fail(NO_VALGRIND)
        pytest.skip(NO_VALGRIND)


@pytest.fixture(scope="module")
def counts() -> Mapping[str, float]:
    """Everything is counted in one run: most of it is Python coming up."""
    require_valgrind()
    return count([*names_of(CONTESTS), *(name for series in SERIES for name in series.names())])


@pytest.mark.parametrize("contest", CONTESTS, ids=lambda contest: contest.ours)
def test_work_takes_no_more_instructions_than_it_did(contest: Contest, counts: Mapping[str, float]) -> None:
    (verdict,) = judge(counts, [contest])
    assert verdict.is_kept, (
        f"{verdict.ratio:.3f} times {contest.yardstick}, {verdict.most:.3f} are allowed; if it has to be so: "
        "python -m benchmarks.instructions --keep"
    )


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_instructions_grow_in_line_with_the_work(series: Series, counts: Mapping[str, float]) -> None:
    one, two, four = (counts[name] for name in series.names())
    assert counted_exponent(one, two, four) <= MOST_COUNTED


def test_a_slower_core_is_seen(tmp_path: Path) -> None:
    """A copy whose RCPT is read by the whole grammar each time, as if nobody had noticed."""
    require_valgrind()
    shutil.copytree(ROOT / "trio_fcgimail", tmp_path / "trio_fcgimail")
    module = tmp_path / "trio_fcgimail" / "smtp" / "plain.py"
    whole = module.read_text()
    slow = whole.replace('_RCPT_LINE: Final = re.compile(rf"RCPT TO:', '_RCPT_LINE: Final = re.compile(rf"rcpt to:')
    assert slow != whole
    module.write_text(slow)
    (verdict,) = judge(count(names_of([MAIL]), packages=tmp_path), [MAIL])
    assert not verdict.is_kept


def test_limits_are_kept_for_every_work() -> None:
    kept = json.loads(KEPT.read_text())
    for ratios in kept.values():
        assert ratios.keys() == {contest.ours for contest in CONTESTS}
    assert limit("smtp-mail", kept, "9.99") > max(ratios["smtp-mail"] for ratios in kept.values())


@pytest.mark.parametrize("name", WORKS)
def test_every_work_can_be_done_again_and_again(name: str) -> None:
    work = WORKS[name]()
    for _ in range(3):
        work()


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponent_is_that_of_the_growth(power: float) -> None:
    assert exponent({size: 5.0 * size**power for size in (1, 3, 10, 30, 100)}) == pytest.approx(power)


def test_what_is_fixed_does_not_count_as_growth() -> None:
    assert counted_exponent(1000 + 7, 1000 + 14, 1000 + 28) == pytest.approx(1.0)
    assert counted_exponent(1000 + 1, 1000 + 4, 1000 + 16) == pytest.approx(2.0)


def test_plot_is_drawn_for_every_series() -> None:
    drawn = ElementTree.fromstring(plot([("a", "b & c", {1: 2.0, 10: 9.0, 100: 90.0}, 1.0), ("d", "e", {1: 1.0}, 1.0)]))
    names = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "a: exponent 1.00" in names
    assert "b & c" in names


def test_ratio_is_that_of_a_round() -> None:
    result = measure(Contest("fastcgi-get-whole", "h11-client-get", None), rounds=1)
    assert result.is_met
    assert result.ratio.median == pytest.approx(result.ours.median / result.yardstick.median)


def test_growth_is_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", "--series", "params"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "FastCGI params" in done.stdout, done.stderr
