"""Fuzz every target at length, a piece of time each in turn: ``python fuzz/campaign.py [TARGET ...] --minutes 60``.

The target that had the least time is next, so that all have the same in the end, over as many calls as it takes. The
sums stand in a file of JSON in the temporary folder of the system, beside what the fuzzer found worth keeping; a
finding goes to a folder of its own there. A target with a finding rests until the next call.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

import msgspec

_HERE: Final = Path(__file__).resolve().parent
if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(_HERE.parent))

from fuzz import run  # noqa: E402 - found by the line above

_MAX_INPUT_OCTETS: Final = 1024  # what goes wrong goes wrong in few, and each run takes longer for more
_ONE_INPUT_SECONDS: Final = 300  # by the clock on the wall: on a busy machine a short one may take long
_CHATTER: Final = ("#", "INFO:", "WARNING:", "stat::")  # the rest tells of a finding
_FINDINGS: Final = ("crash-*", "timeout-*", "oom-*", "leak-*")
_PROGRESS: Final = re.compile(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)
_EXECUTIONS: Final = re.compile(r"^stat::number_of_executed_units: +(\d+)", re.MULTILINE)
_SECONDS: Final = re.compile(r"^Done \d+ runs in (\d+) second", re.MULTILINE)


@final
@dataclass(frozen=True, slots=True)
class Figures:
    """What was done with one target, over all calls.

    Args:
        seconds: by the clock on the wall, from the fuzzer's start to its end.
        cpu_seconds: of the processor that it had, which on a busy machine are fewer.
        executions: how many inputs were tried.
        edges: of the control flow that some input reached (libFuzzer's ``cov``).
        features: the same with how often each was passed (libFuzzer's ``ft``).
        corpus: how many inputs are worth keeping, the committed ones among them.
        findings: how many inputs broke an invariant.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    executions: int = 0
    edges: int = 0
    features: int = 0
    corpus: int = 0
    findings: int = 0


def read_output(output: str) -> Figures:
    """The figures that libFuzzer printed at the end of a run, or, when it broke off, the last on its way."""
    progress = list(_PROGRESS.finditer(output))
    if not progress:
        return Figures()
    executions, edges, features, corpus = (int(text) for text in progress[-1].groups())
    if (final_count := _EXECUTIONS.search(output)) is not None:
        executions = int(final_count[1])
    seconds = 0.0 if (took := _SECONDS.search(output)) is None else float(took[1])
    return Figures(seconds=seconds, executions=executions, edges=edges, features=features, corpus=corpus)


def add(before: Figures, piece: Figures) -> Figures:
    """The sum of two: time, executions and findings add up, of the others the most counts."""
    return Figures(
        seconds=before.seconds + piece.seconds,
        cpu_seconds=before.cpu_seconds + piece.cpu_seconds,
        executions=before.executions + piece.executions,
        edges=max(before.edges, piece.edges),
        features=max(before.features, piece.features),
        corpus=max(before.corpus, piece.corpus),
        findings=before.findings + piece.findings,
    )


def load(path: Path) -> dict[str, Figures]:
    """The sums so far, by target."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Figures]) if path.is_file() else {}


def save(path: Path, sums: dict[str, Figures]) -> None:
    """Write the sums, whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(sums), indent=2))
    draft.replace(path)


def next_target(targets: Sequence[str], sums: dict[str, Figures]) -> str:
    """The one that had the least time."""
    return min(targets, key=lambda target: sums.get(target, Figures()).seconds)


def put_findings_aside(work: Path) -> list[Path]:
    """Move what the fuzzer found out of the folder that it reads from; returns the new places."""
    aside = work.with_name(f"{work.name}-findings")
    found = [path for pattern in _FINDINGS for path in sorted(work.glob(pattern))]
    if found:
        aside.mkdir(exist_ok=True)
    return [path.replace(aside / path.name) for path in found]


def fuzz(target: str, seconds: int, before: Sequence[str]) -> tuple[Figures, str]:
    """Run one piece. Returns its figures, and what it printed when there is a finding."""
    command = [
        *before,
        sys.executable,
        str(_HERE / "run.py"),
        target,
        f"-max_total_time={seconds}",
        f"-max_len={_MAX_INPUT_OCTETS}",
        f"-timeout={_ONE_INPUT_SECONDS}",
        "-print_final_stats=1",
    ]
    cpu = os.times()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    spent = os.times()
    output = done.stdout + done.stderr
    findings = put_findings_aside(run.work_folder(target))
    figures = replace(
        read_output(output),
        cpu_seconds=spent.children_user + spent.children_system - cpu.children_user - cpu.children_system,
        findings=len(findings),
    )
    if done.returncode and not findings:
        raise RuntimeError(f"the fuzzer of {target} ended with {done.returncode}:\n{output}")
    told = [line for line in output.splitlines() if not line.startswith(_CHATTER)]
    return figures, "\n".join([*told, *map(str, findings)]) if findings else ""


def table(sums: dict[str, Figures]) -> str:
    """The figures as Markdown, as docs/reliability.md holds them."""
    lines = [
        "| target | executions | edges | inputs kept | minutes | of CPU | findings |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for target, it in sorted(sums.items()):
        lines.append(
            f"| `{target}` | {it.executions:,} | {it.edges:,} | {it.corpus:,} | {it.seconds / 60:.0f} "
            f"| {it.cpu_seconds / 60:.0f} | {it.findings} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 when there was a finding."""
    parser = argparse.ArgumentParser(prog="python fuzz/campaign.py", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--minutes", type=float, default=60, help="how long in all (default: 60)")
    parser.add_argument("--piece-seconds", type=int, default=240, help="of a target at a time (default: 240)")
    parser.add_argument("--before", default="", metavar="COMMAND", help="in front of the fuzzer's, e.g. 'nice -n 19'")
    figures = Path(tempfile.gettempdir()) / "fcgimail-fuzz-figures.json"
    parser.add_argument("--figures", type=Path, default=figures, help="the file of the sums (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="only print the sums so far")
    options = parser.parse_args(arguments)
    if unknown := set(options.targets) - set(run.targets()):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(run.targets())}")
    left = list(options.targets or run.targets())
    end = time.monotonic() + 60 * options.minutes
    failed = False
    while not options.table and left and (seconds := min(int(end - time.monotonic()), options.piece_seconds)) > 0:
        target = next_target(left, load(options.figures))
        piece, finding = fuzz(target, seconds, shlex.split(options.before))
        sums = load(options.figures)
        sums[target] = add(sums.get(target, Figures()), piece)
        save(options.figures, sums)
        print(f"{target}: {piece.executions:,} executions, {piece.edges:,} edges", flush=True)
        if finding:
            print(finding, file=sys.stderr, flush=True)
            left.remove(target)
            failed = True
    print(table(load(options.figures)))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
