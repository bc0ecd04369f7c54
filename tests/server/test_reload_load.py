"""No mail is lost or doubled, and nobody is refused, whatever is reloaded or restarted meanwhile."""

import pytest

from tests.phpfpm import open_folder
from tests.reload_load import Course, Ledger, run

pytestmark = pytest.mark.trio


async def test_a_load_runs_through_twenty_reloads_and_a_restart() -> None:
    with open_folder() as folder:
        ledger = await run(Course(reloads=20, restarts=1, clients=10, seed=6), folder)
    assert ledger.faults() == []
    assert len(ledger.sent) > 100
    assert ledger.told_to_go > 10


async def test_a_ledger_tells_what_is_wrong() -> None:
    ledger = Ledger(sent={1, 2, 3})
    ledger.stored.update([2, 3, 3, 4])
    assert ledger.faults() == ["lost: [1]", "doubled: [3]", "stored without a 250: [4]"]
