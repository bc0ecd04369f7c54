"""docs/security.md names only what exists, leaves no known attack out, and tells the bounds that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Final

import pytest

from tests.config.support import read
from tests.pages import CODE, MODULE, ROOT, Line, lines, names

PAGE: Final = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
BOUNDARIES, BOUNDS, ATTACKS = "What each boundary trusts", "Bounds", "Known attacks"
NUMBER: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,}|GHSA(?:-[0-9a-z]{4})+")
#: What became known of other mail servers up to now, each with a number.
KNOWN: Final = frozenset(
    NUMBER.findall("""
    CVE-2011-0411 CVE-2016-1247 CVE-2017-16943 CVE-2017-16944 CVE-2019-10149 CVE-2019-11043 CVE-2020-7247 CVE-2020-8794
    CVE-2020-28022 CVE-2021-33515 CVE-2021-38371 CVE-2021-38542 CVE-2022-24732 CVE-2022-28220 CVE-2023-51764
    CVE-2023-51765 CVE-2023-51766 CVE-2023-52354 CVE-2024-27305 CVE-2024-34083 CVE-2026-23829 CVE-2026-45185
    GHSA-fpxj GHSA-r553 GHSA-c2c3-pqw5-5p7c
    """)
)
SETTING: Final = re.compile(r"[a-z]+\.[a-z_]+")
EXCEPTION: Final = re.compile(r"#\s*noqa:\s*(S[0-9]{3})(?P<reason>.*)")


def problems(page: str) -> Iterator[str]:
    yield from names(page)
    sections = {BOUNDARIES: 4, BOUNDS: 4, ATTACKS: 5}
    found = set()
    for line in lines(page):
        if line.section not in sections:
            continue
        found.add(line.section)
        if len(line.cells) != sections[line.section] or not all(line.cells):
            yield f"not of this table: {line.cells}"
        elif line.section == BOUNDS:
            yield from settings_of(line)
        elif not any(name.startswith("tests/") for name in CODE.findall(line.cells[-1])):
            yield f"without a test: {line.cells[0]}"
        elif line.section == ATTACKS and not any(MODULE.fullmatch(name) for name in CODE.findall(line.cells[3])):
            yield f"without a module: {line.cells[0]}"
    yield from (f"no table: {section}" for section in sorted(sections.keys() - found))
    yield from (f"no word of {number}" for number in sorted(KNOWN - set(NUMBER.findall(page))))
    yield from (f"unknown: {number}" for number in sorted(set(NUMBER.findall(page)) - KNOWN))


def settings_of(line: Line) -> Iterator[str]:
    """What a row says of settings and of their defaults."""
    settings = read("")
    defaults = line.cells[2].replace(",", "")
    for key in SETTING.findall(line.cells[3]):
        section, name = key.split(".")
        group = getattr(settings, section, None)
        if not is_dataclass(group) or name not in {field.name for field in fields(group)}:
            yield f"no setting: {key}"
            continue
        value = getattr(group, name)
        told = str(int(value)) if isinstance(value, int | float) else "none"
        if told not in re.findall(r"[0-9]+", defaults) and key not in (
            "limits.connections",
            "fastcgi.wait_seconds",
            "spool.total_octets",
        ):
            yield f"the default of {key} is {value}, not {line.cells[2]}"


def test_page_is_true() -> None:
    assert list(problems(PAGE)) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        pytest.param("CVE-2024-34083 ", "", "no word of CVE-2024-34083", id="number"),
        pytest.param("CVE-2011-0411", "CVE-2011-0412", "unknown: CVE-2011-0412", id="other-number"),
        pytest.param("test_smuggling_grid.py`", "test_smuggling_grids.py`", "no file of tests: ", id="file"),
        pytest.param("::test_refused_users`", "::test_refused_user`", "no test: ", id="function"),
        pytest.param("`cli/pidfile.py`", "`cli/pid.py`", "no module: cli/pid.py", id="module"),
        pytest.param("`tests/server/test_spool.py` |", "yes |", "without a test: the spool", id="no-test"),
        pytest.param("| 1000 and 50 |", "| 1000 and 60 |", "the default of limits.connections_per_ip", id="default"),
        pytest.param("`limits.max_received`", "`limits.hops`", "no setting: limits.hops", id="setting"),
        pytest.param("## Bounds", "## Limits", "no table: Bounds", id="table"),
    ],
)
def test_a_page_with_a_lie_is_found_out(old: str, new: str, problem: str) -> None:
    assert old in PAGE
    found = list(problems(PAGE.replace(old, new)))
    assert any(one.startswith(problem) for one in found), found


def test_exceptions_of_the_static_checks_are_listed_and_have_their_reasons() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "trio_fcgimail").rglob("*.py")]
    exceptions = [found for source in sources for found in EXCEPTION.finditer(source)]
    assert all(len(found["reason"].strip(" -()")) > 10 for found in exceptions)
    listed = PAGE[PAGE.index("Each other exception") :]
    assert {found[1] for found in exceptions} == set(re.findall(r"`(S[0-9]{3})` \(", listed))


def test_the_static_checks_find_nothing() -> None:
    """What is left out for the whole package is what the page says."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "S", "--ignore", "S101,S603,S607"]
    done = subprocess.run([*command, str(ROOT / "trio_fcgimail")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_how_to_report_is_where_it_is_looked_for() -> None:
    assert "Report a\nvulnerability" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(SECURITY.md)" in readme
    assert "(docs/security.md)" in readme
