"""A child's side of the limits that hold over all children: each question goes to the parent."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Final, final

import trio

from trio_fcgimail.server.ledger import Rate
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.rates import Network
from trio_fcgimail.server.workers.channel import Admit, Count, Enter, ForDesk, Left, Released, Verdict

ANSWER_SECONDS: Final = 5.0  # ours: a parent answers within a millisecond


@final
class _Question:
    """A question that waits for its verdict.

    Attributes:
        undo: what gives back what is granted, once nobody waits for it any more.
    """

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.limit: Limit | None = None
        self.undo: ForDesk | None = None


@final
class SharedLedger:
    """The accounts that the parent keeps, as `trio_fcgimail.server.ledger.Ledger`.

    Whoever asks while the parent does not answer is told that there are too many connections, or may do what is counted
    by the minute. Without a parent (``forsake``) everybody may do anything: nothing new begins then.

    Args:
        post: sends to the parent, without waiting.
    """

    def __init__(self, post: Callable[[ForDesk], None]) -> None:
        self._post = post
        self._numbers = count()
        self._questions: dict[int, _Question] = {}
        self._is_forsaken = False

    async def enter(self, listener: str = "") -> Limit | None:
        """As in `Ledger`."""
        return await self._ask(Enter(next(self._numbers), listener), Left(listener), Limit.CONNECTIONS)

    def leave(self, listener: str = "") -> None:
        """As in `Ledger`."""
        self._post(Left(listener))

    async def admit(self, network: Network) -> Limit | None:
        """As in `Ledger`."""
        return await self._ask(Admit(next(self._numbers), network), Released(network), Limit.CONNECTIONS_PER_IP)

    def release(self, network: Network) -> None:
        """As in `Ledger`."""
        self._post(Released(network))

    async def count(self, rate: Rate, network: Network) -> Limit | None:
        """As in `Ledger`."""
        return await self._ask(Count(next(self._numbers), rate.value, network), None, None)

    def hear(self, verdict: Verdict) -> None:
        """The parent has answered. What was granted to somebody who has gone meanwhile is given back."""
        question = self._questions.pop(verdict.number)
        question.limit = verdict.limit
        question.answered.set()
        self._undo(verdict.limit, question.undo)

    def forsake(self) -> None:
        """The parent is gone."""
        self._is_forsaken = True
        for question in self._questions.values():
            question.answered.set()
        self._questions.clear()

    async def _ask(self, message: Enter | Admit | Count, undo: ForDesk | None, otherwise: Limit | None) -> Limit | None:
        if self._is_forsaken:
            return None
        question = self._questions[message.number] = _Question()
        self._post(message)
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                await question.answered.wait()
        except trio.Cancelled:
            if question.answered.is_set():  # since, and nobody will know of it
                self._undo(question.limit, undo)
            question.undo = undo
            raise
        if question.answered.is_set():
            return question.limit
        question.undo = undo
        return otherwise

    def _undo(self, limit: Limit | None, undo: ForDesk | None) -> None:
        if limit is None and undo is not None and not self._is_forsaken:
            self._post(undo)
