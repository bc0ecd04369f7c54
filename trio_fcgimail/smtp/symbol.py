"""The base of the enums that are keys of tables, or members of sets."""

from enum import Enum


class Symbol(Enum):
    """An enum whose members are hashed by identity, as they are compared: Enum itself hashes their names, in Python."""

    __hash__ = object.__hash__
