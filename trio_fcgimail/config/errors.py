"""What is wrong with a configuration: one line for each fault, all faults at once."""

from dataclasses import dataclass, field
from typing import final

__all__ = ["ConfigError", "ConfigErrors", "Problems", "cleaned", "shown"]

_MAX_FILE_CHARS = 200  # ours: a line stays readable in a terminal and in a log
_MAX_KEY_CHARS = 100  # ours: the longest key of ours has 43
_MAX_FOUND_CHARS = 160  # ours: enough to recognise a value
_MAX_QUOTED_CHARS = 110  # ours: a socket's path is shown whole
_MAX_EXPECTED_CHARS = 400  # ours: our own texts are shorter; parser messages may not be
_MAX_SHOWN_ITEMS = 6  # ours: of a list
_MAX_ERRORS = 100  # ours: nobody reads more, and a file of garbage has 200,000


@final
@dataclass(frozen=True, slots=True)
class ConfigError:
    """One fault of a configuration; `str()` is one line without control characters.

    Args:
        file: the file's name, or "command line".
        key: the key's full path such as ``listeners[0].address`` (counted from 0), "line N", or "file".
        found: what stands there, as `shown` puts it.
        expected: what would have been right.
    """

    file: str
    key: str
    found: str
    expected: str

    def __str__(self) -> str:
        """Give the line ``FILE: KEY: found X, expected Y``."""
        file = cleaned(self.file, _MAX_FILE_CHARS)
        key = cleaned(self.key, _MAX_KEY_CHARS)
        found = cleaned(self.found, _MAX_FOUND_CHARS)
        return f"{file}: {key}: found {found}, expected {cleaned(self.expected, _MAX_EXPECTED_CHARS)}"


@final
class ConfigErrors(Exception):  # noqa: N818 - it carries several ConfigError values
    """A configuration that cannot be used. `str()` is one line for each error.

    Args:
        errors: every fault found, in the order in which they were met; never empty.
    """

    def __init__(self, errors: tuple[ConfigError, ...]) -> None:
        super().__init__(errors)
        self.errors = errors

    def __str__(self) -> str:
        """Give all lines."""
        return "\n".join(str(error) for error in self.errors)


@dataclass(slots=True)
class Problems:
    """Collects faults of one file, the first `_MAX_ERRORS` of them in full and the rest as a number."""

    file: str
    _errors: list[ConfigError] = field(default_factory=list)
    _count: int = 0

    @property
    def count(self) -> int:
        """How many faults were met so far."""
        return self._count

    @property
    def full(self) -> bool:
        """Whether a further fault is only counted."""
        return self._count >= _MAX_ERRORS

    def add(self, key: str, found: str, expected: str) -> None:
        """Note one fault."""
        if not self.full:
            self._errors.append(ConfigError(self.file, key, found, expected))
        self._count += 1

    def exception(self) -> ConfigErrors:
        """Give the exception that holds what was collected."""
        more = self._count - len(self._errors)
        rest = [ConfigError(self.file, "file", f"{more} more errors", "none")] if more else []
        return ConfigErrors((*self._errors, *rest))


def shown(value: object) -> str:
    """Put a TOML value into an error line: short, on one line, whatever it is."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 64:  # str() of a huge one raises
            return f"an integer of {value.bit_length()} bits"
        case str():
            return cleaned(_quoted(value), _MAX_FOUND_CHARS)
        case []:
            return "an empty list"
        case list():
            return cleaned(_listed(value), _MAX_FOUND_CHARS)
        case dict():
            return "a table"
        case _:
            return cleaned(str(value), _MAX_FOUND_CHARS)


def _quoted(text: str) -> str:
    if len(text) > _MAX_QUOTED_CHARS:
        return f'"{_escaped(text[:_MAX_QUOTED_CHARS])}..." of {len(text)} characters'
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _listed(items: list[object]) -> str:
    texts = ["[...]" if isinstance(item, list) else shown(item) for item in items[:_MAX_SHOWN_ITEMS]]
    more = [f"... {len(items)} items"] if len(items) > _MAX_SHOWN_ITEMS else []
    return f"[{', '.join(texts + more)}]"


def cleaned(text: str, most: int) -> str:
    """Escape what is not printable (controls, direction marks, lone surrogates) and cap the length."""
    cut = text if len(text) <= most else text[: most - 3] + "..."
    return "".join(ch if ch.isprintable() else _escape(ord(ch)) for ch in cut)


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
