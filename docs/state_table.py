"""Print the state table of the SMTP core as Markdown; ``python docs/state_table.py --write`` puts it in design.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from trio_fcgimail.smtp import ANYWHERE, COMMAND_STATES, TRANSITIONS, Outcome, State, Verb

PAGE: Final = Path(__file__).with_name("design.md")
BEGIN: Final = "<!-- state table: begin -->"
END: Final = "<!-- state table: end -->"

_SYMBOLS: Final = {Outcome.OK: "2xx", Outcome.GO: "3xx", Outcome.NO: "4xx, 5xx", Outcome.CLOSE: "421, 521"}


def _answered_anywhere(state: State) -> str:
    return ", ".join(verb.value for verb in Verb if verb in ANYWHERE) if state in COMMAND_STATES else ""


def _table() -> Iterator[str]:
    yield "| state | meaning | command | reply | leads to |"
    yield "| --- | --- | --- | --- | --- |"
    for state, rows in TRANSITIONS.items():
        first = f"| {state.name} | {state.value} |"
        for (verb, outcome), after in rows.items():
            yield f"{first} {verb.value} | {_SYMBOLS[outcome]} | {after.name} |"
            first = "| | |"
        if here := _answered_anywhere(state):
            yield f"{first} {here} | 2xx | {state.name} |"
        elif not rows:
            yield f"{first} | | |"


def _diagram() -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {State.CONNECTED.name}"
    for state, rows in TRANSITIONS.items():
        ways: dict[State, list[str]] = {}
        for (verb, outcome), after in rows.items():
            ways.setdefault(after, []).append(f"{verb.value} {_SYMBOLS[outcome]}")
        for after, labels in ways.items():
            yield f"    {state.name} --> {after.name}: {'<br/>'.join(labels)}"
    yield f"    {State.CLOSED.name} --> [*]"
    yield "```"


def render() -> str:
    """The table, the rules that need no row, and the diagram."""
    return "\n".join(
        [
            *_table(),
            "",
            "A refusal (4xx, 5xx) moves nothing but where a row says so; 421 and 521 close from everywhere; a command",
            "without a row is 503.",
            "",
            *_diagram(),
        ]
    )


def embed(page: str) -> str:
    """``page`` with what stands between the two marks replaced. Raises ValueError when the marks are not there once."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"{BEGIN!r} and {END!r} must stand in the page, once each and in this order")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Print, or write with ``--write``."""
    parser = argparse.ArgumentParser(description="the state table of the SMTP core as Markdown")
    parser.add_argument("--write", action="store_true", help=f"replace it in {PAGE.name}")
    if not parser.parse_args(arguments).write:
        print(render())
        return 0
    try:
        PAGE.write_text(embed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, ValueError) as exc:
        print(f"{PAGE}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
