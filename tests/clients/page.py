"""Writes the table of clients into docs/clients.md: ``python -m tests.clients.page --write``."""

import sys
from pathlib import Path
from typing import Final

from tests.clients.table import CANNOT, ClientName, Feature

PAGE: Final = Path(__file__).parents[2] / "docs" / "clients.md"
BEGIN: Final = "<!-- table of clients: python -m tests.clients.page --write -->"
END: Final = "<!-- end of the table of clients -->"


def render() -> str:
    """The table and, under it, the reasons."""
    reasons = list(dict.fromkeys(why for row in CANNOT.values() for why in row.values()))
    lines = [
        "| client | " + " | ".join(feature.value for feature in Feature) + " |",
        "| --- |" + " --- |" * len(Feature),
    ]
    for name in ClientName:
        cannot = CANNOT[name]
        cells = [f"no ({reasons.index(cannot[one]) + 1})" if one in cannot else "yes" for one in Feature]
        lines.append(f"| {name.value} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. It {why}." for number, why in enumerate(reasons, 1))])


def embed(page: str) -> str:
    """The page with the table of today between the two marks. Raises ValueError when a mark is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{BEGIN!r} and {END!r} must stand in {PAGE.name}")
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.clients.page --write")
    PAGE.write_text(embed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
