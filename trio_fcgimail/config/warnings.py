"""What a configuration says that is taken otherwise than it stands there: one line each."""

from dataclasses import dataclass
from enum import Enum
from typing import final

from trio_fcgimail.config.errors import ConfigError, cleaned
from trio_fcgimail.config.settings import LogLevel

__all__ = ["Concern", "ConfigWarning"]

_MAX_DONE_CHARS = 400  # ours, as for what errors expect


@final
class Concern(Enum):
    """Why a warning is given."""

    UNKNOWN_KEY = "unknown key"
    REPEATED_KEY = "repeated key"
    WRONG_TYPE = "wrong type"
    UNUSABLE = "unusable value"
    WEAK_TLS = "weak or unknown TLS name"
    DIFFERENT = "taken in another sense"
    UNUSED = "without effect"

    @property
    def level(self) -> LogLevel:
        """How much it matters: of what has no effect nobody needs to hear twice."""
        match self:
            case Concern.UNUSED:
                return LogLevel.DEBUG
            case Concern.DIFFERENT:
                return LogLevel.INFO
            case _:
                return LogLevel.WARNING


@final
@dataclass(frozen=True, slots=True)
class ConfigWarning:
    """A warning; `str()` is one line without control characters.

    Args:
        file: the file's name.
        key: the key's full path in that file.
        found: what stands there, as an error line shows it.
        done: what was made of it.
        concern: why.
    """

    file: str
    key: str
    found: str
    done: str
    concern: Concern

    def __str__(self) -> str:
        """Give the line ``FILE: KEY: found X: DONE``."""
        start, _, _ = str(ConfigError(self.file, self.key, self.found, "")).rpartition(", expected ")
        return f"{start}: {cleaned(self.done, _MAX_DONE_CHARS)}"
