"""What this process has open, by kind."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

_OWN_NUMBER: Final = re.compile(r"\[[0-9]+\]|#[0-9]+")


def descriptors() -> Counter[str]:
    """How many of each kind: ``socket:``, ``anon_inode:[eventpoll]``, or the path of a file."""
    found: Counter[str] = Counter()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the folder itself
            found[_OWN_NUMBER.sub("", str(path.readlink()))] += 1
    return found
