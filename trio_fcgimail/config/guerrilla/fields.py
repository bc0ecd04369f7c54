"""An object of the file, read key by key as go-guerrilla does, except that nothing goes unnoticed."""

import difflib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Final, TypeVar, final

from trio_fcgimail.config.errors import Problems
from trio_fcgimail.config.guerrilla.syntax import JsonObject, found
from trio_fcgimail.config.warnings import Concern, ConfigWarning

__all__ = ["Fields", "KeyCase", "Notes", "parse_duration"]

_MAX_COMPARED_CHARS = 64  # ours: what difflib compares; no key of theirs is longer
_MAX_SECONDS = 86_400.0  # ours: the longest time of a setting
_MAX_WARNINGS = 200  # ours: nobody reads more

# Go, package time, ParseDuration; "µ" has two characters.
_UNITS: Final = {"ns": "1e-9", "us": "1e-6", "µs": "1e-6", "μs": "1e-6", "ms": "1e-3", "s": "1", "m": "60", "h": "3600"}
_STEP = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(ns|us|µs|μs|ms|s|m|h)")

_T = TypeVar("_T")


@final
class KeyCase(Enum):
    """How keys are compared."""

    ANY = "in any case"  # as encoding/json fills the fields of a struct
    EXACT = "as they stand"  # as a map is filled


@final
@dataclass(slots=True)
class Notes:
    """Collects what is wrong and what is odd, of one file.

    Args:
        file: its name.
    """

    file: str
    problems: Problems = field(init=False)
    _warnings: list[ConfigWarning] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.problems = Problems(self.file)

    @property
    def warnings(self) -> tuple[ConfigWarning, ...]:
        """All of them, in the order in which they were met."""
        return tuple(self._warnings)

    def refuse(self, key: str, what: str, expected: str) -> None:
        """Note that the file cannot be served."""
        self.problems.add(key, what, expected)

    def warn(self, key: str, what: str, done: str, concern: Concern) -> None:
        """Note that something is taken otherwise than it stands there."""
        if len(self._warnings) < _MAX_WARNINGS:
            self._warnings.append(ConfigWarning(self.file, key, what, done, concern))
        elif len(self._warnings) == _MAX_WARNINGS:
            more = ConfigWarning(self.file, "file", "more to warn about", "mend the above first", Concern.UNUSABLE)
            self._warnings.append(more)


def parse_duration(text: str) -> float:
    """Read a duration of Go, such as "30s", "1m30s", "500ms" or "1.5h", in seconds.

    Raises:
        ValueError: it is none, not above 0, or longer than a day.
    """
    total = Decimal(0)
    at = 1 if text.startswith("+") else 0
    while True:
        step = _STEP.match(text, at)
        if step is None:
            raise ValueError("no duration")
        total += Decimal(step[1]) * Decimal(_UNITS[step[2]])
        at = step.end()
        if at == len(text):
            return _within_a_day(float(total))


def _within_a_day(seconds: float) -> float:
    if not 0 < seconds <= _MAX_SECONDS:
        raise ValueError("not above 0, or longer than a day")
    return seconds


@final
class Fields:
    """One object.

    Args:
        notes: told of unknown and repeated keys at once.
        place: the object's own path, "" for the file's.
        known: its keys.
        elsewhere: keys of other objects, for whoever has put one in the wrong place.
    """

    def __init__(
        self,
        notes: Notes,
        place: str,
        content: JsonObject,
        known: Iterable[str],
        *,
        case: KeyCase = KeyCase.ANY,
        elsewhere: Iterable[str] = (),
    ) -> None:
        self.notes = notes
        self._place = place
        self._known = {self._folded(name, case): name for name in known}
        self._values: dict[str, object] = {}
        for key, value in content.pairs:
            name = self._known.get(self._folded(key, case))
            if name is None:
                self._warn_of_unknown(key, value, tuple(elsewhere))
                continue
            if name in self._values:
                self.warn(name, found(value), "the last one counts", Concern.REPEATED_KEY)
            self._values[name] = value

    @staticmethod
    def _folded(name: str, case: KeyCase) -> str:
        return name.lower() if case is KeyCase.ANY else name

    def _warn_of_unknown(self, key: str, value: object, elsewhere: tuple[str, ...]) -> None:
        lowered = key.lower()[:_MAX_COMPARED_CHARS]
        moved = [path for path in elsewhere if path.rpartition(".")[2] == lowered]
        alike = difflib.get_close_matches(lowered, sorted(self._known.values()), n=1)
        hint = f' (did you mean "{(alike or moved)[0]}"?)' if alike or moved else ""
        self.notes.warn(self.path(key), found(value), f"an unknown key, left out{hint}", Concern.UNKNOWN_KEY)

    def path(self, name: str) -> str:
        """Give the full path of a key."""
        return f"{self._place}.{name}" if self._place else name

    def get(self, name: str) -> object:
        """Give a value as it stands; None when it is absent, or null, which is the same."""
        return self._values.get(name)

    def names(self) -> tuple[str, ...]:
        """Give the keys that have a value."""
        return tuple(name for name, value in self._values.items() if value is not None)

    def warn(self, name: str, what: str, done: str, concern: Concern) -> None:
        """Warn about a key."""
        self.notes.warn(self.path(name), what, done, concern)

    def refuse(self, name: str, expected: str) -> None:
        """Say that the value of a key cannot be served."""
        value = self.get(name)
        self.notes.refuse(self.path(name), "nothing" if value is None else found(value), expected)

    # What go-guerrilla refuses to start with when the type is wrong

    def string(self, name: str) -> str:
        """Give a string, "" when it is absent."""
        return self._typed(name, "", "a string", lambda value: value if isinstance(value, str) else None)

    def flag(self, name: str) -> bool:
        """Give a switch, off when it is absent."""
        return self._typed(name, False, "true or false", lambda value: value if isinstance(value, bool) else None)

    def positive(self, name: str, default: int) -> int:
        """Give a whole number above 0; 0 stands for the default, as an absent one does."""
        number = self._typed(name, 0, "a whole number above 0", _natural)
        return number or default

    def strings(self, name: str) -> list[str]:
        """Give a list of strings."""
        return self._typed(name, [], "a list of strings", _strings)

    def table(self, name: str) -> JsonObject:
        """Give an object, an empty one when it is absent."""
        empty = JsonObject(())
        return self._typed(name, empty, "an object", lambda value: value if isinstance(value, JsonObject) else None)

    def _typed(self, name: str, default: _T, expected: str, read: Callable[[object], _T | None]) -> _T:
        value = self.get(name)
        if value is None:
            return default
        taken = read(value)
        if taken is None:
            self.refuse(name, expected)
            return default
        return taken

    # What go-guerrilla silently takes the default for

    def optional(self, name: str, kind: type[_T], default: _T, expected: str) -> _T:
        """Give a value of `backend_config`; the default, and a warning, when its type is another."""
        value = self.get(name)
        if value is None:
            return default
        if type(value) is kind:
            return value
        self.warn(name, found(value), f"no {expected}, so the default {found(default)} counts", Concern.WRONG_TYPE)
        return default

    def count(self, name: str, default: int) -> int:
        """Give a whole number of `backend_config`, a fraction cut off."""
        value = self.get(name)
        if isinstance(value, float) and math.isfinite(value):
            return int(value)
        return self.optional(name, int, default, "number")

    def seconds(self, name: str) -> float | None:
        """Give a duration, or a number of seconds, which go-guerrilla does not take; None when it is absent."""
        value = self.get(name)
        try:
            match value:
                case None:
                    return None
                case str():
                    return parse_duration(value)
                case int() | float() if not isinstance(value, bool):
                    return _within_a_day(float(value))
        except (ValueError, OverflowError):
            pass
        done = 'no duration such as "30s" of at most a day, so the default counts'
        self.warn(name, found(value), done, Concern.WRONG_TYPE)
        return None

    def required(self, name: str, expected: str) -> str | None:
        """Give a string of `backend_config`; None, and an error, when there is none."""
        value = self.get(name)
        if isinstance(value, str) and value:
            return value
        self.refuse(name, expected)
        return None


def _natural(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None


def _strings(value: object) -> list[str] | None:
    if not isinstance(value, list):
        return None
    strings = [item for item in value if isinstance(item, str)]
    return strings if len(strings) == len(value) else None
