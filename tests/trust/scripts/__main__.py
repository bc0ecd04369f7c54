"""The long form: every fault for a while, alone and in turn, and a table of what became of the mails.

    python -m tests.trust.scripts [--fault NAME] [--seconds S]

Exits with 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.phpfpm import PhpFpm
from tests.server import test_promise_php
from tests.trust.scripts.faults import FAULTS, Fault
from tests.trust.scripts.stage import Account, Stage, stage

_IN_TURN: Final = "in-turn"
_PHP: Final = {f"php-{one.id}": one for one in test_promise_php.FAULTS if test_promise_php.Stage.SAVE in one.stages}
_HEAD: Final = (
    "| fault | met | saved | deferred | refused | slowest | peak | after |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def _row(name: str, account: Account) -> str:
    replies = account.replies
    refused = sum(count for reply, count in replies.items() if reply.startswith("5"))
    cells = [
        name,
        f"{account.met}" if account.met else "",
        f"{replies['250 2.0.0']:,}",
        f"{replies['451 4.3.0']:,}",
        f"{refused:,}" if refused else "",
        f"{account.slowest_seconds:.2f} s",
        f"{account.grown_mib:+.0f} MiB",
        f"{account.left_mib:+.0f} MiB",
    ]
    return f"| {' | '.join(cells)} |"


def _play(one: Stage, names: list[str], seconds: float) -> Iterator[tuple[str, Account]]:
    for name in names:
        if name == _IN_TURN:
            yield name, one.play_in_turn(list(FAULTS.values()), 5 * seconds)
        elif name in _PHP:
            fault = _PHP[name]
            with PhpFpm(children=4, ini=fault.ini, env={"FAULTY": "1"}) as faulty:
                source = fault.source.replace("TOKEN", "SAVED")
                yield name, one.play_php(source, faulty, Fault(name, None, fault.mail), seconds)
        else:
            yield name, one.play(FAULTS[name], seconds)


def main() -> int:
    """Play, and print."""
    every = [*FAULTS, *_PHP, _IN_TURN]
    parser = argparse.ArgumentParser(prog="python -m tests.trust.scripts", description="Hostile scripts and upstreams.")
    parser.add_argument("--fault", choices=every, action="append", help="all when it is left out", metavar="NAME")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each fault")
    options = parser.parse_args()
    is_broken = False
    print(_HEAD, flush=True)
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder)) as one:
        for name, account in _play(one, options.fault or every, options.seconds):
            print(_row(name, account), flush=True)
            for problem in dict.fromkeys(account.problems):
                is_broken = True
                print(f"{name}: {problem}", file=sys.stderr, flush=True)
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
