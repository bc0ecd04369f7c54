"""Every fuzz target, in an ordinary test run: its corpus again, then whatever hypothesis comes up with."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import run

CORPUS: Final = run.HERE / "corpus"
CASES: Final = [
    pytest.param(target, path, id=f"{target}-{path.name}")
    for target in run.targets()
    for path in sorted((CORPUS / target).glob("*"))
]


def check_of(target: str) -> Callable[[bytes], None]:
    check: Callable[[bytes], None] = importlib.import_module(f"fuzz.targets.{target}").check
    return check


@pytest.mark.parametrize(("target", "path"), CASES)
def test_corpus(target: str, path: Path) -> None:
    check_of(target)(path.read_bytes())


@pytest.mark.parametrize("target", run.targets())
def test_random_octets(target: str) -> None:
    check = check_of(target)

    @settings(deadline=None)
    @given(st.binary(max_size=4096))
    def test(data: bytes) -> None:
        check(data)

    test()


@pytest.mark.parametrize("target", run.targets())
def test_target_has_a_corpus_and_says_its_invariants(target: str) -> None:
    assert any((CORPUS / target).iterdir())
    assert "Invariants" in (check_of(target).__doc__ or "")


def test_corpus_belongs_to_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(run.targets())


def test_no_target_imports_a_fuzzer() -> None:
    assert "atheris" not in "".join(path.read_text() for path in (run.HERE / "targets").glob("*.py"))


@pytest.mark.parametrize("arguments", [[], ["no_such_target"], ["-runs=1"]], ids=repr)
def test_run_names_the_targets(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(arguments) == 2
    assert "smtp_server" in capsys.readouterr().err


def test_run_without_atheris_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    assert run.main(["smtp_server"]) == 2
    assert capsys.readouterr().err.splitlines() == ["atheris is not installed: pip install 'trio_fcgimail[fuzz]'"]


@pytest.mark.parametrize("target", run.targets())
def test_run_hands_over_dictionary_and_corpus(target: str, tmp_path: Path) -> None:
    arguments = run.libfuzzer_arguments(target, tmp_path)
    assert arguments[-2:] == [str(tmp_path), str(CORPUS / target)]
    named = [Path(argument.removeprefix("-dict=")) for argument in arguments if argument.startswith("-dict=")]
    assert all(path.is_file() for path in named)
    if target == "smtp_server":
        assert [path.name for path in named] == ["smtp.dict"]
