"""The long form, from the command line."""

import argparse
import sys

import trio

from tests.phpfpm import open_folder
from tests.trust.soak.course import Course, run


def main() -> int:
    """Run it, and say what came of it; 1 when something grows, or a mail was not taken at once."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=0.5, help="of full speed")
    parser.add_argument("--senders", type=int, default=16)
    given = parser.parse_args()
    course = Course(minutes=given.minutes, share=given.share, senders=given.senders)
    with open_folder() as folder:
        soak = trio.run(run, course, folder, lambda line: print(line, flush=True))
    print(soak.text())
    for disturbance in soak.disturbances():
        print(f"LATENCY NOT JUDGED: {disturbance}")
    problems = soak.problems()
    for problem in problems:
        print(f"BROKEN: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
