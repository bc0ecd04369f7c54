"""A document of ours while it is made, with the key of theirs that each key of ours comes from."""

from dataclasses import dataclass, field
from typing import final

__all__ = ["Draft"]


@final
@dataclass(slots=True)
class Draft:
    """The document.

    Attributes:
        document: as a TOML file would give it.
        origins: the path of a key of ours, counters included, to the path of theirs.
    """

    document: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    _listeners: list[dict[str, object]] = field(default_factory=list)

    def put(self, key: str, value: object, origin: str) -> None:
        """Set a key, such as ``hostname`` or ``scripts.save``."""
        section, _, name = key.rpartition(".")
        table = self.document.setdefault(section, {}) if section else self.document
        assert isinstance(table, dict), "no key and section have one name"
        table[name] = value
        self.origins[key] = origin

    def add_listener(self, values: dict[str, tuple[object, str]]) -> None:
        """Add a listener, whose keys come with those of theirs."""
        place = f"listeners[{len(self._listeners)}]"
        self.origins.update({f"{place}.{name}": origin for name, (_, origin) in values.items()})
        self._listeners.append({name: value for name, (value, _) in values.items()})
        self.document["listeners"] = self._listeners
