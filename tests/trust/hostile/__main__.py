"""The long form: every attack in rounds, and a table of what the good load has kept.

    python -m tests.trust.hostile [--attack NAME] [--rounds N] [--seconds S] [--guard open|limited]

Exits with 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.trust.hostile.attacks import ATTACKS
from tests.trust.hostile.descriptors import show as show_descriptors
from tests.trust.hostile.field import Kind
from tests.trust.hostile.house import Guard, house
from tests.trust.hostile.rounds import Outcome, attack_in_rounds
from tests.trust.hostile.running import good_load

_DESCRIPTORS: Final = "descriptors"
_HEAD: Final = (
    "| attack | connections | MB | alone | beside bare | beside us | kept | slowest | peak | after |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def _row(outcome: Outcome) -> str:
    rounds, tally = outcome.rounds, outcome.tally
    alone, bare, beside = (
        statistics.median(good)
        for good in zip(*((one.alone.mails, one.bare.mails, one.beside.mails) for one in rounds), strict=True)
    )
    cells = [
        outcome.attack.name,
        f"{tally.connections:,}",
        f"{tally.octets / 1e6:,.0f}",
        f"{alone:.0f}",
        f"{bare:.0f}" if outcome.attack.kind is Kind.FLOOD else "",
        f"{beside:.0f}",
        f"{outcome.kept:.0%}",
        f"{max(one.beside.worst_seconds for one in rounds):.2f} s",
        f"{max(one.peak_mib for one in rounds) - outcome.before_mib:+.0f} MiB",
        f"{rounds[-1].after_mib - outcome.before_mib:+.0f} MiB",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Attack, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.hostile", description="Hostile clients.")
    parser.add_argument("--attack", choices=[*ATTACKS, _DESCRIPTORS], action="append", help="all when it is left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--guard", choices=[one.name.lower() for one in Guard], default="open", help="the limits")
    options = parser.parse_args()
    guard = Guard[options.guard.upper()]
    wanted = options.attack or [*ATTACKS, _DESCRIPTORS]
    is_broken = False
    print(_HEAD, flush=True)
    with tempfile.TemporaryDirectory() as name, house(Path(name), guard) as one:
        good_load(one.port, options.seconds)
        for attack in (ATTACKS[name] for name in wanted if name != _DESCRIPTORS):
            outcome = attack_in_rounds(attack, one, options.rounds, options.seconds, is_limited=guard is Guard.LIMITED)
            print(_row(outcome), flush=True)
            for problem in outcome.problems:
                is_broken = True
                print(f"{attack.name}: {problem}", file=sys.stderr, flush=True)
    if _DESCRIPTORS in wanted:
        show_descriptors()
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
