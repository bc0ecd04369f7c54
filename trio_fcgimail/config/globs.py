"""Patterns of domains as Go's path/filepath.Match reads them, for those who move over from go-guerrilla."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final, Self, final

__all__ = ["Glob"]

_MAX_OCTETS = 255  # RFC 5321 4.5.3.1.2: no domain is longer, and a pattern hardly needs to be
_STAR: Final = "*"


@final
@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern: ``*`` any characters, dots included, ``?`` one, ``[a-z]`` and ``[^a-z]`` one of a set, ``\\`` quotes.

    Args:
        text: in lower case; make one with `parse`.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern.

        Raises:
            ValueError: a set is not closed or not ordered, a backslash quotes nothing, or it is too long or not in
                printable ASCII without blanks.
        """
        if not (text.isascii() and text.isprintable() and 0 < len(text) <= _MAX_OCTETS) or " " in text:
            raise ValueError(f"{text!a} is not a pattern of domains")
        glob = cls(text.lower())
        _compile(glob.text)
        return glob

    def matches(self, domain: str) -> bool:
        """Say whether the pattern is that of the whole of `domain`, which is in lower case. Takes linear time."""
        return _compile(self.text).fullmatch(domain) is not None


@cache
def _compile(text: str) -> re.Pattern[str]:
    """Translate a pattern; between two stars the earliest match is as good as any, so nothing is ever tried twice."""
    first, *others = _split(text)
    if not others:
        return re.compile(first)
    *middle, last = others
    return re.compile(first + "".join(f"(?>.*?{part})" for part in middle) + f".*{last}")


def _split(text: str) -> list[str]:
    """Give what stands between the stars, as regular expressions of fixed length."""
    parts = [""]
    at = 0
    while at < len(text):
        if text[at] == _STAR:
            parts.append("")
            at += 1
            continue
        piece, at = _piece(text, at)
        parts[-1] += piece
    return parts


def _piece(text: str, at: int) -> tuple[str, int]:
    """Translate what matches one character, from `at`; and say where the rest begins."""
    match text[at]:
        case "?":
            return ".", at + 1
        case "[":
            return _set(text, at + 1)
        case _:
            character, after = _character(text, at)
            return re.escape(character), after


def _character(text: str, at: int) -> tuple[str, int]:
    if text[at] == "\\":
        at += 1
    if at >= len(text):
        raise ValueError(f"{text!a}: nothing stands behind the last backslash")
    return text[at], at + 1


def _set(text: str, at: int) -> tuple[str, int]:
    inverted = text[at : at + 1] == "^"
    at += inverted
    ranges: list[str] = []
    while not (ranges and text[at : at + 1] == "]"):
        low, at = _bound(text, at)
        high = low
        if text[at : at + 1] == "-":
            high, at = _bound(text, at + 1)
        if high < low:
            raise ValueError(f"{text!a}: {low}-{high} is not in order")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    return f"[{'^' if inverted else ''}{''.join(ranges)}]", at + 1


def _bound(text: str, at: int) -> tuple[str, int]:
    if at >= len(text) or text[at] in "-]":
        raise ValueError(f"{text!a}: the set is not closed, or not of characters")
    return _character(text, at)
