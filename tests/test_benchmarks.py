"""The benchmarks run: their figures have the shape that is promised, whatever the figures are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest

from benchmarks.clients import message
from benchmarks.cores import open_smtp, smtp_writes, take_mail
from benchmarks.outcome import CpuPerMail, Outcome, Sample
from benchmarks.peers import PEERS, YARDSTICK
from benchmarks.peers.peer import Peer
from benchmarks.report import plot
from benchmarks.runner import plan
from benchmarks.scenarios import SCENARIOS
from benchmarks.summary import Spread, Summary
from benchmarks.wire import answer, form_value, get
from tests.phpfpm import require_php
from trio_fcgimail import fastcgi

ROOT: Final = Path(__file__).resolve().parent.parent
SECONDS: Final = 120


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run keeps."""
    require_php()
    path = tmp_path_factory.mktemp("benchmarks") / "kept.json"
    done = _run("--quick", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "ours" in done.stdout
    ElementTree.parse(path.with_suffix(".svg"))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_quick_run_measures_ours_and_the_sketch(kept: dict[str, Any]) -> None:
    assert kept["format"] == 1
    assert kept["failed"] == []
    assert kept["skipped"] == {}
    assert {sample["peer"] for sample in kept["samples"]} == {"ours", "sketch"}


def test_each_sample_has_mails_and_what_they_cost(kept: dict[str, Any]) -> None:
    for sample in kept["samples"]:
        assert sample["mails"] > 0
        assert sample["failures"] == 0
        assert sample["mails_per_second"] == pytest.approx(sample["mails"] / sample["seconds"])
        assert all(sample["cpu"][part] > 0 for part in ("server", "php", "load"))
        assert 0 < sample["latency"]["p50"] <= sample["latency"]["p99"] <= sample["latency"]["worst"]
        assert sample["peak_mib"] > 0


def test_summary_has_a_row_with_ratios_for_each_peer(kept: dict[str, Any]) -> None:
    rows = {row["peer"]: row for row in kept["summary"]}
    assert rows["sketch"]["cpu_ratio"] == {"median": 1.0, "least": 1.0, "most": 1.0}
    assert rows["ours"]["rate_ratio"]["median"] > 0


def test_listing_names_every_peer_and_scenario() -> None:
    done = _run("--list")
    assert done.returncode == 0
    for name in [entry.name for entry in (*PEERS, *SCENARIOS)]:
        assert f" {name} " in done.stderr


def _peer(name: str) -> Peer:
    def never() -> None:
        return None

    return Peer(
        name=name, about="", missing=never, suits=lambda _: True, measure=lambda *_: Outcome(mails=1, seconds=1)
    )


def test_every_round_has_each_peer_once_and_begins_with_another() -> None:
    steps = plan(SCENARIOS[:1], [_peer("a"), _peer("b")], rounds=3)
    turns = [[step.peer.name for step in steps if step.round == number] for number in range(3)]
    assert turns == [["a", "b"], ["b", "a"], ["a", "b"]]


def _sample(peer: str, number: int, mails: int, cpu: float) -> Sample:
    outcome = Outcome(mails=mails, seconds=2.0, cpu=CpuPerMail(server=cpu, php=1.0, load=1.0))
    return Sample(scenario="kept", peer=peer, round=number, outcome=outcome)


def test_ratios_are_taken_within_a_round() -> None:
    yardstick = YARDSTICK.name
    samples = (
        _sample(yardstick, 0, 100, 50.0),
        _sample("ours", 0, 200, 100.0),
        _sample("ours", 1, 300, 50.0),
        _sample(yardstick, 1, 100, 100.0),
        _sample("ours", 2, 1, 1.0),  # the yardstick has no such round
    )
    row = next(row for row in Summary(samples, yardstick).rows() if row.peer == "ours")
    assert row.rate_ratio == Spread(2.5, 2.0, 3.0)
    assert row.cpu_ratio == Spread(1.25, 0.5, 2.0)
    assert row.rate == Spread(100.0, 0.5, 150.0)
    assert row.p50 is None
    ElementTree.fromstring(plot([row], yardstick))


@pytest.mark.parametrize("octets", [300, 2048, 102_400], ids=str)
def test_a_mail_has_its_size_and_whole_lines(octets: int) -> None:
    mail = message(octets)
    assert octets - 2 <= len(mail) <= octets
    assert mail.endswith(b"\r\n")
    assert b"\r\n." not in mail


def test_mails_of_the_load_pass_the_core() -> None:
    conn = open_smtp()
    for pipelined in (False, True):
        take_mail(conn, smtp_writes(2048, pipelined=pipelined))


def test_wire_speaks_fastcgi() -> None:
    responder = fastcgi.ResponderConnection()
    responder.receive_data(get("/x.php", b"a=" + b"b" * 300))
    begun = responder.next_event()
    assert isinstance(begun, fastcgi.RequestBegun)
    assert dict(begun.params)[b"QUERY_STRING"] == b"a=" + b"b" * 300
    assert begun.keep_connection
    while responder.next_event() is not fastcgi.Signal.NEED_DATA:
        pass
    response = responder.send_stdout(1, b"Content-type: text/plain\r\n\r\nSAVED\n")
    response += responder.end_request(1, app_status=0)
    assert answer(response) == b"SAVED"
    assert all(answer(response[:end]) is None for end in range(len(response)))


def test_form_value_is_read_back_by_any_decoder() -> None:
    from urllib.parse import unquote_to_bytes

    every = bytes(range(256))
    assert unquote_to_bytes(form_value(every).replace(b"+", b" ")) == every


def test_visitors_are_served_beside_the_mails(tmp_path: Path) -> None:
    require_php()
    path = tmp_path / "kept.json"
    done = _run("--quick", "--scenario", "visited", "--peer", "ours", "--json", str(path))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())["summary"]
    assert row["failures"] == 0
    assert row["rate"]["median"] > 0
    assert row["visits_per_second"]["median"] > 0
    assert "visits/s" in done.stdout
