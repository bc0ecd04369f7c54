"""What a process has: memory and file descriptors."""

import contextlib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.phpfpm import children_of

_RSS = re.compile(r"^VmRSS:\s*(\d+) kB$", re.MULTILINE)
Points = list[tuple[float, float]]


@dataclass(slots=True)
class Watch:
    """A server and its children, by name.

    Attributes:
        kib: resident memory of each, by the minute.
        descriptors: open ones of each, by the minute.
    """

    parent: int
    kib: defaultdict[str, Points] = field(default_factory=lambda: defaultdict(list))
    descriptors: defaultdict[str, Points] = field(default_factory=lambda: defaultdict(list))

    def look(self, minute: float) -> None:
        """Once more."""
        for pid in (self.parent, *children_of(self.parent)):
            name = "parent" if pid == self.parent else f"worker {pid}"
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found = _RSS.search(Path(f"/proc/{pid}/status").read_text())
                if found is not None:
                    self.kib[name].append((minute, float(found[1])))
                    self.descriptors[name].append((minute, float(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))))
