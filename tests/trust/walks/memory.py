"""A server in this process, over memory streams and by the test clock, which is moved on only within a step."""

from __future__ import annotations

import queue
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Final, TypeVar, assert_never, final

import outcome
import trio
from trio.testing import MockClock, memory_stream_pair

from tests.certificates import Authority
from tests.server.encrypted import dialogue_over, tls_listener
from tests.support import HEAD, Dialogue, Journal, Line, Request, ScriptedResponder, end, refuse, stdout
from tests.support import House as ServerHouse
from tests.trust.walks.driver import seen_of, settings_of
from tests.trust.walks.model import House, Seen
from tests.trust.walks.moods import BY_NAME, Fault, Mood, Says, said_to_each
from trio_fcgimail.config import TlsMode

T = TypeVar("T")
_STUCK_SECONDS: Final = 60.0  # by the clock on the wall: then nobody will ever say anything


@final
class Loop:
    """Trio, a step at a time: it runs, and its clock jumps, only within `call`."""

    def __init__(self) -> None:
        self._due: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._clock = MockClock()
        self._begun: list[tuple[trio.Nursery, trio.lowlevel.TrioToken]] = []
        self._ended: list[outcome.Outcome[None]] = []
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._due.put,
            done_callback=self._ended.append,
            host_uses_signal_set_wakeup_fd=True,
            clock=self._clock,
        )
        self._pump(lambda: bool(self._begun or self._ended))
        self.nursery, self._token = self._begun[0]

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._begun.append((nursery, trio.lowlevel.current_trio_token()))
            await trio.sleep_forever()

    def _pump(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            self._due.get(timeout=_STUCK_SECONDS)()

    def call(self, job: Callable[[], Awaitable[T]]) -> T:
        """Run until the job is done, and not a moment longer."""
        results: list[outcome.Outcome[T]] = []

        async def run() -> None:
            self._clock.autojump_threshold = 0
            result = await outcome.acapture(job)
            self._clock.autojump_threshold = inf
            results.append(result)

        self._token.run_sync_soon(self.nursery.start_soon, run)
        self._pump(lambda: bool(results or self._ended))
        if not results:
            self._ended[0].unwrap()
        return results[0].unwrap()

    def _cancel(self) -> None:
        self._clock.autojump_threshold = 0  # the last words have deadlines of their own
        self.nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Cancel everything, and wait for it."""
        if not self._ended:
            self._token.run_sync_soon(self._cancel)
            self._pump(lambda: bool(self._ended))
        self._ended[0].unwrap()


@final
class Script:
    """Answers as the mood says that the request is about, and notes what it was asked.

    Attributes:
        seen: every request that was read whole, in order.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    async def act(self, line: Line) -> None:
        """Serve one connection, request after request."""
        while True:
            request = await line.request()
            seen = seen_of(octets_of(request))
            self.seen.append(seen)
            says = _says(seen)
            if isinstance(says, bytes):
                await line.answer(says)
            else:
                await _do_wrong(line, says, b"SAVED" if seen.stage == "save" else b"PASSED")
                return


def octets_of(request: Request) -> dict[str, bytes]:
    """The fields as octets."""
    return {name: value.encode("latin-1") for name, value in request.fields.items()}


def _says(seen: Seen) -> Says:
    mood: Mood = BY_NAME[re.split(r"[.@]", seen.about)[seen.stage in ("validate", "save")]]
    if seen.stage != "save":
        return mood.question
    return said_to_each(len(seen.recipients)) if mood.save is Fault.EACH else mood.save


async def _do_wrong(line: Line, fault: Fault, yes: bytes) -> None:
    """The connection closes behind it."""
    match fault:
        case Fault.CLOSES:
            pass
        case Fault.HALF:
            await line.write(stdout(HEAD + yes))
        case Fault.HANGS:
            await trio.sleep_forever()
        case Fault.STATUS:
            await line.write(stdout(b"Status: 500 Internal Server Error\r\n\r\n" + yes) + end())
        case Fault.EACH:
            raise AssertionError("this one is no fault")
        case _:
            assert_never(fault)


@final
class MemoryDriver:
    """A server whose sessions run over memory streams."""

    def __init__(self, house: House, authority: Authority, journal: Journal) -> None:
        self._authority = authority
        self._loop = Loop()
        self._script = Script()
        self._client: Dialogue | None = None
        self._over = trio.Event()
        toml = settings_of(house, idle_seconds=20).replace("{script}", "/srv/mail/script.php")
        if house.offers_tls:
            toml += tls_listener(authority, TlsMode.STARTTLS)
        else:
            toml += '[[listeners]]\naddress = "127.0.0.1:0"\n'
        if house.lmtp:
            toml += 'protocol = "lmtp"\n'

        async def open_house() -> tuple[ServerHouse, ScriptedResponder]:
            responder = ScriptedResponder(self._loop.nursery, self._script.act)
            return ServerHouse(self._loop.nursery, journal, toml, connect=responder.connect), responder

        self._house, self._responder = self._loop.call(open_house)

    @property
    def can_wait(self) -> bool:
        return True

    @property
    def can_reload(self) -> bool:
        return False

    @property
    def client(self) -> Dialogue:
        """Who talks to the server."""
        assert self._client is not None
        return self._client

    def connect(self) -> None:
        async def connect() -> None:
            theirs, ours = memory_stream_pair()
            self._over = over = trio.Event()
            session = self._house.session(ours)

            async def run() -> None:
                await session.run()
                over.set()

            self._loop.nursery.start_soon(run)
            self._client = Dialogue(theirs)

        self._loop.call(connect)

    def send(self, data: bytes) -> None:
        async def send() -> None:
            with suppress(trio.BrokenResourceError):  # the server has closed, as the model knows
                await self.client.send(data)

        self._loop.call(send)

    def reply(self) -> int:
        return int(self._loop.call(self.client.reply)[:3])

    def rest(self) -> bytes:
        return self._loop.call(self.client.rest)

    def shake_hands(self) -> None:
        async def shake_hands() -> Dialogue:
            stream = self._authority.client(self.client.stream)
            await stream.do_handshake()
            return dialogue_over(stream)

        self._client = self._loop.call(shake_hands)

    def half_close(self) -> None:
        self._loop.call(self.client.stream.send_eof)

    def vanish(self) -> None:
        async def vanish() -> None:
            await self.client.close()
            await self._over.wait()

        self._loop.call(vanish)

    def set_down(self, is_down: bool) -> None:
        self._responder.act = refuse if is_down else self._script.act

    def reload(self, *, is_good: bool) -> None:
        raise AssertionError("there is no process that could be told")

    def seen(self) -> list[Seen]:
        return self._script.seen

    def check_nothing_is_left(self) -> None:
        assert self._house.room.used_octets == 0

    def close(self) -> None:
        self._loop.close()
