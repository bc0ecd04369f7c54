"""docs/conformance.md is what the tables of the tests say, has every point, and names no test that is not there."""

from __future__ import annotations

import re

from docs import conformance_table
from tests.pages import problem_of_test


def test_the_page_is_that_of_the_tables() -> None:
    page = conformance_table.PAGE.read_text(encoding="utf-8")
    assert page == conformance_table.render(), "run: python -m docs.conformance_table --write"


def test_every_point_is_met_and_none_is_unknown() -> None:
    shown = set(conformance_table.rows_by_point())
    assert shown | set(conformance_table.OTHERS) == set(conformance_table.POINTS)
    assert not shown & set(conformance_table.OTHERS)


def test_every_test_it_names_is_there() -> None:
    names = re.findall(r"`(tests/[^`]+)`", conformance_table.render())
    assert len(names) == len(conformance_table.POINTS)
    assert [problem for name in names if (problem := problem_of_test(name)) is not None] == []
