"""A file of go-guerrilla as TOML that means the same."""

from collections import defaultdict
from collections.abc import Mapping

from trio_fcgimail.config.guerrilla import Translation
from trio_fcgimail.config.tomltext import toml_text
from trio_fcgimail.config.warnings import ConfigWarning

__all__ = ["converted"]


def converted(translation: Translation, file: str) -> str:
    """Give the TOML, with a comment for everything that is taken otherwise than it stands in the file, or not at all.

    Args:
        translation: of the file.
        file: its name, for the head.
    """
    comments: dict[str, list[str]] = defaultdict(list)
    comments[""].append(f"Made of {file}, in which the keys named in comments stand.")
    places = _places(translation.origins)
    for warning in translation.warnings:
        comments[_place(warning, places)].append(f"{warning.key}: found {warning.found}: {warning.done}")
    return toml_text(translation.document, comments)


def _places(origins: Mapping[str, str]) -> Mapping[str, str]:
    """Give, for each key of theirs, the first of ours that comes from it, and for each server its listener."""
    places: dict[str, str] = {}
    for ours, theirs in origins.items():
        places.setdefault(theirs, ours)
        if ours.startswith("listeners["):
            places.setdefault(theirs.partition("]")[0], ours.partition(".")[0])
    return places


def _place(warning: ConfigWarning, places: Mapping[str, str]) -> str:
    return places.get(warning.key) or places.get(warning.key.partition("]")[0], "")
