"""Faults to plant in the product, each of which a campaign has to find: what tidies up is left out, or it lies."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

from tests.trust.cancellation.world import Target
from trio_fcgimail.server.app import Server
from trio_fcgimail.server.doorman import Doorman
from trio_fcgimail.server.pool import Pool
from trio_fcgimail.server.pool.planner import Planner
from trio_fcgimail.server.processors.maildir import MailDir
from trio_fcgimail.server.service import Service
from trio_fcgimail.server.session import Session
from trio_fcgimail.server.spool import Spool
from trio_fcgimail.server.transaction import MailTransaction

_A_LIE: Final = "return (smtp.Reply(250, smtp.EnhancedCode(2, 0, 0), ('OK: queued as x',)),) * owed"


@final
@dataclass(frozen=True, slots=True)
class Mutant:
    """A copy of one method, changed.

    Args:
        old: what stands in it once.
        new: what stands there instead.
        scenario: in which it is to be found.
        target: likewise.
        finding: what is said then, among other things.
    """

    id: str
    owner: type
    method: str
    old: str
    new: str
    scenario: str
    target: Target
    finding: str

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Have it in the product, within."""
        function = vars(self.owner)[self.method]
        source = textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1:
            raise ValueError(f"{self.id}: not once in {self.owner.__name__}.{self.method}: {self.old}")
        names = dict(vars(sys.modules[self.owner.__module__]))
        changed = "from __future__ import annotations\n" + source.replace(self.old, self.new)
        exec(compile(changed, f"<{self.id}>", "exec"), names)
        setattr(self.owner, self.method, names[self.method])
        try:
            yield
        finally:
            setattr(self.owner, self.method, function)


MUTANTS: Final = (
    Mutant(
        "abandoned-connection-stays",
        Pool,
        "_try",
        "await self._finish(link, Outcome.ABANDONED)",
        "pass",
        "plain",
        Target.CONNECTION,
        "leased for ever",
    ),
    Mutant(
        "waiter-stays-in-the-line",
        Pool,
        "_obtain",
        "await self._carry_out(self._planner.cancel(trio.current_time(), ticket))",
        "pass",
        "crowd",
        Target.CONNECTION,
        "requests",
    ),
    Mutant(
        "kept-after-the-end",
        Planner,
        "close_idle",
        "self._is_over = True",
        "pass",
        "kept",
        Target.SERVER,
        "leased for ever",
    ),
    Mutant(
        "mail-not-forgotten",
        Session,
        "_run",
        "self._forget_mail()",
        "pass",
        "large",
        Target.CONNECTION,
        "octets in the spool",
    ),
    Mutant(
        "spool-file-not-closed",
        Spool,
        "close",
        "self._file.close()",
        "pass",
        "large",
        Target.CLIENT,
        "unclosed file",
    ),
    Mutant(
        "draft-not-removed",
        MailDir,
        "_deliver",
        "await delivery.close()",
        "pass",
        "maildir-from-disk",
        Target.CUT,
        "left in a maildir",
    ),
    Mutant(
        "place-not-left",
        Server,
        "_let_in_and_serve",
        "place.leave()",
        "pass",
        "plain",
        Target.CONNECTION,
        "accounts",
    ),
    Mutant(
        "header-awaited-for-ever",
        Doorman,
        "_introduce",
        "self._headers_awaited.discard(scope)",
        "pass",
        "proxied",
        Target.CLIENT,
        "turned away",
    ),
    Mutant(
        "server-not-removed",
        Service,
        "_serve",
        "finally:",
        "except ZeroDivisionError:",
        "reloaded",
        Target.CALLER,
        "2 servers",
    ),
    Mutant(
        "promise-without-a-verdict",
        MailTransaction,
        "settle",
        "verdicts = await self._save(message, owed, began)",
        f"verdicts = await self._save(message, owed, began)\n        if 'was cut' in verdicts[0].reason: {_A_LIE}",
        "cut",
        Target.CUT,
        "250 without a verdict",
    ),
)
