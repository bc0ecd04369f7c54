"""All points of scenarios, or a part of them, struck in turn."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from tests.trust.cancellation.stage import Play, Stage, Strike
from tests.trust.cancellation.watch import PRODUCT, Line, Moment
from tests.trust.cancellation.world import Scenario, Target


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """A play after which something was not as it has to be."""

    scenario: str
    strike: Strike
    play: Play

    def __str__(self) -> str:
        return f"{self.scenario} {self.strike}, {self.play.struck or 'nothing struck'}: {'; '.join(self.play.problems)}"


@final
@dataclass(slots=True)
class Tally:
    """What came of a campaign.

    Attributes:
        points: that there are.
        plays: in which one of them was struck.
        missed: that were over before; where threads are at work a play is not quite like the other.
        lines: at which tasks of the server have waited.
    """

    points: int = 0
    plays: int = 0
    missed: int = 0
    findings: list[Finding] = field(default_factory=list)
    lines: set[Line] = field(default_factory=set)


def campaign(
    stage: Stage, scenarios: Iterable[Scenario], tally: Tally, *, step: int = 1, first: int = 1
) -> Iterator[Scenario]:
    """Play them, and give each that is done.

    Args:
        tally: to which all is added.
        step: every how-manieth point is struck.
        first: the first of them, from 1 to ``step``; each list of points begins with another.
    """
    for scenario in scenarios:
        wholes: dict[tuple[bool, Moment], Play] = {}
        for target in scenario.targets:
            for moment in Moment:
                kind = (target is Target.CONNECTION, moment)
                if kind not in wholes:
                    wholes[kind] = _play(stage, scenario, Strike(target, moment), tally)
                whole = wholes[kind]
                tally.points += whole.points
                tally.lines |= whole.lines
                start = (first - 1) % max(1, min(step, whole.points)) + 1  # no list is too short to have its turn
                for point in range(start, whole.points + 1, step):
                    struck = _play(stage, scenario, Strike(target, moment, point), tally)
                    tally.plays += 1
                    tally.missed += not struck.struck
                first = first % step + 1
        yield scenario


def _play(stage: Stage, scenario: Scenario, strike: Strike, tally: Tally) -> Play:
    try:
        play = stage.play(scenario, strike)
    except Exception:  # noqa: BLE001 - what the server raises is a finding like any other
        play = Play(0, "?", (traceback.format_exc(),), frozenset(), ())
    if play.problems:
        tally.findings.append(Finding(scenario.id, strike, play))
    return play


def awaits(path: str) -> Iterator[Line]:
    """The lines of a module of the product at which something is awaited."""
    tree = ast.parse(Path(PRODUCT, path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield path, node.lineno
