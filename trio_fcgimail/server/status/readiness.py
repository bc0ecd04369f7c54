"""Whether a FastCGI server answers: a question that costs no script (FastCGI 1.0, 4.1, FCGI_GET_VALUES)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import trio

from trio_fcgimail import fastcgi
from trio_fcgimail.config import UpstreamAddress
from trio_fcgimail.server.metrics import Metric, Series, Values
from trio_fcgimail.server.upstream import UpstreamError, connect
from trio_fcgimail.server.wire import close

ASK_SECONDS: Final = 2.0  # ours: an idle server answers within a millisecond, and who asks us waits for some seconds
FRESH_SECONDS: Final = 5.0  # ours: an answer to a mail so long ago says that the server is there
_AGAIN_SECONDS: Final = 1.0
_RECEIVE_OCTETS: Final = 4096
_NAMES: Final = (b"FCGI_MPXS_CONNS",)


@final
class Readiness:
    """Knows whether an upstream answers, from requests of mails where there are some, else by asking."""

    def __init__(self, upstreams: Sequence[UpstreamAddress]) -> None:
        self._upstreams = tuple(upstreams)
        self._answers = 0.0
        self._answered_at = -FRESH_SECONDS
        self._asked_at = -_AGAIN_SECONDS
        self._is_good = False
        self._asking = trio.Lock()

    def learn(self, samples: dict[Series, Values]) -> None:
        """What was counted by now: more answers than before are a sign of life."""
        requests = failures = 0.0
        for series, values in samples.items():
            if series.metric is Metric.UPSTREAM_REQUESTS:
                requests += values[0]
            elif series.metric is Metric.UPSTREAM_FAILURES and series.labels[1] != "not_connected":
                failures += values[0]
        busy = sum(
            v[0] for s, v in samples.items() if s.metric is Metric.UPSTREAM_CONNECTIONS and s.labels[1] == "busy"
        )
        answers = requests - failures - busy
        if answers > self._answers:
            self._answered_at = trio.current_time()
        self._answers = answers

    async def is_ready(self) -> bool:
        """Whether one of them answers; without any there is nothing to wait for."""
        if not self._upstreams or trio.current_time() - self._answered_at < FRESH_SECONDS:
            return True
        async with self._asking:  # however many ask us, we ask once
            if trio.current_time() - self._asked_at >= _AGAIN_SECONDS:
                self._is_good = await self._ask_all()
                self._asked_at = trio.current_time()
            return self._is_good

    async def _ask_all(self) -> bool:
        answered = trio.Event()
        with trio.move_on_after(ASK_SECONDS):
            async with trio.open_nursery() as nursery:
                for upstream in self._upstreams:
                    nursery.start_soon(self._ask, upstream, answered, nursery.cancel_scope)
        return answered.is_set()

    @staticmethod
    async def _ask(upstream: UpstreamAddress, answered: trio.Event, others: trio.CancelScope) -> None:
        if await answers(upstream):
            answered.set()
            others.cancel()


async def answers(upstream: UpstreamAddress) -> bool:
    """Ask one, for as long as it takes."""
    conn = fastcgi.ClientConnection()
    try:
        stream = await connect(upstream, seconds=ASK_SECONDS)
    except UpstreamError:
        return False
    try:
        await stream.send_all(conn.get_values(_NAMES))
        while not isinstance(event := conn.next_event(), fastcgi.ValuesReceived | fastcgi.UnknownTypeReported):
            if isinstance(event, fastcgi.ConnectionClosed):
                return False
            conn.receive_data(await stream.receive_some(_RECEIVE_OCTETS))
    except (trio.BrokenResourceError, fastcgi.ProtocolError):
        return False
    finally:
        await close(stream)
    return True
