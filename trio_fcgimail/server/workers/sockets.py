"""What the parent listens on: kept while the settings name it, handed to children by its file descriptors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import final

import trio

from trio_fcgimail.config import BoundAddress, ListenerSettings, Settings, SystemdAddress
from trio_fcgimail.server.listeners import (
    ListenerKey,
    ListenError,
    bound_address,
    change_rights,
    close_listener,
    keyed,
    open_listeners,
)


@final
class Sockets:
    """The sockets of the settings in force, and for a while those of the ones to come.

    Args:
        handed: what systemd has handed over, by its names. They are never closed before the end, as a reload may name
            them again; and the files of unix sockets among them are systemd's.
    """

    def __init__(self, handed: Mapping[str, Sequence[trio.SocketListener]]) -> None:
        self._handed = handed
        self._open: dict[ListenerKey, list[trio.SocketListener]] = {}

    def addresses(self) -> Iterator[BoundAddress]:
        """Where we really listen."""
        for key in self._open:
            yield from map(bound_address, self._all(key))

    def descriptors(self, settings: Settings) -> list[list[int]]:
        """The file descriptors of each listener, in the order of the settings."""
        return [[one.socket.fileno() for one in self._all(key)] for key, _ in keyed(settings.listeners)]

    async def open(self, settings: Settings) -> set[ListenerKey]:
        """Listen on what is not listened on yet; returns that. Raises ListenError, and then nothing has changed."""
        added: set[ListenerKey] = set()
        try:
            for key, listener in keyed(settings.listeners):
                if key not in self._open:
                    self._open[key] = await self._open_one(listener)
                    added.add(key)
        except BaseException:
            self.close(added)
            raise
        return added

    async def _open_one(self, listener: ListenerSettings) -> list[trio.SocketListener]:
        match listener.address:
            case SystemdAddress(name=name) if name in self._handed:
                return []  # they are open, and stay so
            case _:
                return await open_listeners(listener)

    def close(self, keys: set[ListenerKey]) -> None:
        """Listen no more on these; the files of unix sockets go."""
        for key in keys:
            for one in self._open.pop(key):
                close_listener(one)

    def close_all(self) -> None:
        """Listen on nothing. What systemd has handed over goes on to listen, but not here."""
        self.close(set(self._open))
        for several in self._handed.values():
            for one in several:
                one.socket.close()

    def close_all_but(self, settings: Settings) -> None:
        """Listen on what these settings name only."""
        self.close(set(self._open) - {key for key, _ in keyed(settings.listeners)})

    def change_rights(self, settings: Settings) -> list[str]:
        """Give unix sockets that were kept the mode and the group that are settings now; returns what went wrong."""
        problems = []
        for _, listener in keyed(settings.listeners):
            try:
                change_rights(listener)
            except ListenError as exc:
                problems.append(str(exc))
        return problems

    def _all(self, key: ListenerKey) -> Sequence[trio.SocketListener]:
        match key:
            case SystemdAddress(name=name), _:
                return self._handed[name]
            case _:
                return self._open[key]
