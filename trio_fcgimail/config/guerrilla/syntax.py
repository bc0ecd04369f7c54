"""JSON as it stands: objects keep every pair, as Go takes keys in any case and the last of several."""

import json
import re
from dataclasses import dataclass
from typing import NoReturn, final

from trio_fcgimail.config.errors import ConfigError, ConfigErrors, shown

__all__ = ["JsonObject", "found", "parse_json"]

_LONE = re.compile("[\ud800-\udfff]")
_NO_CHARACTER = "\ufffd"  # what Go makes of half a surrogate pair


@final
@dataclass(frozen=True, slots=True)
class JsonObject:
    """An object.

    Args:
        pairs: keys and values in their order, repeated keys included.
    """

    pairs: tuple[tuple[str, object], ...]

    def __str__(self) -> str:
        """Give what an error line shows."""
        return "an object"


def parse_json(text: str, file: str) -> JsonObject:
    """Read a file's text: an object, by the letter of RFC 8259.

    Raises:
        ConfigErrors: it is something else; one line.
    """
    try:
        value: object = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        _fail(file, "file", "values nested too deeply", "JSON")
    except json.JSONDecodeError as error:
        lines = text.split("\n")
        line = lines[min(error.lineno, len(lines)) - 1].strip()
        _fail(file, f"line {error.lineno}", shown(line), f"JSON ({error.msg})")
    except ValueError as error:  # NaN, or an integer of 5,000 digits
        _fail(file, "file", "a number that is none", f"JSON ({error})")
    if not isinstance(value, JsonObject):
        _fail(file, "file", found(value), "a JSON object")
    return value


def found(value: object) -> str:
    """Put a value into an error line."""
    match value:
        case None:
            return "null"
        case JsonObject():
            return str(value)
        case _:
            return shown(value)


def _object(pairs: list[tuple[str, object]]) -> JsonObject:
    return JsonObject(tuple((_whole(key), _clean(value)) for key, value in pairs))


def _clean(value: object) -> object:
    match value:
        case str():
            return _whole(value)
        case list():
            return [_clean(item) for item in value]
        case _:
            return value


def _whole(text: str) -> str:
    return _LONE.sub(_NO_CHARACTER, text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _fail(file: str, key: str, what: str, expected: str) -> NoReturn:
    raise ConfigErrors((ConfigError(file, key, what, expected),))
