"""What probe.php says of the PHP that runs it, as typed values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import msgspec

PROBE_SCRIPT: Final = Path(__file__).with_name("probe.php")

_QUANTITY: Final = re.compile(r"\s*([+-]?[0-9]+)\s*([kmg])?\s*", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_DURATION: Final = re.compile(r"([0-9]+)([smhd])?")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class NoReportError(ValueError):
    """What came is no report of our probe."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, counted from 1."""

    file: str
    line: int


@final
@dataclass(frozen=True, slots=True)
class PhpValue:
    """One setting.

    Args:
        value: as PHP has it; None when this PHP does not know the name.
        place: the line that sets it; None when it is PHP's default, or when the probe could not see where.
        of_pool: whether that line is one of php-fpm's pool, not of php.ini.
    """

    value: str | None
    place: Place | None
    of_pool: bool

    def octets(self) -> int | None:
        """As PHP reads ``8M``; None when it is no such quantity."""
        found = _QUANTITY.fullmatch(self.value or "")
        return None if found is None else int(found[1]) * _UNITS[(found[2] or "").lower()]

    def seconds(self) -> int | None:
        """As php-fpm reads ``30s``; None when it is no such duration."""
        found = _DURATION.fullmatch(self.value or "")
        return None if found is None else int(found[1]) * _SECONDS[found[2] or ""]

    def is_on(self) -> bool:
        """As PHP reads a flag."""
        return (self.value or "").lower() in ("1", "on", "yes", "true")


@final
@dataclass(frozen=True, slots=True)
class PhpFolder:
    """Where PHP puts what it cannot hold in memory."""

    path: str
    is_writable: bool
    free_octets: int


@final
@dataclass(frozen=True, slots=True)
class PhpReport:
    """All that the probe says.

    Args:
        fcgimail_probe: the version of what it says.
        pool: of php-fpm; None for another PHP.
        settings: of PHP.
        directives: of php-fpm's pool; empty when its file could not be seen.
    """

    fcgimail_probe: int
    sapi: str
    version: str
    pool: str | None
    settings: dict[str, PhpValue]
    directives: dict[str, PhpValue]
    folder: PhpFolder

    def setting(self, name: str) -> PhpValue:
        """A setting by its name; unknown to PHP when the report has none."""
        return self.settings.get(name, PhpValue(None, None, of_pool=False))


def read_report(output: bytes) -> PhpReport:
    """Read what the probe printed.

    Raises:
        NoReportError: it is something else.
    """
    try:
        report = msgspec.json.decode(output, type=PhpReport)
    except msgspec.DecodeError as exc:  # of bad UTF-8, too
        raise NoReportError(str(exc)) from exc
    if report.fcgimail_probe != 1:
        raise NoReportError(f"a probe of version {report.fcgimail_probe}")
    return report
