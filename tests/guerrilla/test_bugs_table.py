"""docs/migrating.md tells of the same bugs as the tests, and names tests that there are."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
NUMBERS: Final = list(range(1, 43))
_ROW: Final = re.compile(
    r"^\| (\d+) \| .+ \| .+ \| `(tests/guerrilla/\w+\.py)::(test_bug_(\d\d)_\w+)` \|$", re.MULTILINE
)
_TEST: Final = re.compile(r"^(?:async )?def (test_bug_(\d\d)_\w+)\(", re.MULTILINE)


def _rows() -> list[tuple[str, str, str, str]]:
    found: list[tuple[str, str, str, str]] = _ROW.findall((ROOT / "docs" / "migrating.md").read_text())
    return found


def test_the_table_has_every_bug_once_and_in_order() -> None:
    assert [int(number) for number, *_ in _rows()] == NUMBERS


def test_the_tests_have_the_same_numbers() -> None:
    files = (ROOT / "tests" / "guerrilla").glob("test_bugs_*.py")
    numbers = {int(number) for path in files for _, number in _TEST.findall(path.read_text())}
    assert sorted(numbers) == NUMBERS


def test_each_row_names_a_test_of_its_number() -> None:
    for number, path, name, number_of_test in _rows():
        assert int(number) == int(number_of_test)
        assert name in [one for one, _ in _TEST.findall((ROOT / path).read_text())], name
