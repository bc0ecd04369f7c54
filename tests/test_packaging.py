"""What is published: a wheel and an sdist, and that the wheel runs where nothing else is installed.

Building and installing needs a package index. Without one these tests are skipped, under CI they fail.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

import pytest

from tests.clients import missing
from trio_fcgimail import __version__

ROOT: Final = Path(__file__).parents[1]
SECONDS: Final = 300
NO_INDEX: Final = ("No matching distribution found", "Could not find a version")


@dataclass(frozen=True, slots=True)
class Built:
    """The two files, the wheel being made from what the sdist holds."""

    wheel: Path
    sdist: Path


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False
    )
    if done.returncode and any(words in done.stdout for words in NO_INDEX):
        missing(f"a package index is needed: {done.stdout.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], folder)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment that has the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("clean")
    _run([sys.executable, "-m", "venv", "venv"], folder)
    programs = folder / "venv" / "bin"
    _run([str(programs / "python"), "-m", "pip", "install", "-q", "--no-compile", str(built.wheel)], folder)
    return programs


def _wheel_names(built: Built) -> set[str]:
    with zipfile.ZipFile(built.wheel) as archive:
        return set(archive.namelist())


def _metadata(built: Built) -> Message:
    with zipfile.ZipFile(built.wheel) as archive:
        return HeaderParser().parsestr(archive.read(f"trio_fcgimail-{__version__}.dist-info/METADATA").decode())


def test_the_wheel_holds_the_package_and_its_licence_and_nothing_else(built: Built) -> None:
    names = _wheel_names(built)
    info = f"trio_fcgimail-{__version__}.dist-info"
    modules = {f"{path.relative_to(ROOT)}" for path in (ROOT / "trio_fcgimail").rglob("*.py")}
    assert modules <= names
    assert "trio_fcgimail/cli/probe.php" in names  # what check --probe-script says to copy
    assert {f"trio_fcgimail/server/status/page/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert {"trio_fcgimail/py.typed", f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"} <= names
    assert {name.split("/")[0] for name in names} == {"trio_fcgimail", info}


def test_the_metadata_says_what_it_is_and_needs(built: Built) -> None:
    metadata = _metadata(built)
    assert (metadata["Name"], metadata["Version"]) == ("trio_fcgimail", __version__)
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {"status", "fuzz", "bench", "test"}
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_sdist_holds_all_that_the_tests_need(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "tests/run", "tests/test_packaging.py"} <= names
    assert {"docs/design.md", "docs/configuration.md"} <= names
    assert {"examples/php/save.php", "examples/php/validate.php", "fuzz/run.py"} <= names
    assert any(name.startswith("fuzz/corpus/") for name in names)
    assert not any("__pycache__" in name or name.startswith((".venv/", ".hypothesis/", ".git/")) for name in names)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("trio-fcgimail",), id="console-script"),
        pytest.param(("python", "-m", "trio_fcgimail"), id="module"),
    ],
)
def test_the_installed_wheel_runs(installed: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    program, *rest = command
    assert _run([str(installed / program), *rest, "version"], tmp_path) == f"trio_fcgimail {__version__}\n"


def test_the_installed_wheel_needs_nothing_more_to_serve(installed: Path, tmp_path: Path) -> None:
    shown = _run([str(installed / "trio-fcgimail"), "serve", "--help"], tmp_path)
    assert "--save" in shown
    _run([str(installed / "python"), "-c", "import trio_fcgimail.demo, trio_fcgimail.server"], tmp_path)


@pytest.mark.parametrize("command", ["serve", "check"])
def test_without_the_extra_the_status_page_names_what_to_install(installed: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "fcgimail.toml").write_text(
        'hostname = "mx.example.com"\nallowed_hosts = ["."]\nlisteners = [{address = "127.0.0.1:0"}]\n'
        'fastcgi = {upstreams = ["unix:/nonexistent"]}\nscripts = {save = "/s.php"}\n'
        'status = {address = "127.0.0.1:0"}\n'
    )
    done = subprocess.run(
        [str(installed / "trio-fcgimail"), command],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    said = " ".join((done.stdout + done.stderr).split())
    assert "needs hypercorn, prometheus_client, starlette, not installed here: pip install hypercorn" in said
    assert "Traceback" not in said
