"""Writes a document down as TOML 1.0, with comments."""

import re
from collections.abc import Iterator, Mapping, Sequence

from trio_fcgimail.config.errors import cleaned

__all__ = ["toml_text"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_WIDTH = 110  # ours: a longer list gets a line for each item
_MAX_COMMENT_CHARS = 1000  # ours


def toml_text(document: Mapping[str, object], comments: Mapping[str, Sequence[str]]) -> str:
    """Write a document.

    Args:
        document: of tables at most one deep, lists of tables, strings, numbers, switches, lists of these, and
            tables of strings as values within a table.
        comments: lines above a key, by its path, such as ``scripts.save``, ``listeners[0].tls`` or ``listeners[0]``;
            those of "" stand at the head.
    """
    return "\n".join((*_comments("", comments), "", *_document(document, comments))) + "\n"


def _document(document: Mapping[str, object], comments: Mapping[str, Sequence[str]]) -> Iterator[str]:
    plain = {name: value for name, value in document.items() if not _is_section(value)}
    yield from _pairs(plain, "", comments)
    for name, value in document.items():
        if isinstance(value, dict):
            yield from ("", *_comments(name, comments), f"[{name}]")
            yield from _pairs(value, f"{name}.", comments)
        elif _is_section(value) and isinstance(value, list):
            for number, table in enumerate(value):
                place = f"{name}[{number}]"
                yield from ("", *_comments(place, comments), f"[[{name}]]")
                yield from _pairs(table, f"{place}.", comments)


def _is_section(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _pairs(table: Mapping[str, object], prefix: str, comments: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name, value in table.items():
        yield from _comments(prefix + name, comments)
        yield f"{_key(name)} = {_value(value)}"


def _comments(place: str, comments: Mapping[str, Sequence[str]]) -> Iterator[str]:
    return (f"# {cleaned(line, _MAX_COMMENT_CHARS)}" for line in comments.get(place, ()))


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int() | float():
            return repr(value)
        case list():
            items = [_value(item) for item in value]
            line = f"[{', '.join(items)}]"
            return line if len(line) <= _WIDTH else "[\n" + "".join(f"    {item},\n" for item in items) + "]"
        case dict():
            pairs = (f"{_key(str(name))} = {_value(item)}" for name, item in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case _:
            raise TypeError(f"no value of a configuration: {type(value).__name__}")


def _string(text: str) -> str:
    return f'"{"".join(map(_character, text))}"'


def _character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
