"""One run: senders and faults at the same time, then quiet until every mail is taken, then the reckoning."""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.trust.chaos.attempts import Outcome, Phase
from tests.trust.chaos.faults import Driver, Fault, Realm
from tests.trust.chaos.mails import Post
from tests.trust.chaos.reckoning import Breach, Reckoning, reckon
from tests.trust.chaos.sender import Bag, Senders
from tests.trust.chaos.stage import Stage, StageError

#: What no server of ours may ever write into its log, whatever is done to it.
_FAULTS_OF_OURS: Final = re.compile(
    r"Traceback|session failed|processor failed|observer failed|not understood|Exception "
)
_AHEAD: Final = 3  # faults for which senders may run ahead of the driver
_END_SECONDS: Final = 120.0  # to take what is left, once nothing goes wrong any more
_TELL_SECONDS: Final = 5.0
_CONTEXT_SECONDS: Final = 2.0  # around an attempt, of which the faults are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is to happen.

    Args:
        seconds: after which no new mail and no new fault begins.
        cut_share: of all attempts, those that senders cut.
        tempo: how long faults last, 1 being up to 4 s.
        fsync: whether the script pushes each mail to the disk.
    """

    mails: int
    faults: int
    seed: int
    seconds: float = 1e9
    senders: int = 24
    cut_share: float = 0.03
    tempo: float = 1.0
    largest: int = 5 * 1024 * 1024
    fsync: bool = False


@dataclass(slots=True)
class Account:
    """What came of it.

    Attributes:
        outcomes: of all attempts.
        answers: 4xx to the content.
        ends: of connections that were not ours.
        cut_runs: of the script, on a part of a mail, which it told by its size.
        left_out: faults that cannot be made here, and why.
        traces: of each breach.
    """

    reckoning: Reckoning
    seconds: float
    faults: Counter[Fault] = field(default_factory=Counter)
    cuts: Counter[Phase] = field(default_factory=Counter)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    cut_runs: int = 0
    left_out: dict[Fault, str] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)


async def run(course: Course, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Account:
    """Run it. Raises StageError when the server cannot be brought to serve."""
    post = await trio.to_thread.run_sync(Post, course.seed, course.largest)
    stage = Stage(folder, seed=course.seed, fsync=course.fsync)
    await trio.to_thread.run_sync(stage.__enter__)
    try:
        return await _Run(course, stage, post, tell).run()
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(stage.close)


class _Run:
    def __init__(self, course: Course, stage: Stage, post: Post, tell: Callable[[str], None]) -> None:
        self._course = course
        self._stage = stage
        self._post = post
        self._tell = tell
        self._bag = Bag(course.mails, self._may_begin)
        cut_share = course.cut_share
        self._senders = Senders(stage.doors, post, self._bag, seed=course.seed, cut_share=cut_share)
        self._driver = Driver(stage, seed=course.seed + 1, now=self._senders.now, tempo=course.tempo, tell=tell)
        self._is_quiet = False
        self._each = max(course.mails / max(course.faults, 1), 1)  # mails for each fault

    def _may_begin(self) -> int:
        """Mails wait for faults, so that all faults fall into the load."""
        if self._is_quiet or not self._course.faults:
            return self._course.mails
        return round(self._each * (self._driver.begun + _AHEAD)) + self._course.senders

    async def _keep_pace(self) -> None:
        """And faults wait for mails, so that there is no long quiet at the end."""
        expected = self._each * (self._driver.begun - _AHEAD)
        await self._bag.wait_until(lambda: self._senders.attempts.saved >= expected)

    async def run(self) -> Account:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_now_and_then)
            problem = await self._send_and_disturb()
            nursery.cancel_scope.cancel()
        if not problem:
            code = await trio.to_thread.run_sync(self._stage.stop_server)
            problem = "" if code == 0 else f"exit code {code} at the end"
        return await trio.to_thread.run_sync(self._account, problem, self._senders.now())

    async def _send_and_disturb(self) -> str:
        """All of the load; what went wrong with the server as a whole."""
        problem = ""
        async with trio.open_nursery() as working:
            working.start_soon(self._senders.run, self._course.senders)
            with trio.move_on_after(self._course.seconds):
                try:
                    await self._driver.run(self._course.faults, self._keep_pace)
                except* StageError as group:
                    problem = "; ".join(str(exc) for exc in group.exceptions)
                self._is_quiet = True
                if not problem:
                    await self._bag.wait_until(lambda: self._bag.begun >= self._bag.mails)
            self._bag.end()
            with trio.move_on_after(0 if problem else _END_SECONDS) as scope:
                await self._bag.wait_until(lambda: self._senders.are_done)
            working.cancel_scope.cancel()
        return problem or (f"mails are not taken within {_END_SECONDS:g} s of quiet" if scope.cancelled_caught else "")

    async def _tell_now_and_then(self) -> None:
        while True:
            await trio.sleep(_TELL_SECONDS)
            self._tell(
                f"{self._senders.now():.0f} s: {self._senders.attempts.saved} of {self._bag.mails} mails taken, "
                f"{self._driver.begun} of {self._course.faults} faults"
            )

    def _account(self, problem: str, seconds: float) -> Account:
        attempts, notes = self._senders.attempts, self._senders.notes
        reckoning = reckon(self._stage.store, attempts, self._post, self._bag.mails)
        account = Account(reckoning, seconds, cuts=notes.cuts, ends=notes.gone, left_out=self._driver.left_out)
        account.faults.update(happening.fault for happening in self._driver.happened)
        account.cut_runs = sum(1 for _ in self._stage.store.cut.iterdir())
        for attempt in attempts:
            account.outcomes[attempt.outcome] += 1
            account.answers.update(set(attempt.replies) if attempt.outcome is Outcome.DEFERRED else ())
        account.breaches = [problem] if problem else []
        account.breaches += [f"mail {breach.number}: {breach.problem}" for breach in reckoning.breaches]
        account.breaches += [f"refused: {one}" for one in notes.refused]
        account.breaches += [f"no reply: {one}" for one in notes.hung]
        account.breaches += [
            f"in the log: {line.strip()}" for line in self._stage.log_lines() if _FAULTS_OF_OURS.search(line)
        ]
        account.traces = [self._trace(breach) for breach in reckoning.breaches]
        return account

    def _trace(self, breach: Breach) -> str:
        """All that is known of a mail."""
        lines = [f"mail {breach.number}: {breach.problem}"]
        for attempt in self._senders.attempts.of(breach.number):
            lines.append(f"  attempt {attempt}")
            lines += [
                f"    fault {happening}"
                for happening in self._driver.happened
                if happening.began - _CONTEXT_SECONDS <= attempt.ended
                and (happening.ended or happening.began) + _CONTEXT_SECONDS >= attempt.began
            ]
        lines += [f"  stored {path.name}" for path in self._stage.store.stored.glob(f"{breach.number}.*")]
        subject = re.compile(rf'"subject": ?"{breach.number}"')
        lines += [f"  log {line.strip()}" for line in self._stage.log_lines() if subject.search(line)]
        return "\n".join(lines)


def new_seed() -> int:
    """Any."""
    return random.SystemRandom().randrange(1 << 31)


def realms(account: Account) -> Counter[Realm]:
    """How many faults there were of each realm."""
    return Counter(fault.realm for fault in account.faults.elements())
