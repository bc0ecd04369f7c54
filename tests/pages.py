"""Reads the tables of the documentation, and says which of the tests and modules that they name do not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.smtp.test_auth import ROWS as AUTH_ROWS
from tests.smtp.test_bdat import ROWS as BDAT_ROWS
from tests.smtp.test_dsn import ROWS as DSN_ROWS
from tests.smtp.test_lmtp import ROWS as LMTP_ROWS
from tests.smtp.test_path_rows import ROWS as PATH_ROWS
from tests.smtp.test_session_rows import ROWS as SESSION_ROWS
from tests.smtp.test_smuggling import AT_START, MARKERS, TRUE_ENDS
from tests.smtp.test_starttls import ROWS as STARTTLS_ROWS
from tests.smtp.test_xclient import ROWS as XCLIENT_ROWS
from tests.transcripts import load

ROOT: Final = Path(__file__).parents[1]
CODE: Final = re.compile(r"`([^`\n]+)`")
TEST: Final = re.compile(r"(?P<path>tests/[\w/-]+\.py)(?:::(?P<function>\w+)|\[(?P<rows>[^\[\]]+)\])?")
MODULE: Final = re.compile(r"[\w/]+\.py")
LINK: Final = re.compile(r"\]\(([\w.-]+\.md)(?:#[\w-]+)?\)")

_ROW_IDS: Final[Mapping[str, frozenset[str]]] = {
    "tests/smtp/test_auth.py": frozenset(row.id for row in AUTH_ROWS),
    "tests/smtp/test_bdat.py": frozenset(row.id for row in BDAT_ROWS),
    "tests/smtp/test_dsn.py": frozenset(row.id for row in DSN_ROWS),
    "tests/smtp/test_lmtp.py": frozenset(row.id for row in LMTP_ROWS),
    "tests/smtp/test_path_rows.py": frozenset(row.id for row in PATH_ROWS),
    "tests/smtp/test_session_rows.py": frozenset(row.id for row in SESSION_ROWS),
    "tests/smtp/test_smuggling.py": frozenset(marker.id for marker in (*MARKERS, *AT_START, *TRUE_ENDS)),
    "tests/smtp/test_starttls.py": frozenset(row.id for row in STARTTLS_ROWS),
    "tests/smtp/test_xclient.py": frozenset(row.id for row in XCLIENT_ROWS),
}
_DIALOGUES: Final = frozenset(f"tests/dialogues/{transcript.name}.txt" for transcript in load())


@dataclass(frozen=True, slots=True)
class Line:
    """A row of one of a page's tables."""

    section: str
    cells: tuple[str, ...]

    @property
    def subjects(self) -> list[str]:
        """The words in code of its first cell: keywords and commands."""
        return CODE.findall(self.cells[0])


def lines(page: str) -> Iterator[Line]:
    """The rows of all tables, each below the heading of its section; what stands above a ruler is a heading."""
    section = ""
    above = ""
    for line in (*page.splitlines(), ""):
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if above.startswith("| ") and not line.startswith("| ---") and not above.startswith("| ---"):
            yield Line(section, tuple(cell.strip() for cell in above.strip("|").split("|")))
        above = line


@cache
def functions(path: str) -> tuple[str, ...]:
    """The functions at the top of a file: pytest runs those of them that are called test."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return tuple(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def problem_of_test(name: str) -> str | None:
    """Why a test that is named cannot be run, or None."""
    if name.startswith("tests/dialogues/"):
        return None if name in _DIALOGUES or name == "tests/dialogues/NAME.txt" else f"no transcript: {name}"
    found = TEST.fullmatch(name)
    if found is None:
        return f"no test: {name}"
    path, function, rows = found["path"], found["function"], found["rows"]
    if path == "tests/FILE.py":  # what the page explains its notation with
        return None
    if not Path(path).name.startswith("test_") or not (ROOT / path).is_file():
        return f"no file of tests: {path}"
    if function is not None and not (function.startswith("test_") and functions(path).count(function) == 1):
        return f"no test: {name}"
    if rows is not None and not {row.strip() for row in rows.split(",")} <= _ROW_IDS.get(path, frozenset()):
        return f"no such row: {name}"
    return None


def names(page: str) -> Iterator[str]:
    """What a page names and does not exist: tests, modules, other pages."""
    for name in CODE.findall(page):
        if name.startswith("tests/"):
            if (problem := problem_of_test(name)) is not None:
                yield problem
        elif MODULE.fullmatch(name) and not (ROOT / "trio_fcgimail" / name).is_file():
            yield f"no module: {name}"
    for target in LINK.findall(page):
        if not (ROOT / "docs" / target).is_file():
            yield f"no page: {target}"
