"""Small plots of growth beside each other, both axes logarithmic, in one SVG file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

Curve = tuple[str, str, Mapping[int, float], float]  # name, unit, microseconds by size, exponent

_COLUMNS: Final = 3
_WIDTH, _HEIGHT = 300, 210  # of one plot, its margins included
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 34, 36


def plot(curves: Sequence[Curve]) -> str:
    """Draw them all; the dashed line through the last point of each is linear growth."""
    rows = -(-len(curves) // _COLUMNS)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_COLUMNS * _WIDTH}" height="{rows * _HEIGHT + 24}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    )
    title = _text(8, 16, "CPU time for more and more of one thing; dashed: linear growth", bold=True)
    parts = [
        f'<g transform="translate({number % _COLUMNS * _WIDTH} {number // _COLUMNS * _HEIGHT + 24})">'
        f"{''.join(_draw(curve))}</g>"
        for number, curve in enumerate(curves)
    ]
    return f"{head}{title}{''.join(parts)}</svg>\n"


def _draw(curve: Curve) -> list[str]:
    name, unit, costs, exponent = curve
    sizes = sorted(costs)
    low, high = sizes[0], sizes[-1]
    bottom, top = min(costs.values()), max(costs.values())

    def x(size: float) -> float:
        return _LEFT + _share(size, low, high) * (_WIDTH - _LEFT - _RIGHT)

    def y(cost: float) -> float:
        return _HEIGHT - _BOTTOM - _share(cost, bottom, top) * (_HEIGHT - _TOP - _BOTTOM)

    # Where linear growth through the last point leaves the plot below
    begin = max(low, high * bottom / costs[high])
    linear = (x(begin), y(costs[high] * begin / high), x(high), y(costs[high]))
    path = " ".join(f"{x(size):.1f},{y(costs[size]):.1f}" for size in sizes)
    return [
        _text(_LEFT, 14, f"{name}: exponent {exponent:.2f}", bold=True),
        f'<path d="M{_LEFT} {_TOP - 8}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}" fill="none" stroke="#8b949e"/>',
        '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#c9a227" stroke-dasharray="4 3"/>'.format(
            *linear
        ),
        f'<polyline points="{path}" fill="none" stroke="#1f6feb" stroke-width="2"/>',
        *(f'<circle cx="{x(size):.1f}" cy="{y(costs[size]):.1f}" r="2.5" fill="#1f6feb"/>' for size in sizes),
        _text(_LEFT - 4, y(top) + 4, _time(top), anchor="end"),
        _text(_LEFT - 4, y(bottom) + 4, _time(bottom), anchor="end"),
        _text(_LEFT, _HEIGHT - 20, f"{low:,}"),
        _text(_WIDTH - _RIGHT, _HEIGHT - 20, f"{high:,}", anchor="end"),
        _text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, unit, anchor="middle"),
    ]


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, on a logarithmic scale; 0 when there is nothing between them."""
    return math.log(value / low) / math.log(high / low) if high > low else 0.0


def _time(microseconds: float) -> str:
    if microseconds >= 1000:
        return f"{microseconds / 1000:.3g} ms"
    return f"{microseconds:.3g} us"


def _text(x: float, y: float, text: str, *, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
