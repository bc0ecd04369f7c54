"""Hostile scripts and upstreams, each for a moment beside one that works. The long form is tests.trust.scripts."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.phpfpm import require_php
from tests.trust.scripts.faults import FAULTS
from tests.trust.scripts.stage import Stage, stage

MOMENT: Final = 0.3  # seconds
SAVE_SECONDS: Final = 0.5
ALONE: Final = (
    "gigabytes-of-output",
    "gigabytes-of-STDERR-after-a-yes",
    "an-octet-a-minute",
    "refusal-with-controls",
    "refusal-of-a-mebibyte",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    require_php()
    with stage(tmp_path_factory.mktemp("stage"), SAVE_SECONDS) as one:
        yield one


@pytest.mark.parametrize("name", ALONE)
def test_mails_are_stored_beside(name: str, running: Stage) -> None:
    account = running.play(FAULTS[name], MOMENT)
    assert account.problems == []
    assert account.saved


def test_mails_are_stored_beside_faults_in_turn(running: Stage) -> None:
    account = running.play_in_turn(list(FAULTS.values())[::4], MOMENT)
    assert account.problems == []
    assert account.saved
    assert account.replies["451 4.3.0"] > 0
