"""The parent's side of the status page: a process of its own, started anew when it dies or its settings change.

The page is served by a process that reads the network, so it has no more rights than those that serve mail, and nothing
that happens to it touches them. It asks for how things stand; the parent answers, and keeps the numbers.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import msgspec
import structlog.typing
import trio

from trio_fcgimail.config import ListenerSettings, Settings, TcpAddress
from trio_fcgimail.server.listeners import ListenError, close_listener, open_listeners
from trio_fcgimail.server.workers.channel import Reopen
from trio_fcgimail.server.workers.generation import Pauses
from trio_fcgimail.server.workers.processes import put_away, spawn
from trio_fcgimail.server.workers.report import Look, Report, StatusStart
from trio_fcgimail.server.workers.rights import Identity

#: What the extra ``status`` brings, by the names that are imported.
PACKAGES: Final = ("hypercorn", "prometheus_client", "starlette")
INSTALL: Final = "pip install hypercorn prometheus-client starlette"
FEWEST_CHARACTERS: Final = 8  # ours: of a password
_MOST_CHARACTERS: Final = 1000
_PROGRAM: Final = "trio_fcgimail.server.status.process"
_GOODBYE_SECONDS: Final = 1.0  # it has nothing to bring to an end
_DECODER: Final = msgspec.msgpack.Decoder(Look)


def missing_packages() -> tuple[str, ...]:
    """What the status page needs and is not installed."""
    return tuple(name for name in PACKAGES if importlib.util.find_spec(name) is None)


def check_packages(address: TcpAddress) -> None:
    """Raises ListenError when the extra is not installed."""
    if missing := missing_packages():
        raise ListenError(f"status.address {address} needs {', '.join(missing)}, not installed here: {INSTALL}")


def read_password(path: Path | None) -> str | None:
    """The first line of the file.

    Raises:
        ListenError: it cannot be read, or is no password.
    """
    if path is None:
        return None
    try:
        with path.open(encoding="utf-8") as file:
            password = file.readline(_MOST_CHARACTERS + 1).rstrip("\r\n")
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "no UTF-8"
        raise ListenError(f"status.password_file {path}: {reason}") from exc
    if not FEWEST_CHARACTERS <= len(password) <= _MOST_CHARACTERS or not password.isprintable():
        raise ListenError(
            f"status.password_file {path}: the first line has to be {FEWEST_CHARACTERS} to {_MOST_CHARACTERS} "
            "printable characters"
        )
    return password


@final
@dataclass(frozen=True, slots=True)
class StatusPlan:
    """What the process is to serve.

    Args:
        sockets: listened on; none when nothing is to be served.
    """

    settings: Settings
    sockets: tuple[trio.SocketListener, ...]
    password: str | None
    identity: Identity | None

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to serve."""
        return bool(self.sockets)

    def start_message(self) -> StatusStart:
        """The first message."""
        sockets = [one.socket.fileno() for one in self.sockets]
        start = StatusStart(pickle.dumps(self.settings), sockets, self.password)
        if self.identity is None:
            return start
        identity = self.identity
        return msgspec.structs.replace(start, uid=identity.uid, gid=identity.gid, user=identity.user)


@final
class StatusKeeper:
    """Keeps the process.

    Args:
        report: how things stand, for somebody who knows of so many mails.
    """

    def __init__(self, log: structlog.typing.FilteringBoundLogger, report: Callable[[int], Report]) -> None:
        self._log = log
        self._report = report
        self._plan: StatusPlan | None = None
        self._changed = trio.Event()
        self._reopen = trio.Event()

    async def prepare(self, settings: Settings, identity: Identity | None) -> StatusPlan:
        """What these settings want; to be used, or closed.

        Raises:
            ListenError: it cannot be, and nothing has changed.
        """
        address = settings.status.address
        if address is None:
            return StatusPlan(settings, (), None, identity)
        check_packages(address)
        password = read_password(settings.status.password_file)
        before = self._plan
        if before is not None and before.is_wanted and before.settings.status.address == address:
            return StatusPlan(settings, before.sockets, password, identity)
        sockets = await open_listeners(ListenerSettings(address=address))
        return StatusPlan(settings, tuple(sockets), password, identity)

    def discard(self, plan: StatusPlan) -> None:
        """It is not to be, after all."""
        self._close_but(plan, self._plan)

    def use(self, plan: StatusPlan) -> None:
        """Serve that from here on."""
        before, self._plan = self._plan, plan
        if before is not None:
            self._close_but(before, plan)
        if before != plan:
            self._changed.set()

    def close(self) -> None:
        """Serve nothing any more."""
        if self._plan is not None:
            self._close_but(self._plan, None)
            self._plan = None

    def reopen_logs(self) -> None:
        """Have the process open its log file anew."""
        self._reopen.set()

    @staticmethod
    def _close_but(plan: StatusPlan, kept: StatusPlan | None) -> None:
        for one in plan.sockets:
            if kept is None or one not in kept.sockets:
                close_listener(one)

    async def run(self) -> None:
        """Keep the process as long as one is wanted, until cancelled. Whatever goes wrong ends here."""
        pauses = Pauses()
        while True:
            self._changed = trio.Event()
            plan, began = self._plan, trio.current_time()
            async with trio.open_nursery() as nursery:
                if plan is not None and plan.is_wanted:
                    nursery.start_soon(self._keep, plan, pauses, began)
                await self._changed.wait()
                nursery.cancel_scope.cancel()

    async def _keep(self, plan: StatusPlan, pauses: Pauses, began: float) -> None:
        while True:
            try:
                await self._serve(plan)
            except* Exception as group:  # noqa: BLE001 - mail goes on, whatever it was
                self._log.error("status page failed", exc_info=group)
            await trio.sleep(pauses.after(trio.current_time() - began))
            began = trio.current_time()

    async def _serve(self, plan: StatusPlan) -> None:
        """One process, from its start to its end."""
        process, channel = await spawn(_PROGRAM, [one.socket.fileno() for one in plan.sockets])
        try:
            channel.post(plan.start_message())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.write_out)
                nursery.start_soon(self._tell_to_reopen, channel.post)
                while (look := await channel.receive(_DECODER)) is not None:
                    if channel.is_clear:
                        channel.post(self._report(look.mails_seen))
                nursery.cancel_scope.cancel()
            self._log.error("status page ended; starting it again", status=await process.wait())
        finally:
            await put_away(process, channel, _GOODBYE_SECONDS)

    async def _tell_to_reopen(self, post: Callable[[msgspec.Struct], None]) -> None:
        while True:
            await self._reopen.wait()
            self._reopen = trio.Event()
            post(Reopen())
