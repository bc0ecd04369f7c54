"""Plays scenarios: once to count, then once for each point."""

from __future__ import annotations

import gc
import random
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, final

import trio
from trio.testing import MockClock

from tests.certificates import Authority
from tests.support import settings
from tests.trust.cancellation.watch import Line, Moment, Watch
from tests.trust.cancellation.world import Scenario, Target, World
from trio_fcgimail.config import Settings

_SCHEDULER: Final = "trio._core._run"
_SHARED_MEMORY: Final = Path("/dev/shm")
#: Where syncing costs nothing, if there is such a place.
MEMORY: Final = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None

_BASE: Final = 'spool.directory = "FOLDER/spool"\n'


@final
@dataclass(frozen=True, slots=True)
class Strike:
    """What is taken away, and when.

    Args:
        point: the how-manieth, from 1; 0 for never.
    """

    target: Target
    moment: Moment
    point: int = 0

    def __str__(self) -> str:
        return f"{self.target.name} {self.moment.name} {self.point}"


@final
@dataclass(frozen=True, slots=True)
class Play:
    """What came of one play.

    Attributes:
        points: that went by.
        struck: where the task stood that was struck; "" when the play was over before.
        lines: where tasks waited, of a play without a strike.
        log: of the server.
    """

    points: int
    struck: str
    problems: tuple[str, ...]
    lines: frozenset[Line]
    log: tuple[str, ...]


@final
class Stage:
    """Where plays take place.

    Args:
        folder: empty; on a disk where syncing costs little.
        seed: of the order in which Trio runs what is ready at the same time.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._house = folder / "house"
        self._seed = seed
        self._authority = Authority(folder)
        self._settings: dict[str, Settings] = {}
        with socket.create_server(("127.0.0.1", 0)) as found:
            self._port: int = found.getsockname()[1]

    def play(self, scenario: Scenario, strike: Strike) -> Play:
        """Play it once."""
        for name in ("spool", "mail"):
            (self._house / name).mkdir(parents=True)
        try:
            play = self._play(scenario, strike)
        finally:
            shutil.rmtree(self._house)
        if play.problems:
            _let_go()
        return play

    def _play(self, scenario: Scenario, strike: Strike) -> Play:
        is_direct = strike.target is Target.CONNECTION
        config = self._settings_of(scenario)
        world = World(scenario, self._house, config, self._authority, self._port, is_direct=is_direct)
        watch = world.watch = Watch(strike.moment, strike.point or None, partial(world.strike, strike.target))
        clock = MockClock()
        with warnings.catch_warnings(record=True) as caught, _in_order(self._seed):
            warnings.simplefilter("always")
            trio.run(world.main, clock, clock=clock, instruments=[watch])
        problems = [*world.problems, *dict.fromkeys(str(one.message) for one in caught)]
        return Play(watch.points, watch.struck, tuple(problems), frozenset(watch.lines), tuple(world.log.lines))

    def _settings_of(self, scenario: Scenario) -> Settings:
        if scenario.id not in self._settings:
            toml = (_BASE + scenario.toml).replace("FOLDER", str(self._house)).replace("PORT", str(self._port))
            self._settings[scenario.id] = settings(toml.replace("CERTIFICATE", str(self._authority.certificate)))
        return self._settings[scenario.id]


def _let_go() -> None:
    """What one play has left over is not to be found in the next one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@contextmanager
def _in_order(seed: int) -> Iterator[None]:
    """Have Trio run what is ready at the same time in an order that depends on nothing but the seed.

    It has a switch for that, which Hypothesis uses, but no public name for it.
    """
    scheduler = vars(sys.modules[_SCHEDULER])
    dice: random.Random = scheduler["_r"]
    before, scheduler["_ALLOW_DETERMINISTIC_SCHEDULING"] = scheduler["_ALLOW_DETERMINISTIC_SCHEDULING"], True
    dice.seed(seed)
    try:
        yield
    finally:
        scheduler["_ALLOW_DETERMINISTIC_SCHEDULING"] = before
