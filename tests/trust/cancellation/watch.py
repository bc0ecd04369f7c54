"""Counts the waits of the server's tasks, and strikes at one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Final, final

import trio

PRODUCT: Final = str(Path(__file__).parents[3] / "trio_fcgimail") + "/"

#: A line of the product at which a task waits: the path below ``trio_fcgimail/`` and the number.
Line = tuple[str, int]


class Moment(Enum):
    """When a task is struck."""

    WAITING = "as it waits: the wait ends with Cancelled"
    WOKEN = "as it has just been woken: the wait ends well, and the next one does not begin"


@final
class Watch(trio.abc.Instrument):
    """Counts the points of all tasks that descend from those adopted.

    Args:
        moment: what is counted.
        at: the point to strike at, from 1; None for none.
        strike: called there, once, within the scheduler: must not wait.

    Attributes:
        points: how many went by while armed.
        struck: where the task stood that was struck, in words; "" as long as none was.
        lines: where tasks of the server have waited, each frame of the product counted.
    """

    def __init__(self, moment: Moment, at: int | None, strike: Callable[[], None]) -> None:
        self.points = 0
        self.struck = ""
        self.lines: set[Line] = set()
        self._moment = moment
        self._at = at
        self._strike = strike
        self._tasks: set[trio.lowlevel.Task] = set()
        self._is_armed = False

    def arm(self) -> None:
        """Count from here on."""
        self._is_armed = True

    def disarm(self) -> None:
        """Count no more."""
        self._is_armed = False

    def adopt(self) -> None:
        """The task that runs is one of the server's."""
        self._tasks.add(trio.lowlevel.current_task())

    def release(self) -> None:
        """The task that runs is no more one of them; those that it has started are."""
        self._tasks.discard(trio.lowlevel.current_task())

    def tasks(self) -> list[str]:
        """The names of those that live."""
        return sorted(task.name for task in self._tasks)

    # What Trio calls

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """One more task, of whoever started it."""
        nursery = task.parent_nursery
        if nursery is not None and nursery.parent_task in self._tasks:
            self._tasks.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """One task fewer."""
        self._tasks.discard(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task goes on."""
        if self._moment is Moment.WOKEN and self._is_armed and task in self._tasks:
            self._pass(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task waits, or is over."""
        if self._moment is Moment.WAITING and self._is_armed and task in self._tasks:
            self._pass(task)

    def _pass(self, task: trio.lowlevel.Task) -> None:
        self.points += 1
        if self._at is None:
            self.lines.update(_stands_at(task))
        elif self.points == self._at:
            stack = list(_stands_at(task))
            self.struck = f"{task.name} at " + " < ".join(f"{path}:{line}" for path, line in reversed(stack[-3:]))
            self._strike()


def _stands_at(task: trio.lowlevel.Task) -> Iterator[Line]:
    """The frames of the product that a task waits in, the outermost first."""
    for frame, line in task.iter_await_frames():
        path = frame.f_code.co_filename
        if path.startswith(PRODUCT):
            yield path.removeprefix(PRODUCT), line
