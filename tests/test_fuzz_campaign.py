"""The campaign of the fuzzer: what it reads, sums and puts aside. A stand-in prints what the fuzzer prints."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from fuzz import campaign, run
from fuzz.campaign import Figures

DONE: Final = """\
#2\tINITED cov: 10 ft: 12 corp: 1/1b exec/s: 0 rss: 43Mb
#98\tNEW    cov: 233 ft: 528 corp: 35/1728b lim: 276 exec/s: 0 rss: 43Mb L: 99/276 MS: 5 ChangeByte-
#100\tDONE   cov: 234 ft: 529 corp: 36/1728b lim: 276 exec/s: 0 rss: 43Mb
Done 100 runs in 7 second(s)
stat::number_of_executed_units: 101
stat::average_exec_per_sec:     0
"""
FUZZER: Final = """\
import os, pathlib, sys
here = pathlib.Path(sys.argv[0]).parent
(here / "asked").write_text(" ".join(sys.argv[1:]))
print({done!r}, file=sys.stderr)
for name in {found!r}:
    (here / name).write_bytes(b"x")
sys.exit({code})
"""


@pytest.mark.parametrize(
    ("output", "figures"),
    [
        pytest.param(DONE, Figures(seconds=7, executions=101, edges=234, features=529, corpus=36), id="done"),
        pytest.param(DONE[:150], Figures(executions=98, edges=233, features=528, corpus=35), id="broken-off"),
        pytest.param("atheris is not installed", Figures(), id="nothing"),
    ],
)
def test_output_is_read(output: str, figures: Figures) -> None:
    assert campaign.read_output(output) == figures


def test_time_adds_up_and_the_most_edges_count() -> None:
    before = Figures(seconds=5, cpu_seconds=4, executions=10, edges=9, features=20, corpus=3, findings=1)
    piece = Figures(seconds=5, cpu_seconds=3, executions=1, edges=8, features=21, corpus=3, findings=1)
    assert campaign.add(before, piece) == Figures(10, 7, 11, 9, 21, 3, 2)


def test_next_is_the_one_that_had_the_least() -> None:
    sums = {"a": Figures(seconds=2), "b": Figures(seconds=1)}
    assert campaign.next_target(["a", "b"], sums) == "b"
    assert campaign.next_target(["a", "b", "c"], sums) == "c"


def test_sums_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert campaign.load(path) == {}
    campaign.save(path, {"a": Figures(seconds=1.5, edges=2)})
    assert campaign.load(path) == {"a": Figures(seconds=1.5, edges=2)}
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a fuzzer of ours in place of ``run.py``; what is found goes to a folder below."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(campaign, "_HERE", work)
    monkeypatch.setattr(run, "work_folder", lambda target: work)
    return work


def test_campaign_sums_up(stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stand_in / "run.py").write_text(FUZZER.format(done=DONE, found=["crash-1", "kept"], code=77))
    figures = tmp_path / "figures.json"
    arguments = ["cgi_head", "--minutes", "1", "--figures", str(figures), "--before", "env A=b"]
    assert campaign.main(["cgi_head", "--table", "--figures", str(figures)]) == 0
    assert not (stand_in / "asked").exists(), "--table runs nothing"
    assert campaign.main(arguments) == 1
    sums = campaign.load(figures)["cgi_head"]
    assert (sums.executions, sums.edges, sums.findings, sums.seconds) == (101, 234, 1, 7)
    assert sums.cpu_seconds > 0
    assert [path.name for path in (tmp_path / "work-findings").iterdir()] == ["crash-1"]
    assert (stand_in / "kept").exists()
    assert "| `cgi_head` | 101 | 234 | 36 | 0 | 0 | 1 |" in capsys.readouterr().out


def test_campaign_without_a_fuzzer_fails_at_once(stand_in: Path, tmp_path: Path) -> None:
    (stand_in / "run.py").write_text(FUZZER.format(done="atheris is not installed", found=[], code=2))
    with pytest.raises(RuntimeError, match="atheris is not installed"):
        campaign.main(["cgi_head", "--figures", str(tmp_path / "figures.json")])


def test_campaign_names_the_targets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        campaign.main(["no_such_target"])
    assert "smtp_server" in capsys.readouterr().err
