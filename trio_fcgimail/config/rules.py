"""What a key may hold: the forms that the fields of the settings are annotated with."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, final

import msgspec

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Form",
    "Items",
    "Rule",
    "Table",
    "Tables",
    "absolute_path",
    "decode",
    "file_path",
    "octal_mode",
    "one_of",
    "optional",
    "seconds",
    "text",
    "whole",
]

_MAX_PATH_OCTETS = 4096  # PATH_MAX of Linux
_MAX_SECONDS = 86_400.0  # ours: a day; more is a mistake of the unit
_MODE = re.compile(r"0?[0-7]{3}")

_Refusals = (ValueError, msgspec.ValidationError)


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """A single value.

    Args:
        decode: gives the attribute for a TOML value; ValueError or msgspec.ValidationError refuses it.
        expected: what the key takes, for the error line.
    """

    decode: Callable[[object], object]
    expected: str


@final
@dataclass(frozen=True, slots=True)
class Items:
    """A list of strings, each judged on its own so that each bad one has its own error line.

    Args:
        check: raises ValueError for a bad item.
        combine: gives the attribute for a list of good items.
        expected: what the list takes.
        item_expected: what an item takes.
        fewest: how many items there must be.
    """

    check: Callable[[str], object]
    combine: Callable[[list[str]], object]
    expected: str
    item_expected: str
    fewest: int = 1


@final
@dataclass(frozen=True, slots=True)
class Table:
    """A section; absent is the same as empty."""

    of: "type[DataclassInstance]"


@final
@dataclass(frozen=True, slots=True)
class Tables:
    """An array of tables.

    Args:
        of: what each table becomes.
        most: how many there may be.
    """

    of: "type[DataclassInstance]"
    most: int


Form: TypeAlias = Rule | Items | Table | Tables


def decode(rule: Rule, value: object) -> object:
    """Apply a rule.

    Raises:
        ValueError: the value is refused.
    """
    try:
        return rule.decode(value)
    except _Refusals as error:
        raise ValueError(rule.expected) from error


def whole(lowest: int, highest: int, unit: str = "") -> Rule:
    """Give the rule of a whole number; true and 1.0 are none."""
    kind = Annotated[int, msgspec.Meta(ge=lowest, le=highest)]
    of = f" {unit}" if unit else ""
    return Rule(lambda value: msgspec.convert(value, kind), f"a whole number{of} from {lowest} to {highest}")


def optional(rule: Rule, absent: object, meaning: str) -> Rule:
    """Extend a rule by a value that stands for None.

    Args:
        rule: of every other value.
        absent: the value that becomes None.
        meaning: of that value, for the error line.
    """

    def read(value: object) -> object:
        return None if type(value) is type(absent) and value == absent else rule.decode(value)

    return Rule(read, f"{rule.expected}, or {meaning}")


def seconds(*, zero: bool = False) -> Rule:
    """Give the rule of a duration: an integer or a float, above 0 unless `zero`, at most a day."""
    meta = msgspec.Meta(ge=0, le=_MAX_SECONDS) if zero else msgspec.Meta(gt=0, le=_MAX_SECONDS)
    kind = Annotated[float, meta]
    lowest = "from 0" if zero else "above 0 and"
    return Rule(lambda value: msgspec.convert(value, kind), f"a number of seconds {lowest} up to {_MAX_SECONDS:.0f}")


def flag() -> Rule:
    """Give the rule of a switch."""
    return Rule(lambda value: msgspec.convert(value, bool), "true or false")


def one_of(kind: type[Enum]) -> Rule:
    """Give the rule of an enumeration, by the values of its members."""
    *names, last = (f'"{member.value}"' for member in kind)
    listed = f"{', '.join(names)} or {last}" if names else last
    return Rule(lambda value: msgspec.convert(value, kind), listed)


def text(build: Callable[[str], object], expected: str) -> Rule:
    """Give the rule of a string that `build` turns into the attribute, or refuses with ValueError."""
    return Rule(lambda value: build(msgspec.convert(value, str)), expected)


def absolute_path(path: str) -> str:
    """Take an absolute path that can stand in a FastCGI parameter.

    Raises:
        ValueError: it is relative, names a folder, is too long or holds control characters.
    """
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError("not an absolute path of a file")
    file_path(path)
    return path


def file_path(path: str) -> Path:
    """Take any path.

    Raises:
        ValueError: it is empty, too long or holds control characters.
    """
    if not path or not path.isprintable() or len(path.encode()) > _MAX_PATH_OCTETS:
        raise ValueError("not a path")
    return Path(path)


def octal_mode(mode: str) -> int:
    """Take the mode of a file as chmod(1) does, "0660" or "660".

    Raises:
        ValueError: it is not three octal digits, with or without a 0 before them.
    """
    if _MODE.fullmatch(mode) is None:
        raise ValueError("not an octal mode")
    return int(mode, 8)
