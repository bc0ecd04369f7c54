"""A save script that keeps what it gets, in a thread: a FastCGI responder on a unix socket that never refuses.

For tests that start real servers and have no event loop of their own.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from tests.server_process import SECONDS
from tests.support import Act, Line, Request, ScriptedResponder


class Hold:
    """Requests that are not answered yet."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        """One more."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Wait until there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._count >= count, SECONDS)


class Store:
    """What came.

    Attributes:
        address: as a configuration has it.
        requests: those that were answered, in order.
        seconds: how long a request takes.
        most_at_once: how many requests there ever were at a time.
    """

    def __init__(self, path: Path) -> None:
        self.address = f"unix:{path}"
        self.requests: list[Request] = []
        self.seconds = 0.0
        self.most_at_once = 0
        self._at_once = 0
        self._hold: Hold | None = None

    @contextmanager
    def held(self) -> Iterator[Hold]:
        """While this lasts, no request is answered."""
        hold = self._hold = Hold()
        try:
            yield hold
        finally:
            self._hold = None

    async def act(self, line: Line) -> None:
        """Serve one connection, request after request."""
        while True:
            await self._answer(line)

    async def _answer(self, line: Line) -> None:
        request = await line.request()
        if self._hold is not None:
            self._hold.add()
            await trio.sleep_forever()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await trio.sleep(self.seconds)
        self._at_once -= 1
        self.requests.append(request)
        await line.answer(b"SAVED" if request.is_post else b"PASSED")


@contextmanager
def acting(path: Path, act: Act) -> Iterator[None]:
    """A responder that listens there while this lasts; anybody may connect."""
    listening = threading.Event()
    token: list[trio.lowlevel.TrioToken] = []
    scope = trio.CancelScope()

    async def serve() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                await ScriptedResponder(nursery, act).listen(path)
                listening.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert listening.wait(SECONDS)
    path.chmod(0o666)
    try:
        yield
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=token[0])
        thread.join(SECONDS)


@contextmanager
def storing(path: Path) -> Iterator[Store]:
    """Such a responder that stores."""
    store = Store(path)
    with acting(path, store.act):
        yield store
