"""The long form: every point of every scenario, for as many orders of the scheduler as wanted."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.trust.cancellation.campaign import Tally, campaign
from tests.trust.cancellation.scenarios import SCENARIOS
from tests.trust.cancellation.stage import MEMORY, Stage


def main() -> int:
    """Play, tell, and give the exit status: 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.cancellation", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help="only these: " + ", ".join(one.id for one in SCENARIOS))
    parser.add_argument("--seeds", type=int, default=3, help="orders in which Trio runs what is ready (default 3)")
    parser.add_argument("--step", type=int, default=1, help="strike at every how-manieth point (default 1)")
    options = parser.parse_args()
    chosen = [one for one in SCENARIOS if not options.scenarios or one.id in options.scenarios]
    began = time.monotonic()
    tally = Tally()
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            before = tally.plays
            for scenario in campaign(Stage(Path(folder), seed), chosen, tally, step=options.step):
                print(f"seed {seed}, {scenario.id}: {tally.plays - before} plays, {len(tally.findings)} findings")
                sys.stdout.flush()
                before = tally.plays
    for finding in tally.findings[:20]:
        print(finding)
    print(
        f"{len(chosen)} scenarios, {tally.points} points, {tally.plays} of them struck ({tally.missed} missed), at "
        f"{len(tally.lines)} lines that wait; {len(tally.findings)} findings; {time.monotonic() - began:.0f} s"
    )
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
