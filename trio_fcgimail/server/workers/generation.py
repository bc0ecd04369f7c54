"""The children of one set of settings, from their start to their end."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

import msgspec
import structlog.typing
import trio

from trio_fcgimail.config import Settings
from trio_fcgimail.server.app import Ending
from trio_fcgimail.server.groups import leaves
from trio_fcgimail.server.listeners import ListenError
from trio_fcgimail.server.workers.channel import (
    AskRelief,
    Begin,
    Channel,
    Cut,
    Failed,
    Ping,
    Pong,
    Ready,
    Retire,
    Start,
    Stop,
    ToChild,
    ToParent,
)
from trio_fcgimail.server.workers.child import EXIT_CUT
from trio_fcgimail.server.workers.desk import Desk, MisuseError
from trio_fcgimail.server.workers.processes import put_away, spawn
from trio_fcgimail.server.workers.rights import Identity
from trio_fcgimail.server.workers.sockets import Sockets

START_SECONDS: Final = 60.0  # ours: a Python that has not come up by then never will
GRACE_SECONDS: Final = 10.0  # ours: beyond drain_seconds, before a child that does not end is killed
SILENCE_SECONDS: Final = 60.0  # ours: a child whose loop stood still for so long has missed all its deadlines
_GOODBYE_SECONDS: Final = 5.0  # for a child whose parent is cancelled
_LAST_WORDS_SECONDS: Final = 1.0  # for what a child that is gone has sent: it is there already
FAREWELL_SECONDS: Final = 3600.0  # ours: for clients of a child that was relieved, who have done nothing wrong
FIRST_REST_SECONDS: Final = 60.0  # ours: so long a child serves before it is relieved; doubled each time
LONGEST_REST_SECONDS: Final = 86_400.0
CALM_SECONDS: Final = 3600.0  # ours: who asks after that, and after twice its rest, was not relieved in vain
_FIRST_PAUSE_SECONDS: Final = 0.5  # before a child that died is replaced; doubled each time
_LONGEST_PAUSE_SECONDS: Final = 30.0
_STEADY_SECONDS: Final = 60.0  # who lived so long did not die of the start

_PROGRAM: Final = "trio_fcgimail.server.workers.child"
_DECODER: Final = msgspec.msgpack.Decoder(ToParent)


@final
class Pauses:
    """How long to wait before a child that died is replaced: the longer, the more have died soon one after another."""

    def __init__(self) -> None:
        self._next = _FIRST_PAUSE_SECONDS

    def after(self, lived: float) -> float:
        """The pause, in seconds, after one that lived for so many seconds."""
        if lived >= _STEADY_SECONDS:
            self._next = _FIRST_PAUSE_SECONDS
        pause, self._next = self._next, min(2 * self._next, _LONGEST_PAUSE_SECONDS)
        return pause


@final
class Rests:
    """How long a child serves before it may be relieved: the longer, the less reliefs have helped.

    What usually goes on in some servers takes as much memory as a crowd leaves behind; a new child has it soon as well.

    Attributes:
        seconds: at present.
    """

    def __init__(self) -> None:
        self.seconds = FIRST_REST_SECONDS

    def relieved_after(self, lived: float) -> None:
        """A child was relieved after so many seconds, and those of the next one follow from it."""
        is_calm = lived >= max(CALM_SECONDS, 2 * self.seconds)
        self.seconds = FIRST_REST_SECONDS if is_calm else min(2 * self.seconds, LONGEST_REST_SECONDS)


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What the children of a generation are to serve.

    Args:
        files: certificates and keys, by their paths.
        identity: whom they become; None to stay who we are.
    """

    settings: Settings
    files: Mapping[str, bytes]
    identity: Identity | None


@final
class _Child:
    """One process that was told what to serve.

    Attributes:
        ready: set once it can serve.
        tired: set once it has asked to be relieved.
        wanting: set once another is to serve in its place.
        leaving: set once it was told to end.
        patience: with what it does until then.
        gone: set once its process has ended.
    """

    def __init__(self, number: int, process: trio.Process, channel: Channel, desk: Desk) -> None:
        self.number = number
        self.holder = desk.join(channel.post)
        self._desk = desk
        self.process = process
        self.channel = channel
        self.began = trio.current_time()
        self.ready = trio.Event()
        self.tired = trio.Event()
        self.wanting = trio.Event()
        self.leaving = trio.Event()
        self.patience = trio.CancelScope()
        self.gone = trio.Event()
        self.is_heard_out = trio.Event()
        self._silent_since: float | None = None

    @property
    def has_answered(self) -> bool:
        return self._silent_since is None

    def has_answered_since(self, then: float) -> bool:
        """Whether no question is open that was asked before."""
        return self._silent_since is None or self._silent_since >= then

    def ping(self, now: float) -> bool:
        """Ask it whether it lives. False when it has been silent for too long."""
        if self._silent_since is None:
            self._silent_since = now
            self.channel.post(Ping())
        return now - self._silent_since <= SILENCE_SECONDS

    def wants_no_more(self) -> None:
        """Nobody can serve in its place. It asks again, or is gone."""
        if not self.gone.is_set():
            self.wanting = trio.Event()

    def leave(self, farewell: Retire | Stop, seconds: float) -> None:
        """Have it accept no more, and end once its clients are gone, which have so many seconds."""
        self.channel.post(farewell)
        self.patience.deadline = min(self.patience.deadline, trio.current_time() + seconds)
        self.leaving.set()

    async def listen(self) -> None:
        """Hear what it says, until it is gone.

        Raises:
            ListenError: it cannot serve any more, or is gone before it is ready.
            MisuseError: it says what it may not.
        """
        while True:
            match await self.channel.receive(_DECODER):
                case Ready():
                    self.ready.set()
                case Failed(problem=problem):
                    raise ListenError(problem)
                case Pong():
                    self._silent_since = None
                case AskRelief():
                    self.tired.set()
                case None:
                    if not self.ready.is_set():
                        raise ListenError("a worker ended before it was ready")
                    return
                case question:
                    self._desk.hear(self.holder, question)


@final
class Generation:
    """The children of one set of settings.

    Args:
        sockets: what they are to serve on.
        desk: answers what they ask.
        died: called when one died before its time.

    Attributes:
        ending: DRAINED, or CUT when sessions had to be.
    """

    def __init__(
        self,
        plan: Plan,
        sockets: Sockets,
        desk: Desk,
        *,
        log: structlog.typing.FilteringBoundLogger,
        died: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.ending = Ending.DRAINED
        self._sockets = sockets
        self._desk = desk
        self._log = log
        self._died = died
        self._children: set[_Child] = set()
        self._begun = trio.Event()
        self._closing = trio.Event()  # no child is to be replaced any more
        self._cutting = trio.Event()
        self._farewell: Retire | Stop = Retire()

    # From outside

    @property
    def is_closing(self) -> bool:
        """Whether its end has begun."""
        return self._closing.is_set()

    @property
    def size(self) -> int:
        """How many processes it has."""
        return len(self._children)

    @property
    def is_alive(self) -> bool:
        """Whether there are children, and all of them have answered the last ping."""
        return bool(self._children) and all(child.has_answered for child in self._children)

    def has_answered_since(self, then: float) -> bool:
        """Whether one child at least is ready, and has no question open that was asked before."""
        return any(child.ready.is_set() and child.has_answered_since(then) for child in self._children)

    def begin(self) -> None:
        """Have all children accept; to be called once ``run`` has started."""
        self._begun.set()
        self.tell(Begin())

    def tell(self, message: ToChild) -> None:
        """Tell all children."""
        for child in self._children:
            child.channel.post(message)

    def ping(self) -> None:
        """Ask all children whether they live, and kill those that do not."""
        now = trio.current_time()
        for child in self._children:
            if child.ready.is_set() and not child.ping(now):
                self._log.error("worker does not answer; killing it", worker=child.number)
                child.process.kill()

    def end(self, farewell: Retire | Stop) -> None:
        """Have the children accept no more, and end once their clients are gone."""
        self._farewell = farewell
        self._closing.set()
        for child in self._children:
            child.leave(farewell, self.plan.settings.drain_seconds)

    def cut(self) -> None:
        """Have the children end now."""
        self._cutting.set()
        self.tell(Cut())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children, and replace them until the end.

        Args:
            task_status: told when all of them are ready; they wait for ``begin``.

        Raises:
            ListenError: one of them does not come to serve.
        """
        async with trio.open_nursery() as children:
            async with trio.open_nursery() as starting:
                for number in range(1, self.plan.settings.workers + 1):
                    starting.start_soon(children.start, self._keep_child, number)
            task_status.started()

    # Children

    async def _keep_child(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        """Have a child serve, and another when it dies or wants to be relieved.

        Raises:
            ListenError: the first one does not start.
        """
        pauses, rests = Pauses(), Rests()
        before: _Child | None = None  # the last one that was relieved
        async with trio.open_nursery() as shifts:
            began = trio.current_time()
            child = await shifts.start(self._run_child, number, before, rests.seconds)
            task_status.started()
            while True:
                await child.wanting.wait()
                if child.gone.is_set():
                    with trio.move_on_after(pauses.after(trio.current_time() - began)):
                        await self._closing.wait()
                else:
                    before = child
                    rests.relieved_after(trio.current_time() - child.began)
                if self.is_closing:
                    return
                began = trio.current_time()
                try:
                    another = await shifts.start(self._run_child, number, before, rests.seconds)
                except* ListenError as group:
                    self._log.error("worker does not start", worker=number, problem=_told(group))
                    child.wants_no_more()
                else:
                    self._relieve(child)
                    child = another

    def _relieve(self, child: _Child) -> None:
        """Another serves in its place, if it has not left it already."""
        if not (child.gone.is_set() or self.is_closing):
            self._log.info("worker relieved", worker=child.number)
            child.leave(Retire(FAREWELL_SECONDS), FAREWELL_SECONDS)

    async def _run_child(
        self, number: int, before: _Child | None, rest_seconds: float, *, task_status: trio.TaskStatus[_Child]
    ) -> None:
        """One child, from its start to its end.

        Args:
            before: the last one that was relieved.
            rest_seconds: how long it serves before it is relieved.
            task_status: told the child once it is ready.

        Raises:
            ListenError: it does not come to serve; in a group.
        """
        try:
            with self._handed_down() as sockets:
                process, channel = await spawn(_PROGRAM, [descriptor for several in sockets for descriptor in several])
        except OSError as exc:
            raise ListenError(f"cannot start a worker: {exc.strerror}") from exc
        channel.post(_start_message(number, self.plan, sockets, rest_seconds))  # before the desk posts anything
        child = _Child(number, process, channel, self._desk)
        self._children.add(child)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.write_out)
                nursery.start_soon(self._listen, child)
                with trio.move_on_after(START_SECONDS):
                    await child.ready.wait()
                if not child.ready.is_set():
                    raise ListenError(f"a worker was not ready within {START_SECONDS:g} s")
                self._greet(child)
                task_status.started(child)
                nursery.start_soon(self._kill_in_time, child)
                nursery.start_soon(_want_relief_in_time, child, before, rest_seconds)
                code = await process.wait()
                with trio.move_on_after(_LAST_WORDS_SECONDS):
                    await child.is_heard_out.wait()
                nursery.cancel_scope.cancel()
            self._judge(child, code)
        finally:
            self._children.discard(child)
            child.gone.set()
            child.wanting.set()
            self._desk.leave(child.holder)
            await put_away(process, channel, _GOODBYE_SECONDS if self._begun.is_set() else 0)

    async def _listen(self, child: _Child) -> None:
        try:
            await child.listen()
        except ListenError as exc:
            if not child.ready.is_set():
                raise
            self._log.error("worker failed", worker=child.number, problem=str(exc))
            child.process.kill()
        except (msgspec.DecodeError, MisuseError) as exc:
            self._log.error("worker not understood; killing it", worker=child.number, problem=str(exc))
            child.process.kill()
        finally:
            child.is_heard_out.set()

    def _greet(self, child: _Child) -> None:
        """What it was not told of, as it had not started."""
        if self._begun.is_set():
            child.channel.post(Begin())
        if self._closing.is_set():
            child.leave(self._farewell, self.plan.settings.drain_seconds)
        if self._cutting.is_set():
            child.channel.post(Cut())

    def _judge(self, child: _Child, code: int) -> None:
        """What the end of a child means."""
        if not child.leaving.is_set():
            self._log.error("worker died", worker=child.number, status=code)
            self._died()
            return
        if code not in {0, EXIT_CUT}:
            self._log.error("worker failed at its end", worker=child.number, status=code)
        if code != 0 and self.is_closing:
            self.ending = Ending.CUT

    async def _kill_in_time(self, child: _Child) -> None:
        """A child ends by itself once its clients have had their time; one that does not is past listening."""
        await child.leaving.wait()
        with child.patience:
            await self._cutting.wait()
        await trio.sleep(GRACE_SECONDS)
        self._log.error("worker does not end; killing it", worker=child.number)
        child.process.kill()

    @contextmanager
    def _handed_down(self) -> Iterator[list[list[int]]]:
        """Copies of the sockets: those of the parent may be closed while a child starts."""
        copies = [[os.dup(one) for one in several] for several in self._sockets.descriptors(self.plan.settings)]
        try:
            yield copies
        finally:
            for several in copies:
                for one in several:
                    os.close(one)


def _told(group: BaseExceptionGroup[BaseException]) -> str:
    return "; ".join(str(exc) for exc in leaves(group))


async def _want_relief_in_time(child: _Child, before: _Child | None, rest_seconds: float) -> None:
    """Have another serve instead of one that asks: not too soon, and when nobody is leaving for it any more."""
    due = child.began + rest_seconds
    while True:
        await child.tired.wait()
        await trio.sleep_until(due)
        if before is not None:
            await before.gone.wait()
        child.tired = trio.Event()
        child.wanting.set()
        due = trio.current_time() + rest_seconds


def _start_message(number: int, plan: Plan, sockets: list[list[int]], rest_seconds: float) -> Start:
    start = Start(number, pickle.dumps(plan.settings), sockets, dict(plan.files), rest_seconds)
    if (identity := plan.identity) is None:
        return start
    return msgspec.structs.replace(start, uid=identity.uid, gid=identity.gid, user=identity.user)
