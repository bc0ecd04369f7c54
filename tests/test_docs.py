"""What the documentation draws from the code must be what the code says."""

from __future__ import annotations

import pytest

from docs import state_table
from trio_fcgimail.smtp import TRANSITIONS, State


def test_design_page_shows_the_state_table_of_the_code() -> None:
    page = state_table.PAGE.read_text(encoding="utf-8")
    assert page == state_table.embed(page), "run: python docs/state_table.py --write"


def test_table_and_diagram_hold_every_row() -> None:
    lines = state_table.render().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    for state, moves in TRANSITIONS.items():
        assert any(line.startswith(f"| {state.name} |") for line in rows)
        for after in moves.values():
            assert any(line.startswith(f"    {state.name} --> {after.name}:") for line in lines)
    assert len(rows) >= 2 + sum(len(moves) for moves in TRANSITIONS.values())
    assert f"    [*] --> {State.CONNECTED.name}" in lines


@pytest.mark.parametrize(
    "page",
    ["", state_table.BEGIN, state_table.END + state_table.BEGIN, (state_table.BEGIN + state_table.END) * 2],
    ids=["none", "one", "swapped", "twice"],
)
def test_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        state_table.embed(page)


def test_embedding_keeps_the_rest() -> None:
    page = f"a\n{state_table.BEGIN}\nold\n{state_table.END}\nb\n"
    fresh = state_table.embed(page)
    assert fresh.startswith("a\n" + state_table.BEGIN)
    assert fresh.endswith(state_table.END + "\nb\n")
    assert "old" not in fresh
