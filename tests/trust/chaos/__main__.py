"""The long form, from the command line."""

import argparse
import sys
from pathlib import Path

import trio

from tests.phpfpm import open_folder
from tests.trust.chaos.books import Books
from tests.trust.chaos.course import Course, new_seed, run


def main() -> int:
    """Run it, and say what came of it; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.chaos", description=__doc__)
    parser.add_argument("--mails", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="of mails, faults and cuts; any by default")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which nothing new begins")
    parser.add_argument("--senders", type=int, default=24)
    parser.add_argument("--fsync", action="store_true", help="the script pushes each mail to the disk")
    parser.add_argument("--account", type=Path, help="a file to add the figures to, over several runs")
    given = parser.parse_args()
    seed = new_seed() if given.seed is None else given.seed
    course = Course(
        mails=given.mails,
        faults=given.faults,
        seed=seed,
        seconds=given.seconds,
        senders=given.senders,
        fsync=given.fsync,
    )
    print(course, flush=True)
    with open_folder() as folder:
        account = trio.run(run, course, folder, lambda line: print(line, flush=True))
    books = Books.of(account, seed)
    print(books.text())
    if given.account is not None:
        books = books.added_to(given.account)
        print(f"\nAll runs of {given.account}:\n{books.text()}")
    for line in (*account.breaches[:50], *account.traces[:20]):
        print(line)
    if account.breaches:
        print(f"{len(account.breaches)} promises broken, seed {seed}")
    return 1 if account.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
