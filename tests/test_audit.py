"""The audit of dependencies finds what it is there for, and does not take silence for an answer."""

import base64
import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.audit import (
    ADVISORIES,
    CANARY,
    PYPROJECT,
    Advisory,
    Package,
    advised,
    audited,
    floors,
    installed,
    needed,
    yanked,
)

TEXT: Final = PYPROJECT.read_text(encoding="utf-8")
REQUIREMENTS: Final = needed(TEXT)
GOOD = Package("planted", "1.0")
BAD = Package("planted", "1.1")


def index(folder: Path) -> list[str]:
    """A registry of two versions, of which the latter is withdrawn; the options of pip that ask it alone."""
    project = folder / "simple" / "planted"
    project.mkdir(parents=True)
    links = []
    for package, mark in ((GOOD, ""), (BAD, ' data-yanked="broken"')):
        name = f"planted-{package.version}-py3-none-any.whl"
        content = {
            "METADATA": f"Metadata-Version: 2.1\nName: planted\nVersion: {package.version}\n",
            "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        with zipfile.ZipFile(project / name, "w") as wheel:
            record = ""
            for file, text in content.items():
                path = f"planted-{package.version}.dist-info/{file}"
                digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
                record += f"{path},sha256={digest},{len(text)}\n"
                wheel.writestr(path, text)
            wheel.writestr(f"planted-{package.version}.dist-info/RECORD", record)
        links.append(f'<a href="{name}"{mark}>{name}</a>')
    page = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>"
    (project / "index.html").write_text(page)
    return ["--isolated", "--no-cache-dir", "--index-url", (folder / "simple").as_uri()]


def report(*vulnerable: Package, good: tuple[Package, ...] = ()) -> list[str]:
    """A program that prints what pip-audit would."""
    found = [{"name": one.name, "version": one.version, "vulns": [{"id": "PYSEC-1"}]} for one in vulnerable]
    found += [{"name": one.name, "version": one.version, "vulns": []} for one in good]
    return [sys.executable, "-c", f"print({json.dumps(json.dumps({'dependencies': found, 'fixes': []}))})"]


def test_what_is_needed_to_serve_is_known() -> None:
    names = {package.name for package in installed(REQUIREMENTS)}
    assert {"trio", "click", "msgspec", "idna", "structlog", "rich", "hypercorn", "starlette", "outcome"} <= names
    assert not names & {"pytest", "ruff", "mypy", "trio-fcgimail"}


def test_neither_installed_nor_lowest_versions_have_advisories() -> None:
    lowest = floors(REQUIREMENTS)
    assert [*advised(installed(REQUIREMENTS)), *advised(lowest)] == []
    assert {package.name for package in lowest} >= {"trio", "idna", "starlette"}


@pytest.mark.parametrize("advisory", ADVISORIES, ids=[advisory.number for advisory in ADVISORIES])
def test_an_old_version_is_found(advisory: Advisory) -> None:
    assert any(advisory.number in found for found in advised([Package(advisory.package, "0.0.1")]))
    assert not any(advisory.number in found for found in advised([Package(advisory.package, advisory.fixed)]))


def test_a_floor_that_lets_a_vulnerable_version_in_is_found() -> None:
    lowest = floors(needed(TEXT.replace('"idna>=3.7"', '"idna>=3.6"')))
    assert list(advised(lowest)) == ["idna==3.6: CVE-2024-3651, fixed in 3.7"]


def test_what_pip_audit_finds_is_found() -> None:
    assert audited([GOOD], report(CANARY, good=(GOOD,))) == []
    assert audited([BAD], report(CANARY, BAD)) == ["planted: PYSEC-1"]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(report(good=(GOOD, CANARY)), id="knows-nothing"),
        pytest.param(report(good=(GOOD,)), id="leaves-out"),
        pytest.param([sys.executable, "-c", "raise SystemExit('no network')"], id="fails"),
        pytest.param([sys.executable, "-c", "print('[]')"], id="other-report"),
        pytest.param(["/nowhere/pip-audit"], id="absent"),
    ],
)
def test_silence_is_no_answer(command: list[str]) -> None:
    assert audited([GOOD], command) is None


def test_a_withdrawn_version_is_found(tmp_path: Path) -> None:
    options = index(tmp_path)
    assert yanked([GOOD], options) == []
    assert yanked([BAD], options) == ["planted==1.1: yanked"]


def test_a_registry_that_is_not_there_finds_nothing(tmp_path: Path) -> None:
    assert yanked([GOOD], ["--isolated", "--index-url", (tmp_path / "none").as_uri()]) is None
