"""A part of the points of each scenario, and proof that what is not tidied up would be found.

Which part depends on the day, so that all of them come round; FCGIMAIL_CANCELLATION_FIRST says otherwise.
"""

import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from tests.trust.cancellation.campaign import Tally, awaits, campaign
from tests.trust.cancellation.mutants import MUTANTS, Mutant
from tests.trust.cancellation.scenarios import SCENARIOS
from tests.trust.cancellation.stage import MEMORY, Stage, Strike
from tests.trust.cancellation.watch import Moment
from tests.trust.cancellation.world import Scenario

STEP: Final = 40
FIRST: Final = int(os.environ.get("FCGIMAIL_CANCELLATION_FIRST", datetime.now(UTC).toordinal() % STEP + 1))
#: Where a transaction waits. Many of their awaits do not: they call what only looks as if it did, or enter a context.
SHELL: Final = (
    "server/doorman.py",
    "server/maildir.py",
    "server/message.py",
    "server/outlet.py",
    "server/policy.py",
    "server/pool/shell.py",
    "server/processors/chain.py",
    "server/processors/maildir.py",
    "server/scripts.py",
    "server/session.py",
    "server/spool.py",
    "server/tls.py",
    "server/transaction.py",
    "server/upstream/connecting.py",
    "server/upstream/exchange.py",
    "server/visitor.py",
    "server/wire.py",
)
BY_ID: Final = {scenario.id: scenario for scenario in SCENARIOS}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Stage(Path(folder))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.id for scenario in SCENARIOS])
def test_whatever_is_cancelled_nothing_is_left_over_or_promised(scenario: Scenario, stage: Stage) -> None:
    tally = Tally()
    for _ in campaign(stage, [scenario], tally, step=STEP, first=FIRST):
        assert not tally.findings, "\n".join(map(str, tally.findings[:5]))
    assert tally.plays > 0


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.id for mutant in MUTANTS])
def test_what_is_not_tidied_up_is_found(mutant: Mutant, stage: Stage) -> None:
    scenario = BY_ID[mutant.scenario]
    assert not stage.play(scenario, Strike(mutant.target, Moment.WAITING)).problems
    with mutant.planted():
        assert any(mutant.finding in problem for problem in _problems(stage, scenario, mutant))
    assert not stage.play(scenario, Strike(mutant.target, Moment.WAITING)).problems


def _problems(stage: Stage, scenario: Scenario, mutant: Mutant) -> Iterator[str]:
    for moment in Moment:
        points = stage.play(scenario, Strike(mutant.target, moment)).points
        for point in range(points, 0, -1):
            yield from stage.play(scenario, Strike(mutant.target, moment, point)).problems


def test_scenarios_wait_where_a_transaction_can_wait(stage: Stage) -> None:
    waited = {
        line
        for scenario in SCENARIOS
        for target in scenario.targets[:1]
        for line in stage.play(scenario, Strike(target, Moment.WAITING)).lines
    }
    lines = {line for path in SHELL for line in awaits(path)}
    assert len(lines & waited) > 0.6 * len(lines), sorted(lines - waited)
