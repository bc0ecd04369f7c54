"""The parent: binds, starts children, replaces those that die, and hands over to others when the settings change.

The nursery tree::

    Supervisor.run
    └── generations (nursery)
        ├── _run_generation ...     a nursery for each set of settings; one is current, older ones are on their way out
        │   └── _keep_child ...     starts a child, waits for its end, starts it anew
        └── steering (nursery)      left at the stop
            └── _reload_when_asked  one reload at a time; one more that is asked for meanwhile is remembered
"""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, assert_never, final

import msgspec
import structlog.typing
import trio

from trio_fcgimail.config import ConfigErrors, ListenAddress, ListenerSettings, Settings
from trio_fcgimail.server.app import Ending
from trio_fcgimail.server.entrance import open_entrance
from trio_fcgimail.server.listeners import ListenError, bound_address, close_listener, open_listeners
from trio_fcgimail.server.workers.channel import (
    Channel,
    Cut,
    Failed,
    Ready,
    Reopen,
    Retire,
    Start,
    Stop,
    ToChild,
    ToParent,
)
from trio_fcgimail.server.workers.child import EXIT_CUT
from trio_fcgimail.server.workers.rights import Identity, RightsError, find_identity

START_SECONDS: Final = 60.0  # ours: a Python that has not come up by then never will
GRACE_SECONDS: Final = 10.0  # ours: beyond drain_seconds, before a child that does not end is killed
_FIRST_PAUSE_SECONDS: Final = 0.5  # before a child that died is replaced; doubled each time
_LONGEST_PAUSE_SECONDS: Final = 30.0
_STEADY_SECONDS: Final = 60.0  # who lived so long did not die of the start

_DECODER: Final = msgspec.msgpack.Decoder(ToParent)
# The child finds modules where we found them, and nowhere else: not in the current folder.
_CODE: Final = "import sys; sys.path[:] = {path!r}; from trio_fcgimail.server.workers.child import main; main()"

_Key = tuple[ListenAddress, int]  # with a number, as port 0 may stand there several times


@final
class _Child:
    """One process that was told what to serve."""

    def __init__(self, number: int, process: trio.Process, channel: Channel) -> None:
        self.number = number
        self.process = process
        self.channel = channel


@final
class _Generation:
    """The children of one set of settings."""

    def __init__(self, settings: Settings, identity: Identity | None) -> None:
        self.settings = settings
        self.identity = identity
        self.children: set[_Child] = set()
        self.ending = trio.Event()  # no child is to be replaced any more
        self.farewell: Retire | Stop = Stop()

    async def tell(self, message: ToChild) -> None:
        """Tell all children."""
        for child in list(self.children):
            await child.channel.send(message)

    async def end(self, farewell: Retire | Stop) -> None:
        """Have the children accept no more, and end once their clients are gone."""
        self.farewell = farewell
        self.ending.set()
        await self.tell(farewell)


@final
class Supervisor:
    """Serves a configuration by children, and by others once it has changed.

    Args:
        settings: checked.
        log: where the parent's own lines go.
        reread: gives the settings anew for a reload. Raises ConfigErrors when they are wrong.

    Attributes:
        lost: how many children died before their time.
        reloads: how many times others have taken over.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        log: structlog.typing.FilteringBoundLogger,
        reread: Callable[[], Settings],
    ) -> None:
        self.lost = 0
        self.reloads = 0
        self._settings = settings
        self._log = log
        self._reread = reread
        self._sockets: dict[_Key, list[trio.SocketListener]] = {}
        self._generations: list[_Generation] = []  # the current one last
        self._reload_asked = trio.Event()
        self._stopping = trio.Event()
        self._ending = Ending.DRAINED
        self._nursery: trio.Nursery | None = None

    # From outside

    @property
    def is_stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Begin to end: no new connection, 421 between two transactions, ``drain_seconds`` for those under way."""
        self._stopping.set()

    def cut(self) -> None:
        """End now: transactions under way are answered 421, or 451 when their verdict is still awaited."""
        self._stopping.set()
        self._tell_all(Cut())

    def reload(self) -> None:
        """Read the settings anew, and hand over to children that have them."""
        self._reload_asked.set()

    def reopen_logs(self) -> None:
        """Have the children open their log files anew."""
        self._tell_all(Reopen())

    def _tell_all(self, message: ToChild) -> None:
        if self._nursery is not None:
            for generation in self._generations:
                self._nursery.start_soon(generation.tell, message)

    async def run(
        self, *, task_status: trio.TaskStatus[tuple[ListenAddress, ...]] = trio.TASK_STATUS_IGNORED
    ) -> Ending:
        """Serve until stopped.

        Args:
            task_status: told the addresses once the children accept.

        Raises:
            ListenError: an address cannot be listened on, a certificate cannot be used, or a child does not start.
            RightsError: the user or group cannot be.
        """
        identity = find_identity(self._settings.user, self._settings.group)
        try:
            await self._bind(self._settings)
            async with trio.open_nursery() as generations:
                await generations.start(self._run_generation, self._settings, identity)
                addresses = tuple(self._addresses())
                self._log.info("listening", addresses=", ".join(map(str, addresses)))
                task_status.started(addresses)
                self._nursery = generations
                async with trio.open_nursery() as steering:
                    steering.start_soon(self._reload_when_asked, generations)
                    await self._stopping.wait()
                    steering.cancel_scope.cancel()
                self._close(set(self._sockets))
                for generation in self._generations:
                    await generation.end(Stop())
        finally:
            self._nursery = None
            self._close(set(self._sockets))
        self._log.info("stopped", ending=self._ending.value)
        return self._ending

    # Sockets

    def _addresses(self) -> Iterator[ListenAddress]:
        for sockets in self._sockets.values():
            yield from map(bound_address, sockets)

    async def _bind(self, settings: Settings) -> set[_Key]:
        """Listen on what is not listened on yet; returns that. Raises ListenError, and then nothing has changed."""
        added: set[_Key] = set()
        try:
            for key, listener in _keyed(settings):
                open_entrance(settings, listener)  # a certificate is looked at before anybody is asked to serve it
                if key not in self._sockets:
                    self._sockets[key] = await open_listeners(listener)
                    added.add(key)
        except ListenError:
            self._close(added)
            raise
        return added

    def _close(self, keys: set[_Key]) -> None:
        for key in keys:
            for one in self._sockets.pop(key):
                close_listener(one)

    # Change

    async def _reload_when_asked(self, generations: trio.Nursery) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked = trio.Event()  # asked for once more from now on, it is done once more
            await self._reload(generations)

    async def _reload(self, generations: trio.Nursery) -> None:
        """Hand over to a new generation; when anything is wrong with it, nothing changes."""
        try:
            settings = self._reread()
        except ConfigErrors as exc:
            for error in exc.errors:
                self._log.error("not reloaded", problem=str(error))
            return
        added: set[_Key] = set()
        problems: list[str] = []
        try:
            identity = find_identity(settings.user, settings.group)
            added = await self._bind(settings)
            await generations.start(self._run_generation, settings, identity)
        except* (ListenError, RightsError) as group:
            problems = [str(exc) for exc in _leaves(group)]
        if problems:
            self._close(added)
            self._log.error("not reloaded", problem="; ".join(problems))
            return
        self.reloads += 1
        *old, _ = self._generations
        for generation in old:
            if not generation.ending.is_set():
                await generation.end(Retire())
        self._close(set(self._sockets) - {key for key, _ in _keyed(settings)})
        self._settings = settings
        self._log.info("reloaded", addresses=", ".join(map(str, self._addresses())))

    # Children

    async def _run_generation(
        self, settings: Settings, identity: Identity | None, *, task_status: trio.TaskStatus[None]
    ) -> None:
        generation = _Generation(settings, identity)
        self._generations.append(generation)
        try:
            async with trio.open_nursery() as children:
                async with trio.open_nursery() as starting:
                    for number in range(1, settings.workers + 1):
                        starting.start_soon(children.start, self._keep_child, generation, number)
                task_status.started()
        finally:
            self._generations.remove(generation)

    async def _keep_child(self, generation: _Generation, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        """Have a child serve, and replace it when it dies. Raises ListenError when the first one does not start."""
        pause = _FIRST_PAUSE_SECONDS
        await self._run_child(generation, number, task_status)
        while not generation.ending.is_set():
            self.lost += 1
            with trio.move_on_after(pause):
                await generation.ending.wait()
                return
            began = trio.current_time()
            try:
                await self._run_child(generation, number, trio.TASK_STATUS_IGNORED)
            except ListenError as exc:
                self._log.error("worker does not start", worker=number, problem=str(exc))
            steady = trio.current_time() - began >= _STEADY_SECONDS
            pause = _FIRST_PAUSE_SECONDS if steady else min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _run_child(self, generation: _Generation, number: int, task_status: trio.TaskStatus[None]) -> None:
        """One child, from its start to its end. Raises ListenError when it does not come to serve."""
        settings = generation.settings
        sockets = [[one.socket.fileno() for one in self._sockets[key]] for key, _ in _keyed(settings)]
        process, channel = await _spawn([descriptor for one in sockets for descriptor in one])
        child = _Child(number, process, channel)
        try:
            await channel.send(_start_message(number, generation, sockets))
            generation.children.add(child)
            await _await_ready(channel)
            if generation.ending.is_set():  # which it was not told of before it had started
                await channel.send(generation.farewell)
            task_status.started()
            await self._outlive(generation, child)
        finally:
            generation.children.discard(child)
            with trio.CancelScope(shield=True):  # a process that was killed is over at once
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                await channel.aclose()

    async def _outlive(self, generation: _Generation, child: _Child) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._kill_in_time, generation, child)
            code = await child.process.wait()
            nursery.cancel_scope.cancel()
        if not generation.ending.is_set():
            self._log.error("worker died", worker=child.number, status=code)
        elif code == EXIT_CUT:
            self._ending = Ending.CUT
        elif code != 0:
            self._log.error("worker failed at its end", worker=child.number, status=code)
            self._ending = Ending.CUT

    async def _kill_in_time(self, generation: _Generation, child: _Child) -> None:
        """A child ends by itself after ``drain_seconds``; one that does not is past listening."""
        await generation.ending.wait()
        await trio.sleep(generation.settings.drain_seconds + GRACE_SECONDS)
        self._log.error("worker does not end; killing it", worker=child.number)
        child.process.kill()


def _keyed(settings: Settings) -> Iterator[tuple[_Key, ListenerSettings]]:
    seen: Counter[ListenAddress] = Counter()
    for listener in settings.listeners:
        yield (listener.address, seen[listener.address]), listener
        seen[listener.address] += 1


async def _spawn(descriptors: list[int]) -> tuple[trio.Process, Channel]:
    """Start a child that has these file descriptors, and one end of a channel. Raises ListenError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-c", _CODE.format(path=sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *descriptors],
                process_group=0,  # a signal of the terminal is for us, and we tell the children
            )
        except OSError as exc:
            ours.close()
            raise ListenError(f"cannot start a worker: {exc.strerror}") from exc
    ours.setblocking(False)
    return process, Channel(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))


def _start_message(number: int, generation: _Generation, sockets: list[list[int]]) -> Start:
    settings = pickle.dumps(generation.settings)
    if (identity := generation.identity) is None:
        return Start(number, settings, sockets)
    return Start(number, settings, sockets, identity.uid, identity.gid, identity.user)


async def _await_ready(channel: Channel) -> None:
    """Raises ListenError when the child cannot serve, or does not say that it can."""
    with trio.move_on_after(START_SECONDS):
        match await channel.receive(_DECODER):
            case Ready():
                return
            case Failed(problem=problem):
                raise ListenError(problem)
            case None:
                raise ListenError("a worker ended before it was ready")
            case message:
                assert_never(message)
    raise ListenError(f"a worker was not ready within {START_SECONDS:g} s")


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
