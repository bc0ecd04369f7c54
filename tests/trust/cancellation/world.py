"""A whole server, the application server behind it, a client before it, and what has to hold when one is gone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias, assert_never, final

import structlog.typing
import trio
from trio.testing import MockClock

from tests.certificates import Authority
from tests.trust.cancellation.client import Client, GoneError
from tests.trust.cancellation.descriptors import descriptors
from tests.trust.cancellation.responder import Manner, Store
from tests.trust.cancellation.timekeeper import keep_time
from tests.trust.cancellation.watch import Watch
from trio_fcgimail.config import LogLevel, LogSettings, Settings
from trio_fcgimail.server import Server, Service, StartError, make_log, serve
from trio_fcgimail.server.entrance import open_entrance
from trio_fcgimail.server.ledger import LocalLedger

_LONG_SECONDS: Final = 3600.0  # of the test's clock: longer than any deadline of the server
_SETTLE_SECONDS: Final = 400.0  # likewise: longer than it leaves any client or connection, idle ones included


class Target(Enum):
    """What is taken away."""

    SERVER = "the whole server is cancelled"
    CONNECTION = "the task of the connection is cancelled, and no other"
    CLIENT = "the client vanishes"
    STOP = "the server is told to stop"
    CUT = "the server is told to end now"
    CALLER = "whoever called the service is cancelled, and no other"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a client does, and with which server.

    Args:
        toml: over the settings of `stage.settings_of`; ``FOLDER`` and ``CERTIFICATE`` stand for those.
        act: what the client does; GoneError ends it.
        before: what somebody else has done the moment before; None for nothing.
        again: what the next one does; None for the same.
        targets: what may be taken away.
        manner: of the application server.
        counts_start: whether its points begin with the start of the server.
        has_threads: whether the server uses any.
        shows: whether a play that nothing was taken from is what it is meant to be.
        receipts: the queue ids of the mails that are safe.
    """

    id: str
    act: Act
    before: Act | None = None
    again: Act | None = None
    toml: str = ""
    targets: tuple[Target, ...] = (Target.SERVER, Target.CONNECTION, Target.CLIENT, Target.STOP, Target.CUT)
    manner: Manner = Manner.KEEPS
    counts_start: bool = False
    has_threads: bool = False
    shows: Callable[[World], bool] = lambda _: True
    receipts: Callable[[World], Iterable[str]] = lambda world: world.store.said


@final
class _Lines:
    """A log that is kept in memory: a file would need a thread."""

    has_reader = False

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell_losses(self, told: Callable[[int], None]) -> None:
        """None is lost."""

    def line(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)

    debug = info = warning = error = critical = exception = line


@final
class World:
    """One play of a scenario.

    Args:
        folder: for sockets and files.
        port: of the application server.
        is_direct: whether the client's connection is served in a task of ours, which can be cancelled alone.

    Attributes:
        problems: what was found, in words.
    """

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        settings: Settings,
        authority: Authority,
        port: int,
        *,
        is_direct: bool,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.authority = authority
        self.store: Store = Store(scenario.manner)
        self.problems: list[str] = []
        self.log = _Lines()
        self.scopes = {target: trio.CancelScope() for target in Target}
        self.watch: Watch | None = None
        self.clients: list[Client] = []  # of the transaction
        self._all_clients: list[Client] = []
        self._scenario = scenario
        self._port = port
        self._is_direct = is_direct
        self._service: Service | None = None
        self._servers: list[Server] = []  # all that there ever were
        self._nursery: trio.Nursery | None = None

    # For scenarios

    @property
    def service(self) -> Service:
        """The server of the embedder."""
        assert self._service is not None, "it is started before anything else"
        return self._service

    async def call(self, work: Callable[[], Awaitable[object]]) -> None:
        """Let a task of its own call the service."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._call, work)
        self._note_servers()

    async def _call(self, work: Callable[[], Awaitable[object]]) -> None:
        assert self.watch is not None
        self.watch.adopt()
        try:
            with self.scopes[Target.CALLER]:
                await work()
        except StartError:
            if not self.service.is_stopping:
                raise

    def strike(self, target: Target) -> None:
        """Take something away, now."""
        match target:
            case Target.SERVER | Target.CONNECTION | Target.CALLER:
                self.scopes[target].cancel()
            case Target.CLIENT:
                for client in self.clients:
                    client.vanish()
            case Target.STOP:
                self.service.stop()
            case Target.CUT:
                self.service.cut()
            case _:
                assert_never(target)

    # The play

    async def main(self, clock: MockClock) -> None:
        """All of it."""
        assert self.watch is not None
        async with trio.open_nursery() as outside:
            outside.start_soon(partial(keep_time, clock, has_threads=self._scenario.has_threads))
            outside.start_soon(self.store.serve, await self.store.open(self.folder / "fcgi", self._port))
            before = descriptors()
            with trio.move_on_after(_LONG_SECONDS) as patience:
                async with trio.open_nursery() as inside:
                    if self._scenario.counts_start:
                        self.watch.arm()
                    await inside.start(self._run_service)
                    self._nursery = inside
                    if self._service is not None:
                        self._note_servers()
                        await self._be_served()
            if patience.cancelled_caught:
                self.problems.append(f"it hangs: {self.watch.tasks()}")
            for client in self.clients:
                client.vanish()
            await trio.sleep(1)
            self._judge_the_end(before)
            self._judge_promises()
            outside.cancel_scope.cancel()

    async def _run_service(self, task_status: trio.TaskStatus[None]) -> None:
        assert self.watch is not None
        self.watch.adopt()
        try:
            with self.scopes[Target.SERVER]:
                async with trio.open_nursery() as nursery:
                    log: structlog.typing.FilteringBoundLogger = make_log(LogSettings(level=LogLevel.DEBUG), self.log)
                    self._service = await nursery.start(partial(serve, self.settings, log=log))
                    task_status.started()
        finally:
            self.watch.release()
            if self._service is None:
                task_status.started()

    async def _be_served(self) -> None:
        assert self.watch is not None
        await trio.sleep(1)
        tasks, files = self.watch.tasks(), descriptors()
        if self._scenario.before is not None:
            await self._scenario.before(self, await self.dial())
        self.watch.arm()
        await self._transact()
        await trio.sleep(_SETTLE_SECONDS)
        self.watch.disarm()
        if self.scopes[Target.SERVER].cancel_called or self.service.is_stopping:
            return
        self._compare("tasks", Counter(tasks), Counter(self.watch.tasks()))
        self._compare("files", files, descriptors())
        self._judge_books()
        if not self.watch.struck and not self._scenario.shows(self):
            self.problems.append("it is not what it is meant to be")
        if len(self.service._servers) != 1:
            self.problems.append(f"{len(self.service._servers)} servers")
        await self._come_again()
        self.service.stop()

    async def _transact(self) -> None:
        try:
            client = await (self._visit() if self._is_direct else self.dial())
            await self._scenario.act(self, client)
        except GoneError:
            pass
        for client in self.clients:
            await client.drain()
            client.vanish()

    async def dial(self) -> Client:
        """Connect by way of the listener. Raises GoneError."""
        try:
            client = Client(await trio.open_unix_socket(self.folder / "smtp"), self.authority)
        except OSError as exc:
            raise GoneError from exc
        self._come(client)
        return client

    def _come(self, client: Client) -> None:
        self.clients.append(client)
        self._all_clients.append(client)

    async def _visit(self) -> Client:
        """Connect by way of a task of ours."""
        ours, theirs = trio.socket.socketpair()
        client = Client(trio.SocketStream(ours), self.authority)
        self._come(client)
        assert self._nursery is not None
        self._nursery.start_soon(self._serve_directly, trio.SocketStream(theirs))
        return client

    async def _serve_directly(self, stream: trio.SocketStream) -> None:
        assert self.watch is not None
        self.watch.adopt()
        entrance = open_entrance(self.settings, self.settings.listeners[0])
        try:
            with self.scopes[Target.CONNECTION]:
                await self._servers[-1]._serve_connection(entrance, stream)
        finally:  # as trio.serve_listeners does
            await trio.aclose_forcefully(stream)

    async def _come_again(self) -> None:
        """Whatever has happened, the next mail is taken."""
        self.clients.clear()
        try:
            client = await self.dial()
            await (self._scenario.again or self._scenario.act)(self, client)
        except GoneError as exc:
            self.problems.append(f"the next mail is not taken: {exc}")
        if not any(client.promised for client in self.clients):
            self.problems.append("the next mail is not promised")
        for client in self.clients:
            await client.drain()
            client.vanish()

    # The judgement

    def _note_servers(self) -> None:
        for server in self.service._servers:
            if server not in self._servers:
                self._servers.append(server)

    def _compare(self, what: str, before: Counter[str], after: Counter[str]) -> None:
        if before != after:
            self.problems.append(f"{what} left over: {dict(after - before)}, missing: {dict(before - after)}")

    def _judge_the_end(self, files: Counter[str]) -> None:
        assert self.watch is not None
        self._compare("tasks at the end", Counter(), Counter(self.watch.tasks()))
        self._compare("files at the end", files, descriptors())
        self._judge_books()
        if self.store.connections:
            self.problems.append(f"{self.store.connections} connections left to the application server")
        if left := sorted(path.name for path in self.folder.iterdir() if path.name not in ("fcgi", "spool", "mail")):
            self.problems.append(f"left in the folder: {left}")
        if left := [path.name for path in (self.folder / "spool").iterdir()]:
            self.problems.append(f"left in the spool: {left}")
        if left := [path.name for path in (self.folder / "mail").glob("*/tmp/*")]:
            self.problems.append(f"left in a maildir: {left}")

    def _judge_promises(self) -> None:
        safe = set(self._scenario.receipts(self))
        for client in self._all_clients:
            if lies := sorted(set(client.promised) - safe):
                self.problems.append(f"250 without a verdict: {lies}")

    def _judge_books(self) -> None:
        for number, server in enumerate(self._servers):
            for name, count in _books(server):
                if count:
                    self.problems.append(f"books of server {number}: {name} {count}")
        if self._service is not None and (leased := +self._service._budget.open):
            self.problems.append(f"leased for ever: {leased}")


def _books(server: Server) -> Iterator[tuple[str, float]]:
    """What has to be nought when nobody is served."""
    gateway, doorman = server._gateway, server._doorman
    yield "sessions", len(server._sessions)
    yield "turned away", len(doorman.turned_away) + len(doorman._headers_awaited) + doorman._polite_refusals
    yield "open connections", gateway.counts.open_connections
    yield "octets in the spool", gateway.room.used_octets
    assert isinstance(gateway.ledger, LocalLedger)
    yield "accounts", gateway.ledger._accounts._connections
    yield "handshakes", len(gateway.handshakes._scopes)
    yield "alarms", sum(alarm.due < math.inf for _, _, alarm in gateway.alarms._heap)
    pool = gateway.scripts._pool
    yield "streams", len(pool._streams) + len(pool._wires)
    yield "waiters", len(pool._waiters)
    snapshot = pool.snapshot()
    yield "requests that wait", sum(snapshot.waiting.values())
    yield "upstream connections", sum(upstream.open for upstream in snapshot.upstreams)
    yield "requests of the planner", len(pool._planner._requests)


Act: TypeAlias = Callable[[World, Client], Awaitable[None]]
