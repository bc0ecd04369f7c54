"""A parent in the process of the test, whose children are real processes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from tests.phpfpm import children_of
from tests.support import Dialogue, Journal
from trio_fcgimail.config import Settings, TcpAddress
from trio_fcgimail.server import Notifier, Supervisor

SECONDS: Final = 30.0
LISTENER: Final = '[[listeners]]\naddress = "127.0.0.1:0"\n'


@asynccontextmanager
async def running(
    config: Settings, journal: Journal, *, notifier: Notifier | None = None
) -> AsyncIterator[tuple[Supervisor, tuple[TcpAddress, ...]]]:
    """A parent in this process; it is cut at the end."""
    with trio.fail_after(SECONDS):
        server = Supervisor(config, log=journal.log, reread=lambda: config, notifier=notifier)
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(server.run)
            try:
                yield server, addresses
            finally:
                server.cut()


def workers() -> list[int]:
    """The process ids of the children that serve; other tests may have left some of their own to this process."""
    return [pid for pid in children_of(os.getpid()) if b"child import main" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # gone by now
        return b""


async def until(journal: Journal, event: str, count: int = 1) -> list[dict[str, object]]:
    """Wait until there are so many lines of an event, and return them."""
    with trio.fail_after(SECONDS):
        while True:
            if len(found := journal.entries(event)) >= count:
                return found
            await trio.sleep(0.02)


async def guest(address: TcpAddress) -> Dialogue:
    """A client that has said EHLO."""
    client = Dialogue(await trio.open_tcp_stream(address.host, address.port))
    await client.hello()
    return client


async def until_workers_are(count: int) -> list[int]:
    """Wait until so many serve, and return their process ids."""
    with trio.fail_after(SECONDS):
        while True:
            if len(pids := workers()) == count:
                return pids
            await trio.sleep(0.02)
