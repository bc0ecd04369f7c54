"""What goes wrong, and what has to be done to it so that it goes right again."""

import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, assert_never

import trio

from tests.trust.chaos.stage import Stage

_YEAR: Final = 365 * 86_400


class Realm(Enum):
    """What a fault is of. Those of one realm come one after the other, those of several at the same time."""

    PHP = "php-fpm"
    SERVER = "our server"
    SURROUNDINGS = "the machine"


class Fault(Enum):
    """One kind; its realm, and how often it comes beside the others."""

    PHP_CHILD_KILLED = ("a child of php-fpm killed with -9", Realm.PHP, 6)
    PHP_CHILDREN_KILLED = ("all children of php-fpm killed with -9", Realm.PHP, 2)
    PHP_MASTER_KILLED = ("the master of php-fpm killed with -9, started again", Realm.PHP, 2)
    PHP_STOPPED = ("php-fpm stopped for up to 4 s", Realm.PHP, 2)
    PHP_RELOADED = ("php-fpm reloaded", Realm.PHP, 3)
    PHP_SOCKET_MOVED = ("the socket of php-fpm moved away and back", Realm.PHP, 2)
    PHP_SOCKET_REMOVED = ("the socket of php-fpm removed, php-fpm started again", Realm.PHP, 2)
    WORKER_KILLED = ("a worker of ours killed with -9", Realm.SERVER, 5)
    WORKERS_KILLED = ("all workers of ours killed with -9", Realm.SERVER, 2)
    PARENT_KILLED = ("our parent killed with -9, started again", Realm.SERVER, 3)
    ALL_KILLED = ("our parent and workers killed with -9 at once, started again", Realm.SERVER, 2)
    RESTARTED = ("our server stopped by TERM, started again", Realm.SERVER, 1)
    RELOADED = ("HUP with another good file", Realm.SERVER, 4)
    RELOADED_BADLY = ("HUP with a bad file", Realm.SERVER, 3)
    SPOOL_FULL = ("the disk of the spool full", Realm.SURROUNDINGS, 4)
    CLOCK_JUMPED = ("the clock set, by seconds or years, to and fro", Realm.SURROUNDINGS, 4)

    def __init__(self, title: str, realm: Realm, weight: int) -> None:
        self.title = title
        self.realm = realm
        self.weight = weight


@dataclass(slots=True)
class Happening:
    """A fault that was made.

    Attributes:
        began: by the clock of the run, in seconds; ``ended`` likewise.
    """

    fault: Fault
    began: float
    ended: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        return f"{self.began:.3f} to {self.ended:.3f} s: {self.fault.title}{self.note and ', ' + self.note}"


@dataclass(slots=True)
class _Made:
    happening: Happening
    dice: random.Random = field(repr=False)


class Driver:
    """Makes faults.

    Args:
        now: seconds since the beginning of the run.
        tempo: how long faults last: 1 for up to seconds.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        seed: int,
        now: Callable[[], float],
        tempo: float = 1.0,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.happened: list[Happening] = []
        self.left_out = {
            fault: reason
            for fault, reason in {
                Fault.SPOOL_FULL: stage.spool.missing,
                Fault.CLOCK_JUMPED: stage.clock.missing,
            }.items()
            if reason
        }
        self._stage = stage
        self._dice = random.Random(seed)
        self._now = now
        self._tempo = tempo
        self._tell = tell
        self._free = {realm: trio.Semaphore(1) for realm in Realm}

    def plan(self, faults: int) -> Iterator[Fault]:
        """Each kind once, then by their weights."""
        kinds = [fault for fault in Fault if fault not in self.left_out]
        first = self._dice.sample(kinds, len(kinds))
        yield from first[:faults]
        weights = [fault.weight for fault in kinds]
        for _ in range(faults - len(first)):
            yield self._dice.choices(kinds, weights)[0]

    @property
    def begun(self) -> int:
        """How many."""
        return len(self.happened)

    async def run(self, faults: int, keep_pace: Callable[[], Awaitable[None]]) -> None:
        """Make so many, several at a time. Raises StageError, in a group.

        Args:
            keep_pace: returns when the load has come far enough for the next one.
        """
        async with trio.open_nursery() as nursery:
            for fault in self.plan(faults):
                await keep_pace()
                await self._free[fault.realm].acquire()
                happening = Happening(fault, self._now())
                self.happened.append(happening)
                nursery.start_soon(self._make, _Made(happening, random.Random(self._dice.random())))
                await trio.sleep(self._dice.uniform(0, 0.5) * self._tempo)

    async def _make(self, made: _Made) -> None:
        with trio.CancelScope(shield=True):  # what was begun is mended, whatever the hour
            await self._act(made.happening.fault)(made)
        made.happening.ended = self._now()
        self._tell(str(made.happening))
        self._free[made.happening.fault.realm].release()

    def _act(self, fault: Fault) -> Callable[[_Made], Awaitable[None]]:
        match fault:
            case Fault.PHP_CHILD_KILLED | Fault.PHP_CHILDREN_KILLED:
                return self._kill_php_children
            case Fault.PHP_MASTER_KILLED:
                return self._kill_php_master
            case Fault.PHP_STOPPED:
                return self._stop_php
            case Fault.PHP_RELOADED:
                return self._reload_php
            case Fault.PHP_SOCKET_MOVED:
                return self._move_socket
            case Fault.PHP_SOCKET_REMOVED:
                return self._remove_socket
            case Fault.WORKER_KILLED | Fault.WORKERS_KILLED:
                return self._kill_workers
            case Fault.PARENT_KILLED:
                return self._kill_parent
            case Fault.ALL_KILLED:
                return self._kill_all
            case Fault.RESTARTED:
                return self._restart
            case Fault.RELOADED:
                return self._reload
            case Fault.RELOADED_BADLY:
                return self._reload_badly
            case Fault.SPOOL_FULL:
                return self._fill_spool
            case Fault.CLOCK_JUMPED:
                return self._set_clock
            case never:
                assert_never(never)

    async def _wait(self, made: _Made, longest: float) -> None:
        seconds = made.dice.uniform(0.1, 1) * longest * self._tempo
        made.happening.note += f"{seconds:.2f} s "
        await trio.sleep(seconds)

    # php-fpm

    async def _kill_php_children(self, made: _Made) -> None:
        children = self._stage.php.child_pids()
        if made.happening.fault is Fault.PHP_CHILD_KILLED:
            children = children and [made.dice.choice(children)]
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _kill_php_master(self, made: _Made) -> None:
        os.kill(self._stage.php.master_pid, signal.SIGKILL)
        await self._wait(made, 0.5)  # its children go on meanwhile
        await self._start_php_again(made)

    async def _start_php_again(self, made: _Made) -> None:
        await trio.to_thread.run_sync(self._stage.php.stop)
        await self._wait(made, 0.5)
        await trio.to_thread.run_sync(self._stage.php.start)

    async def _stop_php(self, made: _Made) -> None:
        os.killpg(self._stage.php.master_pid, signal.SIGSTOP)
        try:
            await self._wait(made, 4)
        finally:
            os.killpg(self._stage.php.master_pid, signal.SIGCONT)

    async def _reload_php(self, made: _Made) -> None:
        os.kill(self._stage.php.master_pid, signal.SIGUSR2)
        await trio.sleep(0.3)  # deaf meanwhile

    async def _move_socket(self, made: _Made) -> None:
        path = self._stage.php.socket_path
        away = path.with_suffix(".away")
        path.rename(away)
        try:
            await self._wait(made, 3)
        finally:
            away.rename(path)

    async def _remove_socket(self, made: _Made) -> None:
        self._stage.php.socket_path.unlink()
        await self._wait(made, 2)
        await self._start_php_again(made)

    # Our server

    async def _kill_workers(self, made: _Made) -> None:
        workers = self._stage.workers()
        if made.happening.fault is Fault.WORKER_KILLED:
            workers = workers and [made.dice.choice(workers)]
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await trio.sleep(0.5 * self._tempo)

    async def _kill_parent(self, made: _Made) -> None:
        self._stage.kill_parent()
        await self._start(made)

    async def _kill_all(self, made: _Made) -> None:
        self._stage.kill_all()
        await self._start(made)

    async def _restart(self, made: _Made) -> None:
        code = await trio.to_thread.run_sync(self._stage.stop_server)
        made.happening.note += f"exit code {code} "
        await self._start(made)

    async def _start(self, made: _Made) -> None:
        await self._wait(made, 0.5)
        await trio.to_thread.run_sync(self._stage.start_server)

    async def _reload(self, made: _Made) -> None:
        before = self._stage.count_log('"event":"reloaded"')
        self._stage.write_good()
        self._stage.hang_up()
        await trio.to_thread.run_sync(self._stage.wait_for_log, '"event":"reloaded"', before + 1)

    async def _reload_badly(self, made: _Made) -> None:
        before = self._stage.count_log('"event":"not reloaded"')
        made.happening.note = self._stage.write_bad()
        self._stage.hang_up()
        await trio.to_thread.run_sync(self._stage.wait_for_log, '"event":"not reloaded"', before + 1)

    # The machine

    async def _fill_spool(self, made: _Made) -> None:
        self._stage.spool.fill(made.dice.choice((0, 0, 65_536, 1_048_576)))
        try:
            await self._wait(made, 3)
        finally:
            self._stage.spool.clear()

    async def _set_clock(self, made: _Made) -> None:
        offset = made.dice.choice((-1, 1)) * made.dice.choice((1, 3, 90, 3600, 86_400, _YEAR, 8 * _YEAR))
        made.happening.note = f"by {offset} s "
        self._stage.clock.set(offset)
        await self._wait(made, 3)
        if made.dice.random() < 0.5:
            self._stage.clock.set(0)
