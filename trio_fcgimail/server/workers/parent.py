"""The parent: binds, has children serve, and hands over to others when settings or certificates change.

The nursery tree::

    Supervisor.run
    └── beating (nursery)
        ├── _beat                       asks the children whether they live, and tells systemd
        └── generations (nursery)
            ├── Generation.run ...      one for each set of settings; one is current, older ones are on their way out
            │   └── _keep_child ...     has a child serve, and another when it dies or wants to be relieved
            └── steering (nursery)      left at the stop
                ├── _watch_certificates asks for a reload when their files have changed
                └── _reload_when_asked  one reload at a time; one more that is asked for meanwhile is remembered
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final, final

import structlog.typing
import trio

from trio_fcgimail.config import BoundAddress, ConfigErrors, Settings
from trio_fcgimail.server.app import Ending
from trio_fcgimail.server.entrance import open_entrance
from trio_fcgimail.server.groups import leaves
from trio_fcgimail.server.listeners import ListenError
from trio_fcgimail.server.metrics import Metric, Series
from trio_fcgimail.server.systemd import Notifier
from trio_fcgimail.server.workers.certificates import Watch, read_files
from trio_fcgimail.server.workers.channel import Reopen, Retire, Stop
from trio_fcgimail.server.workers.desk import Desk
from trio_fcgimail.server.workers.generation import Generation, Plan
from trio_fcgimail.server.workers.report import Report
from trio_fcgimail.server.workers.rights import RightsError, find_identity
from trio_fcgimail.server.workers.sockets import Sockets
from trio_fcgimail.server.workers.statuskeeper import StatusKeeper, StatusPlan

PING_SECONDS: Final = 10.0  # ours: how often children are asked whether they live, when systemd does not want it sooner
WATCH_SECONDS: Final = 5.0  # ours: how often we look at the files of certificates
PATIENCE_SECONDS: Final = 5.0  # ours: a process that has not answered for so long is not healthy
_BEATS: Final = 4  # in the time that systemd waits for one


class _Wish(Enum):
    """What a reload is asked for."""

    SETTINGS = "the settings may have changed"
    CERTIFICATES = "only certificates have"


@final
class Supervisor:
    """Serves a configuration by children, and by others once it has changed.

    Args:
        settings: checked.
        log: where the parent's own lines go.
        reread: gives the settings anew for a reload. Raises ConfigErrors when they are wrong.
        handed: the sockets of systemd, by their names; ours from here on.
        notifier: tells systemd how we are.
        adopted: told the settings that a reload has brought.

    Attributes:
        lost: how many children died before their time.
        reloads: how many times others have taken over.
        failed_reloads: how many times nobody has, as something was wrong.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        log: structlog.typing.FilteringBoundLogger,
        reread: Callable[[], Settings],
        handed: Mapping[str, Sequence[trio.SocketListener]] | None = None,
        notifier: Notifier | None = None,
        adopted: Callable[[Settings], None] = lambda _settings: None,
    ) -> None:
        self.lost = 0
        self.reloads = 0
        self.failed_reloads = 0
        self._settings = settings
        self._log = log
        self._reread = reread
        self._notifier = notifier or Notifier()
        self._adopted = adopted
        self._sockets = Sockets(handed or {})
        self._generations: list[Generation] = []  # the current one last
        self._watch = Watch(settings)
        self._desk = Desk(settings)
        self._status_page = StatusKeeper(log, self._report)
        self._wishes: set[_Wish] = set()
        self._wished = trio.Event()
        self._stopping = trio.Event()
        self._ending = Ending.DRAINED

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
        for generation in self._generations:
            generation.cut()

    def reload(self) -> None:
        """Read the settings anew, and hand over to children that have them."""
        self._wish(_Wish.SETTINGS)

    def reopen_logs(self) -> None:
        """Have the children open their log files anew."""
        for generation in self._generations:
            generation.tell(Reopen())
        self._status_page.reopen_logs()

    def _wish(self, wish: _Wish) -> None:
        self._wishes.add(wish)
        self._wished.set()

    # From the start to the end

    async def run(self, *, task_status: trio.TaskStatus[tuple[BoundAddress, ...]] = trio.TASK_STATUS_IGNORED) -> Ending:
        """Serve until stopped.

        Args:
            task_status: told the addresses once the children accept.

        Raises:
            ListenError: an address cannot be listened on, a certificate cannot be used, or a child does not start.
            RightsError: the user or group cannot be.
        """
        try:
            async with trio.open_nursery() as beating:
                async with trio.open_nursery() as generations:
                    await self._hand_over(generations, self._settings)
                    self._log.info("listening", addresses=self._addresses(), workers=self._settings.workers)
                    self._notifier.ready(self._status())
                    task_status.started(tuple(self._sockets.addresses()))
                    beating.start_soon(self._beat)
                    beating.start_soon(self._status_page.run)
                    await self._steer(generations)
                    self._end()
                beating.cancel_scope.cancel()
        finally:
            self._sockets.close_all()
            self._status_page.close()
        self._log.info("stopped", ending=self._ending.value)
        return self._ending

    async def _steer(self, generations: trio.Nursery) -> None:
        async with trio.open_nursery() as steering:
            steering.start_soon(self._reload_when_asked, generations)
            steering.start_soon(self._watch_certificates)
            await self._stopping.wait()
            steering.cancel_scope.cancel()

    def _end(self) -> None:
        self._notifier.stopping()
        self._sockets.close_all()
        for generation in self._generations:
            generation.end(Stop())

    def _addresses(self) -> str:
        return ", ".join(map(str, self._sockets.addresses()))

    def _status(self, more: str = "") -> str:
        return f"{self._settings.workers} serving on {self._addresses()}{more}"

    async def _beat(self) -> None:
        seconds = self._notifier.watchdog_seconds
        pause = PING_SECONDS if seconds is None else min(PING_SECONDS, seconds / _BEATS)
        while True:
            if self._generations and self._generations[-1].is_alive:
                self._notifier.alive()
            for generation in self._generations:
                generation.ping()
            await trio.sleep(pause)

    # Change

    async def _watch_certificates(self) -> None:
        """Ask for a reload when files of certificates have changed."""
        while True:
            await trio.sleep(WATCH_SECONDS)
            if self._watch.has_changed():
                self._log.info("certificates have changed", files=", ".join(map(str, self._watch.files)))
                self._wish(_Wish.CERTIFICATES)

    async def _reload_when_asked(self, generations: trio.Nursery) -> None:
        while True:
            await self._wished.wait()
            self._wished = trio.Event()  # asked for once more from now on, it is done once more
            wishes, self._wishes = self._wishes, set()
            self._notifier.reloading()
            problems = await self._reload(generations, wishes)
            for problem in problems:
                self._log.error("not reloaded", problem=problem)
            if problems:
                self.failed_reloads += 1
            self._notifier.ready(self._status(f"; not reloaded: {'; '.join(problems)}" if problems else ""))

    async def _reload(self, generations: trio.Nursery, wishes: set[_Wish]) -> list[str]:
        """Hand over to a new generation; when anything is wrong with it, nothing changes. Returns what is wrong."""
        settings = self._settings
        if _Wish.SETTINGS in wishes:
            try:
                settings = self._reread()
            except ConfigErrors as exc:
                return [str(error) for error in exc.errors]
        problems: list[str] = []
        try:
            await self._hand_over(generations, settings)
        except* (ListenError, RightsError) as group:
            problems = [str(exc) for exc in leaves(group)]
        if problems:
            return problems
        self.reloads += 1
        self._settings = settings
        self._adopted(settings)
        for problem in self._sockets.change_rights(settings):
            self._log.error("reloaded, but", problem=problem)
        self._log.info("reloaded", addresses=self._addresses(), workers=settings.workers)
        return []

    async def _hand_over(self, generations: trio.Nursery, settings: Settings) -> None:
        """Have new children serve, and then the others retire.

        Raises:
            ListenError, RightsError: it cannot be, and nothing has changed; perhaps in groups.
        """
        identity = find_identity(settings.user, settings.group)
        watch = Watch(settings)
        for listener in settings.listeners:
            open_entrance(settings, listener)  # a certificate is looked at before anybody is asked to serve it
        added = await self._sockets.open(settings)
        status_plan: StatusPlan | None = None
        try:
            status_plan = await self._status_page.prepare(settings, identity)
            plan = Plan(settings, read_files(settings), identity)
            generation = await generations.start(self._run_generation, plan)
        except BaseException:
            self._sockets.close(added)
            if status_plan is not None:
                self._status_page.discard(status_plan)
            raise
        old = [one for one in self._generations if one is not generation and not one.is_closing]
        self._watch = watch
        self._desk.change(settings)
        self._status_page.use(status_plan)
        generation.begin()
        for one in old:
            one.end(Retire())
        self._sockets.close_all_but(settings)

    async def _run_generation(self, plan: Plan, *, task_status: trio.TaskStatus[Generation]) -> None:
        generation = Generation(plan, self._sockets, self._desk, log=self._log, died=self._count_loss)
        async with trio.open_nursery() as nursery:
            await nursery.start(generation.run)
            self._generations.append(generation)
            task_status.started(generation)
        self._generations.remove(generation)
        if self.is_stopping and generation.ending is Ending.CUT:
            self._ending = Ending.CUT

    def _count_loss(self) -> None:
        self.lost += 1

    # The status page

    def _report(self, mails_seen: int) -> Report:
        totals = self._desk.totals
        workers = sum(generation.size for generation in self._generations)
        own = (
            (Series(Metric.RELOADS, ("done",)), (float(self.reloads),)),
            (Series(Metric.RELOADS, ("failed",)), (float(self.failed_reloads),)),
            (Series(Metric.WORKER_DEATHS), (float(self.lost),)),
            (Series(Metric.WORKERS), (float(workers),)),
        )
        then = trio.current_time() - PATIENCE_SECONDS
        is_alive = bool(self._generations) and self._generations[-1].has_answered_since(then)
        return Report(
            samples=[(series.metric, series.labels, values) for series, values in (*own, *totals.samples())],
            mails=list(totals.mails_after(mails_seen)),
            mails_seen=totals.mails_seen,
            is_alive=is_alive,
            is_serving=is_alive and not self.is_stopping,
        )
