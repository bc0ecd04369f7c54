"""What a run shows: one table, and one plot as an SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Final

from rich.table import Table

from benchmarks.summary import Row, Spread

_LEFT, _WIDTH, _BAR, _GAP, _HEAD = 190, 560, 14, 22, 46
_MOST_SHOWN: Final = 3.0  # times the yardstick; a longer bar is cut, its number stands beside it
_COLOURS: Final = {"ours": "#1f6feb", "sketch": "#8b949e"}
_OTHER_COLOUR: Final = "#c9a227"


def table(rows: Sequence[Row], yardstick: str) -> Table:
    """Medians, and in brackets the least and the most of all rounds."""
    shown = Table(title=f"medians of all rounds (least-most); x = times {yardstick} in the same round")
    for name in ("scenario", "peer"):
        shown.add_column(name, no_wrap=True)
    for name in ("mails/s", "x", "CPU us/mail", "x ", "php", "load", "p50 ms", "x  ", "p99 ms", "peak MiB"):
        shown.add_column(name, justify="right")
    for _, group in groupby(rows, key=lambda row: row.scenario):
        for row in group:
            shown.add_row(*_cells(row))
        shown.add_section()
    return shown


def _cells(row: Row) -> list[str]:
    memory = _number(row.peak_mib)
    if row.idle_kib is not None:
        memory = f"{row.idle_kib.median:.1f} KiB each"
    if row.visits_per_second is not None:
        memory = f"{memory}, {row.visits_per_second.median:,.0f} visits/s"
    peer = row.peer if not row.failures else f"{row.peer} ({row.failures} failures)"
    return [
        row.scenario,
        peer,
        _number(row.rate),
        _ratio(row.rate_ratio),
        _number(row.cpu),
        _ratio(row.cpu_ratio),
        _number(row.cpu_php),
        _number(row.cpu_load),
        _number(row.p50),
        _ratio(row.latency_ratio),
        _number(row.p99),
        memory,
    ]


def _number(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{spread.median:,.0f}" if spread.median >= 100 else f"{spread.median:.3g}"


def _ratio(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f} ({spread.least:.2f}-{spread.most:.2f})"


def plot(rows: Sequence[Row], yardstick: str) -> str:
    """Mails per second as bars, in times of the yardstick, with whiskers from the least to the most."""
    parts: list[str] = []
    y = 0
    drawable = [row for row in rows if row.rate_ratio is not None]
    for scenario, group in groupby(drawable, key=lambda row: row.scenario):
        parts.append(_text(8, y + _HEAD - 18, scenario, bold=True))
        y += _HEAD - 10
        for row in group:
            parts += _bar(y, row)
            y += _GAP
    unit = _LEFT + _WIDTH / _MOST_SHOWN
    lines = f'<line x1="{unit:.0f}" y1="26" x2="{unit:.0f}" y2="{y + 26}" stroke="#57606a" stroke-dasharray="4 3"/>'
    title = _text(8, 18, f"Mails per second, in times of {yardstick} (dashed line); more is better", bold=True)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 110}" height="{y + 40}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    )
    return f'{head}{title}{lines}<g transform="translate(0 10)">{"".join(parts)}</g></svg>\n'


def _bar(y: int, row: Row) -> list[str]:
    spread = row.rate_ratio
    assert spread is not None

    def place(value: float) -> float:
        return _LEFT + min(value, _MOST_SHOWN) / _MOST_SHOWN * _WIDTH

    end, middle = place(spread.median), y + _BAR / 2
    colour = _COLOURS.get(row.peer, _OTHER_COLOUR)
    least, most = f"{place(spread.least):.1f}", f"{place(spread.most):.1f}"
    return [
        _text(24, y + 11, row.peer),
        f'<rect x="{_LEFT}" y="{y}" width="{max(1.0, end - _LEFT):.1f}" height="{_BAR}" fill="{colour}"/>',
        f'<line x1="{least}" y1="{middle}" x2="{most}" y2="{middle}" stroke="black" stroke-width="2"/>',
        _text(place(spread.most) + 8, y + 11, f"{spread.median:.2f}"),
    ]


def _text(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{weight}>{escape(text)}</text>'
