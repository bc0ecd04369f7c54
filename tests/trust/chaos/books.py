"""The figures of a run, and the sum over several."""

import json
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path

from tests.trust.chaos.course import Account


@dataclass(slots=True)
class Books:
    """Figures; all of them can be added."""

    figures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    deferrals: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    doubles: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, account: Account, seed: int) -> "Books":
        """Those of one run."""
        reckoning = account.reckoning
        return cls(
            figures=Counter(
                {
                    "mails": reckoning.mails,
                    "copies stored": reckoning.copies,
                    "octets stored": reckoning.octets,
                    "mails stored more than once": reckoning.doubled_mails,
                    "runs of the script on a part of a mail, told by its size": account.cut_runs,
                    "faults": account.faults.total(),
                    "cuts by senders": account.cuts.total(),
                    "broken promises": len(account.breaches),
                    "seconds": round(account.seconds),
                }
            ),
            faults=Counter({fault.title: count for fault, count in account.faults.items()}),
            cuts=Counter({phase.value: count for phase, count in account.cuts.items()}),
            attempts=Counter({outcome.value: count for outcome, count in account.outcomes.items()}),
            deferrals=account.answers,
            ends=account.ends,
            doubles=reckoning.doubles,
            left_out={fault.title: reason for fault, reason in account.left_out.items()},
            seeds=[seed],
        )

    def added_to(self, path: Path) -> "Books":
        """Add them to those of a file, which is made when it is not there."""
        if path.exists():
            before = json.loads(path.read_text())
            for name in ("figures", "faults", "cuts", "attempts", "deferrals", "ends", "doubles"):
                getattr(self, name).update(before[name])
            self.left_out |= before["left_out"]
            self.seeds = before["seeds"] + self.seeds
        told = {item.name: getattr(self, item.name) for item in fields(self)}
        path.write_text(json.dumps(told, indent=1))
        return self

    def text(self) -> str:
        """To read."""
        parts = [_table("figures", self.figures), _table("faults", self.faults), _table("cuts by senders", self.cuts)]
        parts += [_table("attempts", self.attempts), _table("4xx to the content", self.deferrals)]
        parts.append(_table("ends of connections that senders did not want", self.ends))
        parts.append(_table("doubles, by what the sender knew of the attempt", self.doubles))
        parts += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join([*parts, f"seeds: {', '.join(map(str, self.seeds))}"])


def _table(title: str, counts: Counter[str]) -> str:
    lines = [f"  {count:>12,}  {name}" for name, count in counts.items()]
    return "\n".join([f"{title}:", *(lines or ["  none"])])
